"""Linear layers and 2-d convolutions of a net, computed in another way while a mode is active."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class LayerCalls(TorchFunctionMode):
    """While it is active, calls of `functional.linear` and `functional.conv2d` with one of the
    weights go to `linear` and `conv2d`; every other call is left alone.

    Works on every module that calls these functions with a weight of its own.

    weights  whose calls are taken
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._weights = {id(weight) for weight in weights}

    def __torch_function__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.linear and self._is_ours(args, kwargs):
            return self.linear(*_linear_arguments(*args, **kwargs))
        if function is functional.conv2d and self._is_ours(args, kwargs):
            found = _conv2d_arguments(*args, **kwargs)
            if not isinstance(found[-1]["padding"], str):   # the backward pass wants numbers
                return self.conv2d(*found)
        return function(*args, **kwargs)

    def _is_ours(self, args: Any, kwargs: dict[str, Any]) -> bool:
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        return id(weight) in self._weights

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """functional.linear, [N, ..., in] -> [N, ..., out]."""
        raise NotImplementedError

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None,
               geometry: dict[str, Any]) -> Tensor:
        """functional.conv2d, [N, C, H, W] -> [N, out, H', W'].

        geometry  stride, padding, dilation and groups, no padding by name
        """
        raise NotImplementedError


def _linear_arguments(input: Tensor, weight: Tensor,
                      bias: Tensor | None = None) -> tuple[Any, ...]:
    return input, weight, bias


def _conv2d_arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
                      padding: Any = 0, dilation: Any = 1, groups: int = 1) -> tuple[Any, ...]:
    return input, weight, bias, {"stride": stride, "padding": padding, "dilation": dilation,
                                 "groups": groups}
