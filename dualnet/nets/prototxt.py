"""Nets from Caffe's prototxt files: one file, or net1 and net2 of a dual net joined to one.

The result is an nn.Sequential like those of the other modules here, to be cut at `cut`.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from dualnet.caffe.definition import NetDefinition, NetState, fail, title
from dualnet.caffe.layer_data import Shape
from dualnet.caffe.net import CaffeNet, Step
from dualnet.caffe.schema import Record
from dualnet.nets.dropout import Dropout

ACTIVATIONS = ("ReLU", "TanH", "Sigmoid", "ELU")
WEIGHTED = ("Convolution", "InnerProduct")
# Python layers of net1 -> the loss of dualnet that they compute.
PYTHON_LOSSES = {"EuclideanLossLayer": "euclidean", "NormalizedBothLossLayer": "normalized_both",
                 "NormalizedLossLayer": "normalized"}
_IGNORED = ("name", "bottom", "top", "include", "exclude")


class _LossByName(nn.Module):
    """Holds the place of a Python layer, whose loss the training method computes itself."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError("this loss is computed by the training method")


@dataclass(frozen=True)
class FileNet:
    """A net as its files describe it.

    net                the layers, the dual net's conv3p under the name of net1's conv3
    batch_size         images per forward pass
    input_shape        [C, H, W] of an image
    num_outputs        scores per image
    preprocessing      mean, scale and mirror of a Data layer, by the names of dualnet; {} where
                       the images come from a program, which prepares them
    cut                layer behind which the files cut it, "" for a single file
    before_activation  whether net1's file ends before the activation of the compared layer
    loss, denominator  of net1, by the names of dualnet; "" for a single file
    """

    net: nn.Sequential
    batch_size: int
    input_shape: Shape
    num_outputs: int
    preprocessing: dict[str, object]
    cut: str = ""
    before_activation: bool = False
    loss: str = ""
    denominator: str = ""


def single_net(definition: NetDefinition, state: NetState, image_shape: Shape) -> FileNet:
    """The net of one file.

    image_shape  [C, H, W] of the images, for layers that read them from files
    Raises PrototxtError if it is no chain of layers that ends in one softmax loss.
    """
    caffe = CaffeNet(definition, state, image_shape=image_shape)
    net = caffe.as_sequential()
    _check_classifier(caffe)
    shape = caffe.inputs[_first(caffe)]
    return FileNet(_with_named_dropout(net), shape[0], shape[1:], _num_outputs(caffe),
                   _preprocessing(caffe))


def dual_net(definitions: list[NetDefinition], states: list[NetState],
             image_shape: Shape) -> FileNet:
    """The nets of net1 and net2 as one.

    net1 ends in the layer that both have (conv3), the activation behind it and one loss between
    its blob and the one received (conv3p); net2 begins with a blob of net1 (pool2) and the same
    layer, whose blob is the one that net1 receives.
    Raises PrototxtError where the two do not fit together.
    """
    layers = dict.fromkeys(PYTHON_LOSSES, _LossByName)
    net1 = CaffeNet(definitions[0], states[0], image_shape=image_shape, python_layers=layers)
    net2 = CaffeNet(definitions[1], states[1], image_shape=image_shape, python_layers=layers)
    front, back = net1.as_sequential(), net2.as_sequential()
    boundary = _first(net2)
    end = _end_of(net1, net2, boundary)
    tail, head = net1.chain()[end:], net2.chain()[:len(net1.chain()) - end]
    _check_tail(tail)
    _check_same(tail, head, net2)
    received, loss, denominator = _boundary_loss(net1, tail[-1])
    if head[-1].tops[0] != received or net1.inputs[received][1:] != net2.shapes[received][1:]:
        given = head[-1].tops[0]
        raise fail(head[-1].layer, f"gives '{given}' {list(net2.shapes[given])}, but net1 "
                   f"({net1.definition.at.source}) expects '{received}' "
                   f"{list(net1.inputs[received])}", "top")
    _check_classifier(net2)
    joined = OrderedDict(front.named_children())
    joined.update(list(back.named_children())[len(head):])
    if len(joined) != len(front) + len(back) - len(head):
        raise net2.definition.layers[0].fail("layers of net1 and net2 besides the shared one have "
                                             "the same name; rename one of them")
    shape = net1.inputs[_first(net1)]
    return FileNet(
        _with_named_dropout(nn.Sequential(joined)), shape[0], shape[1:], _num_outputs(net2),
        _preprocessing(net1), net1.chain()[end - 1].layer["name"],
        tail[-1].layer["type"] not in ACTIVATIONS, loss, denominator)


def _first(net: CaffeNet) -> str:
    """The blob that the chain begins with."""
    blob = net.chain()[0].bottoms[0]
    if blob not in net.inputs:
        raise fail(net.chain()[0].layer, f"begins with '{blob}', which no data layer gives")
    return blob


def _preprocessing(net: CaffeNet) -> dict[str, object]:
    layer = next(layer for layer in net.data_layers if _first(net) in layer["top"])
    old = {"Data": "data_param", "ImageData": "image_data_param"}.get(layer["type"])
    if old is None:
        return {}
    if layer["transform_param"]["mean_value"]:
        raise layer["transform_param"].fail("'mean_value' is not carried out here; leave it out "
                                            "and choose --mean channel", "mean_value")
    given = {**layer[old].given(), **layer["transform_param"].given()}
    return {"scale": given.get("scale", 1.0), "mirror": given.get("mirror", False),
            "mean": "image" if "mean_file" in given else "none"}


