"""Build one role of the dual net from the settings."""

from collections.abc import Sequence

import torch
from torch import nn

from dualnet.channel import Channel
from dualnet.cut import Part, compared_layer, cut
from dualnet.data.batches import Batches
from dualnet.methods.dual.role import Role
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import Wire
from dualnet.nets.initial import draw_weights


def build_parts(settings: DualConfig, net: nn.Sequential) -> list[Part]:
    """Draw the weights of `net` and cut it, into one part for each role.

    conv3' draws as the single net's conv3.  A tied conv3 of net1 is its copy; an untied one draws
    under the name "conv3/net1".  Raises UserError for a cut that cannot be made.
    """
    draw_weights(net, settings.seed)
    parts = cut(net, settings.cuts, before_activation=settings.before_activation)
    if not settings.resolved_tie():
        for name, part in zip(settings.roles, parts, strict=True):
            draw_weights(part.tail, settings.seed, suffix=f"/{name}")
    return parts


def describe_wires(parts: Sequence[Part], input_shape: tuple[int, ...]) -> list[Wire]:
    """Names and shapes of what will cross at each boundary, from one empty image."""
    wires: list[Wire] = []
    z = torch.zeros(1, *input_shape)
    with torch.no_grad():
        for number, part in enumerate(parts[:-1], start=1):
            z = part.eval()(z)
            x = part.tail(z)
            wires.append(Wire(part.boundary, compared_layer(part), tuple(z.shape[1:]),
                              tuple(x.shape[1:]), number if len(parts) > 2 else 0))
    return wires


def build_role(name: str, settings: DualConfig, parts: Sequence[Part], wires: Sequence[Wire],
               batches: Batches, channel: Channel, device: torch.device) -> Role:
    """A role, ready to train.  `settings` must be resolved.

    wires  of all boundaries, from `describe_wires`
    """
    index = settings.roles.index(name)
    before, behind = [None, *wires, None][index:index + 2]
    lr = settings.lr if behind is None else settings.lr_net1 or 0.0
    return Role(name, settings, parts[index], before, behind, batches, channel, device, lr)
