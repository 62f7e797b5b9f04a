"""How a role talks to its peer, over files or in memory: send, flush, receive, report.

A tensor that arrives lies in memory that the next `recv` on the same channel may overwrite.
"""

import queue
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dualnet.staging import Copy, Staging
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
        """Hand over `tensor` as it is: no gradient, dtype and shape kept, any device.

        What lies on a GPU may leave with the next call only, so that the GPU can be given more to
        do before its result is waited for; until then it must not be changed.
        """
        ...

    def flush(self) -> None:
        """Everything that was sent leaves now."""
        ...

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Message `sequence` of `name`, of exactly this shape and dtype, on the role's device."""
        ...

    def report(self, **info: Any) -> None:
        """Tell peers and onlookers where this role is: step, phase and figures."""
        ...


class FileChannel:
    """A channel through a folder; raises the errors of shared_fs.

    device  where what arrives shall be
    """

    def __init__(self, exchange: Exchange, device: torch.device) -> None:
        self._exchange = exchange
        self._staging = Staging(device) if device.type == "cuda" else None
        self._pending: tuple[str, int, Copy] | None = None
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
        tensor = tensor.detach()
        if self._staging is not None and tensor.is_cuda:
            copy = self._staging.to_host(name, tensor)
            self.flush()
            self._pending = name, sequence, copy
            return
        self.flush()
        self._exchange.send(name, sequence, tensor.contiguous().numpy())

    def flush(self) -> None:
        if self._pending is not None:
            (name, sequence, copy), self._pending = self._pending, None
            copy.done.synchronize()
            self._exchange.send(name, sequence, copy.host.numpy())

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.flush()
        if self._staging is not None:
            copy = self._staging.buffer(name, shape, dtype)
            self._exchange.recv(name, sequence, copy.host.numpy())
            return self._staging.to_device(copy)
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            buffer = self._buffers[name, shape] = torch.empty(shape, dtype=dtype)
        self._exchange.recv(name, sequence, buffer.numpy())
        return buffer

    def report(self, **info: Any) -> None:
        self.flush()
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

    def flush(self) -> None:
        pass    # everything leaves at once

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
