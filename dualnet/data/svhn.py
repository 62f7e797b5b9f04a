"""SVHN, house numbers cropped to their digits (format 2), from its official MATLAB files.

    folder/train_32x32.mat    training images
           test_32x32.mat     test images

Netzer, Wang, Coates, Bissacco, Wu and Ng 2011, "Reading digits in natural images with
unsupervised feature learning".
"""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dualnet.data.dataset import Dataset
from dualnet.data.official import OfficialFile, md5_of
from dualnet.errors import DataError

TRAIN_FILE, TEST_FILE = "train_32x32.mat", "test_32x32.mat"
SIDE = 32
NUM_CLASSES = 10
MAX_FILE_BYTES = 512 * 2**20  # the training images have 182 MB
MAX_IMAGES = 2**20

OFFICIAL_MD5 = {
    TRAIN_FILE: "e26dedcc434d2e4c54c9b2d4a06d8373",
    TEST_FILE: "eb5a983be6a315427106f1b164d9cef3",
}
_SIZES = {TRAIN_FILE: 182_040_794, TEST_FILE: 64_275_384}

FILES = tuple(
    OfficialFile(
        path=name,
        url=f"http://ufldl.stanford.edu/housenumbers/{name}",
        md5=md5,
        size=_SIZES[name],
    )
    for name, md5 in OFFICIAL_MD5.items()
)


def present(folder: Path) -> bool:
    """Whether `folder` holds both files; says nothing of what is in them."""
    return all((folder / name).is_file() for name in OFFICIAL_MD5)


def verify(folder: Path) -> dict[str, bool]:
    """For each of the two files, whether it is there with the official MD5 checksum."""
    return {name: md5_of(folder / name) == official for name, official in OFFICIAL_MD5.items()}


def load(folder: Path) -> Dataset:
    """Read the two files under `folder`.

    Returns images uint8 [N, 3, 32, 32] and labels int64 [N] in 0..9, each label its digit,
    officially 73,257 for training and 26,032 for test.

    Raises DataError if a file is missing, damaged or not what its name says.
    """
    for name in OFFICIAL_MD5:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder}: there is no {name}; run 'dualnet data fetch svhn --data-dir {folder}', "
                "or put both files of SVHN there"
            )
    train_images, train_labels = _read_split(folder / TRAIN_FILE)
    test_images, test_labels = _read_split(folder / TEST_FILE)
    return Dataset(
        name="svhn",
        class_names=tuple(str(digit) for digit in range(NUM_CLASSES)),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _read_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one file."""
    # Its headers first: a small file can announce, and unpack to, any number of bytes.
    headers = {name: (shape, kind) for name, shape, kind in _ask_scipy("whosmat", path)}
    match headers.get("X"):
        case ((int(height), int(width), 3, int(number)), "uint8") if (
            height == width == SIDE and 0 < number <= MAX_IMAGES
        ):
            pass
        case found:
            raise _damaged(path, f"X should be uint8 ({SIDE}, {SIDE}, 3, N), found {found}")
    if headers.get("y", (None, ""))[0] != (number, 1):
        raise _damaged(path, f"y should be ({number}, 1) labels, found {headers.get('y')}")
    content = _ask_scipy("loadmat", path, variable_names=("X", "y"))
    images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))
    return images, _digits(content["y"].ravel(), path)


def _digits(stored: np.ndarray, path: Path) -> np.ndarray:
    """Digits int64 [N] of the labels 1..10, where 10 stands for the digit 0."""
    if stored.dtype.kind not in "iuf":
        raise _damaged(path, f"y should hold numbers, found {stored.dtype}")
    with np.errstate(invalid="ignore"):  # what is not a number differs from any integer
        labels = stored.astype(np.int64)
    wrong = stored[(labels != stored) | (labels < 1) | (labels > NUM_CLASSES)]
    if len(wrong):
        raise _damaged(path, f"labels should be whole numbers in 1..10, found {wrong[0]}")
    digits: np.ndarray = labels % NUM_CLASSES
    return digits


def _ask_scipy(function: str, path: Path, **options: Any) -> Any:
    """What a function of scipy.io makes of the file; DataError whatever it stumbles over."""
    # scipy takes a third of a second to import, and only SVHN needs it.
    import scipy.io

    with _open(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
            raise _damaged(path, f"larger than {MAX_FILE_BYTES // 2**20} MB")
        try:
            return getattr(scipy.io, function)(file, **options)
        except Exception as error:
            # Damage shows as almost any exception, OSError among them.
            raise _damaged(path, f"not a whole MATLAB file ({type(error).__name__})") from error


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: not a file of SVHN: {found}; remove it and run 'dualnet data fetch svhn'"
    )
