"""Numbered arrays through one generation's folder: each once, in order, with back-pressure.

    sender                                    receiver
    wait for room: seq - consumed <= window   wait until the sender's status announces seq
    publish g00000001/net1/pool2-...412.npy   open it, check it, read it into `out`
    announce: status.published[pool2] = 412   acknowledge: status.consumed[pool2] = 412
    unlink own files up to consumed - 1,
    or recycle one for the next message

A name is never looked up before it is announced: a client that caches the absence of a file would
not see it for a while.
"""

import errno
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .errors import InvalidMessage, NonFinite, StorageError
from .message import Array, Identity, decode, encode
from .open_file import OpenFile
from .patience import patiently
from .peer import Peer
from .profile import Profile
from .records import Generation
from .status import StatusWriter
from .storage import Storage
from .waiting import wait_for

log = logging.getLogger("shared_fs")

LARGEST_SEQUENCE = 10**12 - 1  # 12 digits in the file name


@dataclass
class _Trail:
    """Sequences of a channel I send: first ever, newest, and oldest still on disk."""

    first: int
    newest: int
    oldest: int


@dataclass
class Traffic:
    """Seconds in waits, and bytes of payload, of one role over all its generations."""

    wait_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass
class Mailbox:
    """The channels of one role within one generation.

    channels  name -> (sender, receiver)
    window    how many messages may be unread per channel; at most window + 1 files are on disk
    nonfinite "error", "warn" or "allow" for NaN and infinity in a received message
    fsync     sync each message before announcing it
    guard     raises if this role may no longer write
    patience_s  seconds to try again while the disk is full or fails
    traffic   what all mailboxes of the role have done so far
    """

    storage: Storage
    profile: Profile
    role: str
    channels: dict[str, tuple[str, str]]
    generation: Generation
    status: StatusWriter
    peers: dict[str, Peer]
    window: int
    nonfinite: str
    fsync: bool
    guard: Callable[[], None]
    patience_s: float
    traffic: Traffic
    _sent: dict[str, _Trail] = field(default_factory=dict)
    _received: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of my own messages: "g00000001/net1"."""
        return f"{self.generation.folder}/{self.role}"

    def send(self, channel: str, sequence: int, array: Array) -> None:
        """Publish one message; waits while `window` messages of the channel are unread.

        Raises ValueError for a wrong channel or sequence, PeerLost, PeerFailed, StorageError.
        """
        receiver = self._other_end(channel, mine=0)
        trail = self._sent.get(channel)
        self._check_order(channel, sequence, trail.newest if trail else None)
        if trail is None:
            trail = _Trail(sequence, sequence - 1, sequence)
        self._wait_for_room(channel, sequence, trail, receiver)
        self.guard()
        recycle = self._take_read(channel, trail, receiver)
        if sequence - trail.oldest > self.window:
            self._sweep(channel, trail, receiver)
        buffers = encode(array, self._identity(channel, sequence, self.role))
        self._publish(self._name(channel, sequence), buffers, recycle)
        trail.newest = sequence
        self._sent[channel] = trail
        self.status.update(published={channel: sequence})
        self._sweep(channel, trail, receiver)
        self.traffic.bytes_sent += array.nbytes

    def recv(self, channel: str, sequence: int, out: Array) -> Array:
        """Read one message into `out`, acknowledge it, and return `out`.

        Raises ValueError for a wrong channel, sequence or `out`, InvalidMessage, NonFinite,
        PeerLost, PeerFailed, StorageError.
        """
        sender = self._other_end(channel, mine=1)
        self._check_order(channel, sequence, self._received.get(channel))
        self._wait_for_message(channel, sequence, sender)
        name = self._name(channel, sequence)
        identity = self._identity(channel, sequence, sender.role)
        try:
            self._read(name, out, identity)
        except InvalidMessage as error:
            # A client that caches pages may have shown old ones; a damaged file stays damaged.
            log.warning("%s; reading it once more", error)
            self._read(name, out, identity)
        if self.nonfinite != "allow":
            self._check_finite(name, out)
        self._received[channel] = sequence
        self.status.update(consumed={channel: sequence})
        self.traffic.bytes_received += out.nbytes
        return out

    def remove_messages(self) -> None:
        """Remove my message files and folder; only after the receivers have read them all."""
        for channel, trail in self._sent.items():
            for sequence in range(trail.oldest, trail.newest + 1):
                self.storage.remove(self._name(channel, sequence))
        self.storage.remove_folder(self.folder)
        self.storage.remove_folder(self.generation.folder)

    def all_read(self) -> bool:
        """Whether the receivers have acknowledged every message I sent."""
        return all(
            self._consumed(channel, trail, self.peers[self.channels[channel][1]]) == trail.newest
            for channel, trail in self._sent.items()
        )

    def _other_end(self, channel: str, *, mine: int) -> Peer:
        """The peer of a channel of which I am the sender (mine=0) or the receiver (mine=1)."""
        ends = self.channels.get(channel)
        if ends is None or ends[mine] != self.role:
            verb = ("send on", "receive from")[mine]
            raise ValueError(f"{self.role} cannot {verb} {channel!r}: channels are {self.channels}")
        return self.peers[ends[1 - mine]]

    def _check_order(self, channel: str, sequence: int, last: int | None) -> None:
        if not 0 <= sequence <= LARGEST_SEQUENCE:
            raise ValueError(f"{channel}: sequence must be 0 to {LARGEST_SEQUENCE}, got {sequence}")
        if last is not None and sequence != last + 1:
            raise ValueError(f"{channel}: expected sequence {last + 1} next, got {sequence}")

    def _identity(self, channel: str, sequence: int, sender: str) -> Identity:
        incarnation = self.generation.incarnations[sender]
        run, number = self.generation.run, self.generation.generation
        return Identity(run, number, channel, sequence, incarnation)

    def _name(self, channel: str, sequence: int) -> str:
        sender = self.channels[channel][0]
        return f"{self.generation.folder}/{sender}/{channel}-{sequence:012d}.npy"

    def _wait_for_room(self, channel: str, sequence: int, trail: _Trail, receiver: Peer) -> None:
        def has_room() -> bool | None:
            receiver.poll()
            if sequence - self._consumed(channel, trail, receiver) <= self.window:
                return True
            receiver.judge(f"room for {channel} {sequence}")
            return None

        self._wait(has_room, receiver, f"has to read {channel} {sequence - self.window}")

    def _wait_for_message(self, channel: str, sequence: int, sender: Peer) -> None:
        def is_announced() -> bool | None:
            status = sender.poll()
            newest = status.published.get(channel) if status else None
            if newest is not None and newest >= sequence + self.window:
                raise InvalidMessage(
                    f"{self.storage.path(self._name(channel, sequence))}: expected "
                    f"{sender.role} at sequence {sequence} of {channel}, found it at {newest}; "
                    "start both roles of a channel at the same sequence"
                )
            if newest is not None and newest >= sequence:
                return True
            sender.judge(f"{channel} {sequence}")
            return None

        self._wait(is_announced, sender, f"has to send {channel} {sequence}")

    def _wait(self, condition: Callable[[], bool | None], peer: Peer, what: str) -> None:
        """Wait for a peer; the deadline is its silence or lack of progress, judged in `Peer`."""
        def checked() -> bool | None:
            self.status.check_heart()
            return condition()

        start = self.storage.monotonic()
        peer.expect_progress()
        try:
            wait_for(
                checked,
                lambda: f"{peer.describe()}; it {what}",
                timeout_s=math.inf,
                longest_sleep_s=self.profile.longest_sleep_s,
                clock=self.storage,
            )
        finally:
            self.traffic.wait_s += self.storage.monotonic() - start

    def _consumed(self, channel: str, trail: _Trail, receiver: Peer) -> int:
        """Newest sequence the receiver acknowledged, first - 1 before it did."""
        before = trail.first - 1
        consumed = receiver.status.consumed.get(channel, before) if receiver.status else before
        if not before <= consumed <= trail.newest:
            raise InvalidMessage(
                f"{self.storage.path(self.folder)}: expected {receiver.role} to acknowledge "
                f"{channel} {trail.first} to {trail.newest}, found {consumed}; "
                "start both roles of a channel at the same sequence"
            )
        return consumed

    def _sweep(self, channel: str, trail: _Trail, receiver: Peer) -> None:
        """Unlink what was read, but the newest, which is kept to look at."""
        while trail.oldest < self._consumed(channel, trail, receiver):
            self.storage.remove(self._name(channel, trail.oldest))
            trail.oldest += 1

    def _take_read(self, channel: str, trail: _Trail, receiver: Peer) -> str | None:
        """A file of mine that was read, to be recycled; it counts as removed.

        Not on a network file system, where the receiver's client may hold pages of it.
        """
        if self.profile.name != "local" or trail.oldest >= self._consumed(channel, trail, receiver):
            return None
        trail.oldest += 1
        return self._name(channel, trail.oldest - 1)

    def _publish(self, name: str, buffers: list[bytes | memoryview], recycle: str | None) -> None:
        """Put a message in place; a disk that is full or fails gets `patience_s` to recover."""
        reusable = recycle

        def publish() -> None:
            nonlocal reusable
            once, reusable = reusable, None  # an attempt uses it up even if it fails
            self.storage.publish(name, buffers, fsync=self.fsync, recycle=once)

        try:
            patiently(publish, patience_s=self.patience_s, clock=self.storage)
        except StorageError:
            self.guard()  # a successor may have removed the folder; then that is the reason
            raise

    def _read(self, name: str, out: Array, identity: Identity) -> None:
        with self._open_announced(name) as file:
            decode(file, out, identity)

    def _open_announced(self, name: str) -> OpenFile:
        """Open a file that is announced, even if this client does not see its name at once."""
        def try_open() -> OpenFile | None:
            try:
                return self.storage.open_checked(name)
            except StorageError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                self.guard()
                self.storage.listing(name.rpartition("/")[0])  # refreshes a client's cache
                return None

        return wait_for(
            try_open,
            lambda: f"{self.storage.path(name)}, which is announced; does anybody remove files?",
            timeout_s=self.profile.latency_wait_s,
            longest_sleep_s=self.profile.longest_sleep_s,
            clock=self.storage,
        )

    def _check_finite(self, name: str, out: Array) -> None:
        if out.dtype.kind not in "fc":
            return
        finite = np.isfinite(out)
        if finite.all():
            return
        count = finite.size - int(np.count_nonzero(finite))
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        where = self.storage.path(name)
        text = f"{where}: {count} of {out.size} values are not finite, first at {first}"
        if self.nonfinite == "error":
            raise NonFinite(f"{text}; lower the learning rate or pass nonfinite='warn'")
        log.warning("%s", text)
