"""A file of a peer, open for reading."""

import errno
import mmap
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .errors import InvalidMessage
from .system_calls import SystemCalls

# O_NONBLOCK: opening a FIFO that somebody put in the folder must not hang.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OpenFile:
    """A regular file of a peer, open for reading; a context manager.

    path  where it is, for messages
    size  in bytes, when it was opened
    """

    def __init__(self, calls: SystemCalls, fd: int, name: str, size: int) -> None:
        self._calls, self._fd, self._name = calls, fd, name
        self.path = calls.path(name)
        self.size = size

    def map(self) -> mmap.mmap:
        """All of it in memory, read-only, shared with who writes it."""
        with self._calls.explaining("map", self._name):
            return self._calls.map(self._fd, self.size, writable=False)

    def check_size(self) -> None:
        """Raise InvalidMessage if it is shorter now than when it was opened."""
        check_size(self._calls, self._fd, self._name, self.size)

    def read_exactly(self, buffer: memoryview) -> None:
        """Fill `buffer` from where the last read ended.

        Raises InvalidMessage if the file ends before, StorageError if it cannot be read.
        """
        with self._calls.explaining("read", self._name):
            while buffer:
                count = self._calls.read_into(self._fd, buffer)
                if count == 0:
                    raise InvalidMessage(
                        f"{self.path}: ended {len(buffer)} bytes early, it was cut while open; "
                        "look for what else writes there"
                    )
                buffer = buffer[count:]

    def close(self) -> None:
        """Let go of it."""
        # Nothing was written, so nothing can be lost here: GlusterFS reports at the close of a
        # file that was replaced meanwhile that its handle is stale.
        with suppress(OSError):
            self._calls.close(self._fd)

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_size(calls: SystemCalls, fd: int, name: str, expected: int) -> None:
    """Raise InvalidMessage if an open file has become shorter: its mapping must not be touched."""
    try:
        size = calls.fstat(fd).st_size
    except OSError as error:
        raise calls.explained(error, "inspect", name) from error
    if size < expected:
        raise InvalidMessage(
            f"{calls.path(name)}: expected {expected} bytes, found {size}: something has cut it; "
            "start again in a fresh folder"
        )


def open_regular(calls: SystemCalls, name: str, flags: int) -> tuple[int, os.stat_result]:
    """Open a file of a role: never through a link, never a pipe or a device, never a stranger's.

    Raises InvalidMessage if it is not such a file, OSError if it cannot be opened.
    """
    path = calls.path(name)
    try:
        fd = calls.open(name, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise irregular(path, "a symbolic link") from error
        raise
    try:
        info = calls.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise irregular(path, f"mode {stat.filemode(info.st_mode)}")
        if info.st_uid not in calls.trusted_users:
            raise InvalidMessage(
                f"{path}: expected a file of user {os.geteuid()} or of the exchange folder's "
                f"owner, found one of user {info.st_uid}; all roles must be one user"
            )
    except BaseException:
        calls.close(fd)
        raise
    return fd, info


def irregular(path: Path, found: str) -> InvalidMessage:
    """The error for something at `path` that is not a regular file."""
    return InvalidMessage(
        f"{path}: expected a regular file, found {found}; remove it and look for who put it there"
    )
