"""Cut a net into sub-models that share no unit, and merge them again: functions of nets alone."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from dualnet.config import nearest
from dualnet.errors import UserError
from dualnet.nets.dropout import Dropout
from dualnet.nets.local import GroupedLRN, Scale
from dualnet.widths import Axis, Widths, grouped, groups_of, narrowed, read, rebuilt

Sizes = Mapping[str, Sequence[int]]
OUTPUTS = ("mean", "scaled")
SUB = "/sub"
# What besides the shapes of its weights makes a layer the one it is.
GEOMETRY = ("stride", "padding", "dilation", "kernel_size", "side", "pad", "ratio", "eps",
            "momentum")


def split(net: nn.Sequential, num_subs: int, sizes: Sizes | None = None) -> list[nn.Sequential]:
    """Cut `net` into `num_subs` sub-models; each unit of each hidden layer goes to one of them.

    sizes  units per sub-model of hidden layers by name; those not named are shared equally
    Each sub-model has the weights within its own units.  Its output weights are multiplied by
    `num_subs`, which `merge` undoes, so that to merge what was split changes nothing but the
    weights between units of different sub-models, which become 0.
    Raises UserError for sizes that do not fit.
    """
    widths = read(net)
    shares = shared(widths.hidden, num_subs, sizes or {})
    _check_norms(net, widths, shares)
    return [_sub_model(net, widths, shares, number) for number in range(num_subs)]


def shared(hidden: Mapping[str, int], num_subs: int, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Units of each hidden layer per sub-model.  Raises UserError for sizes that do not fit."""
    if num_subs < 1:
        raise UserError(f"a net is cut into 1 sub-model or more, found {num_subs}")
    for layer in sizes:
        if layer not in hidden:
            raise UserError(f"there is no hidden layer '{layer}' to share{nearest(layer, hidden)} "
                            f"(hidden layers: {', '.join(hidden)})")
    return {layer: _shares(layer, width, num_subs, sizes.get(layer))
            for layer, width in hidden.items()}


def _shares(layer: str, width: int, num_subs: int, given: Sequence[int] | None) -> tuple[int, ...]:
    if width < num_subs:
        raise UserError(f"layer '{layer}' has {width} units, too few for {num_subs} sub-models; "
                        f"take at most {width}")
    if given is None:
        part, rest = divmod(width, num_subs)
        if rest:
            example = "+".join([str(part + 1)] * rest + [str(part)] * (num_subs - rest))
            raise UserError(f"the {width} units of layer '{layer}' cannot be shared equally by "
                            f"{num_subs} sub-models; take another number, or give sizes such as "
                            f"{layer}={example}")
        return (part,) * num_subs
    if len(given) != num_subs or sum(given) != width or min(given) < 1:
        raise UserError(f"the sizes of layer '{layer}' must be {num_subs} numbers of at least 1 "
                        f"that add up to {width}, found {'+'.join(map(str, given))}")
    return tuple(given)


def _check_norms(net: nn.Sequential, widths: Widths, shares: Sizes) -> None:
    """A normalisation in groups must have the groups of the sub-models, or be of one."""
    for name, layer in widths.norms.items():
        groups = groups_of(net.get_submodule(name), widths.hidden[layer])
        if len(groups) > 1 and groups != tuple(shares[layer]):
            raise UserError(f"layer '{name}' normalises groups of {'+'.join(map(str, groups))} "
                            f"maps, but the sub-models share them as "
                            f"{'+'.join(map(str, shares[layer]))}")


def _sub_model(net: nn.Sequential, widths: Widths, shares: Sizes, number: int) -> nn.Sequential:
    units = {layer: torch.arange(sum(sizes[:number]), sum(sizes[:number + 1]))
             for layer, sizes in shares.items()}
    sub = narrowed(net, units)
    num_subs = len(next(iter(shares.values())))
    with torch.no_grad():
        sub.get_parameter(f"{widths.output}.weight").mul_(num_subs)
    for module in sub.children():
        if isinstance(module, Dropout) and num_subs > 1:
            module.name += f"{SUB}{number + 1}"     # its masks are not those of the others
    return sub


# -- merging ---------------------------------------------------------------------------------------

