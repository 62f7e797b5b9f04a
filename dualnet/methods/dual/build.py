"""Build one role of the dual net from the settings."""

import torch
from torch import nn

from dualnet.channel import Channel
from dualnet.cut import Part, compared_layer, cut
from dualnet.data.batches import Batches
from dualnet.methods.dual.net1 import Net1
from dualnet.methods.dual.net2 import Net2
from dualnet.methods.dual.role import Role
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, NET2, Wire
from dualnet.nets.initial import draw_weights


def build_parts(settings: DualConfig, net: nn.Sequential) -> list[Part]:
    """Draw the weights of `net` and cut it in two.

    conv3' draws as the single net's conv3.  A tied conv3 of net1 is its copy; an untied one draws
    under the name "conv3/net1".  Raises UserError for a cut that cannot be made.
    """
    draw_weights(net, settings.seed)
    parts = cut(net, [settings.cut], before_activation=settings.before_activation)
    if not settings.resolved_tie():
        draw_weights(parts[0].tail, settings.seed, suffix=f"/{NET1}")
    return parts


def describe_wire(parts: list[Part], input_shape: tuple[int, ...]) -> Wire:
    """Names and shapes of what will cross, from one empty image."""
    front = parts[0].eval()
    with torch.no_grad():
        z = front(torch.zeros(1, *input_shape))
        x = front.tail(z)
    return Wire(front.boundary, compared_layer(front), tuple(z.shape[1:]), tuple(x.shape[1:]))


def build_role(name: str, settings: DualConfig, parts: list[Part], wire: Wire, batches: Batches,
               channel: Channel, device: torch.device) -> Role:
    """net1 or net2, ready to train.  `settings` must be resolved."""
    if name == NET1:
        return Net1(settings, parts[0], wire, batches, channel, device, settings.lr_net1 or 0.0)
    assert name == NET2, name
    return Net2(settings, parts[1], wire, batches, channel, device, settings.lr)
