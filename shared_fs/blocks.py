"""Files that are rewritten in place: status blocks, polled, and message slots, mapped."""

import errno
import mmap
import os
import uuid
from contextlib import suppress

from .open_file import READ, irregular, open_regular
from .system_calls import SystemCalls

BLOCK_SIZE = 4096  # bytes: one page, and a multiple of every O_DIRECT alignment


class BlockStorage(SystemCalls):
    """The part of `Storage` that handles them.  Raises StorageError."""

    def create_mapped(self, name: str, size: int) -> tuple[int, mmap.mmap]:
        """A new file in place of `name`, its descriptor, and all of it in memory, shared.

        It has all its disk space at once: a write to a mapping that finds none kills the process.
        """
        folder, base = os.path.split(name)
        part = os.path.join(folder, f".{base}.{uuid.uuid4().hex}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.explaining("create", name):
            fd = self.open(part, flags)
            try:
                self.allocate(fd, size)
                memory = self.map(fd, size, writable=True)
                self.replace(part, name)
            except BaseException:
                self.close(fd)
                with suppress(OSError):
                    self.unlink(part)
                raise
        return fd, memory

    def create_block(self, name: str, block: bytes) -> int:
        """Create (or adopt) a status block, write it once and return a descriptor to rewrite it.

        Raises InvalidMessage if there is something else than a file of mine, or one that has
        another name, too, and is perhaps not meant to be rewritten.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self.explaining("create the status block", name):
            fd, info = open_regular(self, name, flags)
        try:
            if info.st_nlink != 1:
                raise irregular(self.path(name), "one with a second name (a hard link)")
            self.write_block(fd, name, block, fsync=True)
        except BaseException:
            self.close(fd)
            raise
        return fd

    def write_block(self, fd: int, name: str, block: bytes, *, fsync: bool) -> None:
        """Rewrite a status block in place with one pwrite."""
        with self.explaining("write the status block", name):
            written = 0  # a reader that sees half of it finds the crc wrong
            while written < len(block):
                count = self.pwrite(fd, block[written:], written)
                if count == 0:
                    raise OSError(errno.EIO, "nothing was written")
                written += count
            if fsync:
                self.fsync(fd)

    def open_block(self, name: str, *, direct: bool) -> int:
        """A descriptor to poll a status block with; `direct` bypasses the client's page cache."""
        with self.explaining("open the status block", name):
            if direct:
                with suppress(OSError):  # some FUSE and older tmpfs refuse O_DIRECT
                    return self._open_direct(name)
            return open_regular(self, name, READ)[0]

    def read_block(self, fd: int, name: str, buffer: mmap.mmap) -> int:
        """Read a status block into a page-aligned buffer; the number of bytes read."""
        with self.explaining("read the status block", name):
            return self.pread_into(fd, buffer, 0)

    def close_block(self, fd: int, name: str) -> None:
        """Close a status block; a network file system may report a lost write only here."""
        with self.explaining("close the status block", name):
            self.close(fd)

    def _open_direct(self, name: str) -> int:
        fd, _ = open_regular(self, name, READ | getattr(os, "O_DIRECT", 0))
        try:
            with mmap.mmap(-1, BLOCK_SIZE) as probe:
                self.pread_into(fd, probe, 0)  # some accept the flag and refuse the read
        except OSError:
            self.close(fd)
            raise
        return fd
