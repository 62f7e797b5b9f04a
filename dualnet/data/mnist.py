"""MNIST from its idx files, plain or gzipped, in `MNIST/raw` or directly in the folder.

    folder/MNIST/raw/train-images-idx3-ubyte[.gz]   train-labels-idx1-ubyte[.gz]
                     t10k-images-idx3-ubyte[.gz]    t10k-labels-idx1-ubyte[.gz]

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from dualnet.data.dataset import Dataset
from dualnet.data.official import OfficialFile, md5_of
from dualnet.errors import DataError

RAW_FOLDER = "MNIST/raw"
SPLITS = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
NUM_CLASSES = 10
UNSIGNED_BYTES = 0x0800  # the magic number is this and the number of axes
MAX_FILE_BYTES = 64 * 2**20  # the training images have 47 MB

# Of the unpacked files: every packing of them is as good as the official one.
OFFICIAL_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_SIZES = {
    "train-images-idx3-ubyte": 9_912_422,
    "train-labels-idx1-ubyte": 28_881,
    "t10k-images-idx3-ubyte": 1_648_877,
    "t10k-labels-idx1-ubyte": 4_542,
}

FILES = tuple(
    OfficialFile(
        path=f"{RAW_FOLDER}/{name}.gz",
        url=f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",
        md5=md5,
        size=_SIZES[name],
        gzipped=True,
    )
    for name, md5 in OFFICIAL_MD5.items()
)


def present(folder: Path) -> bool:
    """Whether `folder` holds all four files; says nothing of what is in them."""
    return all(_find(folder, name) for name in OFFICIAL_MD5)


def verify(folder: Path) -> dict[str, bool]:
    """For each of the four files, whether it is there with the official content."""
    found = {name: _find(folder, name) for name in OFFICIAL_MD5}
    return {
        name: path is not None
        and md5_of(path, gzipped=path.suffix == ".gz", max_bytes=MAX_FILE_BYTES)
        == OFFICIAL_MD5[name]
        for name, path in found.items()
    }


def load(folder: Path) -> Dataset:
    """Read the four files under `folder`.

    Returns images uint8 [N, 1, 28, 28] and labels int64 [N] in 0..9, officially 60,000 for
    training and 10,000 for test.

    Raises DataError if a file is missing, damaged or not what its name says.
    """
    train_images, train_labels = _read_split(folder, SPLITS["train"])
    test_images, test_labels = _read_split(folder, SPLITS["test"])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{folder}: training images are {_sides(train_images)} and test images "
            f"{_sides(test_images)}; they must be alike, so take both from MNIST"
        )
    return Dataset(
        name="mnist",
        class_names=tuple(str(digit) for digit in range(NUM_CLASSES)),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 1, H, W] and labels int64 [N]."""
    images_path, labels_path = (_required(folder, f"{split}-{kind}") for kind in (IMAGES, LABELS))
    images, labels = _read_idx(images_path, num_axes=3), _read_idx(labels_path, num_axes=1)
    if len(images) != len(labels):
        raise _damaged(labels_path, f"{len(labels)} labels for {len(images)} images")
    if labels.max() >= NUM_CLASSES:
        raise _damaged(labels_path, f"labels should be in 0..9, found {labels.max()}")
    return images[:, np.newaxis], labels.astype(np.int64)


def _read_idx(path: Path, num_axes: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file: magic number, length of each axis, elements."""
    raw = _read(path)
    start = 4 * (1 + num_axes)
    if len(raw) < start:
        raise _damaged(path, f"a header has {start} bytes, found {len(raw)}")
    magic, *lengths = struct.unpack(f">{1 + num_axes}I", raw[:start])
    if magic != UNSIGNED_BYTES + num_axes:
        raise _damaged(
            path, f"should begin with 0x{UNSIGNED_BYTES + num_axes:08x}, found 0x{magic:08x}"
        )
    if 0 in lengths:
        raise _damaged(path, f"an axis has no length: {lengths}")
    if math.prod(lengths) != len(raw) - start:
        raise _damaged(
            path, f"should hold {math.prod(lengths)} elements, found {len(raw) - start}"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(lengths).copy()


def _read(path: Path) -> bytes:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            # One byte more than allowed tells a file that is too large, packed or not.
            raw = file.read(MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"not a whole gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if len(raw) > MAX_FILE_BYTES:
        raise _damaged(path, f"larger than {MAX_FILE_BYTES // 2**20} MB")
    return raw


def _find(folder: Path, name: str) -> Path | None:
    """The file `name`, wherever and however packed it is; None if there is none."""
    for place in (folder / RAW_FOLDER, folder):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _required(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise DataError(
            f"{folder / RAW_FOLDER}: there is no {name}.gz; run 'dualnet data fetch mnist "
            f"--data-dir {folder}', or put the four files of MNIST there"
        )
    return path


def _sides(images: np.ndarray) -> str:
    return "x".join(str(length) for length in images.shape[2:])


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: not a file of MNIST: {found}; remove it and run 'dualnet data fetch mnist'"
    )
