"""Locks as guards: one live process per role, one writer of stage.json at a time.

No tensor and no wait is ever under a lock.  A lock that a network file system fails to keep only
lets a second process reach the handshake, which refuses it by incarnation.
"""

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import filelock

from .errors import RoleTaken, StorageError
from .open_file import READ
from .profile import Profile
from .storage import Storage

log = logging.getLogger("shared_fs")

ROLE_WAIT_S = 0.5  # long enough for the hand-over from a process that is just ending
LEASE_S = 60.0
LEASE_GRACE_S = 5.0


class RoleLock:
    """Held by the one process that is a role, from start to end.

    On a local file system the kernel frees it when the process dies.  On a network file system
    it is a lease, which expires 60 s after the last sign of life, on the contender's clock.
    """

    def __init__(self, storage: Storage, role: str, profile: Profile) -> None:
        self._role, self._path = role, storage.path(f"roles/{role}.lock")
        self._compromise = ""
        self._lock: filelock.BaseFileLock
        if profile.name == "local":
            self._lock = _kernel_lock(str(self._path))
        else:
            self._lock = filelock.SoftFileLease(
                str(self._path),
                lease_duration=LEASE_S,
                mode=0o600,
                on_compromise=self._note_compromise,
                thread_local=False,
            )

    def acquire(
        self,
        holder: Callable[[], str],
        holder_is_gone: Callable[[int | None], bool | None] = lambda pid: False,
    ) -> None:
        """Take the role.

        holder          says who has it, should it be taken
        holder_is_gone  whether the process with the pid in the lock file has ended; None if that
                        cannot be told: then its lease is given the time to run out

        Raises RoleTaken if another process has it, within a second if that is known to be alive;
        StorageError if it cannot be tried.
        """
        try:
            self._acquire(holder, holder_is_gone)
        except filelock.Timeout:
            raise RoleTaken(
                f"{self._path}: {self._role} is already running ({holder()}); "
                "stop that process or give this one another exchange folder"
            ) from None
        except (OSError, NotImplementedError) as error:  # the latter: no flock(2) at all
            raise StorageError(
                f"{self._path}: cannot lock: {error}; check the mount options",
                getattr(error, "errno", None),
            ) from error

    def _acquire(
        self, holder: Callable[[], str], holder_is_gone: Callable[[int | None], bool | None]
    ) -> None:
        judged = self._marker()
        try:
            return self._try(ROLE_WAIT_S)
        except filelock.Timeout:
            lease = self._lock
            if not isinstance(lease, filelock.SoftFileLease):
                raise
            is_gone = holder_is_gone(lease.pid)
            if is_gone is False:
                raise
        if is_gone is None:
            log.warning("%s: leased to %s; if that one is dead the lease runs out within %g s",
                        self._path, holder(), LEASE_S)
            # In one go: a contender must see the lease unrefreshed for all of its duration.
            with suppress(filelock.Timeout):
                return self._try(LEASE_S + LEASE_GRACE_S)
        # filelock takes over a stale lease by exchanging two names, which network file systems
        # refuse.  Of two processes that do it like this at once, the later one has the role: the
        # other finds a foreign lease and a foreign hello before it writes anything.
        if self._marker() == judged:
            lease.break_lock()
        self._try(ROLE_WAIT_S)

    def _try(self, timeout_s: float) -> None:
        try:
            self._lock.acquire(timeout=timeout_s, poll_interval=0.05)
        except PermissionError:
            # What sshfs says, instead of EEXIST, to the loser of two creations at once.
            self._lock.acquire(timeout=timeout_s, poll_interval=0.05)

    def _marker(self) -> tuple[int, int] | None:
        """What changes when the lease is refreshed or another takes it: inode, time of change."""
        try:
            fd = os.open(self._path, READ)  # opened, as the client may remember older attributes
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            return info.st_ino, info.st_mtime_ns
        finally:
            os.close(fd)

    def check(self) -> None:
        """Raise RoleTaken if the lease was lost to another process."""
        if self._compromise:
            raise RoleTaken(
                f"{self._path}: lost the lease of {self._role} ({self._compromise}); "
                "stop here, another process may have taken over"
            )

    def release(self) -> None:
        """Give the role back.  Idempotent."""
        self._lock.release()

    def _note_compromise(self, compromise: object) -> None:
        # Runs on the lease's thread: only note it, the role's own thread raises.
        self._compromise = str(getattr(compromise, "reason", compromise))


@contextmanager
def stage_lock(storage: Storage, profile: Profile, timeout_s: float = 1.0) -> Iterator[bool]:
    """Hold the lock of stage.json; yields False, with a warning, if it is not free in time."""
    path = str(storage.path("stage.lock"))
    lock: filelock.BaseFileLock
    soft = profile.name != "local"
    lock = filelock.SoftFileLock(path, mode=0o600) if soft else _kernel_lock(path)
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.01)
    except (filelock.Timeout, OSError) as error:
        log.warning("%s: not free after %g s: %s; stage.json stays as is", path, timeout_s, error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _kernel_lock(path: str) -> filelock.BaseFileLock:
    """flock(2), and never anything weaker where the kernel refuses it.

    Keeps the file, because a lock file that is removed can be locked twice.
    """
    wanted = {"fallback_to_soft": False, "preserve_lock_file": True, "thread_local": False}
    known = inspect.signature(filelock.UnixFileLock.__init__).parameters
    options: dict[str, Any] = {name: value for name, value in wanted.items() if name in known}
    return filelock.UnixFileLock(path, mode=0o600, **options)
