"""The newest number of a channel, as its two ends tell each other: published, or read.

Through the status blocks, which every file system carries; or, between processes of one host that
exchange mapped messages, through a page of memory, which costs a store instead of a file:

    g00000001/net1/counters     written by net1 alone
        channel 0    number, ~number: 16 of 64 bytes, so that two channels share no cache line
        channel 1    ...                                channels in the order of their names

A page tells nothing but numbers; that a peer lives, fails or is done is told by its status block.
"""

import errno
import mmap
import platform
from collections.abc import Iterable, Set
from contextlib import ExitStack
from typing import Protocol

from .errors import InvalidMessage, StorageError
from .open_file import OpenFile
from .patience import patiently
from .peer import Peer
from .status import StatusWriter
from .storage import Storage

PAGE_SIZE = 4096
CELL = 64   # bytes
WORD = 8
# A number must not be seen before the message that it announces.  x86 lets no store overtake an
# earlier one; elsewhere it would take a barrier, which Python has not.
ORDERED = platform.machine() in ("x86_64", "AMD64", "i686")


class Counter(Protocol):
    """Both ends of one channel: what I tell, and what the peer tells.

    look_every_s     how often a wait for the peer's number looks at its status block, seconds
    longest_sleep_s  the cap of a single sleep in such a wait, seconds; None: as the file system
                     asks for
    """

    look_every_s: float
    longest_sleep_s: float | None

    def tell(self, sequence: int) -> None:
        """Say that I have published, or read, message `sequence`."""
        ...

    def told(self) -> int | None:
        """The newest number that the peer told, None before its first."""
        ...

    def is_open(self) -> bool:
        """Whether the peer's numbers can be seen, as they must be before it may leave."""
        ...

    def has_moved(self) -> bool:
        """Whether the peer told any number, of any channel, since the last call."""
        ...


class StatusCounter:
    """A counter in the status blocks; `Peer.poll` brings the news."""

    look_every_s = 0.0
    longest_sleep_s: float | None = None

    def __init__(self, status: StatusWriter, peer: Peer, channel: str, *, sends: bool) -> None:
        self._status, self._peer, self._channel, self._sends = status, peer, channel, sends

    def tell(self, sequence: int) -> None:
        numbers = {self._channel: sequence}
        self._status.update(**{"published" if self._sends else "consumed": numbers})

    def told(self) -> int | None:
        status = self._peer.status
        if status is None:
            return None
        return (status.consumed if self._sends else status.published).get(self._channel)

    def is_open(self) -> bool:
        return True

    def has_moved(self) -> bool:
        return False    # the peer's status counts as its progress


class MemoryCounter:
    """A counter in two pages: mine, and the peer's, which is there once it runs in `generation`."""

    look_every_s = 0.001
    longest_sleep_s: float | None = 0.00025

    def __init__(self, mine: "OwnPage", theirs: "PeerPage", place: int) -> None:
        self._mine, self._theirs, self._place = mine, theirs, place

    def tell(self, sequence: int) -> None:
        self._mine.store(self._place, sequence)

    def told(self) -> int | None:
        return self._theirs.load(self._place)

    def is_open(self) -> bool:
        return self._theirs.is_open()

    def has_moved(self) -> bool:
        return self._theirs.has_moved()


