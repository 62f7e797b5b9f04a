"""meProp beside the dense backward pass of one layer, on one thread, all ways in turn.

    dense      autograd's own: gradients of input, weights and bias
    unified    through the k outputs with the largest sums over the batch
    by sample  through the k largest outputs of each sample

The seconds are those that the thread computes, so what else runs on the machine counts little.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from dualnet.bench.results import Row, ratios, row, spread
from dualnet.ledger import Line
from dualnet.optim.meprop import sparse_conv2d, sparse_linear

DENSE, UNIFIED, BY_SAMPLE = WAYS = ("dense", "unified", "by sample")
Backward = Callable[[], object]
GEOMETRY: dict[str, Any] = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}


class Layer(NamedTuple):
    """What is measured: shapes of input, weights and output gradient, and outputs kept."""

    name: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    gradient: tuple[int, ...]
    k: int


# The layer of the paper's experiments; a block of the last stage of a residual net; conv3 of the
# thesis.  A quarter of the maps is kept.
LINEAR = "linear 512 to 512, batch 128"
LAYERS = (
    Layer(LINEAR, (128, 512), (512, 512), (128, 512), 30),
    Layer("3x3, 64 to 64 maps of 8x8, batch 128", (128, 64, 8, 8), (64, 64, 3, 3),
          (128, 64, 8, 8), 16),
    Layer("3x3, 256 to 384 maps of 8x8, batch 32", (32, 256, 8, 8), (384, 256, 3, 3),
          (32, 384, 8, 8), 96))


def rows(count: int, rounds: int) -> Iterator[list[Row]]:
    """The rows of one layer after the other: median seconds of a backward pass, round by round.

    count  backward passes of each way in a round; the ways take turns
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for layer in LAYERS:
            passes = _passes(layer)
            _turns(passes, 1)       # warms up
            found = [_turns(passes, count) for _ in range(rounds)]
            yield [{"layer": layer.name, "way": way, "k": layer.k, "outputs": layer.weight[0],
                    "count": count, "seconds": [each[way] for each in found]} for way in WAYS]
    finally:
        torch.set_num_threads(before)


def _passes(layer: Layer) -> dict[str, Callable[[], Backward]]:
    """Each way as a function that makes a forward pass and gives its backward pass."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).requires_grad_()
                       for shape in (layer.x, layer.weight, layer.weight[:1]))
    gradient = torch.randn(layer.gradient, generator=generator)

    def backward_of(forward: Callable[..., Tensor], *rest: Any) -> Callable[[], Backward]:
        def make() -> Backward:
            out = forward(x, weight, bias, *rest)
            return lambda: torch.autograd.grad(out, (x, weight, bias), gradient)
        return make

    if len(layer.x) == 2:
        return {DENSE: backward_of(functional.linear),
                UNIFIED: backward_of(sparse_linear, layer.k, True),
                BY_SAMPLE: backward_of(sparse_linear, layer.k, False)}
    return {DENSE: backward_of(partial(functional.conv2d, **GEOMETRY)),
            UNIFIED: backward_of(sparse_conv2d, layer.k, True, GEOMETRY),
            BY_SAMPLE: backward_of(sparse_conv2d, layer.k, False, GEOMETRY)}


def _turns(passes: dict[str, Callable[[], Backward]], count: int) -> dict[str, float]:
    """Median seconds of the backward pass of each way."""
    seconds: dict[str, list[float]] = {way: [] for way in passes}
    for _ in range(count):
        for way, make in passes.items():
            backward = make()
            started = time.thread_time()
            backward()
            seconds[way].append(time.thread_time() - started)
    return {way: median(its) for way, its in seconds.items()}


def layers(line: Line) -> list[str]:
    """The layers of a line, in their order."""
    return list(dict.fromkeys(each["layer"] for each in line["measured"]))


def speed_ups(line: Line, layer: str, way: str) -> list[float]:
    """How many times as fast as the dense backward pass, round by round."""
    of, dense = row(line, layer=layer, way=way), row(line, layer=layer, way=DENSE)
    assert of and dense
    return ratios(dense, of)


def draw(line: Line) -> Figure:
    """Bars of both ways of each layer, with whiskers from the smallest to the largest."""
    names = layers(line)
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.6 * len(names)), layout="constrained")
    for number, (way, colour) in enumerate(zip(WAYS[1:], ("#0072B2", "#E69F00"), strict=True)):
        found = [spread(speed_ups(line, name, way)) for name in names]
        axis.barh([index + 0.4 * number - 0.2 for index in range(len(names))],
                  [each.median for each in found], 0.4, color=colour, label=way, capsize=2,
                  xerr=[[each.median - each.low for each in found],
                        [each.high - each.median for each in found]])
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize="small")
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as the dense backward pass")
    axis.legend(fontsize="small")
    return figure
