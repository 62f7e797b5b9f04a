"""How a role talks to its peer, over files or in memory: send, receive, report.

A tensor that arrives lies in memory that the next `recv` on the same channel may overwrite.
"""

import queue
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from shared_fs import Exchange, PeerLost, WaitTimeout


class Channel(Protocol):
    """One role's end of its links; messages of a name are numbered without gaps."""

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for the peer."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of all messages sent."""
        ...

    @property
    def generation(self) -> int:
        """Which attempt of the run this is, counted from 1."""
        ...

    def send(self, name: str, sequence: int, tensor: Tensor) -> None:
        """Hand over `tensor` as it is: no gradient, dtype and shape kept, any device."""
        ...

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Message `sequence` of `name`, a CPU tensor of exactly this shape and dtype."""
        ...

    def report(self, **info: Any) -> None:
        """Tell peers and onlookers where this role is: step, phase and figures."""
        ...


class FileChannel:
    """A channel through a folder; raises the errors of shared_fs."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    @property
    def wait_s(self) -> float:
        return self._exchange.wait_s

    @property
    def bytes_sent(self) -> int:
        return self._exchange.bytes_sent

    @property
    def generation(self) -> int:
        return self._exchange.generation

    def send(self, name: str, sequence: int, tensor: Tensor) -> None:
        self._exchange.send(name, sequence, tensor.detach().cpu().contiguous().numpy())

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            buffer = self._buffers[name, shape] = torch.empty(shape, dtype=dtype)
        self._exchange.recv(name, sequence, buffer.numpy())
        return buffer

    def report(self, **info: Any) -> None:
        self._exchange.report(**info)


class QueueChannel:
    """A channel in memory, between threads: what the file exchange is compared with."""

    generation = 1

    def __init__(self, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._inbox: dict[str, queue.Queue[tuple[int, np.ndarray] | None]] = {}
        self._outbox: dict[str, queue.Queue[tuple[int, np.ndarray] | None]] = {}
        self.wait_s, self.bytes_sent = 0.0, 0

    @classmethod
    def ends(cls, channels: Mapping[str, tuple[str, str]],
             timeout_s: float = 60.0) -> dict[str, "QueueChannel"]:
        """The ends of all roles by name, in the order in which they appear.

        channels  name -> (sender, receiver)
        """
        roles = dict.fromkeys(role for ends in channels.values() for role in ends)
        made = {role: cls(timeout_s) for role in roles}
        for name, (sender, receiver) in channels.items():
            made[sender]._outbox[name] = made[receiver]._inbox[name] = queue.Queue()
        return made

    def send(self, name: str, sequence: int, tensor: Tensor) -> None:
        array = tensor.detach().cpu().numpy().copy()
        self.bytes_sent += array.nbytes
        self._outbox[name].put((sequence, array))

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        started = time.monotonic()
        try:
            message = self._inbox[name].get(timeout=self._timeout_s)
        except queue.Empty:
            raise WaitTimeout(f"no message {sequence} on {name} in {self._timeout_s:g} s") from None
        if message is None:
            raise PeerLost(f"the other end is closed; message {sequence} on {name} will not come")
        number, array = message
        self.wait_s += time.monotonic() - started
        tensor = torch.from_numpy(array)
        if (number, tuple(tensor.shape), tensor.dtype) != (sequence, tuple(shape), dtype):
            raise ValueError(f"{name}: expected {sequence} {tuple(shape)} {dtype}, "
                             f"found {number} {tuple(tensor.shape)} {tensor.dtype}")
        return tensor

    def report(self, **info: Any) -> None:
        pass    # nobody looks on

    def close(self) -> None:
        """Tell the other ends that nothing more will come: their next `recv` raises PeerLost."""
        for box in self._outbox.values():
            box.put(None)
