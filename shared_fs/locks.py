"""Locks as guards: one live process per role, one writer of stage.json at a time.

No tensor and no wait is ever under a lock.  A lock that a network file system fails to keep only
lets a second process reach the handshake, which refuses it by incarnation.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import filelock

from .errors import RoleTaken, StorageError
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
                on_compromise=self._note_compromise,
                thread_local=False,
            )

    def acquire(
        self, holder: Callable[[], str], elsewhere: Callable[[], bool] = lambda: False
    ) -> None:
        """Take the role.

        holder     says who has it, should it be taken
        elsewhere  whether that one is a process of another host, which may be dead: then its lease
                   is given the time to run out

        Raises RoleTaken if another process has it, within a second if that is of this host;
        StorageError if it cannot be tried.
        """
        try:
            self._acquire(ROLE_WAIT_S, holder, elsewhere)
        except filelock.Timeout:
            raise RoleTaken(
                f"{self._path}: {self._role} is already running ({holder()}); "
                "stop that process or give this one another exchange folder"
            ) from None
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot lock: {error}; check the mount options", error.errno
            ) from error

    def _acquire(
        self, timeout_s: float, holder: Callable[[], str], elsewhere: Callable[[], bool]
    ) -> None:
        try:
            self._lock.acquire(timeout=timeout_s, poll_interval=0.05)
        except filelock.Timeout:
            if not isinstance(self._lock, filelock.SoftFileLease) or not elsewhere():
                raise
            log.warning("%s: leased to %s; if that one is dead the lease runs out within %g s",
                        self._path, holder(), LEASE_S)
            # In one go: a contender must see the lease unrefreshed for all of its duration.
            self._lock.acquire(timeout=LEASE_S + LEASE_GRACE_S, poll_interval=0.5)

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
    lock = _kernel_lock(path) if profile.name == "local" else filelock.SoftFileLock(path)
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
    return filelock.UnixFileLock(path, **options)