def _num_outputs(net: CaffeNet) -> int:
    last = net.chain()[-1]
    shape = net.shapes[last.tops[0]]
    if len(shape) != 2:
        raise fail(last.layer, f"should give scores [N, classes], found {list(shape)}")
    return shape[1]


def _with_named_dropout(net: nn.Sequential) -> nn.Sequential:
    """The same net; its dropout draws masks as pure functions of the seed, step and name."""
    return nn.Sequential(OrderedDict(
        (name, Dropout(name, module.p) if isinstance(module, nn.Dropout) else module)
        for name, module in net.named_children()))


def _check_classifier(net: CaffeNet) -> None:
    """Raises PrototxtError unless the loss is the mean softmax loss of the last blob."""
    last, losses = net.chain()[-1], net.losses()
    if not losses:
        raise fail(last.layer, "is the last of the net, which has no loss to train; end the net "
                   "with SoftmaxWithLoss")
    for loss in losses:
        layer = loss.layer
        is_plain = (loss.loss_weights == [1.0] and layer["loss_param"]["ignore_label"] is None
                    and getattr(loss.module, "normalization", "") in ("VALID", "BATCH_SIZE"))
        if len(losses) > 1 or layer["type"] != "SoftmaxWithLoss" or not is_plain:
            raise fail(layer, "is not what dualnet trains here: one SoftmaxWithLoss with weight 1, "
                       "averaged over the images")
        if loss.bottoms[0] != last.tops[0]:
            raise fail(layer, f"takes '{loss.bottoms[0]}' and not '{last.tops[0]}', the last blob "
                       "of the chain", "bottom")


# -- how two files fit together --------------------------------------------------------------------

def _end_of(net1: CaffeNet, net2: CaffeNet, boundary: str) -> int:
    """How many layers of net1 stand before the cut."""
    ends = [i for i, step in enumerate(net1.chain(), start=1) if step.tops[0] == boundary]
    source = net1.definition.at.source
    data = next(layer for layer in net2.data_layers if boundary in layer["top"])
    if not ends:
        raise fail(data, f"gives '{boundary}', which no layer of net1 ({source}) gives", "top")
    here, there = net2.inputs[boundary], net1.shapes[boundary]
    if here != there:
        raise fail(data, f"gives '{boundary}' as {list(here)}, but in net1 ({source}) it is "
                   f"{list(there)}", "top")
    if ends[-1] == len(net1.chain()):
        raise fail(net1.chain()[-1].layer, f"is the last of net1, so that no layer behind "
                   f"'{boundary}' can be compared with net2's")
    return ends[-1]


def _check_tail(tail: list[Step]) -> None:
    """Raises PrototxtError unless there is one layer with weights, and its activation at most."""
    types = [step.layer["type"] for step in tail]
    places = [i for i, type in enumerate(types) if type in WEIGHTED]
    if len(places) != 1 or [t for t in types[places[0] + 1:] if t not in ACTIVATIONS] or (
            len(types) > places[0] + 2):
        raise fail(tail[0].layer, "should begin what net1 has behind the cut: one layer with "
                   f"weights and its activation, found {', '.join(types)}")


def _check_same(tail: list[Step], head: list[Step], net2: CaffeNet) -> None:
    if len(head) < len(tail):
        raise fail(net2.chain()[-1].layer, "ends net2 before it has all layers of net1 behind the "
                   "cut")
    for mine, theirs in zip(tail, head, strict=True):
        if _substance(mine.layer) != _substance(theirs.layer):
            raise fail(theirs.layer, f"should be the copy of {title(mine.layer)} in "
                       f"{mine.layer.at.source}, line {mine.layer.at.line}, and has other "
                       "settings")


def _substance(layer: Record) -> dict[str, object]:
    return {name: value for name, value in layer.given().items() if name not in _IGNORED}


def _boundary_loss(net1: CaffeNet, last: Step) -> tuple[str, str, str]:
    """The received blob, and the name of the loss and of its denominator."""
    losses = net1.losses()
    if len(losses) != 1:
        raise fail(last.layer, f"is the last of net1, which needs one loss, found {len(losses)}")
    step = losses[0]
    layer, mine = step.layer, last.tops[0]
    if layer["type"] == "SoftmaxWithLoss" or mine not in step.bottoms:
        raise fail(layer, f"should compare '{mine}' with the blob received from net2", "bottom")
    received = next((name for name in step.bottoms if name != mine), mine)
    if received not in net1.inputs:
        raise fail(layer, f"should compare '{mine}' with a blob that a data layer gives, found "
                   f"'{received}'", "bottom")
    name, denominator = "euclidean", "constant"
    if layer["type"] == "Python":
        name = PYTHON_LOSSES[layer["python_param"]["layer"]]
        denominator = _denominator(layer)
    weight = step.loss_weights[0] if step.loss_weights else 0.0
    if weight not in (0.0, 1.0):
        raise fail(layer, f"should have a loss_weight of 1, found {weight:g}", "loss_weight")
    return received, name if weight else "no_loss_weight", denominator


def _denominator(layer: Record) -> str:
    text = layer["python_param"]["param_str"] or "{}"
    try:
        found = json.loads(text).get("denominator", "constant")
    except (ValueError, AttributeError, RecursionError):
        found = None
    if found not in ("constant", "exact", "target"):
        raise layer["python_param"].fail(
            'param_str should be empty or like {"denominator": "exact"} with constant, exact or '
            f"target, found {text}", "param_str")
    return str(found)
