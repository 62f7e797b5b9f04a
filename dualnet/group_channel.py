"""A channel over a process group of torch.distributed.

A message is one transfer: a header of 64 bytes that says which message of which run it is, and the
tensor behind it.

    magic 8    run 16    generation u32    crc32 of name, dtype and shape u32
    sequence u64    length of the tensor in bytes u64    zeros
"""

import logging
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shared_fs import InvalidMessage, NonFinite, Start
from shared_fs.finite import is_finite, nonfinite_values

log = logging.getLogger("dualnet")

HEADER = struct.Struct("<8s16sIIQQ16x")
MAGIC = b"DUALNET1"


@dataclass(frozen=True)
class Wire:
    """One direction between two roles: what a channel through it needs.

    other  rank of the other end
    tag    tells the channels of a wire apart
    """

    other: int
    group: Any
    tag: int


class GroupChannel:
    """One role's end of its links; up to `window` messages of a name are on their way at once.

    outgoing, incoming  wire by name of the channel
    nonfinite  what nan and infinity in a message do: "error", "warn" or "allow"
    device     where what arrives shall be
    memory     where messages lie as they leave and arrive: the CPU, or a GPU with NCCL
    explained  turns an error of the connection into PeerLost; given the name of what is awaited

    Raises PeerLost, InvalidMessage for a message that is not the expected one, NonFinite.
    """

    def __init__(self, start: Start, outgoing: Mapping[str, Wire], incoming: Mapping[str, Wire], *,
                 window: int, nonfinite: str, device: torch.device, memory: torch.device,
                 explained: Callable[[str], AbstractContextManager[None]],
                 report: Callable[..., None]) -> None:
        self._start, self._outgoing, self._incoming = start, outgoing, incoming
        self._window, self._nonfinite = window, nonfinite
        self._device, self._memory = device, memory
        self._explained, self._report = explained, report
        self._sent: dict[str, deque[tuple[Any, Tensor]]] = {name: deque() for name in outgoing}
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self.wait_s, self.bytes_sent = 0.0, 0

    @property
    def generation(self) -> int:
        return self._start.generation

    def send(self, name: str, sequence: int, tensor: Tensor) -> None:
        tensor, wire, sent = tensor.detach(), self._outgoing[name], self._sent[name]
        size = HEADER.size + tensor.nbytes
        buffer = self._oldest(name) if len(sent) >= self._window else None
        if buffer is None or len(buffer) != size:
            buffer = torch.empty(size, dtype=torch.uint8, device=self._memory)
        header = self._header(name, sequence, tensor.shape, tensor.dtype)
        buffer[:HEADER.size] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        _content(buffer, tensor.shape, tensor.dtype).copy_(tensor)
        with self._explained(f"room for {name} {sequence}"):
            sent.append((dist.isend(buffer, wire.other, group=wire.group, tag=wire.tag), buffer))
        self.bytes_sent += tensor.nbytes

    def flush(self) -> None:
        pass    # everything leaves at once

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        wire, size = self._incoming[name], HEADER.size + _num_bytes(shape, dtype)
        buffer = self._buffers.get((name, size))
        if buffer is None:
            buffer = self._buffers[name, size] = torch.empty(size, dtype=torch.uint8,
                                                             device=self._memory)
        started = time.monotonic()
        with self._explained(f"{name} {sequence}"):
            work = dist.irecv(buffer, wire.other, group=wire.group, tag=wire.tag)
            assert work is not None     # this process is in the group
            work.wait()
            found = buffer[:HEADER.size].cpu().numpy().tobytes()
        self.wait_s += time.monotonic() - started
        if found != self._header(name, sequence, shape, dtype):
            raise InvalidMessage(self._refusal(name, sequence, found))
        tensor = _content(buffer, shape, dtype)
        if self._nonfinite != "allow":
            self._check_finite(name, sequence, tensor)
        return tensor.to(self._device)

    def report(self, **info: Any) -> None:
        self._report(**info)

    def drain(self) -> None:
        """Wait until all that was sent has arrived.  Raises PeerLost."""
        for name in self._sent:
            while self._sent[name]:
                self._oldest(name)

    def _oldest(self, name: str) -> Tensor:
        """The memory of the oldest message that is on its way, once it has arrived."""
        work, buffer = self._sent[name].popleft()
        started = time.monotonic()
        with self._explained(f"room for {name}"):
            work.wait()
        self.wait_s += time.monotonic() - started
        return buffer

    def _header(self, name: str, sequence: int, shape: tuple[int, ...],
                dtype: torch.dtype) -> bytes:
        what = zlib.crc32(f"{name} {dtype} {tuple(shape)}".encode())
        return HEADER.pack(MAGIC, bytes.fromhex(self._start.run), self._start.generation, what,
                           sequence, _num_bytes(shape, dtype))

    def _refusal(self, name: str, sequence: int, found: bytes) -> str:
        magic, run, generation, _, number, length = HEADER.unpack(found)
        if magic != MAGIC:
            return f"{name} {sequence}: what came is no message of dualnet"
        return (f"{name}: expected message {sequence} of generation {self._start.generation} of "
                f"run {self._start.run}, found number {number} of {length} bytes, of generation "
                f"{generation} of run {run.hex()}; start all roles of one version")

    def _check_finite(self, name: str, sequence: int, tensor: Tensor) -> None:
        array = tensor.cpu().numpy()
        if is_finite(array):
            return
        text = f"{name} {sequence}: {nonfinite_values(array)}"
        if self._nonfinite == "error":
            raise NonFinite(f"{text}; lower the learning rate or pass --nonfinite warn")
        log.warning("%s", text)


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _content(buffer: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor behind the header, in the memory of the message."""
    return buffer[HEADER.size:].view(dtype).view(shape)
