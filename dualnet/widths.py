"""Widths of a net: the units of each hidden layer, and which axes of which tensors run over them.

A net is an nn.Sequential of layers in a row.  The maps of a convolution and the features of a
linear layer are its units; the units of the last layer with weights, the classes, are not hidden.
Whoever cuts, joins or copies units needs nothing of a net but its tensors and their axes:

    conv2.weight [50, 20, 5, 5]     axis 0 over the units of conv2, axis 1 over those of conv1
    fc3.weight   [500, 50 * 16]     axis 0 over fc3, axis 1 over conv2, 16 numbers per unit
"""

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualnet.caffe import LRN, InnerProduct, Pooling
from dualnet.cut import ACTIVATIONS
from dualnet.errors import UserError
from dualnet.nets.dropout import Dropout
from dualnet.nets.local import GroupedLRN, LocallyConnected, Scale

WEIGHTED = (nn.Conv2d, nn.Linear, InnerProduct, LocallyConnected)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
# Layers that treat each unit by itself, and alike.
UNITWISE = (*ACTIVATIONS, Dropout, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity, nn.MaxPool2d,
            nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, Pooling, Scale)


class Axis(NamedTuple):
    """An axis of a tensor that runs over the units of a hidden layer.

    per_unit  how many consecutive numbers belong to one unit
    is_input  whether these are the units that the layer reads, not its own
    """

    axis: int
    layer: str
    per_unit: int = 1
    is_input: bool = False

    def expanded(self, units: Tensor) -> Tensor:
        """The indices along this axis of `units`, int64 [n] -> int64 [n * per_unit]."""
        inner = torch.arange(self.per_unit)
        return (units[:, None] * self.per_unit + inner).flatten()


class Widths(NamedTuple):
    """What `read` finds out about a net.

    hidden   units of each hidden layer, in order
    output   name of the last layer with weights
    axes     for each tensor of the state dict the axes that run over hidden units
    norms    for each normalisation over maps the hidden layer whose maps it reads
    """

    hidden: dict[str, int]
    output: str
    axes: dict[str, tuple[Axis, ...]]
    norms: dict[str, str]


class _Layer(NamedTuple):
    """A layer, and the one with weights whose units it reads ("" for the images)."""

    name: str
    module: nn.Module
    source: str


def read(net: nn.Sequential) -> Widths:
    """The widths of `net`.

    Raises UserError if it has a layer that mixes units in a way not known here, or no hidden one.
    """
    layers = list(_in_order(net))
    weighted = [layer for layer in layers if isinstance(layer.module, WEIGHTED)]
    if len(weighted) < 2:
        raise UserError(f"a net needs at least one hidden layer for its units to be chosen, found "
                        f"{len(weighted)} layers with weights")
    output = weighted[-1].name
    hidden = {layer.name: _weight(layer.module).shape[_own_axis(layer.module)]
              for layer in weighted[:-1]}
    axes: dict[str, tuple[Axis, ...]] = {}
    for layer in layers:
        found = _axes_of(layer, hidden)
        axes |= {f"{layer.name}.{name}": tuple(axis for axis in own if axis.layer in hidden)
                 for name, own in found.items()}
    norms = {layer.name: layer.source for layer in layers
             if layer.source in hidden and _is_over_maps(layer.module)}
    return Widths(hidden, output, axes, norms)


def _in_order(net: nn.Sequential) -> Iterator[_Layer]:
    source = ""
    for name, module in net.named_children():
        _refuse_unknown(name, module)
        yield _Layer(name, module, source)
        if isinstance(module, WEIGHTED):
            source = name


