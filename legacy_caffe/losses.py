"""Losses of net1 as Caffe Python layers: how far conv3 is from the conv3' that net2 sent.

A layer of type "Python" finds them by `module: "legacy_caffe.losses"`, so the folder above this
one belongs on PYTHONPATH; `dual_net.py` sees to it.  Nothing here imports caffe, so the classes
also work on plain objects that have `data`, `diff`, `num` and `reshape`.

bottom[0]  x = conv3, [N, C, H, W]       bottom[1]  y = conv3p, of the same shape
top[0]     E, [1]

Norms are taken per sample over C, H and W.  As in Caffe, E is divided by N alone.
"""

import json
from typing import Any

import numpy as np

DENOMINATORS = ("constant", "exact", "target")

try:
    from caffe import Layer
except ImportError:  # no Caffe here, or its own import of this module while it starts

    class Layer:  # type: ignore[no-redef]
        """Stands in for caffe.Layer, which brings `param_str` and nothing else."""

        param_str = ""


class EuclideanLossLayer(Layer):  # type: ignore[misc]
    """E = 1/(2N) sum_n |x_n - y_n|^2        Dziwulski 2017, eq. 9.2; Caffe's EuclideanLoss

    dE/dx_n = (x_n - y_n) / N = -dE/dy_n, times the loss_weight of the layer.  Unlike the layer of
    Caffe's examples it heeds the value of loss_weight, not only its presence.
    """

    allowed: tuple[str, ...] = ("constant",)

    def setup(self, bottom: Any, top: Any) -> None:
        """Read param_str.  Raises ValueError for other than two bottoms, or a bad param_str."""
        if len(bottom) != 2:
            raise ValueError(f"{type(self).__name__} compares two blobs, found {len(bottom)}")
        settings = json.loads(self.param_str or "{}")
        self.denominator = settings.pop("denominator", "constant")
        if settings or self.denominator not in self.allowed:
            raise ValueError(f"{type(self).__name__}: param_str should be empty or hold a "
                             f"denominator out of {', '.join(self.allowed)}, "
                             f"found {self.param_str}")

    def reshape(self, bottom: Any, top: Any) -> None:
        """Raises ValueError if the blobs differ in shape."""
        if bottom[0].data.shape != bottom[1].data.shape:
            raise ValueError(f"blobs of different shapes: {bottom[0].data.shape} and "
                             f"{bottom[1].data.shape}")
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        """Compute E, and keep the difference for the backward pass as Caffe's own layer does."""
        x, y = _samples(bottom[0].data), _samples(bottom[1].data)
        self.difference = x - y
        distance = _squared_norm(self.difference)
        # conv3p is all zeros until the first message has come, and such a loss is discarded.
        with np.errstate(divide="ignore", invalid="ignore"):
            self.root = self._denominator(x, y)
            self.quotient = distance / self.root
            top[0].data[...] = self.quotient.sum() / bottom[0].num / 2

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Write dE/dx and dE/dy into the diffs that are asked for."""
        weight = float(np.ravel(top[0].diff)[0])
        for index in range(2):
            if propagate_down[index]:
                own = _samples(bottom[index].data)
                sign = 1 if index == 0 else -1
                gradient = sign * self.difference / self.root[:, np.newaxis]
                if self.denominator == "exact":
                    gradient -= self._through_root(own, index)
                scaled = gradient * np.float32(weight / bottom[0].num)
                bottom[index].diff[...] = scaled.reshape(bottom[index].diff.shape)

    def _denominator(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What each sample's squared distance is divided by, [N]."""
        return np.ones(len(x), x.dtype)

    def _through_root(self, own: np.ndarray, index: int) -> np.ndarray:
        """|x_n - y_n|^2 / (2 r_n^3) times the blob: what the root r takes off the gradient.

        From r = sqrt(|own|^2 + rest): dr/down = own / r, so d(1/r) = -own / r^3.
        """
        return (self.quotient / (2 * self.root**2))[:, np.newaxis] * own


class NormalizedBothLossLayer(EuclideanLossLayer):
    """E = 1/(2N) sum_n |x_n - y_n|^2 / sqrt(|x_n|^2 + |y_n|^2)        Dziwulski 2017, eq. 9.3

    denominator  "constant": no gradient flows through the root; "exact": it does
    """

    allowed = ("constant", "exact")

    def _denominator(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sqrt(_squared_norm(x) + _squared_norm(y))


class NormalizedLossLayer(EuclideanLossLayer):
    """E = 1/(2N) sum_n |x_n - y_n|^2 / |x_n|        Dziwulski 2017, eq. 9.4

    denominator  "constant": |x_n| without its gradient; "exact": with it; "target": |y_n|, the
                 reading under which the thesis' remark that it is a constant holds
    """

    allowed = DENOMINATORS

    def _denominator(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sqrt(_squared_norm(y if self.denominator == "target" else x))

    def _through_root(self, own: np.ndarray, index: int) -> np.ndarray:
        return super()._through_root(own, index) if index == 0 else np.zeros_like(own)


def _samples(blob: np.ndarray) -> np.ndarray:
    """[N, ...] as [N, D]."""
    return blob.reshape(len(blob), -1)


def _squared_norm(samples: np.ndarray) -> np.ndarray:
    """|x_n|^2 of each sample, [N]."""
    norms: np.ndarray = np.einsum("nd,nd->n", samples, samples)
    return norms
