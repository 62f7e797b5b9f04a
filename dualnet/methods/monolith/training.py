"""The stages of a MonolithNet in training."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet import nets, schedules, seeding
from dualnet.config import TrainConfig
from dualnet.data.batches import Batches
from dualnet.evaluate import score
from dualnet.methods.monolith.settings import HEAD, MONOLITH, MonolithConfig, Span, Stage
from dualnet.nets.initial import draw_weights
from dualnet.nets.monolith import NEURONS, Trunks, average_proxies, head_of, proxy_of
from dualnet.optimizer import Optimizer
from dualnet.supervised import Record, Supervised


class Staged(Supervised):
    """The training of one stage, at the rate of that stage.

    settings  those of the stage, see `MonolithConfig.of_stage`
    span      its iterations, counted through all stages
    """

    def __init__(self, role: str, settings: MonolithConfig, stage: Stage, span: Span,
                 net: nn.Sequential, batches: Batches, device: torch.device) -> None:
        self._rate = schedules.milestones(stage.lr, factor=stage.factor, at=span.milestones(stage))
        super().__init__(role, MONOLITH, settings, net, batches, device)

    def make_optimizer(self, settings: TrainConfig) -> Optimizer:
        """SGD at the rate of the stage."""
        return Optimizer(self.net, settings, settings.lr, schedule=self._rate)


def subset_of(settings: MonolithConfig, role: str, num_images: int) -> np.ndarray:
    """Numbers of the training images of a trunk, int64, in ascending order.

    The paper trains each on "a randomly selected subset of training data" (section 3, stage 1).
    """
    order = seeding.permutation(settings.seed, f"subset/{role}", 0, num_images)
    return np.sort(order[:settings.subset_size(num_images)])


def trunk_net(settings: MonolithConfig, role: str, input_shape: tuple[int, ...],
              classes: int) -> nn.Sequential:
    """A trunk with its proxy layer before any training; its weights are its own."""
    net = nets.build(settings.trunk_net, input_shape, classes)
    draw_weights(net, settings.seed, f"/{role}")
    return net


def head_net(settings: MonolithConfig, trunks: Sequence[nn.Sequential],
             classes: int) -> nn.Sequential:
    """The head before any training; a linear one begins as the mean of the proxy layers."""
    features = sum(proxy_of(trunk).in_features for trunk in trunks)
    head = head_of(features, classes, settings.neurons)
    draw_weights(head, settings.seed)
    if settings.neurons == 0:
        average_proxies(head, trunks)
    return head


def whole_net(settings: MonolithConfig, net: nn.Sequential) -> nn.Sequential:
    """The whole net of the settings, made of the one that its name stands for."""
    if settings.neurons == NEURONS:
        return net
    first, last = net.get_submodule("fc1"), net.get_submodule("fc2")
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    head = head_of(first.in_features, last.out_features, settings.neurons)
    return nn.Sequential(OrderedDict([("trunks", net.get_submodule("trunks")),
                                      *head.named_children()]))


class Head(Staged):
    """Stage 2: the head in training, the trunks at rest, statistics of normalisation included.

    What the trunks make of an image depends on nothing else, so it may be kept, see `keep`.

    trunks  trained alone, with their proxy layers
    """

    def __init__(self, settings: MonolithConfig, stage: Stage, span: Span,
                 trunks: Sequence[nn.Sequential], batches: Batches, device: torch.device) -> None:
        super().__init__(HEAD, settings, stage, span,
                         head_net(settings, trunks, batches.dataset.num_classes), batches, device)
        for trunk in trunks:
            trunk.to(device, self.dtype).requires_grad_(False)
        self.trunks = Trunks(trunks).eval()
        self._kept: np.ndarray | None = None
        self.averages: Record = {}

    @property
    def num_features(self) -> int:
        """How many numbers the head reads of an image."""
        first = next(self.net.children())
        assert isinstance(first, nn.Linear)
        return first.in_features

    @torch.no_grad()
    def features(self) -> Iterator[np.ndarray]:
        """What the trunks make of all training images in their order, without augmentation,
        [n, features] each."""
        size = self.batches.batch_size
        for first in range(0, self.batches.num_samples, size):
            images = self.batches.unaugmented(slice(first, first + size))
            yield self.trunks(self._images(images)).cpu().numpy()

    def keep(self, features: np.ndarray) -> None:
        """From now on read the features of training images here, [N, features]."""
        self._kept = features

    def forward(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        labels = torch.as_tensor(self.batches.labels(step)).to(self.device)
        logits = self.net(self._batch(step))
        return logits, labels, functional.cross_entropy(logits, labels)

    @torch.no_grad()
    def _batch(self, step: int) -> Tensor:
        if self._kept is not None:
            return self._images(self._kept[self.batches.sample_ids(step)])
        features: Tensor = self.trunks(self._images(self.batches.images(step)))
        return features

    def evaluate(self) -> Record:
        """Loss and accuracy of the whole net on the test images, with those of the trunks and of
        their means beside it."""
        net = nn.Sequential(self.trunks, self.net)
        return {**score(net, self.batches, self.device, self.dtype), **self.averages}

    def compare(self, trunks: Sequence[nn.Sequential]) -> None:
        """Score the trunks, each alone and averaged; the figures go into each test."""
        found = averages(trunks, self.batches, self.device, self.dtype)
        self.averages = {f"{MONOLITH}/{name}": value for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights and momentum of the head, and how the trunks scored."""
        return {**super().state_dict(), "averages": dict(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.averages = dict(state["averages"])


@torch.no_grad()
def averages(trunks: Sequence[nn.Module], batches: Batches, device: torch.device,
             dtype: torch.dtype) -> dict[str, float]:
    """Test accuracies (0-1) of each trunk, of the mean of their logits and of the mean of their
    probabilities: what joining them without any training gives."""
    correct: dict[str, int] = {}
    for trunk in trunks:
        trunk.eval()
    for index in range(batches.num_test_batches):
        labels = torch.as_tensor(batches.test_labels(index)).to(device)
        images = torch.as_tensor(batches.test_images(index)).to(device, dtype)
        logits = torch.stack([trunk(images) for trunk in trunks]).double()
        answers = {f"accuracy_trunk{number}": each for number, each in enumerate(logits, start=1)}
        answers["accuracy_mean_logits"] = logits.mean(0)
        answers["accuracy_mean_probabilities"] = logits.softmax(2).mean(0)
        for name, each in answers.items():
            correct[name] = correct.get(name, 0) + int((each.argmax(1) == labels).sum())
    return {name: count / batches.num_test_samples for name, count in correct.items()}