class OwnPage:
    """The page that I write.

    patience_s  seconds to try again while the disk is full or fails
    Raises StorageError if it cannot be created.
    """

    def __init__(self, storage: Storage, name: str, patience_s: float) -> None:
        self._storage = storage

        def create() -> None:
            self._fd, self._page = storage.create_mapped(name, PAGE_SIZE)

        patiently(create, patience_s=patience_s, clock=storage)
        self._words = memoryview(self._page).cast("q")

    def store(self, place: int, number: int) -> None:
        """Tell the number of the channel at `place`."""
        self._storage.store(self._words, place * CELL // WORD, number)

    def close(self) -> None:
        """Unmap it; what it told stays."""
        self._words.release()
        self._page.close()
        self._storage.close(self._fd)


class PeerPage:
    """The page of a peer, mapped when it is first needed and there."""

    def __init__(self, storage: Storage, name: str, peer: Peer, generation: int) -> None:
        self._storage, self._name = storage, name
        self._peer, self._generation = peer, generation
        self._open: tuple[OpenFile, mmap.mmap, memoryview] | None = None
        self._told: dict[int, int] = {}
        self._seen = b""

    def load(self, place: int) -> int | None:
        """The newest whole number of the channel at `place`; None if there is none yet."""
        if not self.is_open():
            return None
        assert self._open is not None
        words, at = self._open[2], place * CELL // WORD
        number: int = words[at]
        # They do not fit before the first number, when both are 0, and in between two stores.
        if words[at + 1] == ~number:
            self._told[place] = number
        return self._told.get(place)

    def is_open(self) -> bool:
        """Map it if it is there.  Raises InvalidMessage, StorageError if it cannot be mapped."""
        if self._open is None and self._is_announced():
            try:
                self._map(self._storage.open_checked(self._name))
            except StorageError as error:
                if error.errno != errno.ENOENT:     # its owner has left, and taken it along
                    raise
        return self._open is not None

    def _map(self, file: OpenFile) -> None:
        try:
            if file.size != PAGE_SIZE:
                raise InvalidMessage(
                    f"{file.path}: expected {PAGE_SIZE} bytes, found {file.size}; look for what "
                    "else writes there, and start again in a fresh folder"
                )
            page = file.map()
        except BaseException:
            file.close()
            raise
        self._open = file, page, memoryview(page).cast("q")

    def has_moved(self) -> bool:
        """Whether it changed since the last call.  Raises InvalidMessage if it was cut."""
        if not self.is_open():
            return False
        assert self._open is not None
        self._open[0].check_size()
        before, self._seen = self._seen, bytes(self._open[1])
        return self._seen != before

    def close(self) -> None:
        """Unmap it.  Idempotent."""
        if self._open is not None:
            file, page, words = self._open
            self._open = None
            words.release()
            page.close()
            file.close()

    def _is_announced(self) -> bool:
        """A role makes its page before it says that it runs."""
        status = self._peer.status
        return status is not None and status.generation == self._generation


class Counters:
    """The counters of one role within one generation.

    folder      of my own messages in this generation: "g00000001/net1"
    channels    all of them, in any order
    near        the peers that map my page, and I theirs
    patience_s  seconds to try again while the disk is full or fails
    Raises StorageError if my page cannot be created.
    """

    def __init__(
        self,
        storage: Storage,
        status: StatusWriter,
        folder: str,
        generation: int,
        channels: Iterable[str],
        near: Set[str],
        patience_s: float,
    ) -> None:
        self._storage, self._status = storage, status
        self._folder, self._generation = folder, generation
        self._places = {channel: place for place, channel in enumerate(sorted(channels))}
        self._near = near if ORDERED else frozenset()
        name = f"{folder}/counters"
        self._mine = OwnPage(storage, name, patience_s) if self._near else None
        self._theirs: dict[str, PeerPage] = {}

    def of(self, channel: str, peer: Peer, *, sends: bool) -> Counter:
        """The counter of a channel that I send on, or receive from, and its other end."""
        if self._mine is None or peer.role not in self._near:
            return StatusCounter(self._status, peer, channel, sends=sends)
        if peer.role not in self._theirs:
            name = f"{self._folder.rpartition('/')[0]}/{peer.role}/counters"
            self._theirs[peer.role] = PeerPage(self._storage, name, peer, self._generation)
        return MemoryCounter(self._mine, self._theirs[peer.role], self._places[channel])

    def close(self) -> None:
        """Unmap all pages.  Idempotent."""
        with ExitStack() as stack:
            for page in self._theirs.values():
                stack.callback(page.close)
            if self._mine is not None:
                stack.callback(self._mine.close)
            self._mine = None
