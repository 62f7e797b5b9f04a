"""What each role tells the others: one 4096-byte block per role, rewritten in place.

    DNXSTAT1 crc32=5f1d22ab counter=0000000000000412
    {"incarnation": "...", "generation": 1, "beat": 17, "state": "running", ...}   and spaces

Rewriting one page in place, and polling it through a kept descriptor, is what a peer on another
host sees soonest; a replaced file is up to a second late there.  In exchange a read may be torn
or stale, so a block counts only if its crc holds and its counter has risen.
"""

import json
import logging
import mmap
import re
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .blocks import BLOCK_SIZE
from .errors import ExchangeError, InvalidMessage, StorageError
from .peer_text import parse_object, printable
from .storage import Storage

log = logging.getLogger("shared_fs")

BEAT_S = 2.0
# "over" is said only by a role that has seen every role done: nobody will need it any more.
STATES = ("starting", "running", "done", "over", "stopping", "failed")
MOST_HELD = 8  # checkpoints named in a block

# Kept, because building it costs more than a block does, and a block is written per message.
_ENCODER = json.JSONEncoder(allow_nan=False)
_HEADER = re.compile(rb"DNXSTAT1 crc32=([0-9a-f]{8}) (counter=([0-9]{16})\n)")


@dataclass(frozen=True)
class Status:
    """What one role says about itself.

    incarnation  32 hex digits, drawn at start: tells a restarted role from its predecessor
    beat         rises every 2 s while the process lives
    state        one of STATES
    step         iteration the role is in, None before it reported one
    published    channel -> newest sequence that may be looked up
    consumed     channel -> newest sequence that was read; the acknowledgement
    held         (generation, step) of the checkpoints it can start from
    info         a few free JSON values for people and for the peer
    """

    incarnation: str
    generation: int = 0
    beat: int = 0
    state: str = "starting"
    step: int | None = None
    published: dict[str, int] = field(default_factory=dict)
    consumed: dict[str, int] = field(default_factory=dict)
    held: tuple[tuple[int, int], ...] = ()
    error: str = ""
    info: dict[str, Any] = field(default_factory=dict)


def block_name(role: str) -> str:
    """The name of a role's status block in the exchange folder."""
    return f"status/{role}.block"


def to_block(status: Status, counter: int) -> bytes:
    """The 4096 bytes of a status.

    Raises ValueError if it does not fit: the only part that can be large is `info`.
    """
    body = _ENCODER.encode(vars(status)).encode("ascii")
    count = b"counter=%016d\n" % counter
    room = BLOCK_SIZE - len(b"DNXSTAT1 crc32=00000000 ") - len(count)
    if len(body) >= room:
        raise ValueError(f"status of {len(body)} bytes, room for {room - 1}: report less info")
    signed = count + body.ljust(room - 1) + b"\n"
    return b"DNXSTAT1 crc32=%08x " % zlib.crc32(signed) + signed


def _fits(status: Status) -> bool:
    try:
        return bool(to_block(status, 1))
    except ValueError:
        return False


