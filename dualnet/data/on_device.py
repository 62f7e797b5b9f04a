"""The training images in the memory of the device, prepared there."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dualnet.data.batches import Batches

_PART = 1_000   # images equalised at a time, to spare the memory of copies


class DeviceBatches:
    """The same training batches as those of `batches`, bit for bit, as tensors on `device`.

    Only numbers and places of images cross to the device at each step, as `batches` draws them
    from (seed, step).  Pixels are kept as they are stored: CIFAR-10 takes 154 MB.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        dataset, count = batches.dataset, batches.num_samples
        parts = [batches.as_stored(dataset.train_images[first:first + _PART])
                 for first in range(0, count, _PART)]
        self._images = torch.cat([self._tensor(np.ascontiguousarray(part)) for part in parts])
        self._labels = self._tensor(dataset.train_labels)
        self._mean = None if batches.mean is None else self._tensor(batches.mean)

    def labels(self, step: int) -> Tensor:
        """The labels of the batch, int64 [B]."""
        return self._labels[self._tensor(self._batches.sample_ids(step))]

    def images(self, step: int) -> Tensor:
        """The images of the batch, preprocessed and augmented, float32 [B, C, H, W]."""
        batches, settings = self._batches, self._batches.preprocessing
        images = self._images[self._tensor(batches.sample_ids(step))].float()
        if self._mean is not None:
            images = images - self._mean
        images = images * float(np.float32(settings.scale))
        if settings.mirror:
            chosen = self._tensor(batches.mirrored(step))[:, None, None, None]
            images = torch.where(chosen, images.flip(3), images)
        if settings.crop or settings.window:
            images = self._cropped(images, step)
        return images

    def _cropped(self, images: Tensor, step: int) -> Tensor:
        _, height, width = self._batches.input_shape
        padded = functional.pad(images, (self._batches.preprocessing.crop,) * 4)
        rows, columns = (self._tensor(corner)[:, None] + torch.arange(length, device=self._device)
                         for corner, length in zip(self._batches.corners(step), (height, width),
                                                   strict=True))
        sample = torch.arange(len(images), device=self._device)[:, None, None]
        # Indices around a slice put their dimensions first: [B, h, w, C].
        return padded[sample, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(self._device)
