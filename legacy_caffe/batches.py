"""Images as batches, in an order that numpy alone can compute again anywhere.

The order is a formula, so that two processes draw the same batches without a word, whatever
framework they use.  With Philox 4x64 (Salmon et al. 2011), whose raw words numpy keeps stable:

    words(seed, purpose, index, n) = Philox(key=seed, counter=[0, 0, index, h]).random_raw(n)
    h                              = first 8 bytes of sha256(purpose), little endian

    steps per epoch   S = N // B            N images, batches of B; the rest waits for its epoch
    epoch e, place p  e, p = divmod(step, S)
    order of epoch e  stable argsort of words(seed, "order", e, N)
    batch of a step   order[p B : (p + 1) B]
    u                 (words(seed, "mirror", step, B) >> 11) / 2^53
    mirrored          image i of the batch, if u[i] < 1/2

Test images keep their order; the last batch may be smaller.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILES = ("train_images", "train_labels", "test_images", "test_labels")


class BadData(Exception):
    """Data that are missing or not what they should be."""


class Dataset(NamedTuple):
    """Images uint8 [N, C, H, W] in the planes red, green, blue; labels int64 [N] in 0..K-1."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return 1 + int(max(self.train_labels.max(), self.test_labels.max(initial=0)))

    def fingerprint(self) -> str:
        """SHA-256 over type, shape and content of the four arrays, in the order of the fields."""
        digest = hashlib.sha256()
        for array in self:
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(folder: Path) -> Dataset:
    """Read what `prepare_cifar10.py` or `prepare_images.py` wrote.

    Raises BadData if a file is missing or is no such array.
    """
    arrays = []
    for name in FILES:
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise BadData(f"{path}: cannot be read ({why}); write the folder with "
                          "prepare_cifar10.py or prepare_images.py") from None
        axes, dtype = (4, np.uint8) if name.endswith("images") else (1, np.int64)
        if (array.ndim, array.dtype) != (axes, dtype):
            raise BadData(f"{path}: expected {np.dtype(dtype)} with {axes} axes, found "
                          f"{array.dtype} {array.shape}; write the folder anew")
        arrays.append(array)
    dataset = Dataset(*arrays)
    for images, labels in (dataset[:2], dataset[2:]):
        if len(images) != len(labels) or labels.min(initial=0) < 0:
            raise BadData(f"{folder}: {len(images)} images do not fit {len(labels)} labels from "
                          "0 on; write the folder anew")
    return dataset


class Batches:
    """Batches of a data set, preprocessed.

    mean      subtracted: "image" the mean image of the training set, "channel" the mean of each
              channel, "none" nothing
    scale     factor on what is left
    equalise  equalise the histogram of each channel of each image first
    bgr       planes blue, green, red
    mirror    turn half of the training images left to right

    MemoryData and Input apply no transformation of their own, so all of it happens here.
    Raises BadData if the training images do not fill one batch.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, *, mean: str = "image",
                 scale: float = 1 / 64, equalise: bool = False, bgr: bool = False,
                 mirror: bool = False) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.scale, self.equalise, self.bgr, self.mirror = scale, equalise, bgr, mirror
        self.steps_per_epoch = len(dataset.train_images) // batch_size
        if not self.steps_per_epoch:
            raise BadData(f"{len(dataset.train_images)} training images do not fill a batch of "
                          f"{batch_size}; take a smaller --batch-size")
        self._mean = self._training_mean(mean)
        self._order: tuple[int, np.ndarray] | None = None

    def ids(self, step: int) -> np.ndarray:
        """Which training images are in the batch of `step`, int64 [B]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            words = _words(self.seed, "order", epoch, len(self.dataset.train_images))
            self._order = epoch, np.argsort(words, kind="stable")
        return self._order[1][place * self.batch_size:(place + 1) * self.batch_size]

    def images(self, step: int) -> np.ndarray:
        """float32 [B, C, H, W]"""
        images = self._preprocessed(self.dataset.train_images[self.ids(step)])
        if self.mirror:
            words = _words(self.seed, "mirror", step, self.batch_size)
            chosen = (words >> np.uint64(11)) * 2.0**-53 < 0.5
            images[chosen] = images[chosen][..., ::-1]
        return images

    def labels(self, step: int) -> np.ndarray:
        """int64 [B]"""
        labels: np.ndarray = self.dataset.train_labels[self.ids(step)]
        return labels

    def tests(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All test images and labels, a batch at a time."""
        for first in range(0, len(self.dataset.test_images), self.batch_size):
            part = slice(first, first + self.batch_size)
            yield (self._preprocessed(self.dataset.test_images[part]),
                   self.dataset.test_labels[part])

    def _training_mean(self, mean: str) -> np.ndarray:
        if mean == "none":
            return np.zeros((1, 1, 1), np.float32)
        images = self.dataset.train_images
        total = sum(self._stored(images[first:first + 1000]).sum(axis=0, dtype=np.uint64)
                    for first in range(0, len(images), 1000))
        image: np.ndarray = total / len(images)
        if mean == "channel":
            image = total.sum(axis=(1, 2), keepdims=True) / (len(images) * total[0].size)
        return image.astype(np.float32)

    def _stored(self, images: np.ndarray) -> np.ndarray:
        images = equalised(images) if self.equalise else images
        return images[:, ::-1] if self.bgr else images

    def _preprocessed(self, images: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = self._stored(images).astype(np.float32, order="C") - self._mean
        return pixels * np.float32(self.scale)


def equalised(images: np.ndarray) -> np.ndarray:
    """Histogram equalisation of each channel of each image, uint8 [N, C, H, W].

        new level of v = round((cdf(v) - cdf_min) / (n - cdf_min) * 255)

    cdf(v) counts the channel's n pixels that are at most v, and cdf_min belongs to the darkest one
    that occurs.  A channel of one level stays as it is.
    """
    new = np.empty_like(images)
    for image, planes in zip(images, new, strict=True):
        for channel, plane in zip(image, planes, strict=True):
            cdf = np.bincount(channel.ravel(), minlength=256).cumsum()
            lowest = cdf[channel.min()]
            if lowest == channel.size:
                plane[...] = channel
            else:
                levels = np.rint((cdf - lowest).clip(0) * 255 / (channel.size - lowest))
                plane[...] = levels.astype(np.uint8)[channel]
    return new


def _words(seed: int, purpose: str, index: int, count: int) -> np.ndarray:
    """`count` random 64-bit words, uint64."""
    start = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Philox(key=seed, counter=[0, 0, index, start]).random_raw(count)
