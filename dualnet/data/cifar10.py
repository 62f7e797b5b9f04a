"""CIFAR-10 from its official Python batches, read without executing anything they say.

    folder/cifar-10-batches-py/data_batch_1 .. data_batch_5    training images
                               test_batch                      test images
                               batches.meta                    names of the classes

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from pathlib import Path

import numpy as np

from dualnet.data.dataset import Dataset
from dualnet.data.official import OfficialFile, md5_of
from dualnet.data.pickled import PickledFile, read_pickled
from dualnet.errors import DataError

BATCHES_FOLDER = "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_FILE = "test_batch"
META_FILE = "batches.meta"
IMAGE_SHAPE = (3, 32, 32)
NUM_CLASSES = 10
MAX_FILE_BYTES = 64 * 2**20  # an official batch has 31 MB

OFFICIAL_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    TEST_FILE: "40351d587109b95175f43aff81a1287e",
    META_FILE: "5ff9c542aee3614f3951f8cda6e48888",
}

FILES = (
    OfficialFile(
        path="cifar-10-python.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        size=170_498_071,
        members=tuple(f"{BATCHES_FOLDER}/{name}" for name in OFFICIAL_MD5),
    ),
)

_REMEDY = (
    f"remove {BATCHES_FOLDER} and run 'dualnet data fetch cifar10', or unpack the official "
    "cifar-10-python.tar.gz again"
)


def present(folder: Path) -> bool:
    """Whether `folder` holds the folder of the batches; says nothing of what is in it."""
    return (folder / BATCHES_FOLDER).is_dir()


def verify(folder: Path) -> dict[str, bool]:
    """For each of the seven files, whether it is there with the official MD5 checksum.

    A file that differs may still be good: other packagings of CIFAR-10 load as well.
    """
    return {
        name: md5_of(folder / BATCHES_FOLDER / name) == official
        for name, official in OFFICIAL_MD5.items()
    }


def load(folder: Path) -> Dataset:
    """Read the seven files under `folder`; training images come in the order of the batches.

    Returns images uint8 [N, 3, 32, 32] and labels int64 [N] in 0..9, officially 50,000 for
    training and 10,000 for test.

    Raises DataError if a file is missing, damaged or not what its name says.
    """
    batches = folder / BATCHES_FOLDER
    if not batches.is_dir():
        raise DataError(
            f"{batches}: no such folder; run 'dualnet data fetch cifar10 --data-dir {folder}', or "
            f"unpack cifar-10-python.tar.gz into {folder}"
        )
    class_names = _read(batches / META_FILE).names("label_names", NUM_CLASSES)
    train = [_read_batch(batches / name) for name in TRAIN_FILES]
    test_images, test_labels = _read_batch(batches / TEST_FILE)
    return Dataset(
        name="cifar10",
        class_names=class_names,
        train_images=np.concatenate([images for images, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test_images=test_images,
        test_labels=test_labels,
    )


def _read(path: Path) -> PickledFile:
    return read_pickled(path, "a batch of CIFAR-10", _REMEDY, MAX_FILE_BYTES)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one batch file."""
    batch = _read(path)
    images = batch.images("data", IMAGE_SHAPE)
    return images, batch.labels("labels", NUM_CLASSES, len(images))
