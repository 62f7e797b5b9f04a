"""The front door: one role's end of an exchange of numbered arrays through a folder."""

import logging
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from .agreement import check_names, full_agreement
from .errors import ExchangeError
from .handshake import Agreed, Handshake, refuse_used_folder
from .locks import RoleLock
from .mailbox import Mailbox
from .message import Array
from .peer import Peer
from .process import Process
from .profile import detect
from .records import Generation, read_hello
from .stage import update_stage
from .status import StatusReader, StatusWriter, printable
from .storage import Storage

log = logging.getLogger("shared_fs")


class Exchange:
    """One role's end of an exchange; a context manager.

    channels   name -> (sender, receiver)
    roles      all roles, the leader first; by default in order of appearance in `channels`
    agreement  JSON-able settings that must be equal on all sides
    window     messages per channel that may be unread before `send` waits
    fsync      "auto" syncs messages on network file systems only
    nonfinite  what to do with NaN and infinity in a received message: "error", "warn", "allow"
    handshake_timeout_s  seconds to wait for the other roles to join
    peer_timeout_s       seconds of silence until a peer is lost; None: 120 local, 300 network
    progress_timeout_s   seconds of heartbeats without progress until a peer is lost
    final_barrier        `close` waits until all roles are done

    After `open`: run (32 hex digits), generation, incarnation, peers (role -> pid, host, ...).
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
        fsync: Literal["auto", "never", "always"] = "auto",
        nonfinite: Literal["error", "warn", "allow"] = "error",
        handshake_timeout_s: float = 600.0,
        peer_timeout_s: float | None = None,
        progress_timeout_s: float = 1800.0,
        final_barrier: bool = True,
        storage: Storage | None = None,
    ) -> None:
        self.folder, self.role = Path(folder), role
        self.channels = {name: (ends[0], ends[1]) for name, ends in channels.items()}
        self.roles = tuple(roles or dict.fromkeys(r for e in self.channels.values() for r in e))
        check_names(self.role, self.roles, self.channels)
        if fsync not in ("auto", "never", "always") or nonfinite not in ("error", "warn", "allow"):
            raise ValueError(f"no such policy: fsync {fsync!r}, nonfinite {nonfinite!r}")
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.agreement = full_agreement(self.roles, self.channels, window, agreement or {})
        self._window, self._fsync, self._nonfinite = window, fsync, nonfinite
        self._handshake_timeout_s, self._peer_timeout_s = handshake_timeout_s, peer_timeout_s
        self._progress_timeout_s, self._final_barrier = progress_timeout_s, final_barrier
        self._storage, self._owns_storage = storage, storage is None

        self.run, self.generation, self.incarnation = "", 0, uuid.uuid4().hex
        self.peers: dict[str, dict[str, Any]] = {}
        self._peers: dict[str, Peer] = {}
        self._lock: RoleLock | None = None
        self._status: StatusWriter | None = None
        self._mailbox: Mailbox | None = None
        self._phase: str | None = None
        self._closed = False

    def open(self) -> "Exchange":
        """Take the role, meet the other roles and agree with them.

        Raises RoleTaken, HandshakeMismatch, WaitTimeout, StorageError; nothing is held then.
        """
        if self._closed or self._lock is not None:
            raise ValueError(f"{self.folder}: this exchange was opened before; make a new one")
        try:
            self._open()
        except BaseException as error:
            self.close(error)
            raise
        return self

    def send(self, channel: str, sequence: int, array: Array) -> None:
        """Publish `array` as message `sequence` of `channel`; waits while the window is full.

        Sequences start at any number and rise by exactly 1.  The array may be changed as soon as
        this returns.

        Raises ValueError or TypeError for arguments that cannot be sent, PeerLost, PeerFailed,
        RoleTaken, StorageError.
        """
        self._opened().send(channel, sequence, array)

    def recv(self, channel: str, sequence: int, out: Array) -> Array:
        """Wait for message `sequence` of `channel`, read it into `out` and return `out`.

        The message must have exactly the shape and dtype of `out` [any shape, C-ordered].

        Raises ValueError for arguments that cannot be right, InvalidMessage, NonFinite, PeerLost,
        PeerFailed, StorageError.
        """
        return self._opened().recv(channel, sequence, out)

    def report(self, *, step: int | None = None, phase: str | None = None, **info: Any) -> None:
        """Tell the other roles, and people, where this one is.

        step   current iteration; peers take a change of it as progress
        phase  "train", "evaluate", ...: a change of it is also written to stage.json
        info   a few small JSON values, merged into the earlier ones; `peer_info` reads them

        Raises ValueError if the info no longer fits into a status block.
        """
        mailbox = self._opened()
        changes: dict[str, Any] = {} if step is None else {"step": step}
        if phase is not None:
            info["phase"] = phase
        mailbox.status.update(info=info, **changes)
        if phase is not None and phase != self._phase:
            self._phase = phase
            self._update_stage(mailbox, phase)

    def peer_info(self, role: str) -> dict[str, Any]:
        """What that role last reported as info; also after the final barrier."""
        peer = self._peers[role]
        status = peer.status if self._closed else peer.poll()
        return dict(status.info) if status else {}

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting in send and recv so far."""
        return self._mailbox.wait_s if self._mailbox else 0.0

    @property
    def bytes_sent(self) -> int:
        """Payload bytes sent so far."""
        return self._mailbox.bytes_sent if self._mailbox else 0

    @property
    def bytes_received(self) -> int:
        """Payload bytes received so far."""
        return self._mailbox.bytes_received if self._mailbox else 0

    def close(self, error: BaseException | None = None) -> None:
        """End this role: done, with the final barrier; or, given an error, failed with its text.

        After the barrier my message files are removed.  The role is given back in any case.
        Idempotent.  Raises PeerLost or PeerFailed if a peer ends before it is done.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if error is None and self._mailbox is not None:
                self._finish(self._mailbox)
            elif error is not None and self._status is not None:
                self._give_up(self._status, error)
        finally:
            self._let_go()

    def __enter__(self) -> "Exchange":
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error)

    def _open(self) -> None:
        self._storage = storage = self._storage or Storage(self.folder)
        self._profile = profile = detect(storage.root)
        for name in ("roles", "hello", "gen", "status"):
            storage.make_folder(name)
        lock = RoleLock(storage, self.role, profile)
        lock.acquire(lambda: self._holder(storage))
        self._lock = lock
        refuse_used_folder(storage)
        fsync = profile.name == "network" and self._fsync != "never"
        self._status = StatusWriter(storage, self.role, self.incarnation, fsync=fsync)
        handshake = Handshake(
            storage, profile, self.role, self.roles, self.agreement, self.incarnation
        )
        agreed = handshake.shake(self._handshake_timeout_s)
        self.run, self.generation = agreed.generation.run, agreed.generation.generation
        self._meet(storage, handshake.process, agreed)
        self._begin(storage, lock, self._status, agreed.generation)

    def _meet(self, storage: Storage, me: Process, agreed: Agreed) -> None:
        """Open the status blocks of the other roles."""
        profile = self._profile
        for role, hello in agreed.hellos.items():
            incarnation = agreed.generation.incarnations[role]
            known = {"incarnation": incarnation, "versions": hello.versions}
            self.peers[role] = {**asdict(hello.process), **known}
            self._peers[role] = Peer(
                storage,
                role,
                hello.process,
                StatusReader(storage, role, incarnation, direct=profile.direct_status),
                me=me,
                peer_timeout_s=self._peer_timeout_s or profile.peer_timeout_s,
                progress_timeout_s=self._progress_timeout_s,
            )

    def _begin(
        self, storage: Storage, lock: RoleLock, status: StatusWriter, generation: Generation
    ) -> None:
        """Open the mailbox of the agreed generation."""
        profile = self._profile
        fsync = {"auto": profile.fsync_messages, "never": False, "always": True}[self._fsync]
        mailbox = Mailbox(
            storage=storage,
            profile=profile,
            role=self.role,
            channels=self.channels,
            generation=generation,
            status=status,
            peers=self._peers,
            window=self._window,
            nonfinite=self._nonfinite,
            fsync=fsync,
            guard=lock.check,
        )
        storage.make_folder(generation.folder)
        storage.make_folder(mailbox.folder)
        status.update(state="running", generation=self.generation)
        self._mailbox = mailbox

    def _opened(self) -> Mailbox:
        if self._mailbox is None or self._closed:
            raise ValueError(f"{self.folder}: the exchange of {self.role} is not open")
        return self._mailbox

    def _finish(self, mailbox: Mailbox) -> None:
        mailbox.status.update(state="done")
        if self._final_barrier:
            for peer in self._peers.values():
                peer.wait_until_done(self._profile.longest_sleep_s)
        for peer in self._peers.values():
            peer.poll()
        if mailbox.all_read():
            mailbox.remove_messages()

    def _give_up(self, status: StatusWriter, error: BaseException) -> None:
        """Tell the peers why; trouble with that is logged, as `error` matters more."""
        state = "failed" if isinstance(error, Exception) else "stopping"
        try:
            status.close(state=state, error=f"{type(error).__name__}: {error}")
        except ExchangeError as trouble:
            log.error("%s could not tell its peers that it %s: %s", self.role, state, trouble)

    def _let_go(self) -> None:
        with ExitStack() as stack:  # all of it, whatever one of them raises
            if self._storage is not None and self._owns_storage:
                stack.callback(self._storage.shut)
            if self._lock is not None:
                stack.callback(self._lock.release)
            for peer in self._peers.values():
                stack.callback(peer.close)
            if self._status is not None:
                stack.callback(self._status.close, state="done")

    def _holder(self, storage: Storage) -> str:
        hello = read_hello(storage, self.role)
        if hello is None:
            return "it has not said hello yet"
        return f"pid {hello.process.pid} on {printable(hello.process.host)}"

    def _update_stage(self, mailbox: Mailbox, phase: str) -> None:
        status = mailbox.status.status
        update_stage(
            mailbox.storage,
            self._profile,
            self.role,
            generation=self.generation,
            phase=phase,
            epoch=status.info.get("epoch"),
            step=status.step,
        )
