"""Batches whose order, images and augmentation are pure functions of (seed, step)."""

import copy
import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dualnet import seeding
from dualnet.data.dataset import Dataset
from dualnet.errors import DataError, UserError

MEANS = ("image", "channel", "none")

# The mean is summed over this many images at a time, to spare the memory of equalised copies.
_PART = 1_000


@dataclass(frozen=True)
class Preprocessing:
    """What happens to the pixels, in this order; the mirror and the random place of a window to
    training images only.

    equalise   equalise the histogram of each channel of each image
    bgr        planes in the order blue, green, red, as Caffe's tools store them
    mean       subtract the training set's mean: "image" one per pixel and channel, [C, H, W],
               "channel" one per channel, [C, 1, 1], "none" nothing
    scale      factor on what is left
    mirror     turn half of the training images left to right
    crop       pad training images by this many zeros on each side, cut a window of the old size
    window     side of the window to cut instead, 0 for the old size; test images are cut too, in
               their middle

    Raises UserError for a value that means nothing.
    """

    mean: str = "image"
    scale: float = 1 / 64
    equalise: bool = False
    bgr: bool = False
    mirror: bool = False
    crop: int = 0
    window: int = 0

    def __post_init__(self) -> None:
        if self.mean not in MEANS:
            raise UserError(f"mean should be one of {', '.join(MEANS)}, not '{self.mean}'")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UserError(f"scale should be a positive number, not {self.scale}")
        if self.crop < 0:
            raise UserError(f"crop should be 0 or a number of pixels, not {self.crop}")
        if self.window < 0:
            raise UserError(f"window should be 0 or a number of pixels, not {self.window}")


