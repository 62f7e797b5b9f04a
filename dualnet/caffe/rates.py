"""Caffe's learning-rate policies as functions of the iteration, which counts from 0.

`rate(lr_policy, base_lr, **fields)` makes one from the fields of a solver.  All raise ValueError
for fields with which Caffe would stop or compute nonsense.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

Rate = Callable[[int], float]


def fixed(base_lr: float) -> Rate:
    """base_lr"""
    return lambda step: base_lr


def step(base_lr: float, *, gamma: float, stepsize: int) -> Rate:
    """base_lr gamma^floor(t / stepsize)"""
    _check(gamma, stepsize)
    return lambda step: base_lr * gamma ** (step // stepsize)


def exp(base_lr: float, *, gamma: float) -> Rate:
    """base_lr gamma^t"""
    _check(gamma)
    return lambda step: base_lr * gamma ** step


def inv(base_lr: float, *, gamma: float, power: float) -> Rate:
    """base_lr (1 + gamma t)^-power"""
    _check(gamma)
    return lambda step: base_lr * (1 + gamma * step) ** -power


def multistep(base_lr: float, *, gamma: float, stepvalue: Sequence[int]) -> Rate:
    """base_lr gamma^(number of drops so far).

    A drop comes at its step value, but at most one per iteration and in the order given: values
    3, 3 drop at 3 and 4, values 8, 3 at 8 and 9.
    """
    _check(gamma)
    drops: list[int] = []
    for value in stepvalue:
        drops.append(max(value, drops[-1] + 1) if drops else value)
    return lambda step: base_lr * gamma ** sum(drop <= step for drop in drops)


def poly(base_lr: float, *, power: float, max_iter: int) -> Rate:
    """base_lr (1 - t / max_iter)^power; beyond max_iter, where Caffe has stopped, ValueError."""
    if max_iter <= 0:
        raise ValueError(f"the policy 'poly' needs a positive max_iter, found {max_iter}")

    def value(step: int) -> float:
        if step > max_iter:
            raise ValueError(f"the policy 'poly' ends at iteration {max_iter}, found {step}")
        return base_lr * (1 - step / max_iter) ** power

    return value


def sigmoid(base_lr: float, *, gamma: float, stepsize: int) -> Rate:
    """base_lr / (1 + exp(-gamma (t - stepsize))); it rises, since Caffe insists on gamma >= 0."""
    _check(gamma, stepsize)

    def value(step: int) -> float:
        x = gamma * (step - stepsize)
        # Two forms, so that neither overflows far from stepsize.
        return base_lr / (1 + math.exp(-x)) if x >= 0 else base_lr * math.exp(x) / (1 + math.exp(x))

    return value


def _check(gamma: float, stepsize: int = 1) -> None:
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, found {gamma}")
    if stepsize <= 0:
        raise ValueError(f"stepsize must be positive, found {stepsize}")


POLICIES: dict[str, Callable[..., Rate]] = {
    "fixed": fixed, "step": step, "exp": exp, "inv": inv, "multistep": multistep, "poly": poly,
    "sigmoid": sigmoid}


def rate(lr_policy: str, base_lr: float, **fields: Any) -> Rate:
    """The policy of a solver: `rate("step", 0.1, gamma=0.1, stepsize=4)(iteration)`.

    fields  gamma, power, stepsize, stepvalue, max_iter; what the policy does not read is ignored,
            as in Caffe.
    Raises ValueError for an unknown policy or a field that is missing.
    """
    if lr_policy not in POLICIES:
        raise ValueError(f"unknown lr_policy '{lr_policy}' (policies: {', '.join(POLICIES)})")
    _, *names = inspect.signature(POLICIES[lr_policy]).parameters
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(f"lr_policy '{lr_policy}' needs {', '.join(missing)}")
    return POLICIES[lr_policy](base_lr, **{name: fields[name] for name in names})
