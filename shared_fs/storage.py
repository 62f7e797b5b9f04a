"""The only way to the disk: what makes a file complete or absent, from single system calls."""

import errno
import mmap
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from .errors import InvalidMessage, StorageError
from .open_file import OpenFile, irregular
from .system_calls import SystemCalls

BLOCK_SIZE = 4096  # bytes of a status block: one page, and a multiple of every O_DIRECT alignment

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REWRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put in the folder must not hang.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Storage(SystemCalls):
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
            self.replace(part, name)

    def publish_durable(self, name: str, data: bytes) -> None:
        """`publish`, and the name too survives a power loss."""
        self.publish(name, [data], fsync=True)
        self.sync_folder(os.path.dirname(name))

    def create_once(self, name: str, data: bytes) -> bool:
        """Put-if-absent: True if this call created `name`, False if it existed.  Durable.

        link(2) is the test and the commit in one; rename would silently replace a winner.
        """
        with self.explaining("create", name), self._part(name, [data], fsync=True) as part:
            created = self._link_once(part, name, data)
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

        Raises InvalidMessage if it is not a regular file, StorageError if it cannot be opened.
        """
        try:
            with self.explaining("open", name):
                fd = self.open(name, _READ)
        except StorageError as error:
            if error.errno == errno.ELOOP:
                raise irregular(self.path(name), "a symbolic link") from error
            raise
        try:
            with self.explaining("inspect", name):
                info = self.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise irregular(self.path(name), f"mode {stat.filemode(info.st_mode)}")
        except BaseException:
            self.close(fd)
            raise
        return OpenFile(self, fd, name, info.st_size)

    def make_folder(self, name: str) -> None:
        """Create a folder of the layout if it is absent; a link in its place is refused."""
        with self.explaining("create the folder", name):
            with suppress(FileExistsError):
                self.mkdir(name)
            self.close(self.open(name, _READ | os.O_DIRECTORY))

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

    def remove_folder(self, name: str) -> bool:
        """Remove a folder if it is empty; False if it is not."""
        try:
            with self.explaining("remove the folder", name):
                self.rmdir(name)
        except StorageError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
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

    # Status blocks: one page per role, created once, rewritten in place, polled.

    def create_block(self, name: str, block: bytes) -> int:
        """Create (or adopt) a status block, write it once and return a descriptor to rewrite it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self.explaining("create the status block", name):
            fd = self.open(name, flags)
        try:
            self.write_block(fd, name, block, fsync=True)
        except BaseException:
            self.close(fd)
            raise
        return fd

    def write_block(self, fd: int, name: str, block: bytes, *, fsync: bool) -> None:
        """Rewrite a status block in place with one pwrite."""
        with self.explaining("write the status block", name):
            if self.pwrite(fd, block, 0) != len(block):
                raise OSError(errno.EIO, "short write")
            if fsync:
                self.fsync(fd)

    def open_block(self, name: str, *, direct: bool) -> int:
        """A descriptor to poll a status block with; `direct` bypasses the client's page cache."""
        with self.explaining("open the status block", name):
            if direct:
                with suppress(OSError):  # some FUSE and older tmpfs refuse O_DIRECT
                    return self._open_direct(name)
            return self.open(name, _READ)

    def read_block(self, fd: int, name: str, buffer: mmap.mmap) -> int:
        """Read a status block into a page-aligned buffer; the number of bytes read."""
        with self.explaining("read the status block", name):
            return self.pread_into(fd, buffer, 0)

    def close_block(self, fd: int, name: str) -> None:
        """Close a status block; a network file system may report a lost write only here."""
        with self.explaining("close the status block", name):
            self.close(fd)

    def _open_direct(self, name: str) -> int:
        fd = self.open(name, _READ | getattr(os, "O_DIRECT", 0))
        try:
            with mmap.mmap(-1, BLOCK_SIZE) as probe:
                self.pread_into(fd, probe, 0)  # some accept the flag and refuse the read
        except OSError:
            self.close(fd)
            raise
        return fd

    @contextmanager
    def _part(
        self,
        name: str,
        data: Sequence[bytes | memoryview],
        *,
        fsync: bool,
        recycle: str | None = None,
    ) -> Iterator[str]:
        """A complete hidden file beside `name`, gone again afterwards whatever happens."""
        folder, base = os.path.split(name)
        part = os.path.join(folder, f".{base}.{uuid.uuid4().hex}.part")
        fd = self._open_part(part, recycle)
        try:
            try:
                for buffer in data:
                    self._write_all(fd, memoryview(buffer))
                if recycle:
                    self.ftruncate(fd, sum(len(buffer) for buffer in data))
                if fsync:
                    self.fsync(fd)
            finally:
                self.close(fd)  # NFS may report a full disk only here
            yield part
        except BaseException:
            with suppress(OSError):
                self.unlink(part)
            raise

    def _open_part(self, part: str, recycle: str | None) -> int:
        if recycle:
            self.replace(recycle, part)
            return self.open(part, _REWRITE)
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
        fd = self.open(part, _READ)
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
            self.close(self.open(name, _READ))
        except OSError:
            return False
        return True