class Batches:
    """Training batches by step and test batches by index, of one data set.

    Every method gives the same arrays in any order of calls and in any process, because nothing
    but the arguments of the constructor decides them; what is kept between calls only saves time.

    share   (k, n): of each training batch only the k-th of n equal parts, k from 0, as the whole
            batch has it
    subset  numbers of the training images that are drawn, int64; the mean stays that of all
    since   (iterations, epochs) that went before with other batches, and from which both count on
    Raises DataError if the training images do not fill one batch, UserError if there is nothing
    to put in one, or it cannot be shared.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, seed: int, preprocessing: Preprocessing,
        share: tuple[int, int] = (0, 1), *, subset: np.ndarray | None = None,
        since: tuple[int, float] = (0, 0.0),
    ) -> None:
        num_samples = len(dataset.train_images)
        num_drawn = num_samples if subset is None else len(subset)
        if batch_size < 1:
            raise UserError(f"the batch size should be at least 1, not {batch_size}")
        if batch_size > num_drawn:
            raise DataError(
                f"batch larger than the data: {batch_size} images per batch, but '{dataset.name}' "
                f"has {num_drawn} training images; choose a smaller batch size"
            )
        number, count = share
        if batch_size % count:
            raise UserError(f"a batch of {batch_size} images cannot be shared by {count} processes "
                            "equally; choose a multiple of their number")
        _check_fits(dataset, preprocessing)
        self._rows = slice(number * batch_size // count, (number + 1) * batch_size // count)
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.preprocessing = preprocessing
        self.num_samples = num_samples
        self.num_test_samples = len(dataset.test_images)
        self.steps_per_epoch = num_drawn // batch_size
        self.num_test_batches = math.ceil(self.num_test_samples / batch_size)
        self.mean = self._training_mean()
        self._subset, self._since = subset, since
        self._epoch_order: tuple[int, np.ndarray] | None = None

    def drawn_by(self, seed: int, subset: np.ndarray | None = None) -> "Batches":
        """Batches of the same data in the order and with the augmentation of another seed.

        subset  as of the constructor, in place of that of this object
        Raises DataError if the images do not fill a batch.
        """
        other = copy.copy(self)
        other.seed, other._epoch_order = seed, None
        if subset is not None:
            if len(subset) < self.batch_size:
                raise DataError(f"{len(subset)} images do not fill a batch of {self.batch_size}; "
                                "choose a smaller batch size")
            other._subset, other.steps_per_epoch = subset, len(subset) // self.batch_size
        return other

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a sample as a net sees it; of images (C, H, W)."""
        window, shape = self.preprocessing.window, self.dataset.input_shape
        return (shape[0], window, window) if window else shape

    def epoch(self, step: int) -> float:
        """How many epochs are done before `step`, fractions included."""
        before, epochs = self._since
        return epochs + (step - before) / self.steps_per_epoch

    def sample_ids(self, step: int) -> np.ndarray:
        """Which training images are in the batch, or in the share of it, int64 [B].

        Each epoch has its own permutation of all of them; those left over after the last whole
        batch are not used in that epoch.
        """
        epoch, position = divmod(step - self._since[0], self.steps_per_epoch)
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            count = self.num_samples if self._subset is None else len(self._subset)
            order = seeding.permutation(self.seed, "order", epoch, count)
            self._epoch_order = epoch, order if self._subset is None else self._subset[order]
        first = position * self.batch_size
        ids: np.ndarray = self._epoch_order[1][first : first + self.batch_size][self._rows].copy()
        return ids

    def labels(self, step: int) -> np.ndarray:
        """The labels of the batch, int64 [B]."""
        labels: np.ndarray = self.dataset.train_labels[self.sample_ids(step)]
        return labels

    def images(self, step: int) -> np.ndarray:
        """The images of the batch, preprocessed and augmented, float32 [B, C, H, W]."""
        images = self._preprocess(self.dataset.train_images[self.sample_ids(step)])
        if self.preprocessing.mirror:
            chosen = self.mirrored(step)
            images[chosen] = images[chosen][..., ::-1]
        if self.preprocessing.crop or self.preprocessing.window:
            images = self._cropped(images, step)
        return images

    def mirrored(self, step: int) -> np.ndarray:
        """Which images of the batch are turned left to right, bool [B]."""
        return self._uniform("mirror", step) < 0.5

    def corners(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in the padded image at which the window of each begins, int64 [B] each."""
        height, width = (
            length + 2 * self.preprocessing.crop - side + 1 for length, side in
            zip(self.dataset.input_shape[1:], self.input_shape[1:], strict=True))
        return ((self._uniform("crop/row", step) * height).astype(np.int64),
                (self._uniform("crop/column", step) * width).astype(np.int64))

    def _uniform(self, purpose: str, step: int) -> np.ndarray:
        return seeding.uniform(self.seed, purpose, step, self.batch_size)[self._rows]

    def test_images(self, index: int) -> np.ndarray:
        """Test images in the order of the file, preprocessed, float32 [b, C, H, W].

        b is the batch size, or less in the last batch.
        """
        return self.test_views(index, 1)[0]

    def test_views(self, index: int, count: int) -> np.ndarray:
        """The images of `test_images(index)` seen in several ways, float32 [V, b, C, h, w].

        count  1: the middle; 10: windows in the middle and the four corners, each as it is and
               mirrored        (Krizhevsky 2012, cuda-convnet, --multiview-test)
        """
        return self._views(self._preprocess(self.dataset.test_images[self._test_slice(index)]),
                           count)

    def unaugmented(self, rows: slice) -> np.ndarray:
        """Training images in the order of the file, seen as test images are, float32
        [b, C, H, W]."""
        return self._views(self._preprocess(self.dataset.train_images[rows]), 1)[0]

    @property
    def is_augmented(self) -> bool:
        """Whether a training image may look different in another epoch."""
        preprocessing = self.preprocessing
        return preprocessing.mirror or preprocessing.crop > 0 or preprocessing.window > 0

    def _views(self, images: np.ndarray, count: int) -> np.ndarray:
        window = self.preprocessing.window
        if not window:
            return images[np.newaxis]
        height, width = (length - window for length in images.shape[2:])
        corners = [(height // 2, width // 2)]
        if count > 1:
            corners += [(0, 0), (0, width), (height, 0), (height, width)]
        views = [images[:, :, row:row + window, column:column + window] for row, column in corners]
        if count > 1:
            views += [view[..., ::-1] for view in views]
        return np.stack(views)

    def test_labels(self, index: int) -> np.ndarray:
        """The labels of `test_images(index)`, int64 [b]."""
        return self.dataset.test_labels[self._test_slice(index)]

    def _test_slice(self, index: int) -> slice:
        return slice(index * self.batch_size, (index + 1) * self.batch_size)

    def _training_mean(self) -> np.ndarray | None:
        """What is subtracted, float32 [C, H, W] or [C, 1, 1]."""
        if self.preprocessing.mean == "none":
            return None
        whole = self.dataset.train_images.dtype == np.uint8
        total = np.zeros(self.dataset.input_shape, np.int64 if whole else np.float64)
        count = self.num_samples
        # Sums of integers are exact: no part and no order of summation shows in the mean.
        for first in range(0, self.num_samples, _PART):
            part = self.as_stored(self.dataset.train_images[first : first + _PART])
            total += part.sum(axis=0, dtype=np.uint32 if whole else np.float64)
        if self.preprocessing.mean == "channel":
            _, height, width = self.dataset.input_shape
            total, count = total.sum(axis=(1, 2), keepdims=True), count * height * width
        return (total / count).astype(np.float32)

    def as_stored(self, images: np.ndarray) -> np.ndarray:
        """Still uint8 [N, C, H, W], or floating samples, equalised and in the wanted order of
        channels."""
        if self.preprocessing.equalise:
            images = equalised(images)
        return images[:, ::-1] if self.preprocessing.bgr else images

    def _preprocess(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, C, H, W], or floating samples, to float32, all but the augmentation."""
        mean = np.float32(0) if self.mean is None else self.mean
        stored = self.as_stored(images)
        pixels: np.ndarray = np.subtract(stored, mean, dtype=np.float32, order="C")
        pixels *= np.float32(self.preprocessing.scale)
        return pixels

    def _cropped(self, images: np.ndarray, step: int) -> np.ndarray:
        margin = self.preprocessing.crop
        padded = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        windows = sliding_window_view(padded, self.input_shape[1:], axis=(2, 3))
        rows, columns = self.corners(step)
        return np.ascontiguousarray(windows[np.arange(len(images)), :, rows, columns])


def _check_fits(dataset: Dataset, preprocessing: Preprocessing) -> None:
    """Raises UserError for a step that makes sense for images only, where there are none."""
    needs = {"--equalise": preprocessing.equalise, "--bgr": preprocessing.bgr,
             "--mirror": preprocessing.mirror, "--crop": preprocessing.crop > 0,
             "--input-side": preprocessing.window > 0,
             "--mean channel": preprocessing.mean == "channel"}
    asked = [flag for flag, wanted in needs.items() if wanted]
    is_image = len(dataset.input_shape) == 3
    if asked and not is_image:
        raise UserError(f"{asked[0]} is for images [C, H, W], but a sample of '{dataset.name}' has "
                        f"the shape {list(dataset.input_shape)}; leave it out")
    if is_image and preprocessing.window > min(dataset.input_shape[1:]):
        raise UserError(f"a window of {preprocessing.window} pixels does not fit into the images "
                        f"of '{dataset.name}', which have {min(dataset.input_shape[1:])}; choose a "
                        "smaller one")
    if preprocessing.equalise and dataset.train_images.dtype != np.uint8:
        raise UserError(f"--equalise is for pixels of 0 to 255, but those of '{dataset.name}' are "
                        f"{dataset.train_images.dtype}; leave it out")


def equalised(images: np.ndarray) -> np.ndarray:
    """Equalise the histogram of each channel of each image, uint8 [N, C, H, W] to the same.

        level(v) = round( (cdf(v) - cdf_min) / (n - cdf_min) * 255 )

    where cdf(v) is how many of the channel's n pixels are at most v, and cdf_min its value at the
    darkest pixel (Gonzalez and Woods, "Digital image processing", section 3.3, in the form that
    sends the darkest pixel to 0).  A channel of a single level stays as it is.
    """
    num_pixels = images.shape[2] * images.shape[3]
    planes = images.reshape(-1, num_pixels)
    plane = np.arange(len(planes))[:, np.newaxis]
    histogram = np.bincount((planes + 256 * plane).ravel(), minlength=256 * len(planes))
    cdf = histogram.reshape(-1, 256).cumsum(axis=1)
    cdf_min = np.take_along_axis(cdf, planes.min(axis=1, keepdims=True), axis=1)
    # Levels darker than the darkest pixel would be negative; no pixel looks them up.
    above = np.maximum(cdf - cdf_min, 0)
    levels = np.rint(above * 255 / np.maximum(num_pixels - cdf_min, 1)).astype(np.uint8)
    levels = np.where(cdf_min == num_pixels, np.arange(256, dtype=np.uint8), levels)
    new_planes: np.ndarray = levels[plane, planes]
    return new_planes.reshape(images.shape)
