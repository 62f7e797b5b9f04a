"""Draw a target from its ledger: every run beside the published values, and curves of one seed."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from dualnet.fingerprint import metadata
from dualnet.ledger import Line
from dualnet.reproduce.drawing import Drawing
from dualnet.reproduce.target import Variant

# Okabe and Ito's palette, safe for colour-blind readers, and dashes that tell it apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B4513",
           "#7F7F7F")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.2)),
                           (0, (8, 2, 1, 2, 1, 2)), (0, (10, 3)), (0, (3, 1, 1, 1)), "-", "--")
DECADES = 1e-9
FEW_DECADES = 1e3   # where an axis is shorter, ticks between the powers of ten have numbers too
MARGIN = 2.0        # factor beyond the ends of the curves on a logarithmic axis
TITLES = {"loss1": "loss of net1", "loss2": "classification loss",
          "rms_conv3": "root mean square of conv3 (net1)", "rms_pool2": "root mean square of pool2",
          "rms_conv3p": "root mean square of conv3'", "grad_norm_net1": "norm of net1's gradients",
          "accuracy": "test accuracy", "accuracy_images": "test accuracy",
          "loss_images": "classification loss, mean over the sites",
          "gb_100_classes": "GB per round, 100 classes", "errors": "errors per 10,000 test images",
          "errors_s": "errors per 10,000 test images", "test_loss": "loss of the test images",
          "test_loss_s": "loss of the test images",
          "iteration_speedup": "iteration of the whole net / of a sub-model, seconds",
          "probabilities": "share of images", "ratio": "largest batch, dual net / single net",
          "difference_loss1_5": "largest relative difference of net1's loss, five iterations"}
# Of curves that do not run over iterations.
ABSCISSAE = {"accuracy_images": "training images of all sites",
             "loss_images": "training images of all sites", "test_loss": "epoch", "errors": "epoch",
             "test_loss_s": "seconds of training, sub-models at once",
             "errors_s": "seconds of training, sub-models at once"}


def draw(drawing: Drawing, path: Path) -> None:
    """Draw the lines of one scale into `path`, a PNG that has their fingerprint."""
    target, scale, lines = drawing
    variants = [variant for variant in target.variants(scale)
                if any(line["variant"] == variant.name for line in lines)]
    names = [name for name in target.curves if any(line["curves"].get(name) for line in lines)]
    rows = (len(names) + 1) // 2
    densities = [name for name in target.densities if _of_first_seed(name, variants, lines)]
    heights = [0.7 + 0.32 * len(variants), *[2.3] * rows, *[2.8] * len(densities)]
    figure = pyplot.figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(1 + bool(rows) + len(densities), height_ratios=[
        heights[0], *[sum(heights[1:1 + rows])] * bool(rows), *heights[1 + rows:]], squeeze=False)
    _draw_values(parts[0, 0].subplots(), variants, lines)
    if rows:
        axes = parts[1, 0].subplots(rows, 2, squeeze=False).flat
        for axis, name in itertools.zip_longest(axes, names):
            if name is None:
                axis.set_visible(False)
            else:
                _draw_curves(axis, name, target.curves[name], variants, lines)
    for part, name in zip(parts[1 + bool(rows):, 0], densities, strict=True):
        _draw_densities(part, name, variants, lines)
    data = dict.fromkeys(line["data"] or "random images" for line in lines)
    seed = f"; curves of seed {min(line['seed'] for line in lines)}" if names else ""
    figure.suptitle(f"{target.name}: {target.paper}; scale {scale}, {', '.join(data)}{seed}",
                    fontsize="medium")
    figure.savefig(path, dpi=80, metadata=metadata(drawing.content))
    pyplot.close(figure)


def _draw_values(axis: Axes, variants: Sequence[Variant], lines: Sequence[Line]) -> None:
    """One row per variant: a dot per seed, a diamond per published value."""
    for row, variant in enumerate(variants):
        found = [line for line in lines if line["variant"] == variant.name]
        values = [line["ours"] for line in found if line["ours"] is not None]
        colour = COLOURS[row % len(COLOURS)]
        axis.plot(values, [row] * len(values), "o", color=colour, markersize=6)
        if len(values) < len(found):
            axis.annotate(f"{len(found) - len(values)} diverged", (0.99, row), ha="right",
                          xycoords=("axes fraction", "data"), va="center", fontsize="small",
                          color=colour)
        published = [each.value for each in variant.published.get(variant.figure, ())
                     if each.value is not None]
        axis.plot(published, [row] * len(published), "D", color="black", fillstyle="none",
                  markersize=8)
    axis.set_yticks(range(len(variants)), [variant.name for variant in variants], fontsize="small")
    axis.set_ylim(len(variants) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.3)
    if variants[0].unit == "relative":
        axis.set_xscale("log")
    axis.set_xlabel(TITLES.get(variants[0].figure, variants[0].figure), fontsize="small")
    axis.legend(handles=[Line2D([], [], marker="o", linestyle="", color="grey", label="ours"),
                         Line2D([], [], marker="D", linestyle="", color="black",
                                fillstyle="none",
                                label="published, after its own number of iterations")],
                fontsize="small", loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2,
                frameon=False)


def _of_first_seed(name: str, variants: Sequence[Variant],
                   lines: Sequence[Line]) -> dict[int, list[list[float]]]:
    """The curve `name` of each variant that has it, by the variant's row, of the smallest seed."""
    seed = min(line["seed"] for line in lines)
    return {row: line["curves"][name] for row, variant in enumerate(variants) for line in lines
            if line["curves"].get(name) and (line["variant"], line["seed"]) == (variant.name, seed)}


