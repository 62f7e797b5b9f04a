"""Writes data sets in their official formats, small enough for tests."""

import struct
from pathlib import Path

import numpy as np
import scipy.io

CLASSES = [b"airplane", b"automobile", b"bird", b"cat", b"deer"]
CLASSES += [b"dog", b"frog", b"horse", b"ship", b"truck"]

# Python 2 wrote the official files with byte strings that no pickler of Python 3 emits, so the
# opcodes are spelled out.


def py2_str(value: bytes) -> bytes:
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def py2_list(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def py2_ints(values) -> bytes:
    return py2_list([b"J" + struct.pack("<i", value) for value in values])


def py2_dict(items: dict[bytes, bytes]) -> bytes:
    entries = b"".join(py2_str(key) + value for key, value in items.items())
    return b"\x80\x02}(" + entries + b"u."


def py2_array(array: np.ndarray, code: bytes = b"u1") -> bytes:
    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + py2_str(code) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + py2_str(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    empty += py2_str(b"b") + b"\x87R"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + py2_str(array.tobytes()) + b"tb"


def rows_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (20, 3072), dtype=np.uint8)


def labels_of(number: int) -> list[int]:
    return [(number + i) % 10 for i in range(20)]


def write_cifar10(folder: Path) -> Path:
    """Lay `folder` out as the official archive, with 20 images in each batch."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        (batches / name).write_bytes(
            py2_dict(
                {
                    b"batch_label": py2_str(name.encode()),
                    b"labels": py2_ints(labels_of(number)),
                    b"data": py2_array(rows_of(number)),
                }
            )
        )
    meta = py2_dict({b"label_names": py2_list([py2_str(name) for name in CLASSES])})
    (batches / "batches.meta").write_bytes(meta)
    return folder


CIFAR100_NAMES = [f"class{i}".encode() for i in range(100)]


def cifar100_rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 3072), dtype=np.uint8)


def cifar100_split(seed: int, fine: list[int]) -> bytes:
    return py2_dict({b"filenames": py2_list([py2_str(b"a.png")] * 12),
                     b"fine_labels": py2_ints(fine), b"coarse_labels": py2_ints([19] * 12),
                     b"data": py2_array(cifar100_rows(seed))})


def write_cifar100(folder: Path) -> Path:
    """Lay `folder` out as the official archive, with 12 images in each split."""
    files = folder / "cifar-100-python"
    files.mkdir()
    (files / "train").write_bytes(cifar100_split(0, list(range(88, 100))))
    (files / "test").write_bytes(cifar100_split(1, list(range(12))))
    (files / "meta").write_bytes(py2_dict({
        b"fine_label_names": py2_list([py2_str(name) for name in CIFAR100_NAMES]),
        b"coarse_label_names": py2_list([py2_str(name) for name in CIFAR100_NAMES[:20]])}))
    return folder


def house_numbers(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """X [H, W, C, N] and y [N, 1] in 1..10, as the official files hold them."""
    images = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
    return images, (np.arange(number) % 10 + 1).astype(np.uint8)[:, np.newaxis]


def write_svhn(folder: Path, compress: bool = True, **train) -> Path:
    for seed, name in enumerate(("train_32x32.mat", "test_32x32.mat")):
        images, labels = house_numbers(seed, 12)
        content = {"X": images, "y": labels} | (train if seed == 0 else {})
        scipy.io.savemat(folder / name, {key: value for key, value in content.items()
                                         if value is not None}, do_compression=compress)
    return folder
