"""One role's place in the folder: its lock, its status block, and each generation it takes part in.

A second process of the role is kept out by the lock.  Should the lock fail (a broken mount, a lease
that ran out while this process was stopped), the newer one wins: it publishes its own hello, and
the older finds that out before it writes anything more.
"""

import logging
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from .errors import ExchangeError, RoleTaken, RunOver
from .handshake import Agreed, Handshake, check_folder, check_over
from .leftovers import remove_old_generations, remove_parts
from .locks import RoleLock
from .part import Part
from .peer_text import printable
from .process import this_process
from .profile import detect
from .records import Hello, newest_generation, read_hello, still_mine
from .settings import Settings
from .stage import update_stage
from .status import StatusWriter
from .storage import Storage
from .traffic import Traffic

log = logging.getLogger("shared_fs")


class Membership:
    """A role that was taken.

    incarnation  32 hex digits, new for every generation that is joined
    Raises RoleTaken, HandshakeMismatch if the folder is of another run, StorageError; nothing is
    held then.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        storage: Storage | None,
        stop_waiting: Callable[[], bool],
    ) -> None:
        self._settings, self._stop_waiting = settings, stop_waiting
        self._owns_storage = storage is None
        self.storage = storage or Storage(folder)
        self.incarnation = ""
        self._announced = ""  # the incarnation that my hello names
        self._lock: RoleLock | None = None
        self._status: StatusWriter | None = None
        try:
            self._take_role()
        except BaseException:
            self._let_go()
            raise

    @property
    def status(self) -> StatusWriter:
        """My status block."""
        assert self._status is not None  # as long as the role is held
        return self._status

    def join(self, traffic: Traffic) -> Part:
        """One handshake, as a new incarnation, and my part in the generation that it ends with.

        Raises RoleTaken, HandshakeMismatch, RunOver, WaitTimeout, StorageError.
        """
        self.check()  # a successor may have taken over while I was stopped
        try:
            check_over(self.storage, self._others)
            agreed = self._shake_hands()
        except RunOver:
            # My predecessor may have died before it could clean up, or say that it is over;
            # others may come and look.
            remove_old_generations(self.storage, self._settings.role, None)
            newest = newest_generation(self.storage)
            self.status.begin_anew(newest.incarnations[self._settings.role] if newest else "")
            raise
        remove_old_generations(self.storage, self._settings.role, agreed.generation)
        part = Part(
            agreed,
            self._settings,
            storage=self.storage,
            profile=self.profile,
            status=self.status,
            guard=self.check,
            stop_waiting=self._stop_waiting,
            traffic=traffic,
        )
        self.status.update(state="running", generation=agreed.generation.generation)
        return part

    def check(self) -> None:
        """Raise RoleTaken if another process is this role now, StorageError if the folder is gone.
        """
        if self._lock is not None:
            self._lock.check()
        role = self._settings.role
        if self._announced and not still_mine(self.storage, role, self._announced):
            raise RoleTaken(
                f"{self.storage.root}: another process is {role} now ({self._holder()}); "
                "this one stops without writing anything more"
            )

    def tell_stage(self, generation: int, phase: str) -> None:
        """Write to stage.json, for people."""
        now = self.status.status
        update_stage(
            self.storage,
            self.profile,
            self._settings.role,
            generation=generation,
            phase=phase,
            epoch=now.info.get("epoch"),
            step=now.step,
        )

    def leave(self, state: str) -> None:
        """Say my last state and give the role back.  Idempotent."""
        with ExitStack() as stack:  # all of it, whatever one of them raises
            stack.callback(self._let_go)
            if self._status is not None:
                stack.callback(self._status.close, state=state)

    def give_up(self, error: BaseException) -> None:
        """Tell the peers why I end, and give the role back; trouble with that is only logged."""
        state = "failed" if isinstance(error, Exception) else "stopping"
        try:
            self.status.close(state=state, error=f"{type(error).__name__}: {error}")
        except ExchangeError as trouble:
            role = self._settings.role
            log.error("%s could not tell its peers that it is %s: %s", role, state, trouble)
        finally:
            self._let_go()

    def _shake_hands(self) -> Agreed:
        self._announced, self.incarnation = "", uuid.uuid4().hex
        self.status.begin_anew(self.incarnation)
        handshake = Handshake(
            self.storage, self.profile, self._settings.roles, self._hello(), self.status.check_heart
        )
        handshake.announce()
        self._announced = self.incarnation
        return handshake.shake(self._settings.handshake_timeout_s)

    @property
    def _others(self) -> list[str]:
        return [role for role in self._settings.roles if role != self._settings.role]

    def _take_role(self) -> None:
        storage, settings = self.storage, self._settings
        self.profile = detect(storage.root, settings.fs_profile)
        for name in ("roles", "hello", "gen", "status"):
            storage.make_folder(name)
        lock = RoleLock(storage, settings.role, self.profile)
        lock.acquire(self._holder, self._holder_is_gone)
        self._lock = lock
        check_folder(storage, self._hello())
        remove_parts(storage, settings.role, leader=settings.leads)
        storage.require_space([*settings.message_bytes.values()] * (settings.window + 1))
        fsync = self.profile.name == "network" and settings.fsync != "never"
        self._status = StatusWriter(storage, settings.role, "", fsync=fsync, guard=self.check)

    def _hello(self) -> Hello:
        settings = self._settings
        return Hello.of(
            settings.role,
            self.incarnation,
            this_process(),
            settings.agreement,
            profile=self.profile.name,
            home=settings.home,
            checkpoints=tuple(settings.held()),
        )

    def _holder(self) -> str:
        hello = read_hello(self.storage, self._settings.role)
        if hello is None:
            return "it has not said hello yet"
        return f"pid {hello.process.pid} on {printable(hello.process.host)}"

    def _holder_is_gone(self, pid: int | None) -> bool | None:
        """Whether the process that holds my role has ended; None if it cannot be told from here."""
        hello = read_hello(self.storage, self._settings.role)
        here = this_process()
        if hello is None or hello.process.pid != pid or hello.process.boot_id != here.boot_id:
            return None
        return hello.process.has_exited(here)

    def _let_go(self) -> None:
        with ExitStack() as stack:
            if self._owns_storage:
                stack.callback(self.storage.shut)
            if self._lock is not None:
                stack.callback(self._lock.release)