def _draw_curves(axis: Axes, name: str, scale: str, variants: Sequence[Variant],
                 lines: Sequence[Line]) -> None:
    """The curves of all variants; a ring where one has two values, before and behind a merge."""
    drawn = []
    for row, points in _of_first_seed(name, variants, lines).items():
        steps, values = zip(*points, strict=True)
        drawn.append(values)
        colour = COLOURS[row % len(COLOURS)]
        axis.plot(steps, values, color=colour, linestyle=DASHES[row % len(DASHES)], linewidth=1.4)
        merge = [step for step, after in itertools.pairwise(steps) if step == after]
        for step in merge:
            axis.axvline(step, color=colour, linestyle=":", linewidth=0.8)
        ends = [point for point in points if point[0] in merge]
        axis.plot([step for step, _ in ends], [value for _, value in ends], "o", color=colour,
                  fillstyle="none", markersize=4)
    low, high = limits(drawn, scale)
    axis.set_yscale(scale)
    axis.set_ylim(low, high)
    if scale == "log" and high < FEW_DECADES * low:
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks("{x:g}")
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_title(TITLES.get(name, name), fontsize="small")
    axis.set_xlabel(ABSCISSAE.get(name, "iteration"), fontsize="small")
    axis.tick_params(labelsize="small")
    axis.grid(alpha=0.3)


def _draw_densities(part: SubFigure, name: str, variants: Sequence[Variant],
                    lines: Sequence[Line]) -> None:
    """Shares of pairs of values between 0 and 1, a square for each variant."""
    found = _of_first_seed(name, variants, lines)
    matrices = {row: np.array(matrix) for row, matrix in found.items()}
    least = min(matrix[matrix > 0].min() for matrix in matrices.values())
    axes = part.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axis, (row, matrix) in zip(axes, matrices.items(), strict=True):
        image = axis.imshow(matrix.T, origin="lower", extent=(0, 1, 0, 1), cmap="viridis_r",
                            norm=LogNorm(least, 1))
        axis.set_title(variants[row].name, fontsize="small")
        axis.set_xlabel("a sub-model", fontsize="small")
        axis.tick_params(labelsize="small")
    axes[0].set_ylabel("another one", fontsize="small")
    part.colorbar(image, ax=axes, label=TITLES.get(name, name))
    part.suptitle("probability of the correct class", fontsize="small")


def limits(curves: Sequence[Sequence[float]], scale: str) -> tuple[float, float]:
    """Lower and upper end of the axis: where curves begin and end, and a margin.

    What a curve does in between may be an explosion, which would flatten all the others; so would
    one that decays to 1e-25 on a logarithmic axis, which ends DECADES below its top.  Shares on a
    linear axis cannot explode, so all of them are shown.
    """
    are_shares = scale == "linear" and all(0 <= value <= 1 for curve in curves for value in curve)
    ends = [float(value) for curve in curves
            for value in (curve if are_shares else (curve[0], curve[-1]))]
    if scale == "log":
        top = max(ends) or 1.0
        shown = [end for end in ends if end > DECADES * top]
        return min(shown, default=top) / MARGIN, top * MARGIN
    low, high = min(ends), max(ends)
    margin = (high - low or 1.0) / 5
    return low - margin, high + margin
