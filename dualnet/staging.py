"""Copies between a GPU and the host that run beside its computations."""

from typing import NamedTuple

import torch
from torch import Tensor


class Copy(NamedTuple):
    """A tensor that is on its way to the host: `host` has it once `done` has happened."""

    host: Tensor
    done: torch.cuda.Event


class Staging:
    """Pinned memory of the host, and a stream of its own that copies to and from it.

    A copy waits for the computations that are queued on the current stream, and those that are
    queued later do not wait for it.  Each name has two buffers in turn, so that one message can be
    read while the next is on its way.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers: dict[tuple[str, tuple[int, ...]], list[Copy]] = {}

    def to_host(self, name: str, tensor: Tensor) -> Copy:
        """Begin to copy a tensor of the GPU; at most one copy of a name may be unread before."""
        copy = self._buffer(name, tuple(tensor.shape), tensor.dtype)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            copy.host.copy_(tensor, non_blocking=True)
            copy.done.record(self._stream)
        tensor.record_stream(self._stream)      # its memory is not given away before
        return copy

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Copy:
        """Pinned memory to fill, and to give to `to_device`; what it held has left."""
        copy = self._buffer(name, shape, dtype)
        copy.done.synchronize()
        return copy

    def to_device(self, copy: Copy) -> Tensor:
        """A tensor of the GPU with what `buffer` was filled with; what follows waits for it."""
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            tensor = copy.host.to(self._device, non_blocking=True)
            copy.done.record(self._stream)
        current.wait_stream(self._stream)
        tensor.record_stream(current)
        return tensor

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Copy:
        """The one of the two buffers of `name` that was used longer ago."""
        two = self._buffers.get((name, shape))
        if two is None:
            two = [Copy(torch.empty(shape, dtype=dtype, pin_memory=True), torch.cuda.Event())
                   for _ in range(2)]
            self._buffers[name, shape] = two
        two.reverse()
        return two[0]