def from_block(block: bytes) -> tuple[int, Status] | None:
    """The counter and the status of a block, or None if it is torn, damaged or no block at all."""
    header = _HEADER.match(block)
    if len(block) != BLOCK_SIZE or header is None:
        return None
    if int(header[1], 16) != zlib.crc32(block[header.start(2) :]):
        return None
    try:
        # Stripped first: the decoder is slow at the kilobytes of padding.
        text = block[header.end() :].rstrip()
        return int(header[3]), _checked(parse_object(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _checked(raw: dict[str, Any]) -> Status:
    """A Status from parsed JSON; ValueError, TypeError or KeyError if a field is not its kind."""
    held = tuple((generation, step) for generation, step in raw["held"])
    status = Status(**{**raw, "held": held})
    numbers = [status.generation, status.beat, status.step or 0]
    numbers += [n for pair in held for n in pair]
    numbers += [*status.published.values(), *status.consumed.values()]
    texts = [status.incarnation, status.error]
    if status.state not in STATES or not isinstance(status.info, dict):
        raise ValueError("not a status")
    if not all(type(n) is int for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise TypeError("not a status")
    return status


class StatusWriter:
    """My own block: every update rewrites it, and a thread rewrites it every 2 s as a heartbeat.

    Safe to use from several threads.  fsync says whether each rewrite is synced, which a peer
    on a network file system needs to see it.  guard raises if this role may no longer write.
    Raises StorageError if the block cannot be created.
    """

    def __init__(
        self,
        storage: Storage,
        role: str,
        incarnation: str,
        *,
        fsync: bool,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage, self._name, self._fsync = storage, block_name(role), fsync
        self._guard = guard
        self._lock = threading.Lock()
        self._counter = 1
        self._status = Status(incarnation)
        self._failure: BaseException | None = None
        self._fd = storage.create_block(self._name, to_block(self._status, self._counter))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"beat-{role}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """What the block says now."""
        return self._status

    def update(
        self,
        *,
        published: Mapping[str, int] | None = None,
        consumed: Mapping[str, int] | None = None,
        info: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """Rewrite the block with some fields changed; mappings are merged into what is there.

        Raises ExchangeError if the heartbeat has stopped, RoleTaken if another process has taken
        the role over, StorageError if the block cannot be written, ValueError if it no longer fits.
        """
        self.check_heart()
        self._guard()
        with self._lock:
            now = self._status
            merged = replace(
                now,
                published={**now.published, **(published or {})},
                consumed={**now.consumed, **(consumed or {})},
                info={**now.info, **(info or {})},
                **changes,
            )
            self._write(self._fd, merged)

    def check_heart(self) -> None:
        """Raise what stopped the heartbeat, if it has stopped: the peers would give this role up.

        Raises RoleTaken or StorageError if that is why, else ExchangeError.
        """
        if self._thread.is_alive():
            return
        self._guard()  # being superseded is the better reason, if it is one
        failure = self._failure
        text = (
            f"{self._storage.path(self._name)}: the heartbeat of this role has stopped "
            f"({failure or 'closed'}); start it again"
        )
        if isinstance(failure, StorageError):
            raise StorageError(text, failure.errno)
        raise ExchangeError(text)

    def begin_anew(self, incarnation: str) -> None:
        """Forget what was said so far: the same process starts again as another incarnation."""
        with self._lock:
            self._write(self._fd, Status(incarnation, beat=self._status.beat))

    def close(self, *, state: str, error: str = "") -> None:
        """Stop the heartbeat and write the last state; `error` is cut to one line of 1000 bytes.

        Raises RoleTaken, and writes nothing, if another process has taken the role over.
        """
        if self._fd < 0:
            return
        self._stop.set()
        self._thread.join()
        with self._lock:
            fd, self._fd = self._fd, -1
            last = replace(self._status, state=state, error=printable(error))
            try:
                self._guard()
                # The error matters more than the info if there is no room for both.
                self._write(fd, last if _fits(last) else replace(last, info={}))
            finally:
                self._storage.close_block(fd, self._name)

    def _write(self, fd: int, status: Status) -> None:
        block = to_block(status, self._counter + 1)
        self._storage.write_block(fd, self._name, block, fsync=self._fsync)
        self._counter += 1
        self._status = status

    def _beat(self) -> None:
        try:
            while not self._stop.wait(BEAT_S):
                self._guard()
                with self._lock:
                    self._write(self._fd, replace(self._status, beat=self._status.beat + 1))
        except Exception as error:
            # The next update raises with it; a peer would otherwise count me as dead unexplained.
            self._failure = error
            log.error("heartbeat stopped: %s", error)


def read_status(storage: Storage, role: str) -> Status | None:
    """The block of a role as it is now, read once; None if there is none or it is damaged."""
    try:
        parsed = from_block(storage.read_small(block_name(role), BLOCK_SIZE) or b"")
    except InvalidMessage:
        return None
    return parsed[1] if parsed else None


class StatusReader:
    """The block of a peer, polled through a kept descriptor.

    direct   read past the page cache of this client; see `Profile.direct_status`
    damaged  whether what was read last is no block at all; a torn one is whole soon after
    Raises StorageError if there is no such block.
    """

    def __init__(self, storage: Storage, role: str, incarnation: str, *, direct: bool) -> None:
        self._storage, self._name, self._incarnation = storage, block_name(role), incarnation
        self._fd = storage.open_block(self._name, direct=direct)
        self._buffer = mmap.mmap(-1, BLOCK_SIZE)  # page aligned, as O_DIRECT demands
        self._seen = b""
        self._counter = 0
        self.damaged = False

    def poll(self) -> Status | None:
        """The newest status, or None: nothing new, or a torn, stale or foreign block.

        Raises StorageError if the block can no longer be read.
        """
        if self._storage.read_block(self._fd, self._name, self._buffer) != BLOCK_SIZE:
            self.damaged = True
            return None
        block = self._buffer[:]
        if block == self._seen:
            return None
        self._seen = block
        parsed = from_block(block)
        self.damaged = parsed is None
        if parsed is None or parsed[0] <= self._counter:
            return None
        counter, status = parsed
        if status.incarnation != self._incarnation:
            return None
        self._counter = counter
        return status

    def close(self) -> None:
        """Let go of the block.  Idempotent."""
        if self._fd >= 0:
            self._storage.close_block(self._fd, self._name)
            self._buffer.close()
            self._fd = -1
