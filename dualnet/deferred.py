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
from torch.overrides import TorchFunctionMode

Pair = tuple[Tensor, Tensor]    # input and output gradient of one call


class DeferredGradients(TorchFunctionMode):
    """While it is active, linear layers and 2-d convolutions keep (input, output gradient).

    Works on every module that calls `functional.linear` or `functional.conv2d` with a weight of
    its own; all other parameters get their gradients at once, as always.

        with later:
            for images in micro_batches:
                loss(net(images)).backward()
        later.form()                                    # now the weights have their gradients

    parameters  whose gradients wait
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._waiting = {id(parameter) for parameter in parameters}
        self._calls: dict[int, tuple[Callable[[Tensor, Tensor], None], list[Pair]]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.linear and self._is_waiting(args, kwargs):
            return _Linear.apply(self, *_linear_arguments(*args, **kwargs))
        if function is functional.conv2d and self._is_waiting(args, kwargs):
            found = _conv2d_arguments(*args, **kwargs)
            if not isinstance(found[-1]["padding"], str):   # the backward pass wants numbers
                return _Conv2d.apply(self, *found)
        return function(*args, **kwargs)

    def _is_waiting(self, args: Any, kwargs: dict[str, Any]) -> bool:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return id(weight) in self._waiting

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


def _linear_arguments(input: Tensor, weight: Tensor,
                      bias: Tensor | None = None) -> tuple[Any, ...]:
    return input, weight, bias


def _conv2d_arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
                      padding: Any = 0, dilation: Any = 1, groups: int = 1) -> tuple[Any, ...]:
    return input, weight, bias, {"stride": stride, "padding": padding, "dilation": dilation,
                             "groups": groups}


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
