"""Try again while the disk is full or fails: somebody may free space, a server may come back."""

import errno
import logging
import math
from collections.abc import Callable

from .errors import StorageError
from .waiting import Clock, wait_for

log = logging.getLogger("shared_fs")

# What a disk may recover from while we wait: full, over quota, a failed write-back.
MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 1.0


def patiently(action: Callable[[], None], *, patience_s: float, clock: Clock) -> None:
    """Do `action`, which starts afresh each time, until it succeeds.

    Raises the StorageError of the last attempt after `patience_s` seconds, or at once one that
    time does not heal (read-only, no permission, gone).
    """
    start = clock.monotonic()
    next_try, told = start, False

    def attempt() -> bool | None:
        nonlocal next_try, told
        now = clock.monotonic()
        if now < next_try:
            return None
        try:
            action()
        except StorageError as error:
            if error.errno not in MAY_PASS or now - start >= patience_s:
                raise
            if not told:
                log.warning("%s; trying again for up to %g s", error, patience_s)
            told, next_try = True, now + FIRST_RETRY_S
            return None
        return True

    wait_for(
        attempt,
        lambda: "the disk to recover",
        timeout_s=math.inf,
        longest_sleep_s=LONGEST_RETRY_S,
        clock=clock,
    )
