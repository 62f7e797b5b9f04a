"""Schedules: a value is a function of the step, a turn is an item of an iterator."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

Schedule = Callable[[int], float]

TAIL = 0.3
PAIR = ("net1", "net2")


def constant(initial: float) -> Schedule:
    """value(t) = initial"""
    return lambda step: initial


def tail(initial: float, iterations: int) -> Schedule:
    """Constant, then linear towards 0 over the last 30 % of the iterations.

        value(t) = initial * min(1, (T - t) / (0.3 T))        t = 0 .. T-1

    >>> [round(tail(1.0, 10)(t), 3) for t in (0, 6, 7, 8, 9)]
    [1.0, 1.0, 1.0, 0.667, 0.333]
    """
    return lambda step: initial * min(1.0, (iterations - step) / (TAIL * iterations))


def step_decay(initial: float, *, factor: float, every: int) -> Schedule:
    """value(t) = initial * factor ** floor(t / every)        Caffe's policy "step"

    >>> [step_decay(0.8, factor=0.5, every=2)(t) for t in range(5)]
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """
    return lambda step: initial * factor ** (step // every)


def milestones(initial: float, *, factor: float, at: Sequence[int]) -> Schedule:
    """value(t) = initial * factor ** #{drop in `at`: drop <= t}        `at` in ascending order

    >>> [milestones(0.8, factor=0.5, at=(1, 3))(t) for t in range(5)]
    [0.8, 0.4, 0.4, 0.2, 0.2]
    """
    return lambda step: initial * factor ** bisect_right(at, step)


def warmup(schedule: Schedule, *, start: float, steps: float) -> Schedule:
    """From `start` in a straight line to the schedule, which holds from `steps` on.

        value(t) = start + (schedule(t) - start) * min(1, t / steps)

    Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2, gradual warm-up.

    >>> [warmup(constant(0.8), start=0.1, steps=7)(t) for t in (0, 1, 7, 8)]
    [0.1, 0.2, 0.8, 0.8]
    """
    return lambda step: (schedule(step) if step >= steps
                         else start + (schedule(step) - start) * step / steps)


class Turn(NamedTuple):
    """One iteration, and the roles that update their weights in it."""

    step: int
    updates: tuple[str, ...]


def lockstep(iterations: int, *, roles: Sequence[str] = PAIR, start: int = 0) -> Iterator[Turn]:
    """All roles update in every iteration (Dziwulski 2017, figure 8.1).

    In micro-batches ("pipelined") each line below is done for one after the other, and the roles
    work at the same time; the updates are still one per iteration.  In "async" each role but the
    last begins step t + 1 before it has the answer of step t.

    # step   net1                     net2
    # ----   ----------------------   ---------------------------
    # t      forward, send pool2
    #                                 forward, backward, send conv3'
    #        backward, update         update
    """
    for step in range(start, iterations):
        yield Turn(step, tuple(roles))


def alternating(iterations: int, *, net1_steps: int, net2_steps: int,
                roles: Sequence[str] = PAIR, start: int = 0) -> Iterator[Turn]:
    """One role updates while the others' weights rest (Dziwulski 2017, section 9.6).

    # steps                         net1     net2        (net1_steps = 50, net2_steps = 150)
    # ---------------------------   ------   ------
    # 0 .. 49, 200 .. 249, ...      update   rest
    # 50 .. 199, 250 .. 399, ...    rest     update

    In a chain the roles take turns in its order, each but the last of net1_steps.  All roles see
    every batch, and the resting ones answer it afresh.
    """
    cycle = net1_steps * (len(roles) - 1) + net2_steps
    for step in range(start, iterations):
        turn = min(step % cycle // net1_steps, len(roles) - 1)
        yield Turn(step, (roles[turn],))


SCHEDULES: dict[str, Callable[..., Iterator[Turn]]] = {
    "lockstep": lockstep, "pipelined": lockstep, "async": lockstep,
    "alternating": alternating}
