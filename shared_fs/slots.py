"""Messages through memory: preallocated files that sender and receiver map and rewrite in place.

For two processes of one host on a local file system.  A channel has `window` slots, used in turn; a
slot is announced only when whole and rewritten only when acknowledged, so it is never torn and
needs no checksum.  Both sides copy once.

A mapped file that somebody else truncates would kill the process (SIGBUS): the size is checked
before each copy, which leaves a moment; nobody but the two roles may write in the folder.
"""

import mmap
from collections.abc import Callable

from .message import Array, Identity, decode_from, encode_into, encoded_size
from .open_file import OpenFile, check_size
from .patience import patiently
from .storage import Storage


def slot_name(stem: str, sequence: int, window: int) -> str:
    """The file that holds message `sequence`: "g00000001/net1/pool2-slot1.npy"."""
    return f"{stem}-slot{sequence % window}.npy"


class SlotSender:
    """The slots of a channel that I send.

    stem      "g00000001/net1/pool2"
    window    unread messages at most, and the number of slots
    checksum  compute a crc32 of the payload all the same (2 MB: 0.5 ms on each side)
    """

    def __init__(
        self, storage: Storage, stem: str, window: int, *, checksum: bool, patience_s: float
    ) -> None:
        self._storage, self._stem, self._window = storage, stem, window
        self._checksum, self._patience_s = checksum, patience_s
        self._slots: dict[str, tuple[int, mmap.mmap]] = {}

    def put(self, sequence: int, array: Array, identity: Identity, consumed: int) -> None:
        """Write a message to its slot, whose last one was read.  Raises StorageError."""
        assert sequence - consumed <= self._window
        name, size = slot_name(self._stem, sequence, self._window), encoded_size(array)
        if name not in self._slots or len(self._slots[name][1]) < size:
            self._create(name, size)
        fd, mapped = self._slots[name]
        check_size(self._storage, fd, name, len(mapped))
        with memoryview(mapped) as memory:
            encode_into(memory, array, identity, checksum=self._checksum)

    def sweep(self, consumed: int) -> None:
        """Nothing goes: slots are used again."""

    def close(self) -> None:
        """Unmap all slots."""
        for name in list(self._slots):
            self._unmap(name)

    def _create(self, name: str, size: int) -> None:
        """A new file; the receiver, who has read the smaller one, will look it up."""
        self._unmap(name)

        def create() -> None:
            self._slots[name] = self._storage.create_mapped(name, size)

        patiently(create, patience_s=self._patience_s, clock=self._storage)

    def _unmap(self, name: str) -> None:
        if name in self._slots:
            fd, mapped = self._slots.pop(name)
            mapped.close()
            self._storage.close(fd)


class SlotReceiver:
    """The slots of a channel that I receive."""

    def __init__(self, storage: Storage, stem: str, window: int) -> None:
        self._storage, self._stem, self._window = storage, stem, window
        self._slots: dict[str, tuple[OpenFile, mmap.mmap]] = {}

    def get(
        self, sequence: int, out: Array, identity: Identity, look: Callable[[Array], None]
    ) -> None:
        """Copy an announced message into `out`.  Raises InvalidMessage, StorageError."""
        name, size = slot_name(self._stem, sequence, self._window), encoded_size(out)
        if name not in self._slots or len(self._slots[name][1]) < size:
            self._map(name)
        file, mapped = self._slots[name]
        file.check_size()
        with memoryview(mapped) as memory:
            decode_from(file.path, memory, out, identity, look)

    def close(self) -> None:
        """Unmap all slots."""
        for name in list(self._slots):
            self._unmap(name)

    def _map(self, name: str) -> None:
        self._unmap(name)
        file = self._storage.open_checked(name)
        try:
            self._slots[name] = file, file.map()
        except BaseException:
            file.close()
            raise

    def _unmap(self, name: str) -> None:
        if name in self._slots:
            file, mapped = self._slots.pop(name)
            mapped.close()
            file.close()
