"""YellowFin: SGD that tunes one learning rate and one momentum from the gradients it sees.

Zhang and Mitliagkas, "YellowFin and the art of momentum tuning", arXiv:1706.03471, algorithms 1
to 4 and section 3.3; averages without the bias of their start as in Kingma and Ba 2015.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from dualnet.errors import UserError

EPS = 1e-6
GROWTH = 100.0      # largest factor by which one gradient may exceed the curvature seen so far
LONGEST = 100.0     # largest norm of lr * g
SHARED = "yellowfin"  # the key of `state` under which the statistics of all parameters are kept


class Tuning(NamedTuple):
    """What one step is taken with.

    lr, momentum      those of the step, the slow start included
    h_min, h_max      range of curvature
    variance          C, of the gradient, summed over all parameters
    distance          D, to the optimum
    """

    lr: float
    momentum: float
    h_min: float
    h_max: float
    variance: float
    distance: float


def cubic_root(p: float) -> float:
    """The real root of y^3 + p y + p = 0 for p >= 0, in [-1, 0].

    With y = x - 1 and p = D^2 h_min^2 / 2C it is where x^2 D^2 + (1-x)^4 C / h_min^2 is smallest.
    The hyperbolic form of Cardano's formula subtracts no large numbers:

        y = -2 sqrt(p/3) sinh( asinh( 3/2 sqrt(3/p) ) / 3 )
    """
    if p == 0:
        return 0.0
    if math.isinf(p):
        return -1.0
    return -2 * math.sqrt(p / 3) * math.sinh(math.asinh(1.5 * math.sqrt(3 / p)) / 3)


def single_step(variance: float, distance: float, h_min: float,
                h_max: float) -> tuple[float, float]:
    """Learning rate and momentum that shrink the distance to the optimum most in one step.

        mu = max( x^2, ((sqrt(h_max/h_min) - 1) / (sqrt(h_max/h_min) + 1))^2 )
        lr = (1 - sqrt(mu))^2 / h_min             with x of `cubic_root`; algorithm 1, equation 15

    Every curvature in [h_min, h_max] then lies where momentum converges at the rate sqrt(mu).
    """
    h_min, h_max = h_min + EPS, h_max + EPS
    reach = (distance + EPS) * h_min
    x = 1 + cubic_root(reach * reach / (2 * (variance + EPS)))
    root = math.sqrt(h_max / h_min)
    sqrt_mu = max(x, (root - 1) / (root + 1))
    return (1 - sqrt_mu) ** 2 / h_min, sqrt_mu ** 2


class YellowFin(torch.optim.Optimizer):
    """SGD with momentum whose rate and momentum follow from the gradients.

        v <- mu v - lr_factor lr g        w <- w + v

    params        parameters or groups of them; one rate and one momentum serve all, groups differ
                  in `lr_factor` and `weight_decay`
    lr_factor     factor on the tuned rate: what a schedule changes, since `lr` is an output here
    weight_decay  added to the gradient as weight_decay * w, before the statistics, which so are
                  those of the loss with its penalty
    beta          weight of the past in all averages
    window        steps over which the curvature has its range
    clip          clip the gradient to the norm sqrt(h_max), and the rate so that it moves no
                  further than 100; section 3.3

    The rate starts at 1/(10 window) of the tuned one and reaches it after 10 window steps.  After a
    step each group's `lr` and `momentum` are those of the step, and `tuning` has the statistics.
    A parameter without a gradient is left alone; in the averages its gradient counts as 0.
    Raises UserError for values out of range, RuntimeError for sparse gradients.
    """

    state: Any      # parameter -> its averages; SHARED -> the statistics of all
    tuning: Tuning | None = None

    def __init__(self, params: Iterable[Any], *, lr_factor: float = 1.0, weight_decay: float = 0.0,
                 beta: float = 0.999, window: int = 20, clip: bool = True) -> None:
        if not 0 <= beta < 1:
            raise UserError(f"beta of YellowFin must be in [0, 1), found {beta:g}")
        if window < 1:
            raise UserError(f"the window of YellowFin must be at least 1 step, found {window}")
        if not (lr_factor >= 0 and weight_decay >= 0):
            raise UserError("lr_factor and weight_decay of YellowFin must be at least 0, found "
                            f"{lr_factor:g} and {weight_decay:g}")
        self._beta, self._window, self._clip = beta, window, clip
        super().__init__(params, {"lr": 0.0, "momentum": 0.0, "lr_factor": lr_factor,
                                  "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Tune, then update every parameter that has a gradient; gives what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = self._gradients()
        if gradients:
            self._update(gradients, *self._tune(gradients))
        return loss

    def _gradients(self) -> dict[Tensor, Tensor]:
        """Of each parameter that has one, with its decay; no gradient of a parameter is changed."""
        found: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    raise RuntimeError("YellowFin takes dense gradients only")
                decay = group["weight_decay"]
                found[parameter] = (parameter.grad.add(parameter, alpha=decay) if decay
                                    else parameter.grad)
        return found

    def _tune(self, gradients: dict[Tensor, Tensor]) -> tuple[Tuning, float]:
        """The tuning of this step, and the factor on the gradients that clips them."""
        past = self.state.get(SHARED) or {
            "step": 0, "curvatures": [], "log_h_min": 0.0, "log_h_max": 0.0, "square": 0.0,
            "norm": 0.0, "distance": 0.0}
        norm = _norm(gradients.values())
        scale = 1.0
        if self._clip and past["step"] > 0:
            limit = math.sqrt(GROWTH * self._h_max(past))
            scale = min(1.0, limit / max(norm, EPS))
        now = self._statistics(past, norm * scale)
        debias = 1 - self._beta ** now["step"]
        mean = self._mean_gradient(gradients, scale) / debias
        h_min, h_max = math.exp(now["log_h_min"] / debias), self._h_max(now)
        variance = max(now["square"] / debias - mean * mean, EPS)
        distance = now["distance"] / debias
        lr, momentum = single_step(variance, distance, h_min, h_max)
        lr *= min(1.0, now["step"] / (10 * self._window))
        if self._clip:
            norm *= scale
            if norm * norm >= h_max:
                scale, norm = scale * math.sqrt(h_max) / norm, math.sqrt(h_max)
            lr = min(lr, LONGEST / max(norm, EPS))
        self.state[SHARED] = now
        self.tuning = Tuning(lr, momentum, h_min, h_max, variance, distance)
        return self.tuning, scale

    def _h_max(self, shared: dict[str, Any]) -> float:
        return math.exp(shared["log_h_max"] / (1 - self._beta ** shared["step"]))

    def _statistics(self, past: dict[str, Any], norm: float) -> dict[str, Any]:
        """The averages after a gradient of this norm, as a new dict: what was given to
        `state_dict` stays as it is."""
        def average(key: str, value: float) -> float:
            return self._beta * past[key] + (1 - self._beta) * value

        curvatures = [*past["curvatures"], norm * norm][-self._window:]
        now = {"step": past["step"] + 1, "curvatures": curvatures,
               "log_h_min": average("log_h_min", math.log(min(curvatures) + EPS)),
               "log_h_max": average("log_h_max", math.log(max(curvatures) + EPS)),
               "square": average("square", norm * norm), "norm": average("norm", norm)}
        debias = 1 - self._beta ** now["step"]
        now["distance"] = average(
            "distance", now["norm"] / debias / (now["square"] / debias + EPS))
        return now

    def _mean_gradient(self, gradients: dict[Tensor, Tensor], scale: float) -> float:
        """Averages the gradients of each parameter; the norm of all averages, bias included."""
        means = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient, state = gradients.get(parameter), self.state[parameter]
                if "mean" not in state:
                    if gradient is None:
                        continue
                    state["mean"] = torch.zeros_like(parameter)
                    state["velocity"] = torch.zeros_like(parameter)
                state["mean"].mul_(self._beta)
                if gradient is not None:
                    state["mean"].add_(gradient, alpha=(1 - self._beta) * scale)
                means.append(state["mean"])
        return _norm(means)

    def _update(self, gradients: dict[Tensor, Tensor], tuning: Tuning, scale: float) -> None:
        for group in self.param_groups:
            group["lr"], group["momentum"] = tuning.lr * group["lr_factor"], tuning.momentum
            for parameter in group["params"]:
                if parameter in gradients:
                    velocity = self.state[parameter]["velocity"]
                    velocity.mul_(tuning.momentum).add_(gradients[parameter],
                                                        alpha=-group["lr"] * scale)
                    parameter.add_(velocity)


def _norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all elements."""
    return float(get_total_norm(tensors))
