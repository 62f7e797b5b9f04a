"""The front door: one role's end of an exchange of numbered arrays through a folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from .agreement import check_names, check_policies, full_agreement
from .errors import RunOver
from .lineage import Checkpoint, Start, newest_common
from .membership import Membership
from .message import Array
from .part import Part
from .peer_text import all_printable
from .settings import Settings
from .status import MOST_HELD
from .storage import Storage
from .traffic import Traffic


class Exchange:
    """One role's end of an exchange; a context manager.

    channels   name -> (sender, receiver)
    roles      all roles, the leader first; by default in order of appearance in `channels`
    agreement  JSON-able settings that must be equal on all sides; those under "optional" only
               between roles that both have them
    window     messages per channel that may be unread before `send` waits
    transport  how messages cross: "rename", a file each; "mapped", memory that both processes map,
               on one host and a local file system only; "auto", mapped where that is possible
    checksum   of mapped messages, too (files always have one)
    fsync      "auto" syncs messages on network file systems only
    fs_profile "local" or "network": what to take the file system for; "auto" goes by its type
    nonfinite  what to do with NaN and infinity in a received message: "error", "warn", "allow"
    home       names the place where this role keeps its checkpoints (32 hex digits, drawn once): a
               folder with a run in it is gone on with only by the homes that began it; "" keeps
               none, and every used folder is refused
    held       asked at each handshake: the checkpoints this role can start from, newest at most 8
    message_bytes        channel -> largest payload; `open` refuses a disk too small for all of them
    handshake_timeout_s  seconds to wait for the other roles to join
    peer_timeout_s       seconds of silence until a peer is lost, and until one that ended must be
                         back; None: 120 local, 300 network
    progress_timeout_s   seconds of heartbeats without progress until a peer is lost
    storage_timeout_s    seconds to try again while the disk is full or fails
    final_barrier        `close` waits until all roles are done

    After `open`: run (32 hex digits), generation, start, incarnation, peers (role -> pid, ...).
    stop_waiting, a function, may be set: while it says True, a peer that is gone is not waited for.
    An exchange is used by one thread at a time.
    Raises ValueError for arguments that cannot work, before any file is touched.
    """

    def __init__(
        self,
        folder: Path | str,
        role: str,
        *,
        channels: Mapping[str, tuple[str, str]],
        roles: tuple[str, ...] | None = None,
        agreement: Mapping[str, Any] | None = None,
        window: int = 2,
        transport: Literal["auto", "rename", "mapped"] = "auto",
        checksum: bool = False,
        fsync: Literal["auto", "never", "always"] = "auto",
        fs_profile: Literal["auto", "local", "network"] = "auto",
        nonfinite: Literal["error", "warn", "allow"] = "error",
        home: str = "",
        held: Callable[[], Sequence[Checkpoint]] = lambda: (),
        message_bytes: Mapping[str, int] | None = None,
        handshake_timeout_s: float = 600.0,
        peer_timeout_s: float | None = None,
        progress_timeout_s: float = 1800.0,
        storage_timeout_s: float = 60.0,
        final_barrier: bool = True,
        storage: Storage | None = None,
    ) -> None:
        self.folder, self.role = Path(folder), role
        self.channels = {name: (ends[0], ends[1]) for name, ends in channels.items()}
        self.roles = tuple(roles or dict.fromkeys(r for e in self.channels.values() for r in e))
        check_names(self.role, self.roles, self.channels)
        check_policies(window, transport, fsync, fs_profile, nonfinite, home)
        own = {"window": window, "transport": transport}
        self.agreement = full_agreement(self.roles, self.channels, own, agreement or {})
        self._settings = Settings(
            role=role, roles=self.roles, channels=self.channels, agreement=self.agreement,
            window=window, transport=transport, checksum=checksum, fsync=fsync,
            fs_profile=fs_profile, nonfinite=nonfinite, home=home, held=held,
            message_bytes=dict(message_bytes or {}), handshake_timeout_s=handshake_timeout_s,
            peer_timeout_s=peer_timeout_s, progress_timeout_s=progress_timeout_s,
            storage_timeout_s=storage_timeout_s, final_barrier=final_barrier)
        self.stop_waiting: Callable[[], bool] = lambda: False
        self._storage = storage
        self._membership: Membership | None = None
        self._part: Part | None = None
        self._traffic = Traffic()
        self._phase: str | None = None
        self._finished = self._closed = False

    def open(self) -> "Exchange":
        """Take the role, meet the other roles and agree with them.

        Raises RoleTaken, HandshakeMismatch, RunOver, WaitTimeout, StorageError; nothing is held
        then.
        """
        if self._closed or self._membership is not None:
            raise ValueError(f"{self.folder}: this exchange was opened before; make a new one")
        self._membership = Membership(
            self.folder, self._settings, self._storage, lambda: self.stop_waiting()
        )
        try:
            self._join(self._membership)
        except RunOver:
            self.close()
            raise
        except BaseException as error:
            self.close(error)
            raise
        return self

    def rejoin(self) -> Start:
        """After PeerRestarted: begin a new generation, in this process, and say where it starts.

        The caller goes back to that checkpoint.  Raises what `open` raises.
        """
        self._opened().close()
        assert self._membership is not None
        return self._join(self._membership)

    def send(self, channel: str, sequence: int, array: Array) -> None:
        """Publish `array` as message `sequence` of `channel`; waits while the window is full.

        Sequences start at any number in each generation and rise by exactly 1.  The array may be
        changed as soon as this returns.

        Raises ValueError or TypeError for arguments that cannot be sent, PeerRestarted, PeerLost,
        PeerFailed, RoleTaken, StorageError.
        """
        self._opened().mailbox.send(channel, sequence, array)

    def recv(self, channel: str, sequence: int, out: Array) -> Array:
        """Wait for message `sequence` of `channel`, read it into `out` and return `out`.

        The message must have exactly the shape and dtype of `out` [any shape, C-ordered].

        Raises ValueError for arguments that cannot be right, InvalidMessage, NonFinite,
        PeerRestarted, PeerLost, PeerFailed, RoleTaken, StorageError.
        """
        return self._opened().mailbox.recv(channel, sequence, out)

    def report(self, *, step: int | None = None, phase: str | None = None, **info: Any) -> None:
        """Tell the other roles, and people, where this one is.

        step   current iteration; peers take a change of it as progress
        phase  "train", "evaluate", ...: a change of it is also written to stage.json
        info   a few small JSON values, merged into the earlier ones; `peer_info` reads them

        Raises ValueError if the info no longer fits into a status block.
        """
        status, membership = self._opened().mailbox.status, self._membership
        changes: dict[str, Any] = {} if step is None else {"step": step}
        if phase is not None:
            info["phase"] = phase
        status.update(info=info, **changes)
        if phase is not None and phase != self._phase and membership is not None:
            self._phase = phase
            membership.tell_stage(self.generation, phase)

    def peer_info(self, role: str) -> dict[str, Any]:
        """What that role last reported as info, its texts printable; also after the barrier."""
        part = self._begun()
        peer = part.peer(role) if self._closed else part.poll(role)
        return dict(all_printable(peer.status.info)) if peer.status else {}

    def announce_held(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Tell the other roles which checkpoints I hold now; the newest 8 count."""
        run = self._opened().start.run
        pairs = sorted((c.generation, c.step) for c in checkpoints if c.run == run)
        self._opened().mailbox.status.update(held=tuple(pairs[-MOST_HELD:]))

    def common(self, mine: Sequence[Checkpoint]) -> Checkpoint | None:
        """The newest of my checkpoints that every role says it holds, None if there is none.

        What is older than that is needed by nobody.
        """
        part = self._opened()
        return newest_common(part.held_by_all(list(mine)), part.start.run)

    def wait_for_others_done(self) -> None:
        """Wait until every other role is done; then what they reported last is final.

        Raises PeerRestarted, PeerLost or PeerFailed if one will not be.
        """
        self._opened().wait_until_done()

    def finish(self) -> None:
        """Say that I am done, wait for the others (the final barrier), remove my messages.

        Raises PeerRestarted (go back with `rejoin`: another role needs this one again), PeerLost
        or PeerFailed if a peer ends before it is done.
        """
        part = self._opened()
        part.mailbox.status.update(state="done")
        if self._settings.final_barrier:
            part.wait_until_done()
        part.leave_folder()
        self._finished = True

    @property
    def start(self) -> Start:
        """Where the current generation begins; the newest one after `close`."""
        return self._begun().start

    @property
    def run(self) -> str:
        """The run that this folder holds: 32 hex digits."""
        return self.start.run

    @property
    def generation(self) -> int:
        """The number of the current generation, from 1."""
        return self.start.generation

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        """Role -> pid, host, incarnation, versions of the other roles."""
        return self._begun().peers

    @property
    def incarnation(self) -> str:
        """32 hex digits that name this role's part in the current generation."""
        return self._membership.incarnation if self._membership else ""

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting in send and recv so far."""
        return self._traffic.wait_s

    @property
    def bytes_sent(self) -> int:
        """Payload bytes sent so far."""
        return self._traffic.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Payload bytes received so far."""
        return self._traffic.bytes_received

    def close(self, error: BaseException | None = None) -> None:
        """End this role: done, unless `finish` said so; or, given an error, failed with its text.

        The role is given back in any case.  Idempotent.  Raises what `finish` raises.
        """
        if self._closed:
            return
        membership, finishes = self._membership, error is None and self._part is not None
        try:
            if finishes and not self._finished:
                self.finish()
        except BaseException as trouble:
            error = trouble
            raise
        finally:
            self._closed = True
            if self._part is not None:
                self._part.close()
            if membership is not None and error is not None:
                membership.give_up(error)
            elif membership is not None:
                # Who has passed the barrier may say so: nobody needs anything from it any more.
                membership.leave("over" if self._settings.final_barrier else "done")

    def __enter__(self) -> "Exchange":
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error)

    def _join(self, membership: Membership) -> Start:
        try:
            self._part, self._phase = membership.join(self._traffic), None
        except RunOver:
            self._finished = True
            raise
        self.announce_held(self._settings.held())
        return self.start

    def _begun(self) -> Part:
        if self._part is None:
            raise ValueError(f"{self.folder}: the exchange of {self.role} is not open")
        return self._part

    def _opened(self) -> Part:
        if self._closed:
            raise ValueError(f"{self.folder}: the exchange of {self.role} is not open")
        return self._begun()
