"""The view one role has of another: its newest status, and whether it is still worth waiting for.

Only my own monotonic clock is used, and only changes of the peer's status count; no time stamp of
another host is ever compared with mine.
"""

import math

from .errors import PeerFailed, PeerLost
from .process import Process
from .status import Status, StatusReader, printable
from .storage import Storage
from .waiting import wait_for

PROCESS_CHECK_S = 0.2
# A gap between two of my own polls counts as at most this much silence of the peer: while I
# compute, or am stopped, I cannot say that it was silent.
LONGEST_GAP_S = 1.0


class Peer:
    """A role other than mine, after the handshake.

    peer_timeout_s      seconds without any change of its status until it is lost
    progress_timeout_s  seconds of heartbeats without any progress until it is lost
    """

    def __init__(
        self,
        storage: Storage,
        role: str,
        process: Process,
        reader: StatusReader,
        *,
        me: Process,
        peer_timeout_s: float,
        progress_timeout_s: float,
    ) -> None:
        self.role, self.process = role, process
        self._storage, self._reader, self._me = storage, reader, me
        self._peer_timeout_s, self._progress_timeout_s = peer_timeout_s, progress_timeout_s
        self.status: Status | None = None
        self._silent_s = self._stuck_s = 0.0
        self._last_poll = storage.monotonic()
        self._last_check = -math.inf

    def poll(self) -> Status | None:
        """The newest status of this peer, None if none was readable yet."""
        now = self._storage.monotonic()
        gap, self._last_poll = min(now - self._last_poll, LONGEST_GAP_S), now
        self._silent_s += gap
        self._stuck_s += gap
        status = self._reader.poll()
        if status is not None:
            self._silent_s = 0.0
            if self.status is None or _progress(status) != _progress(self.status):
                self._stuck_s = 0.0
            self.status = status
        return self.status

    def expect_progress(self) -> None:
        """Start a new wait: what the peer did while I was busy is not held against it."""
        self._stuck_s = 0.0

    def judge(self, awaited: str) -> None:
        """Raise if nothing more can be expected of this peer; call after `poll` brought no news.

        Raises PeerFailed if it reported an error, PeerLost if it ended, is silent or is stuck.
        """
        state = self.status.state if self.status else "starting"
        if state == "failed":
            error = printable(self.status.error) if self.status else ""
            raise PeerFailed(f"{self._who()} failed while I waited for {awaited}: {error}")
        if state in ("done", "stopping"):
            raise PeerLost(f"{self._who()} is {state}, but I still waited for {awaited}")
        if self._has_exited():
            before = self.status
            if self.poll() is before:  # its last words may have come after my last poll
                raise PeerLost(f"{self._who()} exited while I waited for {awaited}")
            return
        if self._silent_s >= self._peer_timeout_s:
            raise PeerLost(self._expired("no sign of life", self._peer_timeout_s, awaited))
        if self._stuck_s >= self._progress_timeout_s:
            raise PeerLost(self._expired("heartbeats only", self._progress_timeout_s, awaited))

    def wait_until_done(self, longest_sleep_s: float) -> None:
        """Wait for its state "done".  Raises PeerLost or PeerFailed if it will not come."""

        def is_done() -> bool | None:
            status = self.poll()
            if status is not None and status.state == "done":
                return True
            self.judge("it to be done")
            return None

        self.expect_progress()
        wait_for(
            is_done,
            lambda: f"{self.describe()}; it is not done yet",
            timeout_s=math.inf,
            longest_sleep_s=longest_sleep_s,
            clock=self._storage,
        )

    def describe(self) -> str:
        """The peer in one phrase: "net2: last step 411 (8.2 s ago), beats arriving"."""
        step = self.status.step if self.status else None
        where = "no step yet" if step is None else f"last step {step} ({self._stuck_s:.1f} s ago)"
        beats = "beats arriving" if self._silent_s < 10 else f"silent for {self._silent_s:.0f} s"
        return f"{self.role}: {where}, {beats}"

    def close(self) -> None:
        """Let go of its status block; `status` stays.  Idempotent."""
        self._reader.close()

    def _has_exited(self) -> bool:
        if self._last_poll - self._last_check < PROCESS_CHECK_S:
            return False
        self._last_check = self._last_poll
        return self.process.has_exited(self._me)

    def _who(self) -> str:
        return f"{self.role} (pid {self.process.pid} on {printable(self.process.host)})"

    def _expired(self, seen: str, limit_s: float, awaited: str) -> str:
        return (
            f"{self._who()}: {seen} for {limit_s:g} s while I waited for {awaited}; "
            "look at its log, then start all roles again"
        )


def _progress(status: Status) -> object:
    """What changes when the peer gets somewhere, as opposed to being alive."""
    return status.state, status.step, status.published, status.consumed, status.info
