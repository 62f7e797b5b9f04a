"""Training batches made on the device, against those that numpy makes; and shares of a batch."""

import numpy as np
import pytest
import torch

from dualnet.data.batches import Batches, Preprocessing
from dualnet.data.dataset import Dataset
from dualnet.data.on_device import DeviceBatches
from dualnet.errors import UserError

CPU = torch.device("cpu")


def dataset(kind=np.uint8, shape=(3, 9, 7)):
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (50, *shape)).astype(kind)
    labels = generator.integers(0, 10, 50)
    names = tuple(str(number) for number in range(10))
    return Dataset("toy", names, images, labels, images[:5], labels[:5])


CASES = [
    {}, {"mean": "channel"}, {"mean": "none", "scale": 1.0}, {"mirror": True}, {"crop": 2},
    {"window": 5}, {"mirror": True, "crop": 3, "window": 6, "bgr": True, "equalise": True}]


@pytest.mark.parametrize("changes", CASES, ids=lambda c: " ".join(c) or "plain")
def test_images_and_labels_are_the_same_bit_for_bit(changes):
    batches = Batches(dataset(), 8, 3, Preprocessing(**changes))
    on_device = DeviceBatches(batches, CPU)
    for step in (0, 7, 2):
        expected = batches.images(step)
        found = on_device.images(step)
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), expected)
        assert np.array_equal(on_device.labels(step).numpy(), batches.labels(step))
    assert not np.array_equal(batches.images(0), batches.images(1))


def test_samples_of_floating_numbers():
    batches = Batches(dataset(np.float32), 8, 3, Preprocessing(crop=1, mirror=True))
    assert np.array_equal(DeviceBatches(batches, CPU).images(4).numpy(), batches.images(4))


def test_shares_of_a_batch_join_to_the_whole_of_it():
    settings = Preprocessing(mirror=True, crop=2)
    whole = Batches(dataset(), 12, 3, settings)
    shares = [Batches(dataset(), 12, 3, settings, share=(k, 3)) for k in range(3)]
    for step in (0, 5):
        assert np.array_equal(np.concatenate([part.images(step) for part in shares]),
                              whole.images(step))
        assert np.array_equal(np.concatenate([part.labels(step) for part in shares]),
                              whole.labels(step))
    assert len(shares[0].images(0)) == 4
    assert np.array_equal(shares[1].test_images(0), whole.test_images(0))


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(UserError, match="a batch of 10 images cannot be shared by 3 processes"):
        Batches(dataset(), 10, 3, Preprocessing(), share=(0, 3))
