"""net1: conv1..pool2 and its own conv3, pulled towards what net2 answers."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call

from dualnet import losses
from dualnet.methods.dual import admm
from dualnet.methods.dual.role import Role, dead_units
from dualnet.methods.dual.wire import NET1
from dualnet.methods.protocol import Record
from dualnet.optimizer import gradient_norm
from dualnet.schedules import Turn


class Net1(Role):
    """Sends z, computes x = conv3(z) while net2 works, and steps towards the answer.

    With a pipeline all micro-batches are on their way before the first answer is awaited; their
    gradients add up to one update.  With schedule `async` the next batch is on its way, too, made
    by weights that lack the update which this answer will bring: staleness 1, in conv1..pool2 only,
    as x = conv3(z) is computed when its answer is there.
    """

    name = NET1
    _ahead: Sequence[Tensor] = ()
    _rho = 1.0
    _duals: Tensor | None = None

    def _iteration(self, turn: Turn) -> Record:
        step = turn.step
        fronts = self._ahead or self._fronts(step)
        self._ahead = self._fronts(step + 1) if self._runs_ahead(step) else ()
        rho = self._receive_rho() if self.is_rho_due(step) else self._rho
        self.optimizer.zero_grad()
        loss, xs, ys = 0.0, [], []
        for rows, z in zip(self.micro_batches, fronts, strict=True):
            x = self.part.tail(z)
            answer = self.recv(self.wire.answer, tuple(x.shape))
            if self.is_diagnosed(step):
                ys.append(self.recv(self.wire.diagnosis, tuple(x.shape)))
            share = len(x) / self.batches.batch_size
            loss += self._backward(self._boundary_loss(x, answer, rho, step, rows) * share, turn)
            xs.append(x.detach())
        # All messages are here: from now on the iteration cannot be left half done.
        self._rho, self.is_whole = rho, not self._ahead
        if self._moves_in(turn):
            self.optimizer.step(step)
        record: Record = {"loss": loss}
        if ys:
            x, y = torch.cat(xs), torch.cat(ys)
            if self.settings.dual == "sample":
                self._update_duals(x, y, step)
            record |= self._diagnosis(x, y)
        return record

    def _fronts(self, step: int) -> list[Tensor]:
        """z of each micro-batch, sent as soon as it is ready."""
        images = self.tensor(self.batches.images(step))
        fronts = []
        for rows in self.micro_batches:
            self.expect(step, rows)
            z = self._front(images[rows])
            self.send(self.wire.activation, z)
            fronts.append(z)
        return fronts

    def _front(self, images: Tensor) -> Tensor:
        if self.settings.schedule != "async":
            return cast(Tensor, self.part(images))
        # Copies, since an update will change the weights in place before the backward pass.
        weights = {name: weight.clone() for name, weight in self.part.named_parameters()}
        return cast(Tensor, functional_call(self.part, weights, (images,)))

    def _runs_ahead(self, step: int) -> bool:
        """Whether the next batch leaves before this one is answered: not across a checkpoint, so
        that a resumed run is the same, and not across a test."""
        settings = self.settings
        return (settings.schedule == "async" and not settings.is_saved(step)
                and not settings.is_evaluated(step))

    def _receive_rho(self) -> float:
        number = self.number(self.wire.penalty)
        return self.channel.recv(self.wire.penalty, number, (1,), torch.float64).item()

    def _boundary_loss(self, x: Tensor, answer: Tensor, rho: float, step: int,
                       rows: slice) -> Tensor:
        if self.loss.answer == "y_star":
            if self.settings.dual == "sample":
                answer = answer - self._duals_of(x, step)[rows]
            return admm.penalty(x, answer, rho)
        return losses.BOUNDARY_LOSSES[self.loss.function](x, answer, self.settings.denominator)

    def _moves_in(self, turn: Turn) -> bool:
        return self.name in turn.updates and self.loss.updates

    def _backward(self, loss: Tensor, turn: Turn) -> float:
        if self._moves_in(turn):
            (loss * self.loss.weight).backward()
        return loss.item()

    def _duals_of(self, x: Tensor, step: int) -> Tensor:
        """u of the samples in this batch; zero for a sample that was never seen."""
        if self._duals is None:
            num_samples = self.batches.num_samples
            self._duals = torch.zeros((num_samples, *x.shape[1:]), dtype=x.dtype)
        return self._duals[self.batches.sample_ids(step)].to(self.device)

    def _update_duals(self, x: Tensor, y: Tensor, step: int) -> None:
        assert self._duals is not None
        u = admm.dual_update(self._duals_of(x, step), x, y)
        self._duals[self.batches.sample_ids(step)] = u.cpu()

    def _diagnosis(self, x: Tensor, y: Tensor) -> Record:
        return {"dual/norm_x": losses.mean_norm(x),
                "dual/residual": losses.relative_residual(x, y),
                "dual/grad_norm": gradient_norm(self.part),
                **dead_units("dual/dead_x", self.part.tail, x)}

    def _test(self) -> Record:
        for index in range(self.batches.num_test_batches):
            z = self.part(self.tensor(self.batches.test_images(index)))
            self.send(self.wire.test_activation, z)
            self.send(self.wire.test_compared, self.part.tail(z))
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The penalty and the dual variables too; without those, None."""
        return {**super().state_dict(), "rho": self._rho, "duals": self._duals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict(state)
        self._rho, self._duals = state["rho"], state["duals"]
