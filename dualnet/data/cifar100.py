"""CIFAR-100 with its 100 fine classes, from its official Python files.

    folder/cifar-100-python/train    training images
                            test     test images
                            meta     names of the classes

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from pathlib import Path

import numpy as np

from dualnet.data.dataset import Dataset
from dualnet.data.official import OfficialFile, md5_of
from dualnet.data.pickled import PickledFile, read_pickled
from dualnet.errors import DataError

PYTHON_FOLDER = "cifar-100-python"
IMAGE_SHAPE = (3, 32, 32)
NUM_CLASSES = 100
MAX_FILE_BYTES = 256 * 2**20  # the training file has 155 MB

OFFICIAL_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}

FILES = (
    OfficialFile(
        path="cifar-100-python.tar.gz",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        size=169_001_437,
        members=tuple(f"{PYTHON_FOLDER}/{name}" for name in OFFICIAL_MD5),
    ),
)

_REMEDY = (
    f"remove {PYTHON_FOLDER} and run 'dualnet data fetch cifar100', or unpack the official "
    "cifar-100-python.tar.gz again"
)


def present(folder: Path) -> bool:
    """Whether `folder` holds the folder of the files; says nothing of what is in it."""
    return (folder / PYTHON_FOLDER).is_dir()


def verify(folder: Path) -> dict[str, bool]:
    """For each of the three files, whether it is there with the official MD5 checksum."""
    return {
        name: md5_of(folder / PYTHON_FOLDER / name) == official
        for name, official in OFFICIAL_MD5.items()
    }


def load(folder: Path) -> Dataset:
    """Read the three files under `folder`.

    Returns images uint8 [N, 3, 32, 32] and fine labels int64 [N] in 0..99, officially 50,000 for
    training and 10,000 for test.

    Raises DataError if a file is missing, damaged or not what its name says.
    """
    files = folder / PYTHON_FOLDER
    if not files.is_dir():
        raise DataError(
            f"{files}: no such folder; run 'dualnet data fetch cifar100 --data-dir {folder}', or "
            f"unpack cifar-100-python.tar.gz into {folder}"
        )
    class_names = _read(files / "meta").names("fine_label_names", NUM_CLASSES)
    train_images, train_labels = _read_split(files / "train")
    test_images, test_labels = _read_split(files / "test")
    return Dataset(
        name="cifar100",
        class_names=class_names,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _read(path: Path) -> PickledFile:
    return read_pickled(path, "a file of CIFAR-100", _REMEDY, MAX_FILE_BYTES)


def _read_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and fine labels int64 [N]."""
    file = _read(path)
    images = file.images("data", IMAGE_SHAPE)
    return images, file.labels("fine_labels", NUM_CLASSES, len(images))
