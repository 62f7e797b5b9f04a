"""CIFAR-10 from its official Python batches, read without executing anything they say.

    folder/cifar-10-batches-py/data_batch_1 .. data_batch_5    training images
                               test_batch                      test images
                               batches.meta                    names of the classes

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import hashlib
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dualnet.data.dataset import Dataset
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

_REMEDY = "unpack the official cifar-10-python.tar.gz again"


def present(folder: Path) -> bool:
    """Whether `folder` holds the folder of the batches; says nothing of what is in it."""
    return (folder / BATCHES_FOLDER).is_dir()


def verify(folder: Path) -> dict[str, bool]:
    """For each of the seven files, whether it is there with the official MD5 checksum.

    A file that differs may still be good: other packagings of CIFAR-10 load as well.
    """
    return {
        name: _md5(folder / BATCHES_FOLDER / name) == official
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
        raise DataError(f"{batches}: no such folder; unpack cifar-10-python.tar.gz into {folder}")
    class_names = _read_class_names(batches / META_FILE)
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


def _md5(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError:
        return None


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one batch file."""
    content = _read_dict(path)
    images = _checked_images(_entry(content, "data", path), path)
    labels = _checked_labels(_entry(content, "labels", path), path)
    if len(images) != len(labels):
        raise _damaged(path, f"{len(images)} images but {len(labels)} labels")
    return images.reshape(-1, *IMAGE_SHAPE), labels


def _checked_images(stored: Any, path: Path) -> np.ndarray:
    width = math.prod(IMAGE_SHAPE)
    if not isinstance(stored, _StoredArray):
        raise _damaged(path, f"'data' should be an array, found {type(stored).__name__}")
    match stored.shape:
        case (int(rows), int(columns)) if stored.is_bytes and rows > 0 and columns == width:
            pass
        case _:
            raise _damaged(path, f"'data' should be uint8 [N, {width}] with N > 0, found {stored}")
    if len(stored.raw) != rows * width:
        raise _damaged(path, f"'data' should have {rows * width} bytes, found {len(stored.raw)}")
    order: Literal["C", "F"] = "F" if stored.is_fortran else "C"
    return np.frombuffer(stored.raw, np.uint8).reshape(rows, width, order=order).copy("C")


def _checked_labels(labels: Any, path: Path) -> np.ndarray:
    # `type`, not `isinstance`: True is an int, but no label.
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _damaged(path, "'labels' should be a list of integers")
    wrong = next((label for label in labels if not 0 <= label < NUM_CLASSES), None)
    if wrong is not None:
        raise _damaged(path, f"labels should be in 0..{NUM_CLASSES - 1}, found {wrong}")
    return np.array(labels, dtype=np.int64)


def _read_class_names(path: Path) -> tuple[str, ...]:
    names = _entry(_read_dict(path), "label_names", path)
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise _damaged(path, "'label_names' should be a list of names")
    if len(names) != NUM_CLASSES:
        raise _damaged(path, f"'label_names' should hold {NUM_CLASSES} names, found {len(names)}")
    return tuple(n.decode("latin-1") if isinstance(n, bytes) else n for n in names)


def _entry(content: dict[Any, Any], key: str, path: Path) -> Any:
    """The value of `key`, which Python 2 wrote as bytes and a re-packaging may write as str."""
    for spelling in (key.encode(), key):
        if spelling in content:
            return content[spelling]
    raise _damaged(path, f"there is no entry '{key}'")


def _read_dict(path: Path) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:
            # One byte more than allowed tells a file that is too large, also while it grows.
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise _damaged(path, f"larger than {MAX_FILE_BYTES // 2**20} MB")
    content = _unpickle(raw, path)
    if not isinstance(content, dict):
        raise _damaged(path, f"should hold a dictionary, found {type(content).__name__}")
    return content


def _damaged(path: Path, found: str) -> DataError:
    return DataError(f"{path}: not a batch of CIFAR-10: {found}; {_REMEDY}")


def _unpickle(raw: bytes, path: Path) -> Any:
    """What the pickle `raw` describes, with a `_StoredArray` in place of each array.

    A pickle is a program for a small machine that may call whatever `find_class` lets it have, so
    it gets nothing of numpy, only stand-ins that keep what they are called with.
    """
    try:
        return _BatchUnpickler(raw, path).load()
    except DataError:
        raise
    except Exception as error:
        # Damage shows as almost any exception: each opcode trusts what the ones before it left.
        raise _damaged(path, f"not a whole pickle ({type(error).__name__})") from error


class _StoredDtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields, which the only accepted type, uint8, does not have."""


class _StoredArray:
    """Stands in for `numpy.ndarray` and for the function that makes an empty one to be filled."""

    shape: Any = ()
    dtype: Any = None
    is_fortran: Any = False
    raw: bytes = b""

    def __init__(self, *_: Any) -> None:
        """Whatever an empty array is made of, `__setstate__` brings the content."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, raw = state
        self.raw = raw if isinstance(raw, bytes) else b""

    def __str__(self) -> str:
        return f"{getattr(self.dtype, 'code', self.dtype)} {self.shape}"

    @property
    def is_bytes(self) -> bool:
        """Whether the elements are unsigned bytes."""
        return isinstance(self.dtype, _StoredDtype) and self.dtype.code in ("u1", "uint8")


def _encode(text: str, encoding: Any) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes as protocol 2."""
    return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _StoredArray,
    ("numpy._core.multiarray", "_reconstruct"): _StoredArray,
    ("numpy", "ndarray"): _StoredArray,
    ("numpy", "dtype"): _StoredDtype,
    ("_codecs", "encode"): _encode,
}


class _BatchUnpickler(pickle.Unpickler):
    """An unpickler that knows the five names of an array's pickle and refuses all others."""

    def __init__(self, raw: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for `module.name`; raises DataError if there is none."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise DataError(
                f"{self._path}: the pickle asks for {module}.{name}, which no batch of CIFAR-10 "
                f"needs, and nothing of it was run; {_REMEDY}"
            ) from None
