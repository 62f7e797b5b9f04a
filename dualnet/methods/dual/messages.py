"""The messages of one role: numbered, in the number format of the settings, on its device."""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from dualnet.channel import Channel
from dualnet.methods.dual.formats import message_dtype, message_shape, pack, unpack
from dualnet.methods.dual.settings import DualConfig


class Messages:
    """What a role sends and receives at all of its boundaries.

    keeps  whether what has arrived is still needed when the next message of its channel comes
    first  number of the first message of each channel: activations of training bear the number of
           their micro-batch, which without a pipeline is that of the iteration
    """

    def __init__(self, settings: DualConfig, channel: Channel, device: torch.device, *,
                 keeps: bool) -> None:
        self.channel, self.device, self.first = channel, device, 0
        self._format, self._keeps = settings.message_dtype, keeps
        self._dtype: torch.dtype = getattr(torch, settings.precision)
        self._numbers: Counter[str] = Counter()

    def tensor(self, array: np.ndarray | Tensor) -> Tensor:
        """An array on this role's device; floating numbers in the precision of the weights."""
        tensor = torch.as_tensor(array)
        return tensor.to(self.device, self._dtype if tensor.is_floating_point() else None)

    def send(self, name: str, tensor: Tensor) -> None:
        """Send an activation in the number format of the messages."""
        self.channel.send(name, self._number(name), pack(tensor.detach(), self._format))

    def recv(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Receive an activation in the precision of the weights, on this role's device."""
        message = self.channel.recv(name, self._number(name), message_shape(shape, self._format),
                                    message_dtype(self._format))
        if self._keeps:     # the next of them comes into the same memory
            message = message.clone()
        return self.tensor(unpack(message.to(self.device), shape, self._format))

    def send_scalar(self, name: str, value: float) -> None:
        """Send one number, exactly."""
        self.channel.send(name, self._number(name), torch.tensor([value], dtype=torch.float64))

    def recv_scalar(self, name: str) -> float:
        """Receive one number."""
        return self.channel.recv(name, self._number(name), (1,), torch.float64).item()

    def _number(self, name: str) -> int:
        """The number of the next message of a channel.

        Both ends call this in the same order, so a message that one of them skipped or repeated
        cannot pass for another.
        """
        self._numbers[name] += 1
        return self.first + self._numbers[name] - 1
