"""The end of a boundary behind it: z comes in, y = conv3'(z) or y* goes back."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dualnet import losses
from dualnet.data.batches import Batches
from dualnet.methods.dual import admm
from dualnet.methods.dual.collapse import collapse_reason
from dualnet.methods.dual.figures import dead_units
from dualnet.methods.dual.messages import Messages
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import Wire
from dualnet.methods.protocol import Record


class Answering:
    """What a role has of the boundary before its part: its copy of the shared layer, and the
    target of the other.

    head  that copy
    An iteration is, of each micro-batch, `recv`, `answer_at_once` and `answer`; then `finish`.
    Until then nothing that a checkpoint holds has changed.
    """

    def __init__(self, settings: DualConfig, head: nn.Sequential, wire: Wire, batches: Batches,
                 messages: Messages) -> None:
        self.settings, self.head, self.wire = settings, head, wire
        self._batches, self._messages = batches, messages
        self._kind = LOSSES[settings.loss]
        self._rho: float | None = None
        self._next_rho: float | None = None
        self._rho_limit = float("inf")
        self._earlier: Tensor | None = None
        self._first_norm: float | None = None
        self._latest_norm = 0.0

    def recv(self, count: int) -> Tensor:
        """z of a micro-batch of `count` samples."""
        return self._messages.recv(self.wire.activation, (count, *self.wire.boundary_shape))

    def answer_at_once(self, y: Tensor, step: int, rows: slice) -> None:
        """Answer if the loss needs no label: before the rest of the part is even begun."""
        if self._kind.answer == "y_star":
            return
        answer = torch.zeros_like(y) if self._kind.answer == "zero" else y
        if self._kind.answer == "earlier" and self._earlier is not None:
            answer = self._earlier[rows]
        self._send(answer, y, step)

    def answer(self, z: Tensor, y: Tensor, gradient: Tensor, step: int, rows: slice) -> None:
        """Answer y* = y - g / rho, if the loss has not answered yet.

        gradient  [n, ...]  of the loss of the whole batch at y
        """
        if self._kind.answer != "y_star":
            return
        gradient = gradient * self._batches.batch_size      # of each sample's own loss
        if rows.start == 0:
            self._next_rho = self._penalty(z, y, gradient, step)
        assert self._next_rho is not None
        self._send(admm.y_update(y, gradient, self._next_rho), y, step)

    def _send(self, answer: Tensor, y: Tensor, step: int) -> None:
        self._messages.send(self.wire.answer, answer)
        if self.settings.is_diagnosed(step):
            self._messages.send(self.wire.diagnosis, y)

    def _penalty(self, z: Tensor, y: Tensor, gradient: Tensor, step: int) -> float | None:
        """rho of this iteration; the role before hears of it whenever it may have changed."""
        if not self.settings.is_rho_due(step, self._batches.steps_per_epoch):
            return self._rho
        if self._rho is None:
            lr = self.settings.resolved().lr_net1 or 0.0
            self._rho_limit = admm.stability_limit(z, lr, _kernel_area(self.head))
            rho = self.settings.rho or min(admm.measured_rho(y, gradient), self._rho_limit)
        else:
            rho = admm.grown_rho(self._rho, self.settings.rho_growth, self._rho_limit)
        self._messages.send_scalar(self.wire.penalty, rho)
        return rho

    def finish(self, step: int, z: Tensor, y: Tensor) -> Record:
        """All messages of the iteration are sent; what it has to tell, if it is logged.

        z, y  of the whole batch
        """
        self._rho = self._next_rho
        if self._kind.answer == "earlier":
            self._earlier = y
        if self._first_norm is None:
            self._first_norm = losses.mean_norm(y)
        if not self.settings.is_logged(step):
            return {}
        self._latest_norm = losses.mean_norm(y)
        record = {"dual/norm_y": self._latest_norm, "dual/norm_z": losses.mean_norm(z),
                  "dual/collapsed": bool(self._collapse()),
                  **dead_units("dual/dead_y", self.head, y)}
        return record | ({"dual/rho": self._rho} if self._rho is not None else {})

    def _collapse(self) -> str:
        return collapse_reason(self.wire.compared, self._first_norm or 0.0, self._latest_norm)

    def recv_test(self, count: int) -> tuple[Tensor, Tensor]:
        """z and x of a batch of test images; see `Asking.send_test`."""
        return (self._messages.recv(self.wire.test_activation, (count, *self.wire.boundary_shape)),
                self._messages.recv(self.wire.test_compared, (count, *self.wire.compared_shape)))

    def state_dict(self) -> dict[str, Any]:
        """The penalty, the answer that `misaligned` owes, and what the collapse is told by."""
        return {"rho": self._rho, "rho_limit": self._rho_limit, "earlier": self._earlier,
                "first_norm": self._first_norm, "latest_norm": self._latest_norm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._rho = self._next_rho = state["rho"]
        self._rho_limit, earlier = state["rho_limit"], state["earlier"]
        self._earlier = None if earlier is None else earlier.to(self._messages.device)
        self._first_norm, self._latest_norm = state["first_norm"], state["latest_norm"]

    def facts(self) -> Record:
        """The penalty at the end, and whether this boundary collapsed."""
        reason = self._collapse()
        return {"rho": self._rho, "collapsed": bool(reason), "collapse_reason": reason}


def _kernel_area(head: nn.Sequential) -> int:
    """k^2 of the first convolution in the head; 1 if it has none."""
    sizes = [module.kernel_size for module in head.modules()
             if isinstance(module, nn.modules.conv._ConvNd)]
    return math.prod(sizes[0]) if sizes else 1