def _refuse_unknown(name: str, module: nn.Module) -> None:
    why = ""
    if not isinstance(module, (*WEIGHTED, *BATCH_NORM, *UNITWISE, LRN, GroupedLRN)):
        why = "only convolutions, linear and locally connected layers, activations, pooling, " \
              "normalisation and dropout can"
    elif isinstance(module, nn.Conv2d) and module.groups != 1:
        why = f"a convolution in {module.groups} groups fixes which units go together"
    elif isinstance(module, InnerProduct) and module.axis != 1:
        why = f"it flattens from axis {module.axis} on, not from axis 1"
    if why:
        raise UserError(f"the units of layer '{name}' ({type(module).__name__}) cannot be chosen: "
                        f"{why}")


def _weight(module: nn.Module) -> Tensor:
    return module.get_parameter("weight")


def _own_axis(module: nn.Module) -> int:
    return 1 if isinstance(module, InnerProduct) and module.transpose else 0


def _axes_of(layer: _Layer, hidden: Mapping[str, int]) -> dict[str, tuple[Axis, ...]]:
    """Axes of each tensor of a layer, those over images and classes included."""
    names = list(layer.module.state_dict())
    if isinstance(layer.module, BATCH_NORM):
        return {name: () if name == "num_batches_tracked" else (Axis(0, layer.source),)
                for name in names}
    if not isinstance(layer.module, WEIGHTED):
        return dict.fromkeys(names, ())
    own = _own_axis(layer.module)
    length = _weight(layer.module).shape[1 - own]
    units = hidden.get(layer.source, length)
    if length % units:
        raise UserError(f"layer '{layer.name}' reads {length} numbers, which the {units} units of "
                        f"'{layer.source}' cannot have an equal share in")
    found = {"weight": (Axis(own, layer.name), Axis(1 - own, layer.source, length // units, True)),
             "bias": (Axis(0, layer.name),)}
    return {name: found[name] for name in names}


def _is_over_maps(module: nn.Module) -> bool:
    return isinstance(module, GroupedLRN) or (
        isinstance(module, LRN) and module.norm_region == "ACROSS_CHANNELS")


def take(tensor: Tensor, axes: tuple[Axis, ...], units: Mapping[str, Tensor]) -> Tensor:
    """`tensor` with the given units of each layer, in their order, along `axes`; a copy.

    A layer that `units` does not name keeps its own.
    """
    for axis in axes:
        if axis.layer in units:
            index = axis.expanded(units[axis.layer]).to(tensor.device)
            tensor = tensor.index_select(axis.axis, index)
    return tensor.clone()


def rebuilt(net: nn.Sequential, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """A copy of `net` whose layers have the width that `tensors`, its state dict, have."""
    net = copy.deepcopy(net)
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = net.get_submodule(path)
        is_parameter = leaf in dict(module.named_parameters(recurse=False))
        setattr(module, leaf, nn.Parameter(tensor) if is_parameter else tensor)
    for module in net.children():
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, BATCH_NORM) and module.running_mean is not None:
            module.num_features = len(module.running_mean)
    return net


def narrowed(net: nn.Sequential, units: Mapping[str, Tensor]) -> nn.Sequential:
    """A copy of `net` that has only the given units of its hidden layers, their weights copied.

    A normalisation over maps takes all that are left as one group.
    """
    widths = read(net)
    sub = rebuilt(net, {name: take(tensor, widths.axes[name], units)
                        for name, tensor in net.state_dict().items()})
    for name, layer in widths.norms.items():
        if layer in units:
            setattr(sub, name, grouped(sub.get_submodule(name), (len(units[layer]),)))
    return sub


def groups_of(norm: nn.Module, width: int) -> tuple[int, ...]:
    """The groups of maps that a normalisation over maps keeps apart."""
    return norm.sizes if isinstance(norm, GroupedLRN) else (width,)


def grouped(norm: nn.Module, sizes: tuple[int, ...]) -> nn.Module:
    """The same normalisation over these groups of maps."""
    lrn = norm.lrn if isinstance(norm, GroupedLRN) else norm
    assert isinstance(lrn, LRN)
    return lrn if len(sizes) == 1 else GroupedLRN(lrn, sizes)
