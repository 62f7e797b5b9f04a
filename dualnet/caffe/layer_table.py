"""Layers with bottoms: the module that a LayerParameter record asks for.

`LAYERS` has a row per type; each builder takes the record and the shapes of the bottoms.  Builders
raise PrototxtError, or ValueError with a sentence that `build` completes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualnet.caffe.definition import fail
from dualnet.caffe.layer_data import DATA_LAYERS, Shape
from dualnet.caffe.layer_fields import (
    axis_from_front,
    fillers_of,
    need_image,
    num_output_of,
    sides_of,
)
from dualnet.caffe.layers import LRN, Convolution, InnerProduct, Pooling, max_pool, relu
from dualnet.caffe.loss_layers import Accuracy, EuclideanLoss, SoftmaxWithLoss
from dualnet.caffe.prototxt import PrototxtError
from dualnet.caffe.schema import Record
from dualnet.config import nearest

PythonLayers = Mapping[str, Callable[[], nn.Module]]
# What `python_param { layer: ... }` may name; the module that it names is not imported.
PYTHON_LAYERS: PythonLayers = {"EuclideanLossLayer": EuclideanLoss}


class Call(nn.Module):
    """A function of the bottoms as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *bottoms: Tensor) -> Tensor:
        return self.function(*bottoms)


# -- layers ----------------------------------------------------------------------------------------

