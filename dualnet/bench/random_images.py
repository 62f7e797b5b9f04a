"""Images of CIFAR-10's size with nothing to be learnt: speed does not depend on what they show."""

import numpy as np

from dualnet.data.dataset import Dataset

SHAPE, CLASSES = (3, 32, 32), 10


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 [N, C, H, W] and labels [N] of all classes in turn."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, *SHAPE), dtype=np.uint8), np.arange(count) % CLASSES


def dataset(count: int) -> Dataset:
    """`count` of them to train on; the first ones are the test images too."""
    some, labels = images(count)
    names = tuple(map(str, range(CLASSES)))
    return Dataset("random", names, some, labels, some[:CLASSES], labels[:CLASSES])
