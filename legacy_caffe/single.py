"""The undivided net, as the baseline: forward, backward, update, test."""

from collections.abc import Callable
from typing import Any

from legacy_caffe.batches import Batches
from legacy_caffe.roles import correct, finite
from legacy_caffe.settings import Settings


def train_single(net: Any, batches: Batches, settings: Settings,
                 say: Callable[[str], None]) -> float:
    """Returns the last test accuracy, 0-1.  Raises Diverged.  `net` is as `nets.Single`."""
    accuracy = 0.0
    for step in range(settings.iterations):
        labels = batches.labels(step)
        loss, scores = net.forward(batches.images(step), labels)
        finite(loss, "single", step)
        if settings.is_logged(step):
            say(f"step {step + 1}/{settings.iterations}  loss {loss:.6g}  "
                f"accuracy {correct(scores, labels) / len(labels):.3f}")
        net.learn()
        if settings.is_evaluated(step):
            hits = sum(correct(net.scores(images), labels) for images, labels in batches.tests())
            accuracy = hits / len(batches.dataset.test_labels)
            say(f"test  {100 * accuracy:.2f} %")
    return accuracy
