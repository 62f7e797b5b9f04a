"""Caffe's fillers: functions that draw the initial values of a weight or bias in place.

A Filler takes a tensor and returns it filled.  `filler(type, **fields)` makes one from the fields
of a `weight_filler { ... }` block, with Caffe's defaults.

    fan_in  = numbers per output,  count / shape[0]  (in/group * kh * kw for a convolution)
    fan_out = numbers per input,   count / shape[1]
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Filler = Callable[[Tensor], Tensor]

VARIANCE_NORMS = ("FAN_IN", "FAN_OUT", "AVERAGE")


def constant(value: float = 0.0) -> Filler:
    """The same value everywhere; Caffe's default filler, with value 0."""
    return lambda weight: nn.init.constant_(weight, value)


ZERO = constant()


def uniform(min: float = 0.0, max: float = 1.0) -> Filler:
    """U(min, max)."""
    return lambda weight: nn.init.uniform_(weight, min, max)


def gaussian(std: float = 1.0, *, mean: float = 0.0, sparse: int = -1) -> Filler:
    """N(mean, std^2).

    sparse  mean number of outputs that an input reaches: each weight is kept with probability
            sparse / shape[0], else 0; -1 keeps all
    """
    if sparse < -1:
        raise ValueError(f"sparse must be -1 (off) or a number of outputs, found {sparse}")

    def fill(weight: Tensor) -> Tensor:
        nn.init.normal_(weight, mean, std)
        if sparse >= 0:
            with torch.no_grad():
                weight.mul_(torch.rand_like(weight) < sparse / weight.shape[0])
        return weight

    return fill


def positive_unitball(weight: Tensor) -> Tensor:
    """U(0, 1), then the numbers of each output are divided by their sum."""
    with torch.no_grad():
        rows = nn.init.uniform_(weight).flatten(1)
        return weight.copy_((rows / rows.sum(1, keepdim=True)).view_as(weight))


def xavier(weight: Tensor, *, variance_norm: str = "FAN_IN") -> Tensor:
    """U(-a, a) with a = sqrt(3 / n), n the fan_in, fan_out or their mean.

    torch's xavier_uniform_ is the AVERAGE; Caffe's default is the fan_in.
    """
    bound = math.sqrt(3 / _fan(weight, variance_norm))
    return nn.init.uniform_(weight, -bound, bound)


def msra(weight: Tensor, *, variance_norm: str = "FAN_IN") -> Tensor:
    """N(0, 2 / n), n the fan_in, fan_out or their mean."""
    return nn.init.normal_(weight, 0.0, math.sqrt(2 / _fan(weight, variance_norm)))


def bilinear(weight: Tensor) -> Tensor:
    """[*, *, K, K] -> the K x K kernel of bilinear interpolation, for upsampling.

    w(y, x) = (1 - |x/f - c|) (1 - |y/f - c|),  f = ceil(K/2),  c = (K-1) / 2f
    """
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError("the bilinear filler needs a square kernel [*, *, K, K], "
                         f"found {list(weight.shape)}")
    side = weight.shape[3]
    factor = math.ceil(side / 2)
    line = 1 - (torch.arange(side) / factor - (side - 1) / (2 * factor)).abs()
    with torch.no_grad():
        return weight.copy_(torch.outer(line, line))


def _fan(weight: Tensor, variance_norm: str) -> float:
    fan_in = weight.numel() / weight.shape[0]
    fan_out = weight.numel() / weight.shape[1] if weight.dim() > 1 else weight.numel()
    if variance_norm not in VARIANCE_NORMS:
        raise ValueError(f"variance_norm must be one of {', '.join(VARIANCE_NORMS)}, "
                         f"found {variance_norm}")
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[variance_norm]


def _with_variance_norm(fill: Callable[..., Tensor]) -> Callable[..., Filler]:
    return lambda variance_norm="FAN_IN": partial(fill, variance_norm=variance_norm)


FILLERS: dict[str, Callable[..., Filler]] = {
    "constant": constant, "uniform": uniform, "gaussian": gaussian,
    "positive_unitball": lambda: positive_unitball, "bilinear": lambda: bilinear,
    "xavier": _with_variance_norm(xavier), "msra": _with_variance_norm(msra)}


def filler(type: str = "constant", **fields: Any) -> Filler:
    """The filler that `{ type: "xavier" variance_norm: AVERAGE }` names.

    fields  value; min, max; mean, std, sparse; variance_norm: what the type knows.
    Raises ValueError for an unknown type or a field that the type does not know.
    """
    if type not in FILLERS:
        raise ValueError(f"unknown filler '{type}' (fillers: {', '.join(FILLERS)})")
    try:
        return FILLERS[type](**fields)
    except TypeError:
        raise ValueError(f"the filler '{type}' does not take {', '.join(fields)}") from None
