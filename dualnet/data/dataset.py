"""A data set in memory: images, labels and the names of the classes."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Images with class labels, split into training and test.

    name          as `dualnet.data.load` knows it
    class_names   one per class, in the order of the labels
    *_images      uint8 [N, C, H, W], red, green and blue planes where C is 3; the user's own may
                  be float32 [N, ...] instead, samples of any shape
    *_labels      int64 [N], in 0..K-1
    """

    name: str
    class_names: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) of an image."""
        return self.train_images.shape[1:]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    def fingerprint(self) -> str:
        """SHA-256 of all images and labels, by which two machines can tell that theirs are equal.

        Shapes are hashed too: the same bytes cut into other images are another data set.
        """
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
