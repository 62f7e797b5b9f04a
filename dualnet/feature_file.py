"""A file of numbers, a row for each training image: written once, whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from shared_fs import StorageError


def read(path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray | None:
    """The rows, mapped into memory; None if there is no such file, or one of another kind."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    return found if (found.shape, found.dtype) == (shape, dtype) else None


def write(path: Path, parts: Iterator[np.ndarray], shape: tuple[int, int],
          dtype: np.dtype) -> Iterator[int]:
    """Write the rows that come in `parts`; yields how many are written after each part.

    A plain write, since a full disk ends a process that writes to mapped memory.
    Raises StorageError if the disk refuses.
    """
    scratch, done = path.with_name(f".{path.name}.part"), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as file:
            npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype),
                                              "fortran_order": False, "shape": shape})
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype).data)
                done += len(part)
                yield done
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        size = shape[0] * shape[1] * dtype.itemsize
        raise StorageError(f"cannot keep {size / 2**20:.0f} MiB of features in {path} "
                           f"({error.strerror}); make room, or compute them each time with "
                           "--augment-head", error.errno) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
