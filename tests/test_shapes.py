"""The built-in data set: the same for everyone, balanced, and nothing for a linear model."""

import hashlib
import inspect
import time

import numpy as np
import pytest

from dualnet.data import shapes
from dualnet.data.dataset import Dataset


@pytest.fixture(scope="module")
def drawn() -> Dataset:
    return shapes.load()


def sha256(dataset: Dataset) -> list[str]:
    arrays = dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]


def test_two_drawings_are_equal_to_the_byte(drawn):
    start = time.monotonic()
    again = inspect.unwrap(shapes.load)()    # the other tests share one drawing
    assert time.monotonic() - start < 30  # Guards against a hang; it takes about 2 s.
    assert sha256(again) == sha256(drawn)


def test_sizes_and_types_are_those_of_small_cifar10(drawn):
    assert drawn.train_images.shape == (8_000, 3, 32, 32)
    assert drawn.test_images.shape == (2_000, 3, 32, 32)
    assert drawn.train_images.dtype == drawn.test_images.dtype == np.uint8
    assert drawn.train_labels.dtype == drawn.test_labels.dtype == np.int64
    assert len(set(drawn.class_names)) == drawn.num_classes == 10


def test_classes_are_balanced(drawn):
    assert np.bincount(drawn.train_labels).tolist() == [800] * 10
    assert np.bincount(drawn.test_labels).tolist() == [200] * 10


def test_no_image_is_drawn_twice(drawn):
    images = np.concatenate([drawn.train_images, drawn.test_images])
    assert len({image.tobytes() for image in images}) == 10_000


def test_images_use_the_whole_range_of_levels(drawn):
    histogram = np.bincount(drawn.train_images.ravel(), minlength=256)
    assert (histogram > 0).all()
    # Clipped pixels are rare: shape and background keep away from black and white.
    assert histogram[0] + histogram[255] < 0.05 * histogram.sum()


def test_shapes_are_as_often_darker_as_brighter_than_their_background(drawn):
    # The middle of an image is the shape's or, in a ring, the background's.  Over 800 images of a
    # class its brightness averages to the middle of the scale, to within five standard errors.
    middles = drawn.train_images[:, :, 12:20, 12:20].mean(axis=(1, 2, 3))
    for label in range(10):
        of_class = middles[drawn.train_labels == label]
        assert abs(of_class.mean() - 127.5) < 5 * of_class.std() / np.sqrt(len(of_class))


def test_ridge_regression_finds_nothing_at_any_penalty(drawn):
    mean = drawn.train_images.mean(axis=0)
    train, test = (
        ((images - mean) / 64).reshape(len(images), -1).astype(np.float32)
        for images in (drawn.train_images, drawn.test_images)
    )
    targets = np.eye(10, dtype=np.float32)[drawn.train_labels] - 0.1
    # W = (X'X + penalty)^-1 X'Y.  The eigenvalues of X'X lie between 0.4 and 2e7; from one end
    # of these penalties to the other, accuracy on the training images falls from 0.74 to 0.16.
    gram, moments = train.T @ train, train.T @ targets
    for penalty in (1e0, 1e2, 1e4, 1e5, 1e6):
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram), dtype=np.float32), moments)
        assert ((test @ weights).argmax(axis=1) == drawn.test_labels).mean() < 0.30


def test_the_outline_alone_tells_the_class():
    # Each outline, drawn large on a fine grid, against every other: they share at most nine
    # tenths of what either covers, and each reaches at least three quarters of the unit circle.
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    covers = {name: outline(x, y) < 0 for name, outline in shapes.OUTLINES.items()}
    for name, cover in covers.items():
        radius = np.hypot(x, y)[cover].max()
        assert 0.75 < radius <= 1.05, name
        for other in set(covers) - {name}:
            shared = (cover & covers[other]).sum() / (cover | covers[other]).sum()
            assert shared < 0.9, (name, other)
