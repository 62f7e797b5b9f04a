"""A folder of images, a subfolder per class.

    folder/train/CLASS/*    training images
           test/CLASS/*     test images

The classes are the folders of train/ in the order of their names.  All images have one size.
.npy files hold uint8 [C, H, W] or [H, W]; image files are read by Pillow where it is installed, as
red, green and blue, or as one plane where the first image is grey.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dualnet.config import nearest
from dualnet.data.dataset import Dataset
from dualnet.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "test")


def present(folder: Path) -> bool:
    """Whether `folder` has both splits; says nothing of what is in them."""
    return all((folder / split).is_dir() for split in SPLITS)


def load(folder: Path) -> Dataset:
    """Read all images, in the order of classes and names.

    Raises DataError if a folder is missing or empty, or a file is no image of the size of the
    first one.
    """
    classes = _folders(folder / "train")
    unknown = [name for name in _folders(folder / "test") if name not in classes]
    if unknown:
        raise DataError(f"{folder / 'test' / unknown[0]} is a class that train/ does not have"
                        f"{nearest(unknown[0], classes)} (classes: {', '.join(classes)})")
    read = _Reader()
    train, test = (_read_split(folder / split, classes, read) for split in SPLITS)
    return Dataset("folder", tuple(classes), *train, *test)


def _folders(split: Path) -> list[str]:
    if not split.is_dir():
        raise DataError(f"{split} is no folder; --data folder takes images at train/CLASS/ and "
                        "test/CLASS/ in --data-dir")
    found = sorted(path.name for path in split.iterdir()
                   if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{split} has no subfolder; make one per class, with its images")
    return found


def _read_split(split: Path, classes: list[str], read: Callable[[Path], np.ndarray]
                ) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for label, name in enumerate(classes):
        paths = sorted((split / name).iterdir()) if (split / name).is_dir() else []
        for path in paths:
            if not path.name.startswith("."):
                images.append(read(path))
                labels.append(label)
    if not images:
        raise DataError(f"{split} has no images in the folders of its classes")
    return np.stack(images), np.array(labels, np.int64)


class _Reader:
    """Reads images, uint8 [C, H, W]; the first one decides on their shape."""

    _first: tuple[Path, tuple[int, ...]] | None = None

    def __call__(self, path: Path) -> np.ndarray:
        image = _array(path) if path.suffix.lower() == ".npy" else self._picture(path)
        if self._first is None:
            self._first = path, image.shape
        first, shape = self._first
        if image.shape != shape:
            raise DataError(f"{path} has {_size(image.shape)}, but {first} has {_size(shape)}; "
                            "bring all images to one size")
        return image

    def _picture(self, path: Path) -> np.ndarray:
        if path.suffix.lower() not in IMAGES:
            raise DataError(f"{path} is no image ({', '.join(('.npy', *IMAGES))}); move it away")
        library = _pillow(path)
        try:
            with library.open(path) as picture:
                grey = (self._first[1][0] == 1 if self._first
                        else picture.mode in ("L", "1"))
                pixels = np.asarray(picture.convert("L" if grey else "RGB"))
        except Exception as error:      # damage shows as almost any exception
            raise DataError(f"{path} cannot be read as an image ({type(error).__name__}: {error})"
                            ) from None
        return pixels[np.newaxis] if grey else pixels.transpose(2, 0, 1)


def _pillow(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"{path}: reading image files takes Pillow, which is not installed; "
                        "'pip install pillow', or store the images as .npy, uint8 [C, H, W]"
                        ) from None
    return Image


def _array(path: Path) -> np.ndarray:
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as .npy ({error})") from None
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise DataError(f"{path} should hold uint8 [C, H, W] or [H, W], found {image.dtype} "
                        f"{list(image.shape)}")
    whole: np.ndarray = image if image.ndim == 3 else image[np.newaxis]
    return whole


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} planes of {shape[1]}x{shape[2]} pixels"
