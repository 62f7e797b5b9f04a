"""Caffe's solvers as torch optimisers.

One update, in Caffe's order, for the gradient g that `iter_size` backward passes have summed up:

    clip         g <- g c / |g| if |g| > c = clip_gradients, |g| over all weights together
    normalise    g <- g / iter_size
    regularise   g <- g + d w (L2) or g + d sign(w) (L1),  d = weight_decay * decay_mult
    update       w <- w - V(g, r),  r = lr * lr_mult

`lr`, `weight_decay`, `momentum`, `lr_mult` and `decay_mult` are options of the parameter groups.
`lr` is the rate of the current iteration: the caller sets it from `rates` before each step.
A weight without a gradient is left as it is.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]
State = dict[str, Any]


class Solver(torch.optim.Optimizer):
    """What all solvers share; a subclass says what one update is.

    clip_gradients       largest Euclidean norm of all gradients together; negative: no limit
    iter_size            backward passes that were summed up in the gradients
    regularization_type  L2 or L1
    Raises ValueError for arguments that Caffe refuses.
    """

    own_fields: tuple[str, ...] = ()      # of the solver's prototxt, besides those of all solvers

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0, *, regularization_type: str = "L2",
                 clip_gradients: float = -1.0, iter_size: int = 1) -> None:
        if regularization_type not in ("L1", "L2"):
            raise ValueError(f"regularization_type must be L1 or L2, found {regularization_type}")
        if iter_size < 1:
            raise ValueError(f"iter_size must be at least 1, found {iter_size}")
        self.regularization_type = regularization_type
        self.clip_gradients, self.iter_size = clip_gradients, iter_size
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                                  "lr_mult": 1.0, "decay_mult": 1.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight by the gradient it holds; the gradients are not changed."""
        scale = self._clip_scale() / self.iter_size
        for group in self.param_groups:
            rate = group["lr"] * group["lr_mult"]
            decay = group["weight_decay"] * group["decay_mult"]
            for weight in group["params"]:
                if weight.grad is not None:
                    gradient = weight.grad if scale == 1 else weight.grad * scale
                    gradient = self._regularize(weight, gradient, decay)
                    weight.sub_(self._update(self.state[weight], gradient, rate, group))

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        """What is subtracted from a weight; `state` is empty in the first iteration."""
        raise NotImplementedError

    def _clip_scale(self) -> float:
        if self.clip_gradients < 0:
            return 1.0
        norms = [torch.linalg.vector_norm(weight.grad) for group in self.param_groups
                 for weight in group["params"] if weight.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        return self.clip_gradients / norm if norm > self.clip_gradients else 1.0

    def _regularize(self, weight: Tensor, gradient: Tensor, decay: float) -> Tensor:
        if not decay:
            return gradient
        return gradient.add(weight if self.regularization_type == "L2" else weight.sign(),
                            alpha=decay)


def _slot(state: State, name: str, like: Tensor) -> Tensor:
    """A running value of a weight, 0 at first."""
    if name not in state:
        state[name] = torch.zeros_like(like)
    value: Tensor = state[name]
    return value


def _refuse_momentum(solver: str, momentum: float) -> None:
    if momentum:
        raise ValueError(f"{solver} takes no momentum, found {momentum}")


class SGD(Solver):
    """V <- m V + r g;  w <- w - V.  The rate is inside the momentum.

    torch.optim.SGD multiplies its buffer by the current rate instead, which is the same only
    while the rate is constant.
    """

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        return _slot(state, "update", gradient).mul_(group["momentum"]).add_(gradient, alpha=rate)


class Nesterov(Solver):
    """V' = m V + r g;  w <- w - ((1 + m) V' - m V)."""

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        momentum = group["momentum"]
        value = _slot(state, "update", gradient)
        back = momentum * value
        value.mul_(momentum).add_(gradient, alpha=rate)
        return (1 + momentum) * value - back


class AdaGrad(Solver):
    """s <- s + g^2;  w <- w - r g / (sqrt(s) + delta)."""

    own_fields = ("delta",)

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0, *, delta: float = 1e-8, **options: Any) -> None:
        _refuse_momentum("AdaGrad", momentum)
        super().__init__(params, lr, momentum, weight_decay, **options)
        self.delta = delta

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        squares = _slot(state, "squares", gradient).addcmul_(gradient, gradient)
        return rate * gradient / (squares.sqrt() + self.delta)


