"""Stopping on request: a first signal is noted, so that iteration and checkpoint are finished.

    SIGINT (Ctrl-C) 130    SIGTERM 143    SIGUSR1 75, what a batch system sends before it takes
                                          the machine away: run the same command again
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from dualnet.errors import Stopped

PREEMPTED = 75
# Slurm sends SIGUSR1, SIGTERM and SIGTERM again within 20 ms as it takes a node away: one request,
# to be run again, in whichever order they arrive.
BURST_S = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def exit_code(number: int) -> int:
    """The exit code of a process that was stopped by signal `number`."""
    return PREEMPTED if number == signal.SIGUSR1 else 128 + number


def resume_hint(step: int) -> str:
    """What to do about a training of which `step` iterations are saved."""
    return f"run the same command again to resume from iteration {step}"


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """The signal handler outside of training: ends the program at once, through every `finally`.

    Raises SystemExit or KeyboardInterrupt, which are no errors: a peer hears of a stop.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(exit_code(number))


class StopRequest:
    """Whether a signal has asked this process to stop, and which."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._until = 0.0       # when the burst of signals is over

    @property
    def is_asked(self) -> bool:
        """Whether the first signal has come."""
        return self.number is not None

    def check(self, hint: str) -> None:
        """Raises Stopped if a signal has come; `hint` says what to do about it."""
        if self.number is not None:
            name = signal.Signals(self.number).name
            raise Stopped(exit_code(self.number),
                          f"stopped by {name}" + (f"; {hint}" if hint else ""))

    def take(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: notes the first signal, or SIGUSR1 of its burst; one after the burst
        ends the program at once."""
        if self.number is None:
            self.number, self._until = number, time.monotonic() + BURST_S
        elif time.monotonic() > self._until:
            leave(number, frame)
        elif number == signal.SIGUSR1:
            self.number = number


@contextmanager
def noted() -> Iterator[StopRequest]:
    """Within the block, a first signal only sets the request; after it too, if one has come, for
    the rest of its burst.

    Outside the main thread, which alone may handle signals, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.take) for number in SIGNALS
              if signal.getsignal(number) is not signal.SIG_IGN}    # as under nohup
    try:
        yield request
    finally:
        if not request.is_asked:
            for number, handler in before.items():
                signal.signal(number, handler)
