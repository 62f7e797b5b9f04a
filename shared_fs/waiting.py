"""The only loop that waits: until a condition holds, with a deadline and a word on what for."""

import logging
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from .errors import WaitTimeout

log = logging.getLogger("shared_fs")

SPIN_S = 0.002  # how long to poll without backing off: most messages of a local peer arrive within
SPIN_STEP_S = 50e-6
FIRST_SLEEP_S = 1e-4
GROWTH = 1.1
JITTER = 0.2  # so that two roles that wait for each other do not stay in step
LOG_EVERY_S = 10.0

T = TypeVar("T")


class Clock(Protocol):
    """Where time comes from; `Storage` is one."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


def wait_for(
    condition: Callable[[], T | None],
    what: Callable[[], str],
    *,
    timeout_s: float,
    longest_sleep_s: float,
    clock: Clock,
) -> T:
    """Poll `condition` until it returns something other than None, and return that.

    what             says in words what is awaited; called for the log and the error only
    timeout_s        seconds; `math.inf` only where `condition` itself raises at a deadline; one gap
                     between two looks, a pause of mine, counts for at most a third of it
    longest_sleep_s  the cap of a single sleep, seconds

    Raises WaitTimeout after `timeout_s`, and whatever `condition` raises.
    """
    start = last = clock.monotonic()
    next_log, pause, waited = start + LOG_EVERY_S, FIRST_SLEEP_S, 0.0
    while (value := condition()) is None:
        now = clock.monotonic()
        # A process that was stopped, or whose machine slept, must look again before it gives up.
        waited += min(now - last, timeout_s / 3)
        last = now
        if waited >= timeout_s:
            raise WaitTimeout(f"waited {timeout_s:g} s for {what()}")
        if now >= next_log:
            log.info("waiting for %s", what())
            next_log = now + LOG_EVERY_S
        if now - start < SPIN_S:
            clock.sleep(SPIN_STEP_S)
            continue
        clock.sleep(min(_jittered(pause, longest_sleep_s), timeout_s - waited))
        pause = min(pause * GROWTH, longest_sleep_s)
    return value


def _jittered(pause: float, longest: float) -> float:
    return min(pause * random.uniform(1 - JITTER, 1 + JITTER), longest)
