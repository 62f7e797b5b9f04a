"""What net1 and net2 have in common: their data, their part of the net, their optimiser."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualnet import losses
from dualnet.channel import Channel
from dualnet.cut import Part
from dualnet.data.batches import Batches
from dualnet.methods.dual.formats import message_dtype, message_shape, pack, unpack
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import ROLES, Wire
from dualnet.methods.protocol import Record
from dualnet.nets.dropout import set_iteration
from dualnet.optimizer import Optimizer
from dualnet.schedules import SCHEDULES, Turn


class Role:
    """One process of the dual net; net1 and net2 say what an iteration and a test are.

    lr  learning rate of this role at step 0
    """

    name: str
    is_whole = True

    def __init__(self, settings: DualConfig, part: Part, wire: Wire, batches: Batches,
                 channel: Channel, device: torch.device, lr: float) -> None:
        self.settings, self.wire = settings, wire
        self.part = part.to(device, getattr(torch, settings.precision))
        self.batches, self.channel, self.device = batches, channel, device
        self.optimizer = Optimizer(self.part, settings, lr, ROLES.index(self.name))
        self.loss = LOSSES[settings.loss]
        self.micro_batches = split_batch(batches.batch_size, settings.num_micro_batches)
        self._numbers: Counter[str] = Counter()
        self._first = self._done = 0

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train from iteration `start`, one record per iteration."""
        self.channel.report(phase="train")
        for turn in self._turns(start):
            self.channel.report(step=turn.step)
            self.part.train()
            record = self._iteration(turn)
            self._done = turn.step + 1
            yield {"step": turn.step, "epoch": self.batches.epoch(turn.step + 1),
                   "lr": self.optimizer.lr(turn.step), **record}

    def _turns(self, start: int) -> Iterator[Turn]:
        settings = self.settings
        lengths = {"net1_steps": settings.net1_steps, "net2_steps": settings.net2_steps}
        return SCHEDULES[settings.schedule](settings.iterations, start=start,
                                            **lengths if settings.schedule == "alternating" else {})

    def _iteration(self, turn: Turn) -> Record:
        raise NotImplementedError

    def evaluate(self) -> Record:
        """Score the test images together with the other role, which must do the same now."""
        self.channel.report(phase="test")
        self.part.eval()
        with torch.no_grad():
            score = self._test()
        self.channel.report(phase="train")
        return score

    def _test(self) -> Record:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Weights under the names of the whole net's layers, grouped in head, body and tail."""
        return {"part": self.part.state_dict(), "optimizer": self.optimizer.state_dict(),
                "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, before the first message."""
        self.part.load_state_dict(state["part"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._done = state["done"]
        self._first = self._done * len(self.micro_batches)

    def facts(self) -> Record:
        """Nothing, unless a role has something to say."""
        return {}

    def tensor(self, array: np.ndarray | Tensor) -> Tensor:
        """An array on this role's device; floating numbers in the precision of the weights."""
        tensor = torch.as_tensor(array)
        dtype = getattr(torch, self.settings.precision) if tensor.is_floating_point() else None
        return tensor.to(self.device, dtype)

    def send(self, name: str, tensor: Tensor) -> None:
        """Send an activation in the number format of the messages."""
        self.channel.send(name, self.number(name), pack(tensor.detach(), self._format))

    def recv(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Receive an activation in the precision of the weights, on this role's device."""
        message = self.channel.recv(name, self.number(name), message_shape(shape, self._format),
                                    message_dtype(self._format))
        if len(self.micro_batches) > 1:     # the next of them comes into the same memory
            message = message.clone()
        return self.tensor(unpack(message.to(self.device), shape, self._format))

    def expect(self, step: int, rows: slice) -> None:
        """Before a forward pass: which samples of which batch come."""
        set_iteration(self.part, self.settings.seed, step,
                      rows if len(self.micro_batches) > 1 else None)

    def number(self, name: str) -> int:
        """The number of the next message of a channel, counted from the first iteration here.

        Both ends call this in the same order, so a message that one of them skipped or repeated
        cannot pass for another.  Activations of training bear the number of their micro-batch,
        which without a pipeline is that of the iteration.
        """
        self._numbers[name] += 1
        return self._first + self._numbers[name] - 1

    @property
    def _format(self) -> str:
        return self.settings.message_dtype

    def is_diagnosed(self, step: int) -> bool:
        """Whether y itself crosses in iteration `step`: on logged steps, or for the dual."""
        return self.settings.is_logged(step) or self.settings.dual == "sample"

    def is_rho_due(self, step: int) -> bool:
        """Whether rho crosses in iteration `step`: at the start, and at each epoch if it grows."""
        if self.loss.answer != "y_star":
            return False
        return step == 0 or (self.settings.rho_growth != 1
                             and step % self.batches.steps_per_epoch == 0)


def split_batch(batch_size: int, parts: int) -> list[slice]:
    """The rows of each of `parts` micro-batches, whose sizes differ by one at most.

    >>> split_batch(10, 4)
    [slice(0, 2, None), slice(2, 5, None), slice(5, 7, None), slice(7, 10, None)]
    """
    ends = [number * batch_size // parts for number in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def dead_units(key: str, layers: nn.Sequential, activation: Tensor) -> Record:
    """Share of dead units of what `layers` gave, as figure `key`; nothing unless they end in a
    ReLU, since a 0 means nothing elsewhere."""
    if len(layers) == 0 or not isinstance(layers[-1], nn.ReLU):
        return {}
    return {key: losses.dead_share(activation)}
