"""The official CIFAR-10 batches as the arrays that dual_net.py reads.

    python legacy_caffe/prepare_cifar10.py cifar-10-batches-py OUT [--equalised-bgr]

OUT gets train_images.npy and test_images.npy, uint8 [N, 3, 32, 32] in the planes red, green, blue;
train_labels.npy and test_labels.npy, int64 [N]; and mean_image.npy, float32 [3, 32, 32].  With
--equalised-bgr also train_images_equalised_bgr.npy and test_images_equalised_bgr.npy, for other
tools: dual_net.py computes them from the plain images with --equalise --bgr.
"""

import argparse
import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from legacy_caffe.batches import BadData, equalised

TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
SIDE, PIXELS, CLASSES = 32, 3 * 32 * 32, 10


class _PlainUnpickler(pickle.Unpickler):
    """Rebuilds arrays of bytes and nothing else: a pickle may otherwise call any function."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return None  # only named, as the kind of array to make
        if (module, name) == ("numpy", "dtype"):
            return _byte_type
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in protocol 2
            return lambda text, encoding: text.encode("latin-1")
        raise BadData(f"asks for {module}.{name}, which no batch of CIFAR-10 needs")


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What `_reconstruct` makes: an array of no bytes, which the pickle then gives a state."""
    return np.empty((0,), np.uint8)


def _byte_type(code: Any, *_: Any) -> np.dtype:
    """The type uint8, the only one in a batch; another one could hold objects."""
    if code not in (b"u1", "u1", b"uint8", "uint8"):
        raise BadData(f"holds an array of {code!r}, where uint8 was expected")
    return np.dtype(np.uint8)


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one official batch.

    Raises BadData if the file is missing, damaged or something else.
    """
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        images, labels = content[b"data"], np.array(content[b"labels"])
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}); unpack the official "
                      "cifar-10-python.tar.gz") from None
    except Exception as error:  # a damaged pickle may raise almost anything
        raise BadData(f"{path}: no batch of CIFAR-10 ({error}); unpack the official "
                      "cifar-10-python.tar.gz again") from None
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 \
            or images.shape != (len(labels), PIXELS) or labels.dtype.kind != "i" \
            or labels.ndim != 1 or not ((labels >= 0) & (labels < CLASSES)).all():
        raise BadData(f"{path}: expected rows of {PIXELS} bytes, each with a label in 0..9; "
                      "unpack the official cifar-10-python.tar.gz again")
    return images.reshape(-1, 3, SIDE, SIDE), labels.astype(np.int64)


def prepare(source: Path, out: Path, *, equalised_bgr: bool = False) -> int:
    """Write the arrays of the batches in `source` to `out`; returns the number of images."""
    batches = [read_batch(source / name) for name in TRAIN]
    arrays = {"train_images": np.concatenate([images for images, _ in batches]),
              "train_labels": np.concatenate([labels for _, labels in batches])}
    arrays["test_images"], arrays["test_labels"] = read_batch(source / "test_batch")
    arrays["mean_image"] = arrays["train_images"].mean(axis=0, dtype=np.float64).astype(np.float32)
    if equalised_bgr:
        for name in ("train_images", "test_images"):
            arrays[f"{name}_equalised_bgr"] = equalised(arrays[name])[:, ::-1]
    out.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", np.ascontiguousarray(array))
    return len(arrays["train_labels"]) + len(arrays["test_labels"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 65 for bad data, 74 for the disk."""
    parser = argparse.ArgumentParser("prepare_cifar10.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the unpacked folder cifar-10-batches-py")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--equalised-bgr", action="store_true",
                        help="write the equalised images in blue, green, red, too")
    arguments = parser.parse_args(argv)
    try:
        count = prepare(arguments.source, arguments.out, equalised_bgr=arguments.equalised_bgr)
    except BadData as error:
        print(f"prepare_cifar10.py: {error}", file=sys.stderr)
        return 65
    except OSError as error:
        print(f"prepare_cifar10.py: cannot write to {arguments.out} ({error.strerror})",
              file=sys.stderr)
        return 74
    print(f"{arguments.out}: {count} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
