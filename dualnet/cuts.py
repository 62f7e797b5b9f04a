"""What each cut of a net costs and brings: the size of its messages, and the work on either side.

    bound = multiply-adds of the uncut net / those of the slower part

is how many times as fast as the uncut net two machines of one kind can be, if their messages cost
nothing.  Both parts compute the layer that they share, so it is below 2; K parts stay below K.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dualnet.cut import compared_layer, cut, shared_layers
from dualnet.errors import UserError
from dualnet.methods.dual.formats import message_bytes
from dualnet.operations import num_parameters

NEARLY = 0.95   # of the largest bound: less is lost than larger messages would take


class Cut(NamedTuple):
    """One boundary.

    boundary, compared  names of the layer that is cut behind and of the layer that is shared
    z_bytes, y_bytes    what crosses in an iteration, to net2 and back; not counted are rho, the
                        diagnosis of logged iterations and the test images
    multiply_adds       of net1 and net2, forward, per sample; backward takes about twice as many
    weights             of net1 and net2
    total               multiply-adds of the uncut net
    span                how many layers stand before the boundary, and how many with the shared ones
    """

    boundary: str
    compared: str
    z_bytes: int
    y_bytes: int
    multiply_adds: tuple[int, int]
    weights: tuple[int, int]
    total: int
    span: tuple[int, int]

    @property
    def bound(self) -> float:
        """See above."""
        return self.total / max(self.multiply_adds) if self.total else 1.0


def list_cuts(net: nn.Sequential, input_shape: Sequence[int], *, batch_size: int,
              message_dtype: str = "float32", before_activation: bool = False) -> list[Cut]:
    """Every cut that can be made, in the order of the layers.

    input_shape  of one sample
    """
    shapes, work = _measure(net, input_shape)
    names = [name for name, _ in net.named_children()]
    total = sum(work.values())
    found = []
    for number, boundary in enumerate(names, start=1):
        try:
            front, back = cut(net, [boundary], before_activation=before_activation)
        except UserError:       # nothing to share behind it
            continue
        shared = shared_layers(front)
        ahead = sum(work[name] for name in names[:number])
        both = sum(work[name] for name in shared)
        sides = ahead + both, total - ahead
        found.append(Cut(
            boundary, compared_layer(front),
            message_bytes((batch_size, *shapes[boundary]), message_dtype),
            message_bytes((batch_size, *shapes[shared[-1]]), message_dtype),
            sides, (num_parameters(front), num_parameters(back)),
            total, (number, number + len(shared))))
    return found


def best(cuts: Sequence[Cut], parts: int = 2) -> list[Cut]:
    """The boundaries of the chain of `parts` parts with the smallest messages among those whose
    bound is within 5 % of the largest.

    Raises UserError if there is none.
    """
    fastest = _cheapest(cuts, parts, lambda place: 0, math.inf)
    if fastest is None:
        raise UserError(
            "no layer of this net can be cut behind: a cut needs a layer with weights on its far "
            "side" if not cuts else f"this net cannot be cut into {parts} parts: each but the first"
            " needs a layer with weights of its own; take fewer with --parts")
    enough = fastest.slowest / NEARLY
    return list((_cheapest(cuts, parts, lambda place: place.z_bytes + place.y_bytes, enough)
                 or fastest).cuts)


def bound(chain: Sequence[Cut]) -> float:
    """How many times as fast as the uncut net the parts of a chain can be."""
    way = _Way(0, 0, ())
    for each in chain:
        way = _extended(way, each, 0)
    slowest = _ended(way).slowest
    return chain[0].total / slowest if slowest else 1.0


class _Way(NamedTuple):
    """A chain up to its last boundary: what it costs, and the multiply-adds of its slowest part."""

    cost: int
    slowest: int
    cuts: tuple[Cut, ...]


def _extended(way: _Way, place: Cut, cost: int) -> _Way:
    before = way.cuts[-1].multiply_adds[1] if way.cuts else place.total   # from there to the end
    work = place.multiply_adds[0] - (place.total - before)
    return _Way(way.cost + cost, max(way.slowest, work), (*way.cuts, place))


def _ended(way: _Way) -> _Way:
    return way._replace(slowest=max(way.slowest, way.cuts[-1].multiply_adds[1]))


def _cheapest(cuts: Sequence[Cut], parts: int, cost: Callable[[Cut], int],
              most: float) -> _Way | None:
    """The chain that costs least, and of those the one whose slowest part has least to do.

    most  multiply-adds that a part may have
    Of all chains that end at a boundary only the best can be a part of the best longer one.
    """
    ways = [_Way(0, 0, ())]
    for _ in range(parts - 1):
        longer = [[_extended(way, place, cost(place)) for way in ways if _fits(way, place)]
                  for place in cuts]
        allowed = [[way for way in found if way.slowest <= most] for found in longer]
        ways = [min(found, key=_rank) for found in allowed if found]
    return min((way for way in map(_ended, ways) if way.slowest <= most), key=_rank, default=None)


def _rank(way: _Way) -> tuple[int, int]:
    return way.cost, way.slowest


def _fits(way: _Way, place: Cut) -> bool:
    """Whether the layers that the last boundary shares stand before `place`."""
    return not way.cuts or way.cuts[-1].span[1] <= place.span[0]


def _measure(net: nn.Sequential, input_shape: Sequence[int]
             ) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Of each layer the shape of what it gives for one sample, and its multiply-adds.

    Only products of matrices, convolutions and attention count, as torch's counter has it.
    """
    shapes, work = {}, {}
    x = torch.zeros(1, *input_shape)
    was_training = net.training
    net.eval()
    with torch.no_grad():
        for name, layer in net.named_children():
            counter = FlopCounterMode(display=False)
            with counter:
                x = layer(x)
            shapes[name], work[name] = tuple(x.shape[1:]), counter.get_total_flops() // 2
    net.train(was_training)
    return shapes, work
