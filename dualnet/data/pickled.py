"""Pickled dictionaries, as the CIFAR files are, read without executing what they say."""

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dualnet.errors import DataError


@dataclass(frozen=True)
class PickledFile:
    """The content of one file, whose entries are checked as they are taken.

    what     what the file should be, for the errors
    remedy   what to do if it is not, for the errors
    """

    path: Path
    what: str
    remedy: str
    content: dict[Any, Any]

    def images(self, key: str, shape: tuple[int, int, int]) -> np.ndarray:
        """Images uint8 [N, *shape] from an array [N, D] of one row per image.

        Raises DataError if the entry is missing or is no such array.
        """
        width = math.prod(shape)
        stored = self._entry(key)
        if not isinstance(stored, _StoredArray):
            raise self.damaged(f"'{key}' should be an array, found {type(stored).__name__}")
        match stored.shape:
            case (int(rows), int(columns)) if stored.is_bytes and rows > 0 and columns == width:
                pass
            case _:
                raise self.damaged(
                    f"'{key}' should be uint8 [N, {width}] with N > 0, found {stored}"
                )
        if len(stored.raw) != rows * width:
            raise self.damaged(
                f"'{key}' should have {rows * width} bytes, found {len(stored.raw)}"
            )
        order: Literal["C", "F"] = "F" if stored.is_fortran else "C"
        images = np.frombuffer(stored.raw, np.uint8).reshape(rows, width, order=order)
        return images.copy("C").reshape(rows, *shape)

    def labels(self, key: str, num_classes: int, num_images: int) -> np.ndarray:
        """Labels int64 [num_images] in 0..num_classes-1.

        Raises DataError if the entry is missing or is no such list.
        """
        labels = self._entry(key)
        # `type`, not `isinstance`: True is an int, but no label.
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise self.damaged(f"'{key}' should be a list of integers")
        wrong = next((label for label in labels if not 0 <= label < num_classes), None)
        if wrong is not None:
            raise self.damaged(f"labels should be in 0..{num_classes - 1}, found {wrong}")
        if len(labels) != num_images:
            raise self.damaged(f"{num_images} images but {len(labels)} labels")
        return np.array(labels, dtype=np.int64)

    def names(self, key: str, num_classes: int) -> tuple[str, ...]:
        """The names of the classes.  Raises DataError if the entry is missing or no such list."""
        names = self._entry(key)
        if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
            raise self.damaged(f"'{key}' should be a list of names")
        if len(names) != num_classes:
            raise self.damaged(f"'{key}' should hold {num_classes} names, found {len(names)}")
        return tuple(n.decode("latin-1") if isinstance(n, bytes) else n for n in names)

    def _entry(self, key: str) -> Any:
        """The value of `key`, which Python 2 wrote as bytes and a re-packaging may write as str."""
        for spelling in (key.encode(), key):
            if spelling in self.content:
                return self.content[spelling]
        raise self.damaged(f"there is no entry '{key}'")

    def damaged(self, found: str) -> DataError:
        """The error that says what was found instead of what the file should be."""
        return DataError(f"{self.path}: not {self.what}: {found}; {self.remedy}")


def read_pickled(path: Path, what: str, remedy: str, max_bytes: int) -> PickledFile:
    """The dictionary in the file `path`; `what` and `remedy` as in `PickledFile`.

    Raises DataError if the file cannot be read, is larger than `max_bytes` or holds anything but
    a dictionary of plain values and arrays.
    """
    empty = PickledFile(path, what, remedy, {})
    try:
        with open(path, "rb") as file:
            # One byte more than allowed tells a file that is too large, also while it grows.
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if len(raw) > max_bytes:
        raise empty.damaged(f"larger than {max_bytes // 2**20} MB")
    content = _unpickle(raw, empty)
    if not isinstance(content, dict):
        raise empty.damaged(f"should hold a dictionary, found {type(content).__name__}")
    return PickledFile(path, what, remedy, content)


def _unpickle(raw: bytes, file: PickledFile) -> Any:
    """What the pickle `raw` describes, with a `_StoredArray` in place of each array.

    A pickle is a program for a small machine that may call whatever `find_class` lets it have, so
    it gets nothing of numpy, only stand-ins that keep what they are called with.
    """
    try:
        return _RestrictedUnpickler(raw, file).load()
    except DataError:
        raise
    except Exception as error:
        # Damage shows as almost any exception: each opcode trusts what the ones before it left.
        raise file.damaged(f"not a whole pickle ({type(error).__name__})") from error


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


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows the five names of an array's pickle and refuses all others."""

    def __init__(self, raw: bytes, file: PickledFile) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for `module.name`; raises DataError if there is none."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise DataError(
                f"{self._file.path}: the pickle asks for {module}.{name}, which {self._file.what} "
                f"does not need, and nothing of it was run; {self._file.remedy}"
            ) from None
