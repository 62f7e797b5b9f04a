"""Copy the units of a net without a change of its function: functions of nets alone."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dualnet.config import nearest
from dualnet.errors import UserError
from dualnet.seeding import torch_seed
from dualnet.widths import Widths, grouped, groups_of, read, rebuilt, take

MAPPINGS = ("exact", "random")


def exact_mapping(width: int, new_width: int) -> Tensor:
    """Each unit copied as often as every other, the copies behind the originals, int64 [q].

        g(j) = j mod n
    Raises UserError if q is no multiple of n.
    """
    _check_wider(width, new_width)
    if new_width % width:
        raise UserError(f"{new_width} is no multiple of {width} units, so they cannot all be "
                        "copied equally often; take the random mapping")
    return torch.arange(new_width) % width


def random_mapping(width: int, new_width: int, generator: torch.Generator) -> Tensor:
    """g(j) = j for j < n, and else drawn from 0..n-1, int64 [q].    Chen et al. 2016, eq. 1"""
    _check_wider(width, new_width)
    drawn = torch.randint(width, (new_width - width,), generator=generator)
    return torch.cat([torch.arange(width), drawn])


def _check_wider(width: int, new_width: int) -> None:
    if new_width < width:
        raise UserError(f"a layer of {width} units cannot be widened to {new_width}")


def widen(net: nn.Sequential, mappings: Mapping[str, Tensor]) -> nn.Sequential:
    """A net whose hidden layers have the units g of `mappings`, with the function of `net`:

        U_i[:, j] = W_i[:, g(j)]      U_{i+1}[j, :] = W_{i+1}[g(j), :] / |{x: g(x) = g(j)}|

    Chen et al. 2016, eq. 2.  Biases and the numbers of BatchNorm are copied with their unit; layers
    not named keep their width.  A normalisation over maps has a group for each set of copies.
    Raises UserError for a layer that is not there, a unit that is left out, and a normalisation
    over maps behind an irregular mapping, where no grouping preserves the function.
    """
    widths = read(net)
    copies = {layer: _num_copies(layer, units, widths) for layer, units in mappings.items()}
    tensors = {}
    for name, tensor in net.state_dict().items():
        tensors[name] = take(tensor, widths.axes[name], mappings)
        for axis in widths.axes[name]:
            if axis.is_input and axis.layer in copies:
                shape = [-1 if each == axis.axis else 1 for each in range(tensor.dim())]
                number = copies[axis.layer].repeat_interleave(axis.per_unit).to(tensor.device)
                tensors[name] = tensors[name] / number.view(shape)
    wider = rebuilt(net, tensors)
    for name, layer in widths.norms.items():
        if layer in mappings:
            norm, width = net.get_submodule(name), widths.hidden[layer]
            sets = _sets_of_copies(name, layer, mappings[layer], width)
            setattr(wider, name, grouped(norm, groups_of(norm, width) * sets))
    return wider


def _num_copies(layer: str, units: Tensor, widths: Widths) -> Tensor:
    """How many copies the unit of each j has, int64 [q]."""
    if layer not in widths.hidden:
        raise UserError(f"there is no hidden layer '{layer}' to widen"
                        f"{nearest(layer, widths.hidden)} "
                        f"(hidden layers: {', '.join(widths.hidden)})")
    counts = torch.bincount(units, minlength=widths.hidden[layer])
    if len(counts) != widths.hidden[layer] or not counts.all():
        raise UserError(f"the mapping of layer '{layer}' must have each of its "
                        f"{widths.hidden[layer]} units at least once and no other")
    return counts[units]


def _sets_of_copies(name: str, layer: str, units: Tensor, width: int) -> int:
    if not torch.equal(units, torch.arange(len(units)) % width):
        raise UserError(f"layer '{name}' normalises over the maps of '{layer}', which only the "
                        "exact mapping preserves; take --mapping exact and a whole --factor")
    return len(units) // width


def add_noise(net: nn.Sequential, amplitude: float, seed: int) -> None:
    """Add to each weight and bias of hidden units U(-a, a) with a = amplitude max|w| of its tensor.

    It breaks the symmetry of copies; 0.02 served Miranda and Von Zuben 2016, footnote 2, best.
    The numbers depend on the seed and the tensor's name alone.
    """
    axes = read(net).axes
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if axes[name]:
                generator = torch.Generator().manual_seed(torch_seed(seed, f"net2wider/{name}"))
                noise = torch.rand(weight.shape, generator=generator, dtype=weight.dtype) * 2 - 1
                weight.add_(amplitude * weight.abs().max() * noise.to(weight.device))
