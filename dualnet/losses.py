"""Losses at a boundary, as pure functions: how far net1's activation is from its target.

x    [N, ...]  net1's activation (conv3), with gradient
y    [N, ...]  its target, without gradient
Norms are taken per sample over all axes but the first; the result is a scalar, the mean over N.
All raise ValueError if the shapes differ: broadcasting would train on nonsense silently.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dualnet.errors import UserError

BoundaryLoss = Callable[[Tensor, Tensor, str], Tensor]


def squared_norm(x: Tensor) -> Tensor:
    """|x_n|^2 of each sample, [N]."""
    return x.flatten(1).square().sum(1)


def euclidean(x: Tensor, y: Tensor, denominator: str = "constant") -> Tensor:
    """E = 1/(2N) sum_n |x_n - y_n|^2        Dziwulski 2017, eq. 9.2; Caffe's EuclideanLoss

    `denominator` has nothing to act on here.
    """
    return _squared_distance(x, y).mean() / 2


class _ByHand(torch.autograd.Function):
    """Difference, value and gradient as BVLC's pyloss.EuclideanLossLayer writes them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        difference = x - y
        ctx.save_for_backward(difference)
        return difference.square().sum() / len(x) / 2

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        difference, = ctx.saved_tensors
        return weight * difference / len(difference), None


def euclidean_by_hand(x: Tensor, y: Tensor, denominator: str = "constant") -> Tensor:
    """`euclidean` with its gradient (x_n - y_n) / N written out        Dziwulski 2017, section 9.5

    The thesis' custom layer, which must give the numbers of the built-in one.
    """
    if x.shape != y.shape:
        raise ValueError(f"boundary shapes differ: x {list(x.shape)}, y {list(y.shape)}")
    loss: Tensor = _ByHand.apply(x, y)
    return loss


def normalized_both(x: Tensor, y: Tensor, denominator: str = "constant") -> Tensor:
    """E = 1/(2N) sum_n |x_n - y_n|^2 / sqrt(|x_n|^2 + |y_n|^2)        Dziwulski 2017, eq. 9.3

    denominator  "constant": no gradient flows through the root; "exact": it does.  Raises
                 UserError for "target", since both norms are meant.
    """
    if denominator == "target":
        raise UserError("normalized_both divides by both norms and has no denominator 'target'; "
                        "take constant or exact")
    norm = (squared_norm(x) + squared_norm(y)).sqrt()
    return _quotient(x, y, norm, denominator)


def normalized(x: Tensor, y: Tensor, denominator: str = "constant") -> Tensor:
    """E = 1/(2N) sum_n |x_n - y_n|^2 / |x_n|        Dziwulski 2017, eq. 9.4

    denominator  "constant": |x_n| without its gradient; "exact": with it; "target": |y_n|, the
                 reading under which the thesis' remark that it is a constant holds.
    """
    norm = (squared_norm(y) if denominator == "target" else squared_norm(x)).sqrt()
    return _quotient(x, y, norm, denominator)


def _quotient(x: Tensor, y: Tensor, norm: Tensor, denominator: str) -> Tensor:
    if denominator != "exact":
        norm = norm.detach()
    return (_squared_distance(x, y) / norm).mean() / 2


def _squared_distance(x: Tensor, y: Tensor) -> Tensor:
    if x.shape != y.shape:
        raise ValueError(f"boundary shapes differ: x {list(x.shape)}, y {list(y.shape)}")
    return squared_norm(x - y)


def relative_residual(x: Tensor, y: Tensor) -> float:
    """|x - y| / |y| over the whole batch: how far the two copies of a layer disagree."""
    return float(torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y))


def mean_norm(x: Tensor) -> float:
    """Mean over samples of |x_n|."""
    return float(squared_norm(x).sqrt().mean())


def dead_share(x: Tensor) -> float:
    """Share of the units (channel and position) that are 0 in every sample, 0-1.

    x  [N, ...]  an activation behind a ReLU; elsewhere a 0 means nothing
    """
    return float((x == 0).all(0).double().mean())


BOUNDARY_LOSSES: dict[str, BoundaryLoss] = {
    "euclidean": euclidean, "euclidean_by_hand": euclidean_by_hand,
    "normalized_both": normalized_both, "normalized": normalized}
