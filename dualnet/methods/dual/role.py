"""One process of the dual net: net1, net2, or one of a longer chain."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dualnet.channel import Channel
from dualnet.cut import Part
from dualnet.data.batches import Batches
from dualnet.methods.dual.answering import Answering
from dualnet.methods.dual.asking import Asking
from dualnet.methods.dual.figures import share_correct
from dualnet.methods.dual.messages import Messages
from dualnet.methods.dual.passes import Batch, Forward, Passes
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import Wire
from dualnet.methods.protocol import Record
from dualnet.optimizer import Optimizer, gradient_norm
from dualnet.schedules import SCHEDULES, Turn


class Role:
    """A part of the net between the boundaries before and behind it; net k of a chain of K does

        z_{k-1} -> y = head(z_{k-1}) -> z_k = body(y) -> x = tail(z_k)

    It answers the role before it with y or y* (`answering`; not net1, which takes images), and asks
    the one behind it for the target of x (`asking`; not net K, which knows the labels).  Its loss
    is E_k of x, or for net K the classification loss, and g of y* is the gradient of that loss:
    with tied copies g_n / N is the gradient of the whole net's loss at y.

    All micro-batches are on their way before the first answer is awaited, and their gradients add
    up to one update.  A role that answers does so before it forms the gradients of its weights.

    With schedule `async` each role but the last sends batch t + 1 before it has the answer of batch
    t, so its body goes forward and back with weights that lack one update.  Both copies of a shared
    layer are evaluated when that answer is there, with the weights of then, so equal copies stay
    equal: of the heads only what the body took is older.

    before, behind  the boundaries of the part, None where there is none
    lr              learning rate at step 0
    """

    def __init__(self, name: str, settings: DualConfig, part: Part, before: Wire | None,
                 behind: Wire | None, batches: Batches, channel: Channel, device: torch.device,
                 lr: float) -> None:
        self.name, self.settings, self.channel = name, settings, channel
        self.part = part.to(device, getattr(torch, settings.precision))
        self.batches, self.device = batches, device
        self.optimizer = Optimizer(self.part, settings, lr, settings.roles.index(name))
        self.loss = LOSSES[settings.loss]
        self.micro_batches = split_batch(batches.batch_size, settings.num_micro_batches)
        self._is_ahead = settings.schedule == "async" and behind is not None
        self.messages = Messages(settings, channel, device,
                                 keeps=len(self.micro_batches) > 1 or self._is_ahead)
        self.answering = (None if before is None else
                          Answering(settings, part.head, before, batches, self.messages))
        self.asking = (None if behind is None else
                       Asking(settings, part.tail, behind, batches, self.messages))
        self.passes = Passes(settings, part, self.answering, self.asking, batches, self.messages,
                             self.micro_batches, is_ahead=self._is_ahead)
        self._ahead: Batch | None = None
        self._done = 0
        self._buffers_before: dict[str, Tensor] = {}

    @property
    def is_whole(self) -> bool:
        """Whether no batch is on its way."""
        return self._ahead is None

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train from iteration `start`, one record per iteration."""
        self.channel.report(phase="train")
        for turn in self._turns(start):
            self.channel.report(step=turn.step)
            self.part.train()
            # Forward passes change the statistics of batch normalisation long before the update.
            self._buffers_before = {name: buffer.clone()
                                    for name, buffer in self.part.named_buffers()}
            record = self._iteration(turn)
            self._done, self._buffers_before = turn.step + 1, {}
            yield {"step": turn.step, "epoch": self.batches.epoch(turn.step + 1),
                   "lr": self.optimizer.lr(turn.step), **record}

    def _turns(self, start: int) -> Iterator[Turn]:
        settings = self.settings
        lengths = {"net1_steps": settings.net1_steps, "net2_steps": settings.net2_steps}
        return SCHEDULES[settings.schedule](settings.iterations, roles=settings.roles, start=start,
                                            **lengths if settings.schedule == "alternating" else {})

    # -- an iteration --------------------------------------------------------------------------

    def _iteration(self, turn: Turn) -> Record:
        step = turn.step
        batch = self._ahead or self.passes.forward(step)
        ahead = self.passes.forward(step + 1) if self._runs_ahead(step) else None
        self.optimizer.zero_grad()
        if self.asking:
            self.asking.begin(step)
        moves = self.name in turn.updates and (self.asking is None or self.loss.updates)
        done, total = [], 0.0
        for each in batch.forwards:
            each, loss = self.passes.backward(each, batch, step, moves)
            done.append(each)
            total += loss
        self.passes.form_gradients(batch)
        self.channel.flush()    # only now: a GPU has the gradients to form while its answer leaves
        # All messages are there and sent: from now on the iteration cannot be left half done.
        self._ahead = ahead
        record = {"loss": total, **self._finish(step, done, batch.labels)}
        if moves:
            self.optimizer.step(step)
        return record

    def _finish(self, step: int, done: list[Forward], labels: Tensor | None) -> Record:
        """What the iteration has to tell, and the history that it leaves behind."""
        record: Record = {}
        if labels is not None:
            record["accuracy"] = share_correct(torch.cat([each.out for each in done]), labels)
        if self.answering:
            y = torch.cat([each.y for each in done if each.y is not None])
            record |= self.answering.finish(step, torch.cat([each.z for each in done]), y)
        if self.asking:
            record |= self.asking.finish(step)
        if self.settings.is_logged(step):
            record["dual/grad_norm"] = gradient_norm(self.part)
        return record

    def _runs_ahead(self, step: int) -> bool:
        """Whether the next batch leaves before this one is answered: not across a checkpoint, so
        that a resumed run is the same, and not across a test."""
        settings = self.settings
        return (self._is_ahead and not settings.is_saved(step) and not settings.is_evaluated(step))

    # -- tests, checkpoints, facts -------------------------------------------------------------

    def evaluate(self) -> Record:
        """Score the test images together with the other roles, which must do the same now.

        They go through the chain twice: through conv3' of each boundary, and through conv3 of each
        ("merged").  The last role tells both accuracies.
        """
        self.channel.report(phase="test")
        self.part.eval()
        with torch.no_grad():
            score = self._test()
        self.channel.report(phase="train")
        return score

    def _test(self) -> Record:
        total, correct, merged = 0.0, 0.0, 0.0
        for index in range(self.batches.num_test_batches):
            labels = self.messages.tensor(self.batches.test_labels(index))
            if self.answering:
                z, x = self.answering.recv_test(len(labels))
                out, out_merged = self.part(z), self.part.body(x)
            else:
                out = out_merged = self.part(self.messages.tensor(self.batches.test_images(index)))
            if self.asking:
                self.asking.send_test(out, self.part.tail(out_merged))
                continue
            total += functional.cross_entropy(out, labels, reduction="sum").item()
            correct += share_correct(out, labels) * len(labels)
            merged += share_correct(out_merged, labels) * len(labels)
        count = self.batches.num_test_samples
        return {} if self.asking else {"loss": total / count, "accuracy": correct / count,
                                       "dual/accuracy_merged": merged / count}

    def state_dict(self) -> dict[str, Any]:
        """Weights under the names of the whole net's layers, grouped in head, body and tail.

        The buffers are those of before an iteration that is under way, or was left half done.
        """
        part = self.part.state_dict()
        part.update((name, buffer) for name, buffer in self._buffers_before.items()
                    if name in part)
        return {"part": part, "optimizer": self.optimizer.state_dict(), "done": self._done,
                "asking": self.asking and self.asking.state_dict(),
                "answering": self.answering and self.answering.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, before the first message."""
        self.part.load_state_dict(state["part"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._done = state["done"]
        self.messages.first = self._done * len(self.micro_batches)
        if self.asking:
            self.asking.load_state_dict(state["asking"])
        if self.answering:
            self.answering.load_state_dict(state["answering"])

    def facts(self) -> Record:
        """What a role that answers knows of its boundary."""
        return self.answering.facts() if self.answering else {}


def split_batch(batch_size: int, parts: int) -> list[slice]:
    """The rows of each of `parts` micro-batches, whose sizes differ by one at most.

    >>> split_batch(10, 4)
    [slice(0, 2, None), slice(2, 5, None), slice(5, 7, None), slice(7, 10, None)]
    """
    ends = [number * batch_size // parts for number in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]
