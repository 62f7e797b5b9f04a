"""The view one role has of another: its newest status, and whether it is still worth waiting for.

Only my own monotonic clock is used, and only changes of the peer's status count; no time stamp of
another host is ever compared with mine.
"""

import logging
import math
from collections.abc import Callable

from .errors import InvalidMessage, PeerFailed, PeerLost, PeerRestarted, PeerStopped
from .peer_text import printable
from .process import Process
from .status import Status, StatusReader
from .storage import Storage

log = logging.getLogger("shared_fs")

PROCESS_CHECK_S = 0.2
DAMAGED_WARNING_S = 10.0
# A gap between two of my own polls counts as at most this much silence of the peer: while I
# compute, or am stopped, I cannot say that it was silent.
LONGEST_GAP_S = 1.0


class Peer:
    """A role other than mine, after the handshake.

    me                  my own process
    began_anew          a role whose hello names another incarnation than it had when this
                        generation began, None if there is none.  Any role counts, not this one
                        alone: this one may itself be waiting for it in a handshake without me
    peer_timeout_s      seconds without any change of its status until it is lost, and seconds that
                        a peer which ended has to come back
    progress_timeout_s  seconds of heartbeats without any progress until it is lost
    may_return          whether a peer that ended can begin anew and go on from a checkpoint
    stop_waiting        asked while a peer is gone; True: do not wait for its return
    """

    def __init__(
        self,
        storage: Storage,
        role: str,
        process: Process,
        reader: StatusReader,
        *,
        me: Process,
        began_anew: Callable[[], str | None],
        peer_timeout_s: float,
        progress_timeout_s: float,
        may_return: bool = False,
        stop_waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        self.role, self.process = role, process
        self._storage, self._reader, self._me = storage, reader, me
        self._began_anew = began_anew
        self._peer_timeout_s, self._progress_timeout_s = peer_timeout_s, progress_timeout_s
        self._may_return, self._stop_waiting = may_return, stop_waiting
        self.status: Status | None = None
        self._silent_s = self._stuck_s = self._gone_s = self._damaged_s = 0.0
        self._gone = ""
        self._last_poll = storage.monotonic()
        self._last_check = -math.inf

    def poll(self) -> Status | None:
        """The newest status of this peer, None if none was readable yet."""
        now = self._storage.monotonic()
        gap, self._last_poll = min(now - self._last_poll, LONGEST_GAP_S), now
        self._silent_s += gap
        self._stuck_s += gap
        self._gone_s += gap
        status = self._reader.poll()
        self._note_damage(gap)
        if status is not None:
            self._silent_s = 0.0
            if self.status is None or _progress(status) != _progress(self.status):
                self._stuck_s = 0.0
            self.status = status
        return self.status

    @property
    def state(self) -> str:
        """What it said last; "starting" before it said anything."""
        return self.status.state if self.status else "starting"

    def expect_progress(self) -> None:
        """Start a new wait: what the peer did while I was busy is not held against it."""
        self._stuck_s = 0.0

    def judge(self, awaited: str) -> None:
        """Raise if nothing more can be expected of this peer; call after `poll` brought no news.

        Raises PeerRestarted if it began anew, PeerFailed if it reported an error, PeerStopped or
        PeerLost if it ended, is silent or is stuck, InvalidMessage if its status block is garbage.
        """
        state = self.state
        if state == "failed":
            error = printable(self.status.error) if self.status else ""
            raise PeerFailed(f"{self._who()} failed while I waited for {awaited}: {error}")
        if state in ("done", "over"):
            raise PeerLost(f"{self._who()} is done, but I still waited for {awaited}")
        exited = self._check_process()
        if state == "stopping":
            self._await_return("stopped", awaited, PeerStopped)
        elif exited or self._gone:
            before = self.status
            if self._gone or self.poll() is before:  # last words may have come after my last poll
                self._await_return("exited", awaited, PeerLost)
        elif self._silent_s >= self._peer_timeout_s:
            self._give_up_silent(awaited)
        elif self._stuck_s >= self._progress_timeout_s:
            raise PeerLost(self._expired("heartbeats only", self._progress_timeout_s, awaited))

    def describe(self) -> str:
        """The peer in one phrase: "net2: last step 411 (8.2 s ago), beats arriving"."""
        step = self.status.step if self.status else None
        where = "no step yet" if step is None else f"last step {step} ({self._stuck_s:.1f} s ago)"
        beats = "beats arriving" if self._silent_s < 10 else f"silent for {self._silent_s:.0f} s"
        return f"{self.role}: {where}, {self._gone or beats}"

    def close(self) -> None:
        """Let go of its status block; `status` stays.  Idempotent."""
        self._reader.close()

    def _check_process(self) -> bool:
        """Whether its process has ended, looked up now and then; raises if any role began anew."""
        if self._last_poll - self._last_check < PROCESS_CHECK_S:
            return False
        self._last_check = self._last_poll
        if role := self._began_anew():
            raise PeerRestarted(f"{role} began anew; go back to the last common checkpoint")
        return self.process.has_exited(self._me)

    def _await_return(self, how: str, awaited: str, lost: type[PeerLost]) -> None:
        """Give a peer that has ended the time to begin anew, or raise `lost`."""
        if not self._gone:
            self._gone, self._gone_s = how, 0.0
            if self._may_return and not self._stop_waiting():
                log.info("%s %s; waiting up to %g s for it to be started again",
                         self._who(), how, self._peer_timeout_s)
        text = f"{self._who()} {how} while I waited for {awaited}"
        if not self._may_return or self._stop_waiting():
            raise lost(text)
        if self._gone_s >= self._peer_timeout_s:
            raise lost(f"{text}, and was not started again within {self._peer_timeout_s:g} s")

    def _give_up_silent(self, awaited: str) -> None:
        if self._reader.damaged:
            raise InvalidMessage(
                f"the status block of {self._who()} has been garbage for {self._damaged_s:.0f} s "
                f"while I waited for {awaited}; does anything else write into the folder?"
            )
        raise PeerLost(self._expired("no sign of life", self._peer_timeout_s, awaited))

    def _note_damage(self, gap: float) -> None:
        if not self._reader.damaged:
            self._damaged_s = 0.0
            return
        before, self._damaged_s = self._damaged_s, self._damaged_s + gap
        if before < DAMAGED_WARNING_S <= self._damaged_s:
            log.warning("the status block of %s is garbage; waiting for a whole one", self._who())

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
