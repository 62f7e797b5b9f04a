"""Training of a whole net by the classification loss: what methods without an exchange share."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.config import TrainConfig
from dualnet.data.batches import Batches
from dualnet.evaluate import score
from dualnet.nets.dropout import set_iteration
from dualnet.optimizer import Optimizer, gradient_norm

Record = dict[str, Any]


class Supervised:
    """A net, its optimiser and its batches; the weights are taken as they are.

    name      the role under which the run folder keeps it
    method    what its own figures begin with
    settings  those of this training; its iterations may end before the schedule of the learning
              rate does
    horizon   iterations of that schedule, by default those of the settings
    """

    is_whole = True     # nothing is under way between iterations

    def __init__(self, name: str, method: str, settings: TrainConfig, net: nn.Sequential,
                 batches: Batches, device: torch.device, horizon: int | None = None) -> None:
        self.name, self.method = name, method
        self.settings, self.batches, self.device = settings, batches, device
        self.dtype: torch.dtype = getattr(torch, settings.weight_format)
        self.net = net.to(device, self.dtype)
        schedule = settings.replace(iterations=horizon or settings.iterations)
        self.optimizer = self.make_optimizer(schedule)

    def make_optimizer(self, settings: TrainConfig) -> Optimizer:
        """The optimiser of the net, by settings whose iterations are those of the schedule."""
        return Optimizer(self.net, settings, settings.lr)

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train from iteration `start`, one record per iteration."""
        for step in range(start, self.settings.iterations):
            self.net.train()
            set_iteration(self.net, self.settings.seed, step)
            logits, labels, loss = self.forward(step)
            self.optimizer.zero_grad()
            self.backward(loss)
            record = {"step": step, "epoch": self.batches.epoch(step + 1),
                      "lr": self.optimizer.lr(step), **self.figures(logits, labels, loss)}
            if self.settings.is_logged(step):
                record[f"{self.method}/grad_norm"] = gradient_norm(self.net)
            self.update(step)
            if self.settings.is_logged(step):
                record |= {f"{self.method}/tuned_{name}": value
                           for name, value in self.optimizer.tuned().items()}
            yield record

    def forward(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, classes], labels [B] and the mean loss of the batch."""
        labels = torch.as_tensor(self.batches.labels(step)).to(self.device)
        logits = self.net(self._images(self.batches.images(step)))
        return logits, labels, functional.cross_entropy(logits, labels)

    def backward(self, loss: Tensor) -> None:
        """Give the weights their gradients."""
        loss.backward()

    def figures(self, logits: Tensor, labels: Tensor, loss: Tensor) -> Record:
        """Loss and accuracy of the batch."""
        return {"loss": loss.item(),
                "accuracy": (logits.argmax(1) == labels).double().mean().item()}

    def update(self, step: int) -> None:
        """Change the weights by their gradients."""
        self.optimizer.step(step)

    def evaluate(self) -> Record:
        """Loss and accuracy on the test images."""
        return score(self.net, self.batches, self.device, self.dtype, self.settings.num_views)

    def state_dict(self) -> dict[str, Any]:
        """Weights and momentum."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def facts(self) -> Record:
        """A whole net has no copies that could collapse."""
        return {"collapsed": False, "collapse_reason": ""}

    def _images(self, images: Any) -> Tensor:
        return torch.as_tensor(images).to(self.device, self.dtype)
