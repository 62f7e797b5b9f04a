"""What residual nets have in common: the sum of a shortcut and a branch that can be skipped."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.seeding import uniform


class Conv(nn.Conv2d):
    """A convolution that keeps the size at stride 1; weights N(0, 2 / fan_in), biases 0.

    He et al. 2015, "Delving deep into rectifiers", eq. 10.
    """

    def __init__(self, channels: int, width: int, kernel_size: int, stride: int = 1,
                 bias: bool = False) -> None:
        super().__init__(channels, width, kernel_size, stride, kernel_size // 2, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Classifier(nn.Linear):
    """The last layer, drawn as the convolutions are."""

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


def stages(blocks: int | Sequence[int], widths: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Name, maps and stride of each block of a net of `blocks` blocks with each of `widths` maps.

    blocks  of every stage, or of each
    The first block of every stage but the first halves the sides.
    """
    counts = [blocks] * len(widths) if isinstance(blocks, int) else blocks
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for number in range(count):
            yield f"block{stage}_{number}", width, 2 if stage > 1 and number == 0 else 1


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros in the maps that are new: a shortcut without weights.

    [N, channels, H, W] -> [N, width, ceil(H / stride), ceil(W / stride)]
    He et al. 2015, "Deep residual learning", section 3.3, option A.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.new, self.stride = width - channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.new))


class GlobalAveragePool(nn.Module):
    """The mean of each map, [N, C, H, W] -> [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class ResidualBlock(nn.Module):
    """A block that adds a branch to its shortcut, and may be skipped in training.

        training  shortcut(x) + b branch(x)     b is 1 with probability p, else the branch is not
                                                computed, forward or backward
        test      shortcut(x) + p branch(x)

    p is `survival`.  What else happens to the sum, the kind of block decides.  `draw` must name
    the step first.  Huang et al. 2016, "Deep networks with stochastic depth", eq. 2 and 5.
    """

    survival = 1.0
    is_skipped = False

    def draw(self, name: str, seed: int, step: int) -> None:
        """Decide whether the block `name` is skipped at `step`: a function of these three."""
        if self.survival < 1:
            self.is_skipped = uniform(seed, f"depth/{name}", step, 1)[0] >= self.survival

    def add_branch(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """The shortcut with what `branch` makes of x, if it is not skipped."""
        if not self.training:
            branch = self.branch(x)
            return shortcut + (branch if self.survival == 1 else self.survival * branch)
        return shortcut if self.is_skipped else shortcut + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        """What is added to the shortcut, [N, channels, H, W] -> [N, width, H', W']."""
        raise NotImplementedError

    def last_layer(self) -> nn.Module:
        """The layer whose weights are factors of the whole branch."""
        raise NotImplementedError

    def branch_layers(self) -> list[str]:
        """The names of the layers that the branch alone needs: all but the shortcut."""
        return [name for name, _ in self.named_children() if name != "shortcut"]


def blocks_of(net: nn.Module) -> Iterator[tuple[str, ResidualBlock]]:
    """The residual blocks of `net` with their names, from the input on."""
    for name, module in net.named_modules():
        if isinstance(module, ResidualBlock):
            yield name, module


def survivals(rule: str, survival: float, count: int) -> list[float]:
    """How often each of `count` blocks is kept, from the input on.

        linear   p_l = 1 - (l / L) (1 - p_L)      l = 1 .. L, p_L = `survival`
        uniform  p_l = `survival`

    Huang et al. 2016, "Deep networks with stochastic depth", eq. 4.

    >>> survivals("linear", 0.5, 4)
    [0.875, 0.75, 0.625, 0.5]
    """
    if rule == "uniform":
        return [survival] * count
    return [1 - number / count * (1 - survival) for number in range(1, count + 1)]


def survival_by_layer(net: nn.Module) -> dict[str, float]:
    """The survival of each block by the name of the layer that can hold it as a factor."""
    names = {module: name for name, module in net.named_modules()}
    return {names[block.last_layer()]: block.survival for _, block in blocks_of(net)}


@torch.no_grad()
def fold_survival(net: nn.Module) -> None:
    """Multiply each branch by its survival, which becomes 1: the tested net as a plain one."""
    for _, block in blocks_of(net):
        for parameter in block.last_layer().parameters():
            parameter.mul_(block.survival)
        block.survival = 1.0
