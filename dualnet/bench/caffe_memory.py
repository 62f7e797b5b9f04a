"""What Caffe allocates for a net and for its halves: where a ratio of batches may come from.

Caffe 1.0 (blob.cpp and the layers' own files) keeps, of 4 bytes each, for every image

    data and diff of every blob; of images and received activations the data alone, since nothing
        asks for their diff; a ReLU or dropout in place has no blob of its own
    the index of the largest of each window of max pooling, and the mask of dropout
    the probabilities of the softmax loss, or the difference a - b of the Euclidean loss

and once the weights, their diffs and the solver's history, and for each convolution the columns of
one image.  Memory is taken when it is first touched, so a net of the test phase takes data and
indices, but no diffs and no masks.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from dualnet.caffe import InnerProduct
from dualnet.cut import Part, cut
from dualnet.errors import UserError
from dualnet.methods.dual.wire import NET1, NET2
from dualnet.nets.dropout import Dropout

FLOAT = 4
IN_PLACE = (nn.ReLU, Dropout)
KNOWN = (nn.Conv2d, InnerProduct, nn.MaxPool2d, *IN_PLACE)

# Which nets are in memory, and where the loss of net1 is computed.
TRAINING = "Caffe: nets of the training phase"
TESTING = "Caffe: and the test nets of single and net2, same batch"
IN_PYTHON = "Caffe: the same, loss of net1 in host memory"


class Kept(NamedTuple):
    """Bytes that are kept for each image, and once."""

    per_image: float
    once: int

    def images(self, limit: int) -> int:
        """The largest batch in `limit` bytes.  Raises UserError if not even one image fits."""
        count = int((limit - self.once) // self.per_image)
        if count < 1:
            raise UserError(f"not even one image fits into {limit} bytes: the weights take "
                            f"{self.once}; raise --memory-limit")
        return count


class _Numbers(NamedTuple):
    """Numbers per image: data of the blobs, their diffs, indices of maxima, masks; and once."""

    data: int = 0
    diff: int = 0
    maxima: int = 0
    mask: int = 0
    columns: int = 0
    weights: int = 0

    def __add__(self, other: tuple[int, ...]) -> "_Numbers":    # type: ignore[override]
        return _Numbers(*map(sum, zip(self, other, strict=True)))


def caffe_memory(net: nn.Sequential, shape: tuple[int, ...],
                 boundary: str) -> dict[str, dict[str, Kept]]:
    """Reading -> single, net1, net2 -> what Caffe keeps, for images [C, H, W] of `shape`.

    Empty where a layer is none of KNOWN.
    """
    if not all(isinstance(layer, KNOWN) for _, layer in _layers(net)):
        return {}
    front, back = cut(net, [boundary])
    crossing = _shape_after(front, shape)
    whole, rest = _numbers(net, shape), _numbers(back, crossing)
    first = _numbers(front.body, shape) + _numbers(front.tail, crossing)
    image, z, classes = _size(shape), _size(crossing), _size(_shape_after(net, shape))
    x = _size(_shape_after(front.tail, crossing))
    single = _kept(whole, image + classes)
    net1, net2 = _kept(first, image + 2 * x), _kept(rest, z + classes)
    tested = {"single": _with_test(single, whole, image + classes), NET1: net1,
              NET2: _with_test(net2, rest, z + classes)}
    return {TRAINING: {"single": single, NET1: net1, NET2: net2},
            TESTING: tested,
            IN_PYTHON: {**tested, NET1: _kept(first, image)}}


def _kept(numbers: _Numbers, others: int) -> Kept:
    """A net of the training phase; `others` are numbers of inputs and the loss per image."""
    per_image = numbers.data + numbers.diff + numbers.maxima + numbers.mask + others
    return Kept(FLOAT * per_image, FLOAT * (3 * numbers.weights + numbers.columns))


def _with_test(training: Kept, numbers: _Numbers, others: int) -> Kept:
    """And the net of its test phase, which shares the weights, at the same batch."""
    per_image = numbers.data + numbers.maxima + others
    return Kept(training.per_image + FLOAT * per_image, training.once + FLOAT * numbers.columns)


def _numbers(net: nn.Module, shape: tuple[int, ...]) -> _Numbers:
    total, x = _Numbers(), torch.zeros(1, *shape)
    with torch.no_grad():
        for _, layer in _layers(net):
            y = layer.eval()(x)
            count, is_pool = y.numel(), isinstance(layer, nn.MaxPool2d)
            columns = 0
            if isinstance(layer, nn.Conv2d):
                area = layer.kernel_size[0] * layer.kernel_size[1]
                columns = x.numel() * area * y[0, 0].numel() // x[0, 0].numel()
            blob = 0 if isinstance(layer, IN_PLACE) else count
            total += _Numbers(blob, blob, count * is_pool, count * isinstance(layer, Dropout),
                              columns, sum(weight.numel() for weight in layer.parameters()))
            x = y
    return total


def _layers(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers in their order, those of nested parts one after another."""
    return [(name, layer) for name, layer in net.named_modules()
            if not isinstance(layer, (nn.Sequential, Part))]


def _shape_after(net: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(net.eval()(torch.zeros(1, *shape)).shape[1:])


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
