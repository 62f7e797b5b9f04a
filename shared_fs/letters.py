"""Messages as files of their own: published by rename, looked up once announced, then removed.

Works on every file system.  On a local one a file that was read is renamed and overwritten for the
next message, which spares the kernel new pages (2 MB on tmpfs: 0.3 instead of 0.9 ms).
"""

import errno
from collections.abc import Callable

from .errors import StorageError
from .message import Array, Identity, decode, encode
from .open_file import OpenFile
from .patience import patiently
from .profile import Profile
from .storage import Storage
from .waiting import wait_for


def letter_name(stem: str, sequence: int) -> str:
    """The name of a message: "g00000001/net1/pool2-000000000412.npy"."""
    return f"{stem}-{sequence:012d}.npy"


class LetterSender:
    """The files of a channel that I send.

    stem    "g00000001/net1/pool2"
    window  unread messages at most; at most window + 1 files are on disk
    guard   raises if this role may no longer write
    """

    def __init__(
        self,
        storage: Storage,
        profile: Profile,
        stem: str,
        window: int,
        *,
        fsync: bool,
        patience_s: float,
        guard: Callable[[], None],
    ) -> None:
        self._storage, self._stem, self._window = storage, stem, window
        self._guard = guard
        # Not on a network file system, where the receiver's client may hold pages of an old file.
        self._recycles = profile.name == "local"
        self._fsync, self._patience_s = fsync, patience_s
        self._oldest = self._newest = -1  # on disk

    def put(self, sequence: int, array: Array, identity: Identity, consumed: int) -> None:
        """Publish a message; `consumed` is the newest that was read.  Raises StorageError."""
        self._guard()
        if self._newest < 0:
            self._oldest = sequence
        buffers, reusable = encode(array, identity), self._take_read(consumed)
        if sequence - self._oldest > self._window:
            self.sweep(consumed)

        def publish() -> None:
            nonlocal reusable
            once, reusable = reusable, None  # an attempt uses it up even if it fails
            name = letter_name(self._stem, sequence)
            self._storage.publish(name, buffers, fsync=self._fsync, recycle=once)

        patiently(publish, patience_s=self._patience_s, clock=self._storage)
        self._newest = sequence

    def sweep(self, consumed: int) -> None:
        """Unlink what was read, but the newest of it, which is kept to look at."""
        while 0 <= self._oldest < consumed:
            self._storage.remove(letter_name(self._stem, self._oldest))
            self._oldest += 1

    def close(self) -> None:
        """Nothing is held."""

    def _take_read(self, consumed: int) -> str | None:
        """A file that was read, to be recycled; it counts as removed."""
        if not self._recycles or not 0 <= self._oldest < consumed:
            return None
        self._oldest += 1
        return letter_name(self._stem, self._oldest - 1)


class LetterReceiver:
    """The files of a channel that I receive."""

    def __init__(self, storage: Storage, profile: Profile, stem: str) -> None:
        self._storage, self._profile, self._stem = storage, profile, stem

    def get(
        self, sequence: int, out: Array, identity: Identity, look: Callable[[Array], None]
    ) -> None:
        """Read an announced message into `out`.  Raises InvalidMessage, StorageError."""
        with self._open_announced(letter_name(self._stem, sequence)) as file:
            decode(file, out, identity)
        look(out)

    def close(self) -> None:
        """Nothing is held."""

    def _open_announced(self, name: str) -> OpenFile:
        """Open a file that is announced, even if this client does not see its name at once."""
        def try_open() -> OpenFile | None:
            try:
                return self._storage.open_checked(name)
            except StorageError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                self._storage.listing(name.rpartition("/")[0])  # refreshes a client's cache
                return None

        return wait_for(
            try_open,
            lambda: f"{self._storage.path(name)}, which is announced; does anybody remove files?",
            timeout_s=self._profile.latency_wait_s,
            longest_sleep_s=self._profile.longest_sleep_s,
            clock=self._storage,
        )
