"""net2: conv3', conv4..fc6 and the softmax; it knows the labels and answers net1."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet import losses
from dualnet.deferred import DeferredGradients
from dualnet.methods.dual import admm
from dualnet.methods.dual.collapse import collapse_reason
from dualnet.methods.dual.role import Role, dead_units
from dualnet.methods.dual.wire import NET2
from dualnet.methods.protocol import Record
from dualnet.optimizer import gradient_norm
from dualnet.schedules import Turn


class _Answered(NamedTuple):
    """What is left of a micro-batch: z, y and logits, its part of the loss, the penalty used."""

    z: Tensor
    y: Tensor
    logits: Tensor
    loss: float
    rho: float | None


class Net2(Role):
    """Receives z, steps on the classification loss, and answers with y or y*.

    An answer leaves before the gradients of the weights are formed, which is done once per
    iteration, however many micro-batches it has.
    """

    name = NET2
    _rho: float | None = None
    _rho_limit = float("inf")
    _earlier: Tensor | None = None
    _first_norm: float | None = None
    _latest_norm = 0.0

    def _iteration(self, turn: Turn) -> Record:
        step, labels = turn.step, self.tensor(self.batches.labels(turn.step))
        self.optimizer.zero_grad()
        later = DeferredGradients(self.part.parameters())
        answered: list[_Answered] = []
        rho = self._rho
        for rows in self.micro_batches:
            answered.append(self._micro_iteration(step, rows, labels[rows], rho, later))
            rho = answered[-1].rho
        # All messages are sent: from now on the iteration cannot be left half done.
        self._rho = rho
        later.form()
        y = torch.cat([micro.y for micro in answered])
        if self.loss.answer == "earlier":
            self._earlier = y
        if self._first_norm is None:
            self._first_norm = losses.mean_norm(y)
        logits = torch.cat([micro.logits for micro in answered])
        record = {"loss": sum(micro.loss for micro in answered),
                  "accuracy": _share_correct(logits, labels)}
        if self.settings.is_logged(step):
            record |= self._diagnosis(torch.cat([micro.z for micro in answered]), y)
        if self.name in turn.updates:
            self.optimizer.step(step)
        return record

    def _micro_iteration(self, step: int, rows: slice, labels: Tensor, rho: float | None,
                         later: DeferredGradients) -> _Answered:
        """Forward, answer and the gradient of y; the gradients of the weights wait in `later`.

        The loss of a micro-batch counts with its share of the batch.
        """
        z = self.recv(self.wire.activation, (len(labels), *self.wire.boundary_shape))
        self.expect(step, rows)
        with later:
            y = self.part.head(z)
            if not y.requires_grad:     # all weights of the head are frozen
                y.requires_grad_()
            y.retain_grad()
            if self.loss.answer != "y_star":        # needs no label: on its way at once
                self._send_answer(self._plain_answer(y.detach(), rows), y.detach(), step)
            logits = self.part.body(y)
        loss = functional.cross_entropy(logits, labels) * (len(labels) / self.batches.batch_size)
        loss.backward()
        assert y.grad is not None
        if self.loss.answer == "y_star":
            gradient = y.grad * self.batches.batch_size     # of each sample's own loss
            if rho is None or rows.start == 0:
                rho = self._penalty(z, y.detach(), gradient, step)
            self._send_answer(admm.y_update(y.detach(), gradient, rho), y.detach(), step)
        return _Answered(z, y.detach(), logits.detach(), loss.item(), rho)

    def _plain_answer(self, y: Tensor, rows: slice) -> Tensor:
        """What the losses without label information ask for."""
        if self.loss.answer == "earlier":
            return y if self._earlier is None else self._earlier[rows]
        return torch.zeros_like(y) if self.loss.answer == "zero" else y

    def _send_answer(self, answer: Tensor, y: Tensor, step: int) -> None:
        self.send(self.wire.answer, answer)
        if self.is_diagnosed(step):
            self.send(self.wire.diagnosis, y)

    def _penalty(self, z: Tensor, y: Tensor, gradient: Tensor, step: int) -> float:
        """rho of this iteration; net1 hears of it whenever it may have changed."""
        if not self.is_rho_due(step):
            assert self._rho is not None
            return self._rho
        if self._rho is None:
            self._rho_limit = admm.stability_limit(z, self._lr_net1(), _kernel_area(self.part.head))
            rho = self.settings.rho or min(admm.measured_rho(y, gradient), self._rho_limit)
        else:
            rho = admm.grown_rho(self._rho, self.settings.rho_growth, self._rho_limit)
        self.channel.send(self.wire.penalty, self.number(self.wire.penalty),
                          torch.tensor([rho], dtype=torch.float64))
        return rho

    def _lr_net1(self) -> float:
        return self.settings.resolved().lr_net1 or 0.0

    def _diagnosis(self, z: Tensor, y: Tensor) -> Record:
        self._latest_norm = losses.mean_norm(y)
        reason = collapse_reason(self.wire.compared, self._first_norm or 0.0, self._latest_norm)
        record = {"dual/norm_y": self._latest_norm, "dual/norm_z": losses.mean_norm(z),
                  "dual/grad_norm": gradient_norm(self.part), "dual/collapsed": bool(reason),
                  **dead_units("dual/dead_y", self.part.head, y)}
        return record | ({"dual/rho": self._rho} if self._rho is not None else {})

    def _test(self) -> Record:
        """Accuracy through conv3', and through net1's conv3 in its place ("merged")."""
        total, correct, merged = 0.0, 0.0, 0.0
        for index in range(self.batches.num_test_batches):
            labels = self.tensor(self.batches.test_labels(index))
            num = len(labels)
            z = self.recv(self.wire.test_activation, (num, *self.wire.boundary_shape))
            x = self.recv(self.wire.test_compared, (num, *self.wire.compared_shape))
            logits = self.part(z)
            total += functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += _share_correct(logits, labels) * num
            merged += _share_correct(self.part.body(x), labels) * num
        count = self.batches.num_test_samples
        return {"loss": total / count, "accuracy": correct / count,
                "dual/accuracy_merged": merged / count}

    def state_dict(self) -> dict[str, Any]:
        """The penalty, the answer that `misaligned` owes, and what the collapse is told by, too."""
        return {**super().state_dict(), "rho": self._rho, "rho_limit": self._rho_limit,
                "earlier": self._earlier, "first_norm": self._first_norm,
                "latest_norm": self._latest_norm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        self._rho, self._rho_limit = state["rho"], state["rho_limit"]
        earlier = state["earlier"]
        self._earlier = None if earlier is None else earlier.to(self.device)
        self._first_norm, self._latest_norm = state["first_norm"], state["latest_norm"]

    def facts(self) -> Record:
        reason = collapse_reason(self.wire.compared, self._first_norm or 0.0, self._latest_norm)
        return {"rho": self._rho, "collapsed": bool(reason), "collapse_reason": reason}


def _share_correct(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def _kernel_area(head: nn.Sequential) -> int:
    """k^2 of the first convolution in the head; 1 if it has none."""
    sizes = [module.kernel_size for module in head.modules()
             if isinstance(module, nn.modules.conv._ConvNd)]
    return math.prod(sizes[0]) if sizes else 1
