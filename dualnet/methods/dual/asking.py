"""The end of a boundary before it: z goes out, x = conv3(z) is pulled towards what comes back."""

from typing import Any

import torch
from torch import Tensor, nn

from dualnet import losses
from dualnet.data.batches import Batches
from dualnet.methods.dual import admm
from dualnet.methods.dual.figures import dead_units
from dualnet.methods.dual.messages import Messages
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import Wire
from dualnet.methods.protocol import Record


class Asking:
    """What a role has of the boundary behind its part: its copy of the shared layer, and a loss.

    tail  that copy
    An iteration is `begin`; `send` and `loss` of each micro-batch; `finish`.  Until then nothing
    that a checkpoint holds has changed.
    """

    def __init__(self, settings: DualConfig, tail: nn.Sequential, wire: Wire, batches: Batches,
                 messages: Messages) -> None:
        self.settings, self.tail, self.wire = settings, tail, wire
        self._batches, self._messages = batches, messages
        self._kind = LOSSES[settings.loss]
        self._rho = self._next_rho = 1.0
        self.duals: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []

    def send(self, z: Tensor) -> None:
        """Hand on the boundary activation of a micro-batch."""
        self._messages.send(self.wire.activation, z)

    def begin(self, step: int) -> None:
        """Before the losses of an iteration: hear of rho, if it is due."""
        self._seen = []
        if self.settings.is_rho_due(step, self._batches.steps_per_epoch):
            self._next_rho = self._messages.recv_scalar(self.wire.penalty)

    def loss(self, z: Tensor, step: int, rows: slice) -> Tensor:
        """E of a micro-batch: x = conv3(z), which is computed before the answer is awaited."""
        x = self.tail(z)
        answer = self._messages.recv(self.wire.answer, tuple(x.shape))
        if self.settings.is_diagnosed(step):
            y = self._messages.recv(self.wire.diagnosis, tuple(x.shape))
            self._seen.append((x.detach(), y))
        if self._kind.answer != "y_star":
            return losses.BOUNDARY_LOSSES[self._kind.function](x, answer,
                                                               self.settings.denominator)
        if self.settings.dual == "sample":
            answer = answer - self._duals_of(x, step)[rows]
        return admm.penalty(x, answer, self._next_rho)

    def finish(self, step: int) -> Record:
        """All messages of the iteration are here; what it has to tell, if it is diagnosed."""
        self._rho = self._next_rho
        if not self._seen:
            return {}
        x, y = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen = []
        if self.settings.dual == "sample":
            u = admm.dual_update(self._duals_of(x, step), x, y)
            assert self.duals is not None
            self.duals[self._batches.sample_ids(step)] = u.cpu()
        return {"dual/norm_x": losses.mean_norm(x),
                "dual/residual": losses.relative_residual(x, y),
                **dead_units("dual/dead_x", self.tail, x)}

    def _duals_of(self, x: Tensor, step: int) -> Tensor:
        """u of the samples in this batch; zero for a sample that was never seen."""
        if self.duals is None:
            self.duals = torch.zeros((self._batches.num_samples, *x.shape[1:]), dtype=x.dtype)
        return self.duals[self._batches.sample_ids(step)].to(self._messages.device)

    def send_test(self, z: Tensor, x: Tensor) -> None:
        """Hand on a batch of test images: z through the copies behind the boundaries (conv3'), and
        x, which went through those before them (conv3)."""
        self._messages.send(self.wire.test_activation, z)
        self._messages.send(self.wire.test_compared, x)

    def state_dict(self) -> dict[str, Any]:
        """The penalty and the dual variables; without those, None."""
        return {"rho": self._rho, "duals": self.duals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._rho = self._next_rho = state["rho"]
        self.duals = state["duals"]
