"""Caffe's semantics in PyTorch: layers that fill themselves as Caffe does, pooling, solver.

Checked against arrays that BVLC Caffe 1.0 wrote (tests/golden).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Filler = Callable[[Tensor], Tensor]


def xavier(weight: Tensor) -> Tensor:
    """U(-a, a) with a = sqrt(3 / fan_in); torch's xavier_uniform_ is another formula."""
    bound = math.sqrt(3 / weight[0].numel())
    return nn.init.uniform_(weight, -bound, bound)


def gaussian(std: float) -> Filler:
    """N(0, std^2)."""
    return lambda weight: nn.init.normal_(weight, 0.0, std)


def constant(value: float) -> Filler:
    """The same value everywhere."""
    return lambda weight: nn.init.constant_(weight, value)


ZERO = constant(0.0)


class _Filled:
    """Draws weight and bias from Caffe's fillers whenever `reset_parameters` is called."""

    def __init__(self, *args: Any, weight_filler: Filler, bias_filler: Filler) -> None:
        self._fillers = weight_filler, bias_filler     # nn.Module.__init__ resets, so: first
        super().__init__(*args)

    def reset_parameters(self) -> None:
        weight_filler, bias_filler = self._fillers
        with torch.no_grad():
            weight_filler(self.weight)  # type: ignore[attr-defined]
            bias_filler(self.bias)  # type: ignore[attr-defined]


class Convolution(_Filled, nn.Conv2d):
    """[N, C, H, W] -> [N, out, H, W] for an odd kernel with padding (kernel - 1) / 2, the default.

    Another padding, in pixels, changes height and width by 2 padding - kernel + 1.
    """

    def __init__(self, channels: int, out: int, kernel: int, *, padding: int | None = None,
                 weight_filler: Filler = xavier, bias_filler: Filler = ZERO) -> None:
        super().__init__(channels, out, kernel, 1,
                         (kernel - 1) // 2 if padding is None else padding,
                         weight_filler=weight_filler, bias_filler=bias_filler)


class InnerProduct(_Filled, nn.Linear):
    """[N, ...] -> [N, out]; flattens all axes but the first, as Caffe does."""

    def __init__(self, features: int, out: int, *, weight_filler: Filler = xavier,
                 bias_filler: Filler = ZERO) -> None:
        super().__init__(features, out, weight_filler=weight_filler, bias_filler=bias_filler)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def max_pool(kernel: int, stride: int) -> nn.MaxPool2d:
    """Caffe's MAX pooling: the output size is rounded up, 32 -> 16 -> 8 -> 4 for kernel 3/2."""
    return nn.MaxPool2d(kernel, stride, ceil_mode=True)


class SGD(torch.optim.Optimizer):
    """Caffe's SGDSolver: the learning rate is inside the momentum.

        V <- momentum * V + lr * (g + weight_decay * w)
        w <- w - V

    torch.optim.SGD multiplies its buffer by the current rate instead, which is the same only
    while the rate is constant.  `lr` and `weight_decay` are options of the parameter groups, so
    Caffe's lr_mult and decay_mult are factors on them.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["update"] = torch.zeros_like(weight)
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                state["update"].mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
                weight.sub_(state["update"])