def merge(subs: Sequence[nn.Sequential], output: str = "mean") -> nn.Sequential:
    """The whole net whose logits are the mean of those of `subs`.

    Weights are copied block by block, those between sub-models are 0.  For the output layer

        mean    b = 1/K sum_i b_i,  W_i / K                        (eq. 1)
        scaled  b = sum_i b_i,  W_i, and the output function reads its input times 1/K, by a layer
                `scale` behind the net                             (section 2.2)

    Normalisation over maps works within each sub-model's maps, as it did.
    Raises UserError for sub-models that are not of one kind.
    """
    found = _same_kind(subs)
    shares = _shares_of(found)
    net = rebuilt(subs[0], merged_tensors(subs, [sub.state_dict() for sub in subs], output))
    for name, layer in found[0].norms.items():
        norms = [sub.get_submodule(name) for sub in subs]
        groups = [groups_of(norm, share)
                  for norm, share in zip(norms, shares[layer], strict=True)]
        setattr(net, name, grouped(norms[0], sum(groups, ())))
    for module in net.children():
        if isinstance(module, Dropout):
            module.name = module.name.rpartition(SUB)[0] or module.name
    if output == "scaled":
        net.add_module("scale", Scale(1 / len(subs)))
    return net


def merged_tensors(subs: Sequence[nn.Sequential], states: Sequence[Mapping[str, Tensor]],
                   output: str = "mean") -> dict[str, Tensor]:
    """What `merge` does, for any tensors by the names and shapes of the weights: weights, or
    momentum (section 3.1).  What has no units, such as a count, is that of the first."""
    if output not in OUTPUTS:
        raise UserError(f"the outputs are merged as {' or '.join(OUTPUTS)}, found '{output}'")
    found = _same_kind(subs)
    widths, shares = found[0], _shares_of(found)
    merged = {name: _merged(name, [state[name] for state in states], widths.axes[name], shares)
              for name in states[0]}
    divisor = len(subs) if output == "mean" else 1
    if (weight := f"{widths.output}.weight") in merged:
        merged[weight] = merged[weight] / divisor
    if (bias := f"{widths.output}.bias") in merged:
        merged[bias] = torch.stack([state[bias] for state in states]).sum(0) / divisor
    return merged


def _merged(name: str, parts: Sequence[Tensor], axes: tuple[Axis, ...],
            shares: Mapping[str, tuple[int, ...]]) -> Tensor:
    """The blocks of all sub-models, along the diagonal where two axes have units."""
    shape = list(parts[0].shape)
    for axis in axes:
        shape[axis.axis] = sum(shares[axis.layer]) * axis.per_unit
    whole = parts[0].new_zeros(shape)
    for number, part in enumerate(parts):
        place = [slice(None)] * whole.dim()
        for axis in axes:
            ends = [0, *accumulate(size * axis.per_unit for size in shares[axis.layer])]
            place[axis.axis] = slice(ends[number], ends[number + 1])
        whole[tuple(place)] = part
    return whole


def _shares_of(found: Sequence[Widths]) -> dict[str, tuple[int, ...]]:
    return {layer: tuple(widths.hidden[layer] for widths in found) for layer in found[0].hidden}


def _same_kind(subs: Sequence[nn.Sequential]) -> list[Widths]:
    """The widths of all.  Raises UserError for sub-models that cannot be parts of one net."""
    if not subs:
        raise UserError("there is no sub-model to merge")
    found = [read(sub) for sub in subs]
    first = _kinds(subs[0], found[0])
    for number, (sub, widths) in enumerate(zip(subs, found, strict=True), start=1):
        kinds = _kinds(sub, widths)
        if list(kinds) != list(first):
            raise UserError(f"sub-model {number} is not of one net with sub-model 1: its layers "
                            f"are {', '.join(kinds)}, not {', '.join(first)}")
        for name, kind in kinds.items():
            if kind != first[name]:
                raise UserError(f"sub-model {number} is not of one net with sub-model 1: its layer "
                                f"'{name}' is {kind}, not {first[name]}")
    return found


def _kinds(net: nn.Sequential, widths: Widths) -> dict[str, str]:
    """What each layer is, in words, but for the number of its hidden units."""
    kinds = {}
    for name, module in net.named_children():
        kind = module.lrn if isinstance(module, GroupedLRN) else module
        words = [f"{key} {getattr(kind, key)}" for key in GEOMETRY if hasattr(kind, key)]
        if not module.state_dict():
            words.append(kind.extra_repr())
        for tensor_name, tensor in module.state_dict().items():
            hidden = {axis.axis for axis in widths.axes[f"{name}.{tensor_name}"]}
            shape = ["*" if axis in hidden else str(length)
                     for axis, length in enumerate(tensor.shape)]
            words.append(f"{tensor_name} {str(tensor.dtype)[6:]} [{', '.join(shape)}]")
        kinds[name] = f"{type(kind).__name__}({', '.join(filter(None, words))})"
    return kinds
