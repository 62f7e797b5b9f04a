"""The only way to the disk: what makes a file complete or absent, from single system calls."""

import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .blocks import BlockStorage
from .errors import InvalidMessage, StorageError
from .open_file import READ, OpenFile, open_regular

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REWRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class _Part(NamedTuple):
    """A complete file that is not in place yet, and how to know it again."""

    name: str
    device: int
    inode: int


class Storage(BlockStorage):
    """One exchange folder, held open; all names are relative to it ("hello/net1.json").

    The inherited methods are single system calls and raise OSError; the methods here hold the
    order of operations and raise StorageError.
    """

    def publish(
        self,
        name: str,
        data: Sequence[bytes | memoryview],
        *,
        fsync: bool,
        recycle: str | None = None,
    ) -> None:
        """Put a file in place whole: a reader of `name` sees the old content or all of `data`.

        recycle  a file of mine that nobody will read again: it is renamed away and overwritten,
                 which spares the kernel new pages (2 MB on tmpfs: 0.3 instead of 0.9 ms)
        """
        with (
            self.explaining("publish", name),
            self._part(name, data, fsync=fsync, recycle=recycle) as part,
        ):
            try:
                self.replace(part.name, name)
            except OSError:
                # A server that did it may still answer an error (NFS, a retransmitted request).
                if not self._is_in_place(name, part):
                    raise

    def publish_durable(self, name: str, data: bytes) -> None:
        """`publish`, and the name too survives a power loss."""
        self.publish(name, [data], fsync=True)
        self.sync_folder(os.path.dirname(name))

    def create_once(self, name: str, data: bytes) -> bool:
        """Put-if-absent: True if this call created `name`, False if it existed.  Durable.

        link(2) is the test and the commit in one; rename would silently replace a winner.
        """
        with self.explaining("create", name), self._part(name, [data], fsync=True) as part:
            created = self._link_once(part.name, name, data)
        self.sync_folder(os.path.dirname(name))
        return created

    def create_exclusive(self, name: str, data: bytes) -> bool:
        """Put-if-absent by O_EXCL alone: True if this call created `name`, False if it existed."""
        with self.explaining("create", name):
            return self._create_exclusive(name, data)

    def read_small(self, name: str, limit: int) -> bytes | None:
        """The content of a small file, None if there is none.

        Raises InvalidMessage if it is longer than `limit` bytes or not a regular file.
        """
        try:
            with self.open_checked(name) as file:
                if file.size > limit:
                    raise InvalidMessage(
                        f"{file.path}: expected at most {limit} bytes, found {file.size}; "
                        "remove it and start again"
                    )
                data = bytearray(file.size)
                file.read_exactly(memoryview(data))
                return bytes(data)
        except StorageError as error:
            # ESTALE: replaced between look-up and open, so its next version is about to be seen.
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise

    def open_checked(self, name: str) -> OpenFile:
        """Open a file of a peer for reading: never through a link, never a pipe or a device.

        Raises InvalidMessage if it is not a regular file of a trusted user, StorageError if it
        cannot be opened.
        """
        with self.explaining("open", name):
            fd, info = open_regular(self, name, READ)
        return OpenFile(self, fd, name, info.st_size)

    def make_folder(self, name: str) -> None:
        """Create a folder of the layout if it is absent; a link or a stranger's is refused."""
        with self.explaining("create the folder", name):
            with suppress(FileExistsError):
                self.mkdir(name)
            fd = self.open(name, READ | os.O_DIRECTORY)
            try:
                if self.fstat(fd).st_uid not in self.trusted_users:
                    raise OSError(errno.EACCES, "it belongs to another user")
            finally:
                self.close(fd)

    def listing(self, name: str) -> list[str]:
        """The visible names in a folder; empty if the folder is absent."""
        try:
            with self.explaining("list", name):
                return [entry for entry in self.listdir(name) if not entry.startswith(".")]
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return []
            raise

    def remove(self, name: str) -> None:
        """Unlink one file of mine; already gone is fine."""
        with self.explaining("remove", name), suppress(FileNotFoundError):
            self.unlink(name)

    def sweep(self, folder: str, owns: Callable[[str], bool] = lambda name: True) -> None:
        """Remove the files of mine in a folder, hidden ones too: those whose name `owns` accepts.

        An absent folder is fine.
        """
        try:
            with self.explaining("list", folder):
                names = self.listdir(folder)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        for name in filter(owns, names):
            self.remove(os.path.join(folder, name))

    def remove_folder(self, name: str) -> bool:
        """Remove a folder if it is empty; False if it is not, or if something is mounted on it."""
        try:
            with self.explaining("remove the folder", name):
                self.rmdir(name)
        except StorageError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY):
                return False
            raise
        return True

    def sync_folder(self, name: str) -> None:
        """Make the names in a folder survive a power loss."""
        with self.explaining("fsync the folder", name or "."):
            fd = self.open(name or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.fsync(fd)
            finally:
                self.close(fd)

    def require_space(self, files: Iterable[int]) -> None:
        """Raise StorageError unless files of these sizes [bytes] fit, and half as much again."""
        sizes = list(files)
        with self.explaining("inspect the disk of", "."):
            disk = self.statvfs()
        free, needed = disk.f_bavail * disk.f_frsize, int(1.5 * sum(sizes))
        if free < needed:
            raise StorageError(
                f"{self.root}: expected {needed / 1e6:.1f} MB of free space for the messages in "
                f"flight, found {free / 1e6:.1f} MB; free space there or take smaller batches",
                errno.ENOSPC,
            )
        # Some file systems do not count inodes and say 0 of 0.
        if disk.f_files and disk.f_favail < 2 * len(sizes):
            raise StorageError(
                f"{self.root}: expected {2 * len(sizes)} free inodes, found {disk.f_favail}; "
                "remove files there",
                errno.ENOSPC,
            )

    @contextmanager
    def _part(
        self,
        name: str,
        data: Sequence[bytes | memoryview],
        *,
        fsync: bool,
        recycle: str | None = None,
    ) -> Iterator[_Part]:
        """A complete hidden file beside `name`, gone again afterwards whatever happens."""
        folder, base = os.path.split(name)
        part = os.path.join(folder, f".{base}.{uuid.uuid4().hex}.part")
        try:
            fd = self._open_part(part, recycle)  # may fail and yet have made the part
            try:
                for buffer in data:
                    self._write_all(fd, memoryview(buffer))
                if recycle:
                    self.ftruncate(fd, sum(len(buffer) for buffer in data))
                if fsync:
                    self.fsync(fd)
                info = self.fstat(fd)
            finally:
                self.close(fd)  # NFS may report a full disk only here
            yield _Part(part, info.st_dev, info.st_ino)
        except BaseException:
            with suppress(OSError):
                self.unlink(part)
            raise

    def _is_in_place(self, name: str, part: _Part) -> bool:
        """Whether `name` is the very file that was written as `part`."""
        try:
            fd = self.open(name, READ)
        except OSError:
            return False
        try:
            info = self.fstat(fd)
        finally:
            self.close(fd)
        return (info.st_dev, info.st_ino) == (part.device, part.inode)

    def _open_part(self, part: str, recycle: str | None) -> int:
        if recycle:
            self.replace(recycle, part)
            fd = self.open(part, _REWRITE)
            if self.fstat(fd).st_nlink == 1:
                return fd
            self.close(fd)  # somebody keeps it under another name
            self.unlink(part)
        return self.open(part, _CREATE)

    def _write_all(self, fd: int, data: memoryview) -> None:
        while data:
            data = data[self.write(fd, data) :]

    def _link_once(self, part: str, name: str, data: bytes) -> bool:
        try:
            self.link(part, name)
        except FileExistsError:
            return self._linked_twice(part)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self.unlink(part)
            return self._create_exclusive(name, data)
        self.unlink(part)
        return True

    def _linked_twice(self, part: str) -> bool:
        """Whether an EEXIST came from a retransmitted link that had already succeeded (NFS)."""
        fd = self.open(part, READ)
        try:
            won = self.fstat(fd).st_nlink == 2
        finally:
            self.close(fd)
        self.unlink(part)
        return won

    def _create_exclusive(self, name: str, data: bytes) -> bool:
        """Put-if-absent without hard links; a reader may see it growing, hence parsed."""
        try:
            fd = self.open(name, _CREATE)
        except OSError as error:
            if self._exists_after(error, name):
                return False
            raise
        try:
            self._write_all(fd, memoryview(data))
            self.fsync(fd)
        finally:
            self.close(fd)
        return True

    def _exists_after(self, error: OSError, name: str) -> bool:
        """Whether an exclusive creation failed because the name exists.

        sshfs says EPERM for it where its client does not know the name yet.
        """
        if error.errno != errno.EPERM:
            return error.errno == errno.EEXIST
        try:
            self.close(self.open(name, READ))
        except OSError:
            return False
        return True
