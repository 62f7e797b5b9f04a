"""The uncut net: the same layers, data, seed and schedule in one process."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.config import TrainConfig
from dualnet.data.batches import Batches
from dualnet.evaluate import score
from dualnet.methods.protocol import Record
from dualnet.nets.dropout import set_iteration
from dualnet.nets.initial import draw_weights
from dualnet.optimizer import Optimizer, gradient_norm


class Single:
    """What every partitioned method is compared with."""

    name = "single"

    def __init__(self, settings: TrainConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device) -> None:
        draw_weights(net, settings.seed)
        self.settings, self.batches, self.device = settings, batches, device
        self._dtype: torch.dtype = getattr(torch, settings.precision)
        self.net = net.to(device, self._dtype)
        self.optimizer = Optimizer(self.net, settings, settings.lr)

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train from iteration `start`, one record per iteration."""
        for step in range(start, self.settings.iterations):
            self.net.train()
            set_iteration(self.net, self.settings.seed, step)
            labels = torch.as_tensor(self.batches.labels(step)).to(self.device)
            logits = self.net(self._images(self.batches.images(step)))
            loss = functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            record = {"step": step, "epoch": self.batches.epoch(step + 1),
                      "lr": self.optimizer.lr(step), "loss": loss.item(),
                      "accuracy": (logits.argmax(1) == labels).double().mean().item()}
            if self.settings.is_logged(step):
                record["single/grad_norm"] = gradient_norm(self.net)
            self.optimizer.step(step)
            yield record

    def evaluate(self) -> Record:
        """Loss and accuracy on the test images."""
        return score(self.net, self.batches, self.device, self._dtype)

    def state_dict(self) -> dict[str, Any]:
        """Weights and momentum."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def facts(self) -> Record:
        """A single net has no copies that could collapse."""
        return {"collapsed": False, "collapse_reason": ""}

    def _images(self, images: Any) -> Tensor:
        return torch.as_tensor(images).to(self.device, self._dtype)
