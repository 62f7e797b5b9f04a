"""Samples of any shape in two files that the user writes.

    folder/train.npz    x [N, ...] uint8 or floating, y [N] whole numbers from 0
           test.npz     the same for the test

uint8 [N, C, H, W] are images like those of the other data sets; floating samples of any shape are
held as float32.
"""

import os
import zipfile
from pathlib import Path

import numpy as np

from dualnet.data.dataset import Dataset
from dualnet.errors import DataError

SPLITS = ("train", "test")
MAX_CLASSES = 2**20


def present(folder: Path) -> bool:
    """Whether `folder` holds both files; says nothing of what is in them."""
    return all((folder / f"{split}.npz").is_file() for split in SPLITS)


def save(folder: Path, train: tuple[np.ndarray, np.ndarray],
         test: tuple[np.ndarray, np.ndarray]) -> None:
    """Write both files, each whole, replacing those that are there.

    train, test  x and y as above
    Raises DataError for arrays that `load` would refuse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, pair in zip(SPLITS, (train, test), strict=True):
        path = folder / f"{split}.npz"
        x, y = _checked(path, *map(np.asarray, pair))
        scratch = folder / f".{split}.{os.getpid()}.npz"
        with open(scratch, "wb") as file:
            np.savez(file, x=x, y=y)
        os.replace(scratch, path)


def load(folder: Path) -> Dataset:
    """Read both files; the classes are 0 to the largest label.

    Raises DataError if a file is missing or damaged, or if the two do not fit together.
    """
    (train_x, train_y), (test_x, test_y) = (_read(folder / f"{split}.npz") for split in SPLITS)
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise DataError(f"{folder}: the samples of train.npz are {train_x.dtype} "
                        f"{list(train_x.shape[1:])}, those of test.npz {test_x.dtype} "
                        f"{list(test_x.shape[1:])}; give them one shape and type")
    num_classes = 1 + int(max(train_y.max(), test_y.max()))
    return Dataset("arrays", tuple(map(str, range(num_classes))), train_x, train_y, test_x, test_y)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            x, y = content["x"], content["y"]
    except FileNotFoundError:
        raise DataError(f"{path.parent}: there is no {path.name}; write it with "
                        "numpy.savez(file, x=samples, y=labels), or name another folder with "
                        "--data-dir") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError,
            zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of numpy.savez(file, x=samples, y=labels) "
                        f"({type(error).__name__}: {error})") from None
    return _checked(path, x, y)


def _checked(path: Path, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim < 2 or len(x) == 0 or not (x.dtype == np.uint8 or x.dtype.kind == "f"):
        raise DataError(f"{path}: x should be samples [N, ...] of uint8 or floating numbers, found "
                        f"{x.dtype} {list(x.shape)}")
    if x.dtype == np.uint8 and x.ndim != 4:
        raise DataError(f"{path}: x of uint8 should be images [N, C, H, W], found {list(x.shape)}; "
                        "make other samples floating")
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: y should be whole numbers [{len(x)}], one per sample, found "
                        f"{y.dtype} {list(y.shape)}")
    if y.min() < 0 or y.max() >= MAX_CLASSES:
        raise DataError(f"{path}: labels should be in 0..{MAX_CLASSES - 1}, found {y.min()} to "
                        f"{y.max()}")
    if x.dtype.kind == "f":
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"{path}: x should be finite, found nan or inf in sample "
                            f"{int(np.argwhere(~np.isfinite(x))[0][0])}")
    return np.ascontiguousarray(x), y.astype(np.int64)
