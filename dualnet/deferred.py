"""Backward passes that leave the weight gradients for later, to be formed once for all of them.

A pipeline answers its peer with the gradient of its input; the gradients of its own weights can
wait until the answer is on its way, and forming them once per iteration costs what one large batch
costs instead of M small ones.  Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2,
split the backward pass of a pipeline in these two halves.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn import grad as conv_grad

from dualnet.layer_calls import LayerCalls

Pair = tuple[Tensor, Tensor]    # input and output gradient of one call


class DeferredGradients(LayerCalls):
    """While it is active, linear layers and 2-d convolutions keep (input, output gradient).

    All other parameters than their weights and biases get their gradients at once, as always.

        with later:
            for images in micro_batches:
                loss(net(images)).backward()
        later.form()                                    # now the weights have their gradients

    parameters  whose gradients wait
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._calls: dict[int, tuple[Callable[[Tensor, Tensor], None], list[Pair]]] = {}

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _Linear.apply(self, x, weight, bias)

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None,
               geometry: dict[str, Any]) -> Tensor:
        return _Conv2d.apply(self, x, weight, bias, geometry)

    def keep(self, weight: Tensor, add_to: Callable[[Tensor, Tensor], None], pair: Pair) -> None:
        """Note one call of a layer; `add_to` turns inputs and output gradients into .grad."""
        self._calls.setdefault(id(weight), (add_to, []))[1].append(pair)

    @torch.no_grad()
    def form(self) -> None:
        """Add the gradients of all calls since the last time to the .grad of their weights."""
        for add_to, pairs in self._calls.values():
            inputs, gradients = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            add_to(inputs, gradients)
        self._calls.clear()


def _add(parameter: Tensor | None, gradient: Tensor) -> None:
    if parameter is not None and parameter.requires_grad:
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


class _Linear(torch.autograd.Function):
    """functional.linear on [N, ..., in], whose backward gives the input's gradient only."""

    @staticmethod
    def forward(ctx: Any, later: DeferredGradients, x: Tensor, weight: Tensor,
                bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.later, ctx.bias = later, bias
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        bias = ctx.bias

        def add_to(inputs: Tensor, gradients: Tensor) -> None:
            flat = gradients.flatten(0, -2)
            _add(weight, flat.t() @ inputs.flatten(0, -2))
            _add(bias, flat.sum(0))

        ctx.later.keep(weight, add_to, (x, gradient))
        return None, gradient @ weight if ctx.needs_input_grad[1] else None, None, None


class _Conv2d(torch.autograd.Function):
    """functional.conv2d on [N, C, H, W], whose backward gives the input's gradient only."""

    @staticmethod
    def forward(ctx: Any, later: DeferredGradients, x: Tensor, weight: Tensor,
                bias: Tensor | None, geometry: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.later, ctx.bias, ctx.geometry = later, bias, geometry
        return functional.conv2d(x, weight, bias, **geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        bias, geometry = ctx.bias, ctx.geometry

        def add_to(inputs: Tensor, gradients: Tensor) -> None:
            _add(weight, conv_grad.conv2d_weight(inputs, weight.shape, gradients, **geometry))
            _add(bias, gradients.sum((0, 2, 3)))

        ctx.later.keep(weight, add_to, (x, gradient))
        of_input = (conv_grad.conv2d_input(x.shape, weight, gradient, **geometry)
                    if ctx.needs_input_grad[1] else None)
        return None, of_input, None, None, None
