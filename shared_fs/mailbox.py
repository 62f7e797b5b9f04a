"""Numbered arrays through one generation's folder: each once, in order, with back-pressure.

    sender                                    receiver
    wait for room: seq - consumed <= window   wait until the sender announces seq
    put the message in place                  check it, copy it into `out`
    announce: published pool2 412             acknowledge: consumed pool2 412

How a message is put in place is letters.py (a file each) or slots.py (mapped memory), how the two
tell each other numbers is counters.py; order and checks are here and the same for all.  A name is
never looked up before it is announced: a client that caches the absence of a file would not see it
for a while.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from .attention import await_peer
from .counters import Counter, Counters
from .errors import InvalidMessage, NonFinite, StorageError, WaitTimeout
from .finite import is_finite, nonfinite_values
from .letters import LetterReceiver, LetterSender
from .message import Array, Identity
from .peer import Peer
from .profile import Profile
from .records import Generation
from .slots import SlotReceiver, SlotSender
from .status import StatusWriter
from .storage import Storage
from .traffic import Traffic

log = logging.getLogger("shared_fs")

LARGEST_SEQUENCE = 10**12 - 1  # 12 digits in the file name


class Sender(Protocol):
    """Puts the messages of one channel in place."""

    def put(self, sequence: int, array: Array, identity: Identity, consumed: int) -> None: ...

    def sweep(self, consumed: int) -> None: ...

    def close(self) -> None: ...


class Receiver(Protocol):
    """Reads the messages of one channel, and shows each part of `out` to `look` when it is read."""

    def get(
        self, sequence: int, out: Array, identity: Identity, look: Callable[[Array], None]
    ) -> None: ...

    def close(self) -> None: ...


@dataclass
class _Outgoing:
    """A channel I send: first sequence ever, and the newest."""

    sender: Sender
    counter: Counter
    first: int
    newest: int


@dataclass
class _Incoming:
    """A channel I receive: the newest sequence that was read, None before the first."""

    receiver: Receiver
    counter: Counter
    newest: int | None = None


@dataclass
class Mailbox:
    """The channels of one role within one generation.

    channels  name -> (sender, receiver)
    window    how many messages may be unread per channel
    counters  the numbers of all channels
    mapped    the peers with which messages go through slots
    checksum  of messages in slots, too
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
    counters: Counters
    mapped: frozenset[str]
    checksum: bool
    window: int
    nonfinite: str
    fsync: bool
    guard: Callable[[], None]
    patience_s: float
    traffic: Traffic
    _sent: dict[str, _Outgoing] = field(default_factory=dict)
    _received: dict[str, _Incoming] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of my own messages: "g00000001/net1"."""
        return f"{self.generation.folder}/{self.role}"

    def send(self, channel: str, sequence: int, array: Array) -> None:
        """Publish one message; waits while `window` messages of the channel are unread.

        Raises ValueError for a wrong channel or sequence, PeerLost, PeerFailed, StorageError.
        """
        receiver = self._other_end(channel, mine=0)
        sent = self._sent.get(channel)
        self._check_order(channel, sequence, sent.newest if sent else None)
        if sent is None:
            counter = self.counters.of(channel, receiver, sends=True)
            sent = _Outgoing(self._sender(channel), counter, sequence, sequence - 1)
            self._sent[channel] = sent
        self._wait_for_room(channel, sequence, sent, receiver)
        began = self.storage.monotonic()
        identity = self._identity(channel, sequence, self.role)
        try:
            sent.sender.put(sequence, array, identity, self._consumed(channel, sent))
        except StorageError:
            self.guard()  # a successor may have removed the folder; then that is the reason
            raise
        sent.newest = sequence
        sent.counter.tell(sequence)
        sent.sender.sweep(self._consumed(channel, sent))
        self.traffic.bytes_sent += array.nbytes
        self.traffic.note_storage(began, self.storage.monotonic(), self.storage.root)

    def recv(self, channel: str, sequence: int, out: Array) -> Array:
        """Read one message into `out`, acknowledge it, and return `out`.

        Raises ValueError for a wrong channel, sequence or `out`, InvalidMessage, NonFinite,
        PeerLost, PeerFailed, StorageError.
        """
        sender = self._other_end(channel, mine=1)
        received = self._received.get(channel)
        self._check_order(channel, sequence, received.newest if received else None)
        if received is None:
            counter = self.counters.of(channel, sender, sends=False)
            received = self._received[channel] = _Incoming(self._receiver(channel), counter)
        self._wait_for_message(channel, sequence, received, sender)
        identity = self._identity(channel, sequence, sender.role)
        began = self.storage.monotonic()
        try:
            finite = self._read(received, sequence, out, identity)
        except InvalidMessage as error:
            # A client that caches pages may have shown old ones; a damaged file stays damaged.
            log.warning("%s; reading it once more", error)
            finite = self._read(received, sequence, out, identity)
        except (StorageError, WaitTimeout):
            self.guard()
            raise
        if not finite:
            self._tell_nonfinite(channel, sequence, out)
        received.newest = sequence
        received.counter.tell(sequence)
        self.traffic.bytes_received += out.nbytes
        self.traffic.note_storage(began, self.storage.monotonic(), self.storage.root)
        return out

    def _read(
        self, received: _Incoming, sequence: int, out: Array, identity: Identity
    ) -> bool:
        """Read a message into `out`; whether it is finite, or may be what it is."""
        finite = True

        def look(part: Array) -> None:
            nonlocal finite
            finite = finite and is_finite(part)

        unseen = self.nonfinite == "allow"
        received.receiver.get(sequence, out, identity, (lambda part: None) if unseen else look)
        return finite

    def remove_messages(self) -> None:
        """Remove my message files and folder; only after the receivers have read them all.

        All that is in the folder is mine, also what an operation left that failed half-way.
        """
        self.storage.sweep(self.folder)
        self.storage.remove_folder(self.folder)
        self.storage.remove_folder(self.generation.folder)

    def all_read(self) -> bool:
        """Whether the receivers have acknowledged every message I sent."""
        return all(
            self._consumed(channel, sent) == sent.newest for channel, sent in self._sent.items()
        )

    def close(self) -> None:
        """Unmap what is mapped.  Idempotent."""
        with ExitStack() as stack:
            stack.callback(self.counters.close)
            for sent in self._sent.values():
                stack.callback(sent.sender.close)
            for received in self._received.values():
                stack.callback(received.receiver.close)

    def _sender(self, channel: str) -> Sender:
        stem, receiver = self._stem(channel), self.channels[channel][1]
        if receiver in self.mapped:
            return SlotSender(
                self.storage, stem, self.window, checksum=self.checksum, patience_s=self.patience_s
            )
        return LetterSender(
            self.storage, self.profile, stem, self.window,
            fsync=self.fsync, patience_s=self.patience_s, guard=self.guard,
        )

    def _receiver(self, channel: str) -> Receiver:
        stem, sender = self._stem(channel), self.channels[channel][0]
        if sender in self.mapped:
            return SlotReceiver(self.storage, stem, self.window)
        return LetterReceiver(self.storage, self.profile, stem)

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

    def _stem(self, channel: str) -> str:
        """What the files of a channel begin with: "g00000001/net1/pool2"."""
        return f"{self.generation.folder}/{self.channels[channel][0]}/{channel}"

    def _wait_for_room(
        self, channel: str, sequence: int, sent: _Outgoing, receiver: Peer
    ) -> None:
        def has_room() -> bool:
            is_read = sequence - self._consumed(channel, sent) <= self.window
            return is_read and sent.counter.is_open()

        self._wait(has_room, sent.counter, receiver, f"room for {channel} {sequence}",
                   f"has to read {channel} {sequence - self.window}")

    def _wait_for_message(
        self, channel: str, sequence: int, received: _Incoming, sender: Peer
    ) -> None:
        def is_announced() -> bool:
            newest = received.counter.told()
            if newest is not None and newest >= sequence + self.window:
                raise InvalidMessage(
                    f"{self.storage.path(self._stem(channel))}: expected {sender.role} at sequence "
                    f"{sequence} of {channel}, found it at {newest}; "
                    "start both roles of a channel at the same sequence"
                )
            return newest is not None and newest >= sequence

        self._wait(is_announced, received.counter, sender, f"{channel} {sequence}",
                   f"has to send {channel} {sequence}")

    def _wait(
        self, condition: Callable[[], bool], counter: Counter, peer: Peer, awaited: str, what: str
    ) -> None:
        if condition():
            return
        start = self.storage.monotonic()
        try:
            await_peer(
                condition,
                peer,
                counter,
                awaited=awaited,
                what=what,
                check=self.status.check_heart,
                longest_sleep_s=self.profile.longest_sleep_s,
                clock=self.storage,
            )
        finally:
            self.traffic.wait_s += self.storage.monotonic() - start

    def _consumed(self, channel: str, sent: _Outgoing) -> int:
        """Newest sequence the receiver acknowledged, first - 1 before it did."""
        before = sent.first - 1
        consumed = sent.counter.told()
        if consumed is None:
            return before
        if not before <= consumed <= sent.newest:
            receiver = self.channels[channel][1]
            raise InvalidMessage(
                f"{self.storage.path(self.folder)}: expected {receiver} to acknowledge "
                f"{channel} {sent.first} to {sent.newest}, found {consumed}; "
                "start both roles of a channel at the same sequence"
            )
        return consumed

    def _tell_nonfinite(self, channel: str, sequence: int, out: Array) -> None:
        """Raise NonFinite, or warn."""
        text = (f"{self.storage.path(self._stem(channel))} {sequence}: {nonfinite_values(out)}")
        if self.nonfinite == "error":
            raise NonFinite(f"{text}; lower the learning rate or pass nonfinite='warn'")
        log.warning("%s", text)
