"""The system calls of the protocol, one method each, on names relative to one open folder.

They raise OSError unchanged and exist to be overridden: a subclass of `Storage`, which is built
on them, can fail, delay or crash at any of them.
"""

import errno
import mmap
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StorageError

SHORTEST_SLEEP_S = 50e-6
_NEXT_ACTION = {
    errno.ENOSPC: "free space there and start again",
    errno.EDQUOT: "raise the quota or free space there and start again",
    errno.EACCES: "give this user read and write permission there",
    errno.EPERM: "give this user read and write permission there",
    errno.EROFS: "mount it writable or choose another folder",
    errno.ENOENT: "check that nobody removed or renamed the exchange folder",
    errno.ESTALE: "check that nobody removed or renamed the exchange folder",
}


class SystemCalls:
    """One folder, held open by descriptor, and what can be done in it.

    Creates the folder (mode 0700) if it is absent.  Because it is held by descriptor, a rename or
    a symbolic link put in its place later cannot redirect an operation.

    Raises StorageError if the folder is a symbolic link, not a folder, not writable, or writable
    by everybody without the sticky bit.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(os.path.abspath(root))
        self._directory = _open_folder(self.root)
        self._trusted_users = frozenset({0, os.geteuid(), os.fstat(self._directory).st_uid})

    @property
    def trusted_users(self) -> frozenset[int]:
        """Whose files are read: mine, root's, and those of the folder's owner.

        The last because a mount may show my own files, and the folder, as somebody else's.
        """
        return self._trusted_users

    def shut(self) -> None:
        """Let go of the folder; nothing works afterwards.  Idempotent."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def is_in_place(self) -> bool:
        """Whether the path still leads to the folder that is held, and not to another one."""
        try:
            there = os.lstat(self.root)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._directory))

    def path(self, name: str) -> Path:
        """Where `name` is, for messages to people."""
        return self.root / name

    @contextmanager
    def explaining(self, action: str, name: str) -> Iterator[None]:
        """Turn an OSError of the body into one StorageError that says what to do."""
        try:
            yield
        except OSError as error:
            raise self.explained(error, action, name) from error

    def explained(self, error: OSError, action: str, name: str) -> StorageError:
        """The StorageError of one OSError; what `explaining` costs counts per message."""
        advice = _NEXT_ACTION.get(error.errno or 0, "check the disk or the mount")
        return StorageError(
            f"{self.path(name)}: cannot {action}: {error.strerror or error}; {advice}",
            error.errno,
        )

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        return os.open(name, flags, mode, dir_fd=self._directory)

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def read_into(self, fd: int, buffer: memoryview) -> int:
        return os.readv(fd, [buffer])

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pread_into(self, fd: int, buffer: mmap.mmap, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def map(self, fd: int, size: int, *, writable: bool) -> mmap.mmap:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return mmap.mmap(fd, size, mmap.MAP_SHARED, access)

    def store(self, words: memoryview, at: int, number: int) -> None:
        """A number and its complement, in mapped words of 8 bytes: each is one store."""
        words[at] = number
        words[at + 1] = ~number

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def link(self, source: str, target: str) -> None:
        os.link(source, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._directory)

    def mkdir(self, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=self._directory)

    def rmdir(self, name: str) -> None:
        os.rmdir(name, dir_fd=self._directory)

    def listdir(self, name: str) -> list[str]:
        fd = self.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.listdir(fd)
        finally:
            self.close(fd)

    def lstat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._directory, follow_symlinks=False)

    def statvfs(self) -> os.statvfs_result:
        return os.fstatvfs(self._directory)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        # The kernel makes 60 to 100 us even of time.sleep(0); let others run, and look again.
        if seconds > SHORTEST_SLEEP_S:
            time.sleep(seconds)
        else:
            os.sched_yield()


def _open_folder(root: Path) -> int:
    """A descriptor of the exchange folder, which is created if absent and checked."""
    try:
        if not root.is_symlink():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(root, _reason(root, error), error.errno) from error
    mode = os.fstat(fd).st_mode
    problem = None
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        problem = "is writable by everybody (chmod o-w it)"
    elif not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        problem = f"is not writable for user {os.geteuid()} ({stat.filemode(mode)})"
    if problem:
        os.close(fd)
        raise _refused(root, problem, errno.EACCES)
    return fd


def _reason(root: Path, error: OSError) -> str:
    if root.is_symlink():
        return "is a symbolic link, which could be redirected later"
    if root.exists() and not root.is_dir():
        return "is not a folder"
    return f"cannot be opened or created ({error.strerror})"


def _refused(root: Path, problem: str, number: int | None) -> StorageError:
    return StorageError(
        f"{root}: the exchange folder {problem}; give a folder of your own instead", number
    )
