"""Dropout whose mask is a pure function of (seed, step, layer name)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from dualnet.nets.residual import blocks_of
from dualnet.seeding import torch_seed


class Dropout(nn.Module):
    """Inverted dropout, as Caffe and torch have it: x * mask / (1 - ratio) in training.

    The mask does not depend on what was drawn before, so the single net, the cut net, its
    micro-batches and a resumed run drop the same units.  `set_iteration` must name the step first.
    """

    def __init__(self, name: str, ratio: float) -> None:
        super().__init__()
        self.name, self.ratio = name, ratio
        self.seed, self.step = 0, 0
        self.rows: slice | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        generator = torch.Generator().manual_seed(
            torch_seed(self.seed, f"dropout/{self.name}", self.step))
        size = self.rows.stop if self.rows else len(x)  # drawn row by row: a prefix of the batch's
        kept = torch.rand((size, *x.shape[1:]), generator=generator)[self.rows or ...] >= self.ratio
        return x * kept.to(x.device) / (1 - self.ratio)


def set_iteration(net: nn.Module, seed: int, step: int, rows: slice | None = None) -> None:
    """Tell `net` which masks its dropout layers draw next, and which of its blocks it skips.

    rows  which samples of the batch come, if not all of it
    """
    for module in net.modules():
        if isinstance(module, Dropout):
            module.seed, module.step, module.rows = seed, step, rows
    for name, block in blocks_of(net):
        block.draw(name, seed, step)


def with_named_dropout(net: nn.Sequential) -> nn.Sequential:
    """The same net with `Dropout` in place of torch's own, also inside its layers.

    torch's draws from a generator with a history, which no two processes have in common.
    """
    for name, module in list(net.named_modules()):
        for child, layer in module.named_children():
            if type(layer) is nn.Dropout and module is not net:
                setattr(module, child, Dropout(f"{name}.{child}", layer.p))
    return nn.Sequential(OrderedDict(
        (name, Dropout(name, layer.p) if type(layer) is nn.Dropout else layer)
        for name, layer in net.named_children()))
