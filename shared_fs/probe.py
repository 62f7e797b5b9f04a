"""What two processes find out about a folder: how soon, and how whole, one sees what the other did.

Both run the same steps; after each they `meet`, that is, tell each other what they found.  The
time of an observation is half a round trip, so that no two clocks are compared.
"""

import fcntl
import json
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from .blocks import BLOCK_SIZE
from .errors import InvalidMessage, RoleTaken, StorageError, WaitTimeout
from .exchange import Exchange
from .locks import RoleLock
from .process import this_process
from .profile import Profile
from .storage import Storage
from .waiting import wait_for

ROLES = ("first", "second")
CHANNELS = {"words": ROLES, "answers": ROLES[::-1], "there": ROLES, "back": ROLES[::-1]}

ROUNDS = 30  # of a measurement, at most
BUDGET_S = 3.0  # seconds of a measurement, if its rounds are short
PATIENCE_S = 10.0  # seconds until something counts as not seen
POLL_S = 0.002  # longest pause between two looks
LONGEST_WORD = 32 * 1024  # bytes
CLAIMS = 20  # names that both try to create at the same moment
REPLACEMENTS = 100  # of a file that the other reads meanwhile
CONTEND_S = 1.0  # seconds for which both fight for a lock
HOLD_S = 0.01


class Pair:
    """One of the two processes: its end of the exchange, and a folder for the trials.

    here  whether the other process runs on this machine, so that both read one clock
    """

    def __init__(self, link: Exchange, storage: Storage) -> None:
        self.storage = storage
        self.leads = link.role == ROLES[0]
        self.me, self.other = ROLES if self.leads else ROLES[::-1]
        self._link, self._met = link, 0
        boot_id = this_process().boot_id
        self.here = bool(boot_id) and link.peers[self.other]["boot_id"] == boot_id

    def meet(self, value: Any = None) -> Any:
        """Wait until the other is here too; returns its value for mine."""
        mine, theirs = ("words", "answers") if self.leads else ("answers", "words")
        word = json.dumps(value).encode("ascii").ljust(LONGEST_WORD)
        self._link.send(mine, self._met, np.frombuffer(word, np.uint8))
        heard = np.empty(LONGEST_WORD, np.uint8)
        self._link.recv(theirs, self._met, heard)
        self._met += 1
        return json.loads(heard.tobytes())

    def see(self, condition: Callable[[], Any]) -> Any:
        """What `condition` returns once it is not None; None if that takes too long."""
        with suppress(WaitTimeout):
            return wait_for(condition, lambda: "the other to be seen", timeout_s=PATIENCE_S,
                            longest_sleep_s=POLL_S, clock=self.storage)
        return None

    def messages(self, num_bytes: int) -> list[float]:
        """Seconds from before `send` to after `recv` of messages of `num_bytes`, to the first."""
        mine, theirs = ("there", "back") if self.leads else ("back", "there")
        payload, out = np.ones(num_bytes, np.uint8), np.empty(num_bytes, np.uint8)
        times = []
        for number in range(ROUNDS):
            started = self.storage.monotonic()
            if self.leads:
                self._link.send(mine, number, payload)
            self._link.recv(theirs, number, out)
            if not self.leads:
                self._link.send(mine, number, payload)
            times.append((self.storage.monotonic() - started) / 2)
        return times


class Medium(Protocol):
    """One way to tell the other process a number."""

    def tell(self, number: int) -> None: ...

    def look(self) -> int: ...

    def close(self) -> None: ...


class Block:
    """A block rewritten in place, as the status is.

    direct  read past this client's cache, where the file system permits it
    reopen  open it for each look
    """

    def __init__(
        self, pair: Pair, stem: str, *, fsync: bool, direct: bool = False, reopen: bool = False
    ) -> None:
        self._storage, self._fsync, self._direct = pair.storage, fsync, direct
        self._mine, self._theirs = f"{stem}.{pair.me}", f"{stem}.{pair.other}"
        self._fd = self._storage.create_block(self._mine, b"0".rjust(BLOCK_SIZE))
        self._buffer = mmap.mmap(-1, BLOCK_SIZE)
        pair.meet()  # the other's block is there too
        self._reader = -1 if reopen else self._open()

    def tell(self, number: int) -> None:
        block = str(number).encode("ascii").rjust(BLOCK_SIZE)
        self._storage.write_block(self._fd, self._mine, block, fsync=self._fsync)

    def look(self) -> int:
        reader = self._open() if self._reader < 0 else self._reader
        try:
            self._storage.read_block(reader, self._theirs, self._buffer)
        finally:
            if self._reader < 0:
                self._storage.close_block(reader, self._theirs)
        return int(self._buffer[:].strip() or b"0")

    @property
    def is_direct(self) -> bool:
        """Whether the block is read past the cache."""
        flags = fcntl.fcntl(self._reader, fcntl.F_GETFL)
        return bool(flags & getattr(os, "O_DIRECT", 0))

    def close(self) -> None:
        self._storage.close_block(self._fd, self._mine)
        if self._reader >= 0:
            self._storage.close_block(self._reader, self._theirs)
        self._buffer.close()

    def _open(self) -> int:
        return self._storage.open_block(self._theirs, direct=self._direct)