def _convolution(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["convolution_param"]
    _, channels, *sides = need_image(bottoms[0])
    if axis_from_front(param["axis"], bottoms[0]) != 1:
        raise ValueError(f"convolves over the axes behind 1 here, found axis {param['axis']}")
    num_output, group = num_output_of(layer, param), param["group"]
    if group < 1 or channels % group or num_output % group:
        raise ValueError(f"cannot split {channels} channels and {num_output} outputs into groups "
                         f"of equal size, found group {group}")
    kernel = sides_of(layer, param, "kernel_size", "kernel", None, 1)
    pad = sides_of(layer, param, "pad", "pad", 0, 0)
    dilation = sides_of(layer, param, "dilation", "dilation", 1, 1)
    for side, p, k, d in zip(sides, pad, kernel, dilation, strict=True):
        if side + 2 * p < d * (k - 1) + 1:
            raise ValueError(f"has a kernel of {d * (k - 1) + 1} pixels, more than the {side} of "
                             f"its bottom {list(bottoms[0])} and the padding of {p}")
    return Convolution(channels, num_output, kernel, pad=pad, dilation=dilation, group=group,
                       stride=sides_of(layer, param, "stride", "stride", 1, 1),
                       bias_term=param["bias_term"], **fillers_of(param))


def _inner_product(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["inner_product_param"]
    axis = axis_from_front(param["axis"], bottoms[0])
    return InnerProduct(math.prod(bottoms[0][axis:]), num_output_of(layer, param), axis=axis,
                        transpose=param["transpose"], bias_term=param["bias_term"],
                        **fillers_of(param))


def _pooling(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["pooling_param"]
    need_image(bottoms[0])
    if param["global_pooling"]:
        if {"kernel_size", "kernel_h", "kernel_w"} & set(param.values):
            raise ValueError("has global_pooling, which takes no kernel_size")
        kernel = None
    else:
        kernel = sides_of(layer, param, "kernel_size", "kernel", None, 1)
    stride = sides_of(layer, param, "stride", "stride", 1, 1)
    pad = sides_of(layer, param, "pad", "pad", 0, 0)
    is_common = (param["pool"] == "MAX" and param["round_mode"] == "CEIL" and kernel is not None
                 and kernel[0] == kernel[1] >= stride[0] == stride[1] and pad == (0, 0)
                 and kernel[0] <= min(bottoms[0][2:]))
    if is_common:
        assert kernel is not None
        return max_pool(kernel[0], stride[0])
    return Pooling(param["pool"], kernel, stride=stride, pad=pad,
                   global_pooling=param["global_pooling"], round_mode=param["round_mode"])


def _lrn(layer: Record, bottoms: list[Shape]) -> nn.Module:
    need_image(bottoms[0])
    param = layer["lrn_param"]
    return LRN(param["local_size"], param["alpha"], param["beta"], param["k"],
               norm_region=param["norm_region"])


def _dropout(layer: Record, bottoms: list[Shape]) -> nn.Module:
    ratio = layer["dropout_param"]["dropout_ratio"]
    if not 0 < ratio < 1:
        raise ValueError(f"needs a dropout_ratio between 0 and 1, found {ratio:g}")
    return nn.Dropout(ratio)


def _softmax(layer: Record, bottoms: list[Shape]) -> nn.Module:
    return nn.Softmax(axis_from_front(layer["softmax_param"]["axis"], bottoms[0]))


def _power(layer: Record, bottoms: list[Shape]) -> nn.Module:
    power, scale, shift = (layer["power_param"][name] for name in ("power", "scale", "shift"))
    return Call(lambda x: (shift + scale * x) ** power)


def _flatten(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param, shape = layer["flatten_param"], bottoms[0]
    start, end = axis_from_front(param["axis"], shape), axis_from_front(param["end_axis"], shape)
    if end < start:
        raise ValueError(f"flattens from axis {start} to {end}, which is before it")
    return nn.Flatten(start, end)


def _concat(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["concat_param"]
    axis = axis_from_front(param["concat_dim" if "concat_dim" in param else "axis"], bottoms[0])
    if len({(*shape[:axis], *shape[axis + 1:]) for shape in bottoms}) != 1:
        raise ValueError(f"needs bottoms that differ in axis {axis} only, found "
                         f"{', '.join(str(list(shape)) for shape in bottoms)}")
    return Call(lambda *x: torch.cat(x, axis))


def _eltwise(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["eltwise_param"]
    operation, coeff = param["operation"], param["coeff"] or [1.0] * len(bottoms)
    if len(coeff) != len(bottoms) or ("coeff" in param and operation != "SUM"):
        raise ValueError("takes a 'coeff' for each bottom of a SUM, found "
                         f"{len(coeff)} for {len(bottoms)} bottoms and {operation}")
    if len(set(bottoms)) != 1:
        raise ValueError("needs bottoms of one shape, found "
                         f"{', '.join(str(list(shape)) for shape in bottoms)}")
    return Call({"PROD": lambda *x: math.prod(x),
                 "SUM": lambda *x: sum(c * each for c, each in zip(coeff, x, strict=True)),
                 "MAX": lambda *x: torch.stack(x).amax(0)}[operation])


# -- losses ----------------------------------------------------------------------------------------

def _softmax_loss(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["loss_param"]
    axis = axis_from_front(layer["softmax_param"]["axis"], bottoms[0])
    _check_labels(bottoms, axis)
    mode = param["normalization"]
    if "normalization" not in param and "normalize" in param:
        mode = "VALID" if param["normalize"] else "BATCH_SIZE"
    return SoftmaxWithLoss(axis=axis, ignore_label=param["ignore_label"], normalization=mode)


def _accuracy(layer: Record, bottoms: list[Shape]) -> nn.Module:
    param = layer["accuracy_param"]
    axis = axis_from_front(param["axis"], bottoms[0])
    _check_labels(bottoms, axis)
    if not 1 <= param["top_k"] <= bottoms[0][axis]:
        raise ValueError(f"has {bottoms[0][axis]} classes, so its top_k must be 1 to "
                         f"{bottoms[0][axis]}, found {param['top_k']}")
    return Accuracy(top_k=param["top_k"], axis=axis, ignore_label=param["ignore_label"])


def _check_labels(bottoms: list[Shape], axis: int) -> None:
    expected = math.prod(bottoms[0]) // bottoms[0][axis]
    if math.prod(bottoms[1]) != expected:
        raise ValueError(f"needs {expected} labels for scores {list(bottoms[0])}, found "
                         f"{list(bottoms[1])}")


def _euclidean(layer: Record, bottoms: list[Shape]) -> nn.Module:
    a, b = bottoms
    if a[0] != b[0] or math.prod(a) != math.prod(b):
        raise ValueError("needs as many samples and numbers in both bottoms, found "
                         f"{list(a)} and {list(b)}")
    return EuclideanLoss()


class Kind(NamedTuple):
    """One type of layer: how to build it, how many bottoms and tops it takes (least, most), and
    whether its first top is a single number."""

    build: Callable[[Record, list[Shape]], nn.Module]
    bottoms: tuple[int, float] = (1, 1)
    tops: tuple[int, float] = (1, 1)
    is_scalar: bool = False


def _simple(make: Callable[[], nn.Module]) -> Kind:
    return Kind(lambda layer, bottoms: make())


LAYERS: dict[str, Kind] = {
    "Convolution": Kind(_convolution), "InnerProduct": Kind(_inner_product),
    "Pooling": Kind(_pooling), "LRN": Kind(_lrn), "Dropout": Kind(_dropout),
    "ReLU": Kind(lambda layer, _: relu(layer["relu_param"]["negative_slope"])),
    "ELU": Kind(lambda layer, _: Call(lambda x: F.elu(x, layer["elu_param"]["alpha"]))),
    "Sigmoid": _simple(nn.Sigmoid), "TanH": _simple(nn.Tanh), "Power": Kind(_power),
    "Softmax": Kind(_softmax), "Flatten": Kind(_flatten),
    "Split": Kind(lambda *_: nn.Identity(), tops=(1, math.inf)),
    "Silence": Kind(lambda *_: nn.Identity(), bottoms=(1, math.inf), tops=(0, 0)),
    "Concat": Kind(_concat, bottoms=(1, math.inf)),
    "Eltwise": Kind(_eltwise, bottoms=(2, math.inf)),
    "SoftmaxWithLoss": Kind(_softmax_loss, bottoms=(2, 2), tops=(0, 1), is_scalar=True),
    "EuclideanLoss": Kind(_euclidean, bottoms=(2, 2), tops=(0, 1), is_scalar=True),
    "Accuracy": Kind(_accuracy, bottoms=(2, 2), is_scalar=True)}

# Losses, and what else ends a chain.
LOSSES = ("SoftmaxWithLoss", "EuclideanLoss", "Python")
_ABSENT = (
    "AbsVal", "ArgMax", "BNLL", "BatchNorm", "BatchReindex", "Bias", "Clip", "ContrastiveLoss",
    "Crop", "Deconvolution", "Embed", "Exp", "Filter", "HDF5Data", "HDF5Output", "HingeLoss",
    "Im2col", "InfogainLoss", "LSTM", "LSTMUnit", "Log", "MVN", "MultinomialLogisticLoss", "PReLU",
    "Parameter", "RNN", "Reduction", "Reshape", "SPP", "Scale", "SigmoidCrossEntropyLoss", "Slice",
    "Swish", "Threshold", "Tile", "WindowData")


def build(layer: Record, bottoms: list[Shape], python_layers: PythonLayers) -> nn.Module:
    """The module of a layer with bottoms of the given shapes.  Raises PrototxtError."""
    kind = kind_of(layer, python_layers)
    for field, (least, most) in (("bottom", kind.bottoms), ("top", kind.tops)):
        number = len(layer[field])
        if not least <= number <= most:
            limit = least if number < least else int(most)
            words = "" if least == most else "at least " if number < least else "at most "
            raise fail(layer, f"takes {words}{limit} {field}{'s' * (limit != 1)}, found {number}",
                       field, limit if number > least else 0)
    try:
        return kind.build(layer, bottoms)
    except PrototxtError:
        raise
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise fail(layer, _first_line(error)) from None


def kind_of(layer: Record, python_layers: PythonLayers) -> Kind:
    """The row of the layer's type.  Raises PrototxtError for a type that is not there."""
    type = layer["type"]
    known: list[Any] = [*LAYERS, *DATA_LAYERS, "Python"]
    if type == "Python":
        return _python_kind(layer, python_layers)
    if type in LAYERS:
        return LAYERS[type]
    if type is None:
        raise fail(layer, "needs a 'type'")
    if type in _ABSENT:
        raise fail(layer, f"is of a type that Caffe has and dualnet has not (here: "
                   f"{', '.join(sorted(known))})", "type")
    raise fail(layer, f"is of an unknown type{nearest(type, [*known, *_ABSENT])} (known: "
               f"{', '.join(sorted(known))})", "type")


def _python_kind(layer: Record, python_layers: PythonLayers) -> Kind:
    name = layer["python_param"]["layer"]
    if name not in python_layers:
        raise fail(layer, f"names the Python layer '{name or ''}'"
                   f"{nearest(name or '', python_layers)} (known: {', '.join(python_layers)})",
                   "python_param")
    return Kind(lambda *_: python_layers[name](), bottoms=(2, 2), is_scalar=True)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
