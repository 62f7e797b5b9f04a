"""What each cut of a net costs and brings: the size of its messages, and the work on either side.

    bound = multiply-adds of the uncut net / those of the slower part

is how many times as fast as the uncut net two machines of one kind can be, if their messages cost
nothing.  Both parts compute the layer that they share, so it is below 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dualnet.cut import compared_layer, cut, shared_layers
from dualnet.errors import UserError
from dualnet.methods.dual.formats import message_bytes

NEARLY = 0.95   # of the largest bound: less is lost than larger messages would take


class Cut(NamedTuple):
    """One boundary.

    boundary, compared  names of the layer that is cut behind and of the layer that is shared
    z_bytes, y_bytes    what crosses in an iteration, to net2 and back; not counted are rho, the
                        diagnosis of logged iterations and the test images
    multiply_adds       of net1 and net2, forward, per sample; backward takes about twice as many
    weights             of net1 and net2
    bound               see above
    """

    boundary: str
    compared: str
    z_bytes: int
    y_bytes: int
    multiply_adds: tuple[int, int]
    weights: tuple[int, int]
    bound: float


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
            sides, (_num_weights(front), _num_weights(back)),
            total / max(sides) if total else 1.0))
    return found


def best(cuts: Sequence[Cut]) -> Cut:
    """The cut with the smallest messages among those whose bound is within 5 % of the largest.

    Raises UserError if there is none.
    """
    if not cuts:
        raise UserError("no layer of this net can be cut behind: a cut needs a layer with weights "
                        "on its far side")
    enough = NEARLY * max(each.bound for each in cuts)
    return min((each for each in cuts if each.bound >= enough),
               key=lambda each: each.z_bytes + each.y_bytes)


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


def _num_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
