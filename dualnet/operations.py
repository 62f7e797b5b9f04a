"""How many weights a net has, and how many operations it takes, counted as it runs: on the meta
device without computing."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in net.parameters())


class Counted(NamedTuple):
    """Multiply-adds of a forward and of a backward pass."""

    forward: int
    backward: int

    @property
    def training(self) -> int:
        """Additions and multiplications of both."""
        return 2 * (self.forward + self.backward)


def counted(forward: Callable[[], Tensor]) -> Counted:
    """Of `forward` and of the backward pass from what it gives, which has none if that needs no
    gradient.  Convolutions and matrix products count, all else does not."""
    ahead, back = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with ahead:
        result = forward()
    with back:
        if result.requires_grad:
            result.backward()
    return Counted(*(counter.get_total_flops() // 2 for counter in (ahead, back)))
