"""Figure 8.1 as a loop: what net1 and net2 do in an iteration, and what crosses between them.

The messages are those of `dualnet net1` and `dualnet net2`, so either side may be the port:

    channel      from  to    numbered   array
    pool2        net1  net2  iteration  [N, *boundary]  output of pool2
    conv3p       net2  net1  iteration  [N, *compared]  what net1's loss compares conv3 with
    conv3p_y     net2  net1  0, 1, ...  [N, *compared]  conv3' itself, on logged iterations
    test_pool2   net1  net2  0, 1, ...  [b, *boundary]  of a batch of test images
    test_conv3   net1  net2  0, 1, ...  [b, *compared]  of a batch of test images
    rho          net2  net1             never sent: a penalty is the port's own

A net is whatever has the methods of `Net1` or `Net2`; `nets.py` has them for Caffe.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np

from legacy_caffe.batches import Batches
from legacy_caffe.settings import LOSSES, Settings
from shared_fs import Exchange

ROLES = ("net1", "net2")
CHANNELS = {name: ("net1", "net2") for name in ("pool2", "test_pool2", "test_conv3")}
CHANNELS |= {name: ("net2", "net1") for name in ("conv3p", "conv3p_y", "rho")}

Say = Callable[[str], None]


class Diverged(Exception):
    """A loss stopped being finite."""


class Net1(Protocol):
    """conv1..conv3 and the distance of conv3 to what net2 sent."""

    def forward(self, images: np.ndarray) -> np.ndarray:
        """pool2 of images [n, C, H, W], float32 [n, *boundary]; n may be less than a batch."""
        ...

    def compared(self) -> np.ndarray:
        """conv3 of the images of the last `forward`, float32 [n, *compared]."""
        ...

    def loss(self, answer: np.ndarray) -> float:
        """E of the last `forward`, a whole batch, with `answer` [N, *compared] as conv3p."""
        ...

    def learn(self) -> None:
        """Backward pass of the last `loss`, and one update of the weights."""
        ...


class Net2(Protocol):
    """conv3p..fc6 and the softmax loss."""

    boundary: tuple[int, ...]
    compared: tuple[int, ...]

    def forward(self, boundary: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss of a batch [N, *boundary] with labels [N], and its scores [N, K]."""
        ...

    def answer(self) -> np.ndarray:
        """conv3p of the last `forward`, float32 [N, *compared]."""
        ...

    def learn(self) -> None:
        """Backward pass of the last `forward`, and one update of the weights."""
        ...

    def scores(self, boundary: np.ndarray) -> np.ndarray:
        """fc6 of test activations [n, *boundary], [n, K]."""
        ...

    def scores_of_compared(self, compared: np.ndarray) -> np.ndarray:
        """fc6 of test activations [n, *compared] in the place of conv3p, [n, K]."""
        ...


