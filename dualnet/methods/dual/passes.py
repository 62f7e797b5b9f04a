"""Forward and backward passes of one part, and the messages between them."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dualnet.cut import Part
from dualnet.data.batches import Batches
from dualnet.deferred import DeferredGradients
from dualnet.methods.dual.answering import Answering
from dualnet.methods.dual.asking import Asking
from dualnet.methods.dual.messages import Messages
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.nets.dropout import set_iteration


class Forward(NamedTuple):
    """A micro-batch that went forward.

    rows   which samples of the batch it has
    z      what came in: images, or the boundary activation of the role before
    y      of that, the activation of the head; None where it is computed later
    inner  y again, as the leaf at which the body's gradient is taken; None without a head
    out    what goes on: the next boundary activation, or the logits
    """

    rows: slice
    z: Tensor
    y: Tensor | None
    inner: Tensor | None
    out: Tensor


class Batch(NamedTuple):
    """The micro-batches of an iteration, and what their gradients need.

    labels  of the batch, for the last role
    later   forms the gradients of the weights once all answers have left
    copies  name -> the weights that the body went forward with, where those are copies
    """

    forwards: Iterable[Forward]
    labels: Tensor | None
    later: DeferredGradients
    copies: dict[str, nn.Parameter]


class Passes:
    """How a batch goes through the part of a role and back.

    answering, asking  what the role has of the boundaries before and behind its part, if it has
    micro_batches      the rows of each
    is_ahead           whether a batch goes forward before the update of the one before it
    """

    def __init__(self, settings: DualConfig, part: Part, answering: Answering | None,
                 asking: Asking | None, batches: Batches, messages: Messages,
                 micro_batches: list[slice], *, is_ahead: bool) -> None:
        self.part, self.answering, self.asking = part, answering, asking
        self.batches, self.messages, self.micro_batches = batches, messages, micro_batches
        self._seed, self._loss, self._is_ahead = settings.seed, LOSSES[settings.loss], is_ahead

    def forward(self, step: int) -> Batch:
        """Take in batch `step` and hand it on, micro-batch by micro-batch.

        Without a role behind, a micro-batch is taken when the one before it is answered.
        """
        copies: dict[str, nn.Parameter] = {}
        if self._is_ahead:      # an update will change the weights before the backward pass
            copies = {name: nn.Parameter(weight.detach().clone(), weight.requires_grad)
                      for name, weight in self.part.body.named_parameters()}
        waiting = [*self.part.parameters(), *copies.values()] if self.answering else []
        later = DeferredGradients(waiting)
        images = None if self.answering else self.messages.tensor(self.batches.images(step))
        labels = None if self.asking else self.messages.tensor(self.batches.labels(step))
        forwards = (self._forward_one(step, rows, images, later, copies)
                    for rows in self.micro_batches)
        return Batch(list(forwards) if self.asking else forwards, labels, later, copies)

    def _forward_one(self, step: int, rows: slice, images: Tensor | None,
                     later: DeferredGradients, copies: dict[str, nn.Parameter]) -> Forward:
        y = inner = None
        if self.answering:
            z = self.answering.recv(rows.stop - rows.start)
            self._expect(step, rows)
            if self._is_ahead:
                inner = _peek(self.part.head, z)
            else:
                y = self._head(z, step, rows, later)
                inner = y.detach()
            inner.requires_grad_()
        else:
            assert images is not None
            z = images[rows]
            self._expect(step, rows)
        with later:
            taken = z if inner is None else inner
            out = (functional_call(self.part.body, dict(copies), (taken,)) if copies
                   else self.part.body(taken))
        if self.asking:
            self.asking.send(out)
        return Forward(rows, z, y, inner, out)

    def _head(self, z: Tensor, step: int, rows: slice, later: DeferredGradients) -> Tensor:
        """y, which is on its way at once if the loss needs no label."""
        assert self.answering is not None
        with later:
            y: Tensor = self.part.head(z)
        self.answering.answer_at_once(y.detach(), step, rows)
        return y

    def backward(self, each: Forward, batch: Batch, step: int,
                  moves: bool) -> tuple[Forward, float]:
        """The loss of a micro-batch, which counts with its share of the batch; its gradients, and
        the answer that needs them."""
        z, rows, y, inner = each.z, each.rows, each.y, each.inner
        self._expect(step, rows)
        if self.answering and y is None:
            y = self._head(z, step, rows, batch.later)
        with batch.later:
            loss = self._loss_of(each, batch.labels, step) * (len(z) / self.batches.batch_size)
        if moves or self.asking is None or (self.answering and self._loss.answer == "y_star"):
            (loss * self._loss.weight if self.asking else loss).backward()
        if self.answering and y is not None and inner is not None and inner.grad is not None:
            self.answering.answer(z, y.detach(), inner.grad, step, rows)
            if y.requires_grad:     # unless all weights of the head are frozen
                y.backward(inner.grad)
        return Forward(rows, z, None if y is None else y.detach(), None,
                        each.out.detach()), loss.item()

    def _loss_of(self, each: Forward, labels: Tensor | None, step: int) -> Tensor:
        if self.asking:
            return self.asking.loss(each.out, step, each.rows)
        assert labels is not None
        return functional.cross_entropy(each.out, labels[each.rows])

    def form_gradients(self, batch: Batch) -> None:
        """Once all answers have left: give the weights the gradients that waited."""
        batch.later.form()
        weights = dict(self.part.body.named_parameters())
        for name, copy in batch.copies.items():
            weights[name].grad = copy.grad

    def _expect(self, step: int, rows: slice) -> None:
        """Before a forward pass: which samples of which batch come."""
        set_iteration(self.part, self._seed, step,
                      rows if len(self.micro_batches) > 1 else None)


def _peek(head: nn.Sequential, z: Tensor) -> Tensor:
    """What `head` gives for z; its statistics count z once it is evaluated in earnest."""
    buffers = {name: buffer.clone() for name, buffer in head.named_buffers()}
    with torch.no_grad():
        y: Tensor = functional_call(head, buffers, (z,))
    return y
