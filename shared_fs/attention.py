"""Waiting for what a peer tells, as long as it can still be expected to tell it."""

import math
from collections.abc import Callable

from .counters import Counter
from .errors import PeerLost
from .peer import Peer
from .waiting import Clock, wait_for


def await_peer(
    condition: Callable[[], bool],
    peer: Peer,
    counter: Counter,
    *,
    awaited: str,
    what: str,
    check: Callable[[], None],
    longest_sleep_s: float,
    clock: Clock,
) -> None:
    """Wait until `condition`, which goes by `counter`, holds.

    awaited          what I wait for: "pool2 412"
    what             what the peer does for it: "has to send pool2 412"
    check            raises if I can go on no more
    longest_sleep_s  the cap of a single sleep, where the counter has none of its own, seconds
    The deadline is the peer's silence or lack of progress; raises what `Peer.judge` raises then.
    """
    next_look = clock.monotonic() + counter.look_every_s

    def looked() -> bool | None:
        nonlocal next_look
        if condition():
            return True
        now = clock.monotonic()
        if now < next_look:
            return None
        next_look = now + counter.look_every_s
        check()
        return True if _look(condition, peer, counter, awaited) else None

    peer.expect_progress()
    wait_for(
        looked,
        lambda: f"{peer.describe()}; it {what}",
        timeout_s=math.inf,
        longest_sleep_s=counter.longest_sleep_s or longest_sleep_s,
        clock=clock,
    )


def _look(condition: Callable[[], bool], peer: Peer, counter: Counter, awaited: str) -> bool:
    """Whether the condition holds now; if not, raise if the peer cannot be waited for."""
    peer.poll()
    if condition():
        return True
    if counter.has_moved():
        peer.expect_progress()
    try:
        peer.judge(awaited)
    except PeerLost:
        if not condition():     # the last that it did may have come after I looked
            raise
    return condition()