class Link:
    """Numbered messages in the number format of the messages, and the time spent waiting."""

    def __init__(self, exchange: Exchange, message_dtype: str) -> None:
        self.exchange, self._dtype = exchange, np.dtype(message_dtype)
        self._numbers: Counter[str] = Counter()
        self._started = time.monotonic()

    def send(self, channel: str, array: np.ndarray) -> None:
        """Send the next message of a channel."""
        self.exchange.send(channel, self._next(channel), array.astype(self._dtype, order="C"))

    def recv(self, channel: str, shape: tuple[int, ...]) -> np.ndarray:
        """The next message of a channel, float32 [*shape]."""
        message = np.empty(shape, self._dtype)
        self.exchange.recv(channel, self._next(channel), message)
        return message.astype(np.float32, copy=False)

    def finish(self, iterations: int) -> None:
        """Tell what this role took; net2 of dualnet puts it into its summary."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        self.exchange.report(phase="done", step=iterations, pid=os.getpid(),
                             wait_share=self.exchange.wait_s / elapsed,
                             bytes=self.exchange.bytes_sent)

    def _next(self, channel: str) -> int:
        self._numbers[channel] += 1
        return self._numbers[channel] - 1


def train_net1(link: Link, net: Net1, batches: Batches, settings: Settings, say: Say) -> None:
    """The left half of figure 8.1.  Raises Diverged and the errors of shared_fs."""
    link.exchange.report(phase="train")
    for step in range(settings.iterations):
        link.exchange.report(step=step)
        link.send("pool2", net.forward(batches.images(step)))
        conv3 = net.compared()
        answer = link.recv("conv3p", conv3.shape)
        loss = finite(net.loss(answer), "net1", step)
        if settings.updates("net1", step):
            net.learn()
        if settings.is_logged(step):
            true_answer = link.recv("conv3p_y", conv3.shape)
            residual = norm(conv3 - true_answer) / max(norm(true_answer), 1e-30)
            say(f"step {step + 1}/{settings.iterations}  loss1 {loss:.6g}  "
                f"|conv3| {mean_norm(conv3):.4g}  |conv3-conv3'|/|conv3'| {residual:.4g}")
        if settings.is_evaluated(step):
            link.exchange.report(phase="test")
            for images, _ in batches.tests():
                link.send("test_pool2", net.forward(images))
                link.send("test_conv3", net.compared())
            link.exchange.report(phase="train")
    link.finish(settings.iterations)


def train_net2(link: Link, net: Net2, batches: Batches, settings: Settings,
               say: Say) -> dict[str, float]:
    """The right half of figure 8.1; returns the last test's accuracies by name, 0-1.

    Raises Diverged and the errors of shared_fs.
    """
    link.exchange.report(phase="train")
    earlier: np.ndarray | None = None
    scores: dict[str, float] = {}
    for step in range(settings.iterations):
        link.exchange.report(step=step)
        labels = batches.labels(step)
        boundary = link.recv("pool2", (len(labels), *net.boundary))
        loss, logits = net.forward(boundary, labels)
        finite(loss, "net2", step)
        y = net.answer()
        link.send("conv3p", what_is_sent(LOSSES[settings.loss].answer, y, earlier))
        if settings.is_logged(step):
            link.send("conv3p_y", y)
            share = correct(logits, labels) / len(labels)
            say(f"step {step + 1}/{settings.iterations}  loss2 {loss:.6g}  "
                f"accuracy {share:.3f}  |conv3'| {mean_norm(y):.4g}")
        earlier = y.copy()
        if settings.updates("net2", step):
            net.learn()
        if settings.is_evaluated(step):
            link.exchange.report(phase="test")
            scores = _test(link, net, batches)
            link.exchange.report(phase="train")
            say(f"test  {100 * scores['conv3p']:.2f} % through conv3' of net2, "
                f"{100 * scores['conv3']:.2f} % through conv3 of net1")
    link.finish(settings.iterations)
    return scores


def what_is_sent(rule: str, y: np.ndarray, earlier: np.ndarray | None) -> np.ndarray:
    """What goes to net1 as conv3p: y, zeros, or the y of the batch before (y itself at first)."""
    if rule == "zero":
        return np.zeros_like(y)
    return earlier if rule == "earlier" and earlier is not None else y


def _test(link: Link, net: Net2, batches: Batches) -> dict[str, float]:
    """Share of test images that are classified correctly through conv3' and through conv3."""
    hits = Counter[str]()
    for _, labels in batches.tests():
        boundary = link.recv("test_pool2", (len(labels), *net.boundary))
        compared = link.recv("test_conv3", (len(labels), *net.compared))
        hits["conv3p"] += correct(net.scores(boundary), labels)
        hits["conv3"] += correct(net.scores_of_compared(compared), labels)
    return {name: hits[name] / len(batches.dataset.test_labels) for name in ("conv3p", "conv3")}


def correct(scores: np.ndarray, labels: np.ndarray) -> int:
    """How many rows of scores [n, K] give the label, as Caffe's Accuracy layer counts.

    A class that ties with the true one counts against it: equal scores are wrong, not lucky.
    """
    own = scores[np.arange(len(labels)), labels][:, np.newaxis]
    return int(((scores >= own).sum(axis=1) == 1).sum())


def norm(array: np.ndarray) -> float:
    """Euclidean norm over all axes."""
    return float(np.linalg.norm(array.ravel()))


def mean_norm(array: np.ndarray) -> float:
    """Mean over samples of the norm of each."""
    return float(np.linalg.norm(array.reshape(len(array), -1), axis=1).mean())


def finite(loss: float, role: str, step: int) -> float:
    """`loss`.  Raises Diverged if it is not finite."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss of {role} in iteration {step + 1} is {loss}; take a smaller "
                       "--lr for the role whose norms grow")
    return loss

