"""What a role holds during one generation: its view of each peer, and the mailbox."""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from . import records
from .counters import Counters
from .errors import StorageError
from .handshake import Agreed
from .lineage import Checkpoint, Start
from .mailbox import Mailbox
from .peer import Peer
from .process import this_process
from .profile import Profile
from .settings import Settings
from .status import StatusReader, StatusWriter
from .storage import Storage
from .traffic import Traffic
from .waiting import wait_for

log = logging.getLogger("shared_fs")


class Part:
    """One role's part in one generation.

    start    where the generation begins
    peers    role -> pid, host and more, for people
    Raises StorageError.
    """

    def __init__(
        self,
        agreed: Agreed,
        settings: Settings,
        *,
        storage: Storage,
        profile: Profile,
        status: StatusWriter,
        guard: Callable[[], None],
        stop_waiting: Callable[[], bool],
        traffic: Traffic,
    ) -> None:
        self._storage, self._profile, self._status = storage, profile, status
        self._agreed, self._settings, self._stop_waiting = agreed, settings, stop_waiting
        generation = agreed.generation
        self.start = Start(
            generation.run, generation.generation, generation.base, generation.start_step
        )
        self.peers: dict[str, dict[str, Any]] = {}
        self._peers: dict[str, Peer] = {}
        self.mailbox: Mailbox = None  # type: ignore[assignment]  # until it is open
        try:
            for role in agreed.hellos:
                self._meet(role)
            self.mailbox = self._open_mailbox(guard, traffic)
        except BaseException:
            self.close()
            raise

    def poll(self, role: str) -> Peer:
        """The peer, with its newest status read."""
        peer = self._peers[role]
        peer.poll()
        return peer

    def peer(self, role: str) -> Peer:
        """The peer as it was seen last."""
        return self._peers[role]

    def wait_until_done(self) -> None:
        """Wait until every peer is done, or one has seen all of them done.

        Raises what `Peer.judge` raises if one will not be.
        """

        def all_done() -> bool | None:
            self._status.check_heart()
            peers = self._polled()
            missing = [peer for peer in peers if peer.state not in ("done", "over")]
            if not missing or any(peer.state == "over" for peer in peers):
                return True
            for peer in missing:
                peer.judge("it to be done")
            return None

        for peer in self._peers.values():
            peer.expect_progress()
        wait_for(
            all_done,
            lambda: "; ".join(f"{peer.describe()}" for peer in self._peers.values()),
            timeout_s=math.inf,
            longest_sleep_s=self._profile.longest_sleep_s,
            clock=self._storage,
        )

    def held_by_all(self, mine: list[Checkpoint]) -> list[list[Checkpoint]]:
        """My checkpoints, and what each peer says it holds; what it said may be old news."""
        lists = [mine]
        for peer in self._polled():
            said = peer.status.held if peer.status else ()
            lists.append([Checkpoint(self.start.run, *pair) for pair in said])
        return lists

    def leave_folder(self) -> None:
        """Remove my messages, if the receivers have read them all."""
        self._polled()
        if self.mailbox.all_read():
            self.mailbox.remove_messages()

    def close(self) -> None:
        """Let go of the status blocks of the peers and of mapped messages.  Idempotent."""
        with ExitStack() as stack:
            if self.mailbox is not None:
                stack.callback(self.mailbox.close)
            for peer in self._peers.values():
                stack.callback(peer.close)

    def _polled(self) -> list[Peer]:
        return [self.poll(role) for role in self._peers]

    def _meet(self, role: str) -> None:
        """Open the status block of another role."""
        profile, settings, hello = self._profile, self._settings, self._agreed.hellos[role]
        incarnation = self._agreed.generation.incarnations[role]
        known = {"incarnation": incarnation, "versions": hello.versions}
        self.peers[role] = {**asdict(hello.process), **known}
        self._peers[role] = Peer(
            self._storage,
            role,
            hello.process,
            StatusReader(self._storage, role, incarnation, direct=profile.direct_status),
            me=this_process(),
            began_anew=self._began_anew,
            peer_timeout_s=settings.peer_timeout_s or profile.peer_timeout_s,
            progress_timeout_s=settings.progress_timeout_s,
            may_return=bool(settings.home),
            stop_waiting=self._stop_waiting,
        )

    def _began_anew(self) -> str | None:
        """A role whose hello is of another incarnation than the one I exchange with."""
        for role in self._peers:
            hello = records.read_hello(self._storage, role)
            if hello and hello.incarnation != self._agreed.generation.incarnations[role]:
                return role
        return None

    def _mapped_peers(self) -> frozenset[str]:
        """The roles whose processes share this host's memory, and a local file system with me.

        Raises StorageError if mapping is demanded and impossible.
        """
        me = this_process()
        near = frozenset(
            role
            for role, hello in self._agreed.hellos.items()
            if self._profile.name == hello.profile == "local"
            and me.boot_id
            and hello.process.boot_id == me.boot_id
        )
        transport = self._settings.transport
        far = sorted(self._agreed.hellos.keys() - near)
        if transport == "mapped" and far:
            raise StorageError(
                f"{self._storage.root}: transport mapped needs one host and a local file system, "
                f"and {', '.join(far)} is elsewhere; take auto or rename"
            )
        log.info("messages go through %s",
                 f"memory mapped with {', '.join(sorted(near))}" if near and transport != "rename"
                 else "renamed files")
        return near if transport != "rename" else frozenset()

    def _open_mailbox(self, guard: Callable[[], None], traffic: Traffic) -> Mailbox:
        storage, profile, settings = self._storage, self._profile, self._settings
        sync = {"auto": profile.fsync_messages, "never": False, "always": True}[settings.fsync]
        generation, mapped = self._agreed.generation, self._mapped_peers()
        folder = f"{generation.folder}/{settings.role}"
        storage.make_folder(generation.folder)
        storage.make_folder(folder)
        return Mailbox(
            storage=storage,
            profile=profile,
            role=settings.role,
            channels=dict(settings.channels),
            generation=generation,
            status=self._status,
            peers=self._peers,
            counters=Counters(
                storage, self._status, folder, generation.generation, settings.channels, mapped,
                settings.storage_timeout_s,
            ),
            mapped=mapped,
            checksum=settings.checksum,
            window=settings.window,
            nonfinite=settings.nonfinite,
            fsync=sync,
            guard=guard,
            patience_s=settings.storage_timeout_s,
            traffic=traffic,
        )