class RMSProp(Solver):
    """s <- rms_decay s + (1 - rms_decay) g^2;  w <- w - r g / (sqrt(s) + delta)."""

    own_fields = ("rms_decay", "delta")

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0, *, rms_decay: float = 0.99, delta: float = 1e-8,
                 **options: Any) -> None:
        _refuse_momentum("RMSProp", momentum)
        if not 0 <= rms_decay < 1:
            raise ValueError(f"rms_decay must be at least 0 and less than 1, found {rms_decay}")
        super().__init__(params, lr, momentum, weight_decay, **options)
        self.rms_decay, self.delta = rms_decay, delta

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        squares = _slot(state, "squares", gradient).mul_(self.rms_decay)
        squares.addcmul_(gradient, gradient, value=1 - self.rms_decay)
        return rate * gradient / (squares.sqrt() + self.delta)


class AdaDelta(Solver):
    """s <- m s + (1 - m) g^2;  v = g sqrt((u + delta) / (s + delta));  u <- m u + (1 - m) v^2;
    w <- w - r v,  m the momentum.
    """

    own_fields = ("delta",)

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0, *, delta: float = 1e-8, **options: Any) -> None:
        super().__init__(params, lr, momentum, weight_decay, **options)
        self.delta = delta

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        momentum = group["momentum"]
        squares, updates = _slot(state, "squares", gradient), _slot(state, "updates", gradient)
        squares.mul_(momentum).addcmul_(gradient, gradient, value=1 - momentum)
        value = gradient * ((updates + self.delta) / (squares + self.delta)).sqrt()
        updates.mul_(momentum).addcmul_(value, value, value=1 - momentum)
        return rate * value


class Adam(Solver):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    w <- w - r sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + delta),  b1 = momentum, b2 = momentum2.

    delta is added before the correction of the bias, unlike in torch.optim.Adam; t counts from 1.
    """

    own_fields = ("momentum2", "delta")

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0, *, momentum2: float = 0.999, delta: float = 1e-8,
                 **options: Any) -> None:
        super().__init__(params, lr, momentum, weight_decay, **options)
        self.momentum2, self.delta = momentum2, delta

    def _update(self, state: State, gradient: Tensor, rate: float, group: Group) -> Tensor:
        b1, b2 = group["momentum"], self.momentum2
        mean, square = _slot(state, "mean", gradient), _slot(state, "square", gradient)
        t = state["t"] = state.get("t", 0) + 1
        mean.mul_(b1).add_(gradient, alpha=1 - b1)
        square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        correction = math.sqrt(1 - b2 ** t) / (1 - b1 ** t)
        return rate * correction * mean / (square.sqrt() + self.delta)


SOLVERS: dict[str, type[Solver]] = {
    "SGD": SGD, "Nesterov": Nesterov, "AdaGrad": AdaGrad, "RMSProp": RMSProp,
    "AdaDelta": AdaDelta, "Adam": Adam}

FIELDS = ("momentum", "weight_decay", "regularization_type", "clip_gradients", "iter_size")


def solver(type: str, params: Iterable[Any], lr: float, **fields: Any) -> Solver:
    """The solver that a solver prototxt names: `solver("Adam", params, 0.01, momentum=0.9)`.

    fields  those of FIELDS, momentum2, delta, rms_decay; what the type does not read is ignored,
            as in Caffe.
    Raises ValueError for an unknown type.
    """
    if type not in SOLVERS:
        raise ValueError(f"unknown solver type '{type}' (types: {', '.join(SOLVERS)})")
    names = FIELDS + SOLVERS[type].own_fields
    return SOLVERS[type](params, lr, **{name: fields[name] for name in names if name in fields})