class Replaced:
    """A small file replaced by rename, and opened for each look."""

    def __init__(self, pair: Pair) -> None:
        self._storage = pair.storage
        self._mine, self._theirs = f"replaced.{pair.me}", f"replaced.{pair.other}"
        self.tell(0)
        pair.meet()

    def tell(self, number: int) -> None:
        self._storage.publish(self._mine, [str(number).encode("ascii")], fsync=False)

    def look(self) -> int:
        try:
            return int(self._storage.read_small(self._theirs, 100) or b"0")
        except InvalidMessage:
            return 0  # the new file, and the length that the client remembers of the old one

    def close(self) -> None:
        pass


class NewName:
    """A new name for each number; the folder is listed."""

    def __init__(self, pair: Pair) -> None:
        self._storage = pair.storage
        self._mine, self._theirs = f"names.{pair.me}", f"names.{pair.other}"
        self._storage.make_folder(self._mine)
        pair.meet()

    def tell(self, number: int) -> None:
        self._storage.publish(f"{self._mine}/{number}", [b""], fsync=False)

    def look(self) -> int:
        return max(map(int, self._storage.listing(self._theirs)), default=0)

    def close(self) -> None:
        pass


def observation_times(pair: Pair, medium: Medium) -> list[float]:
    """Seconds from telling to seeing, to the first; empty if something was not seen in time.

    The first tells even numbers, and an odd one in the last round; the second repeats each.
    """
    times: list[float] = []
    give_up = pair.storage.monotonic() + BUDGET_S
    number = 0
    while not number % 2:
        started = pair.storage.monotonic()
        if pair.leads:
            is_last = len(times) == ROUNDS - 1 or started > give_up
            number += 3 if is_last else 2
            medium.tell(number)
        seen = pair.see(partial(_news, medium, number, pair.leads))
        if seen is None:
            times = []
            break
        if not pair.leads:
            number = seen
            medium.tell(number)
        times.append((pair.storage.monotonic() - started) / 2)
    pair.meet()
    medium.close()
    return times


def _news(medium: Medium, known: int, leads: bool) -> int | None:
    """The first waits for its own number to return, the second for a new one."""
    found = medium.look()
    return found if found > known or (leads and found == known) else None


def claims(pair: Pair, create: Callable[[str], bool], stem: str) -> list[int]:
    """How many of the names that both try to create were got by nobody, by one, by both."""
    mine = []
    for number in range(CLAIMS):
        pair.meet()
        mine.append(create(f"{stem}-{number}"))
    got = [a + b for a, b in zip(mine, pair.meet(mine), strict=True)]
    return [got.count(winners) for winners in range(3)]


def torn_reads(pair: Pair) -> int | None:
    """How often the second read a mixture of two versions of a file that the first replaces.

    None if it never read the last version.
    """
    name, size = "renamed", 8 * BLOCK_SIZE
    if pair.leads:
        pair.storage.publish(name, [b"a" * size], fsync=False)
    pair.meet()
    if pair.leads:
        for number in range(REPLACEMENTS):
            pair.storage.publish(name, [b"ab"[number % 2 :][:1] * size], fsync=False)
        pair.storage.publish(name, [b"z" * size], fsync=False)
        return pair.meet()
    torn = 0

    def last() -> bool | None:
        nonlocal torn
        read = pair.storage.read_small(name, size)
        torn += read is not None and read != read[:1] * size
        return True if read and read[:1] == b"z" else None

    found = torn if pair.see(last) else None
    pair.meet(found)
    return found


def lock_fault(pair: Pair, profile: Profile) -> str:
    """Why the role lock of `profile` cannot be relied upon here; empty if it can.

    First one holds while the other tries.  Then, if both read one clock, both take it as often
    as they can and write down when they held it: an overlap is a fault.
    """
    pair.storage.make_folder("roles")
    for holder in ROLES:
        lock = RoleLock(pair.storage, profile.name, profile)
        i_hold = pair.me == holder
        mine = _try(lock) if i_hold else None
        held = pair.meet(mine) or mine
        if held is not True:
            return f"it cannot be taken: {held or 'though nobody holds it'}"
        mine = None if i_hold else _try(lock)
        tried = pair.meet(mine) or mine
        lock.release()
        pair.meet()
        if tried:
            return "both processes held it at once"
    return _overlap(pair, profile) if pair.here else ""


def _try(lock: RoleLock) -> bool | str:
    try:
        lock.acquire(lambda: "the other process")
    except RoleTaken:
        return False
    except StorageError as error:
        return str(error)
    return True


def _overlap(pair: Pair, profile: Profile) -> str:
    """The fault found in intervals of holding [start, end], seconds of this machine's clock."""
    mine, clock = [], pair.storage
    give_up = clock.monotonic() + CONTEND_S
    while clock.monotonic() < give_up:
        lock = RoleLock(pair.storage, profile.name, profile)
        if _try(lock) is True:
            start = clock.monotonic()
            clock.sleep(HOLD_S)
            mine.append((start, clock.monotonic()))
            lock.release()
    theirs = pair.meet(mine)
    overlaps = sum(a[0] < b[1] and b[0] < a[1] for a in mine for b in theirs)
    if overlaps:
        return f"both processes held it at once, {overlaps} times in {CONTEND_S:g} s"
    return ""
