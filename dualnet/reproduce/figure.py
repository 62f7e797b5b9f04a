"""Draw a target from its ledger: every run beside the published values, and curves of one seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dualnet.ledger import Line
from dualnet.reproduce.target import Target, Variant

# Okabe and Ito's palette, safe for colour-blind readers, and dashes that tell it apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B4513",
           "#7F7F7F")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.2)),
                           (0, (8, 2, 1, 2, 1, 2)), (0, (10, 3)), (0, (3, 1, 1, 1)), "-", "--")
DECADES = 1e-9
MARGIN = 2.0        # factor beyond the ends of the curves on a logarithmic axis
TITLES = {"loss1": "loss of net1", "loss2": "classification loss",
          "rms_conv3": "root mean square of conv3 (net1)", "rms_pool2": "root mean square of pool2",
          "rms_conv3p": "root mean square of conv3'", "grad_norm_net1": "norm of net1's gradients",
          "accuracy": "test accuracy", "ratio": "largest batch, dual net / single net",
          "difference_loss1_5": "largest relative difference of net1's loss, five iterations"}


def draw(target: Target, scale: str, lines: Sequence[Line], path: Path) -> None:
    """Draw the lines of one scale into `path`, a PNG."""
    variants = [variant for variant in target.variants(scale)
                if any(line["variant"] == variant.name for line in lines)]
    names = [name for name in target.curves if any(line["curves"].get(name) for line in lines)]
    rows = (len(names) + 1) // 2
    heights = [0.7 + 0.32 * len(variants), *[2.3] * rows]
    figure = pyplot.figure(figsize=(9, sum(heights) + 0.4), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 2, height_ratios=heights)
    _draw_values(figure.add_subplot(grid[0, :]), variants, lines)
    for index, name in enumerate(names):
        axis = figure.add_subplot(grid[1 + index // 2, index % 2])
        _draw_curves(axis, name, target.curves[name], variants, lines)
    data = dict.fromkeys(line["data"] or "random images" for line in lines)
    seed = f"; curves of seed {min(line['seed'] for line in lines)}" if names else ""
    figure.suptitle(f"{target.name}: {target.paper}; scale {scale}, {', '.join(data)}{seed}",
                    fontsize="medium")
    figure.savefig(path, dpi=80)
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


def _draw_curves(axis: Axes, name: str, scale: str, variants: Sequence[Variant],
                 lines: Sequence[Line]) -> None:
    drawn = []
    seed = min(line["seed"] for line in lines)
    for row, variant in enumerate(variants):
        for line in lines:
            points = line["curves"].get(name)
            if points and (line["variant"], line["seed"]) == (variant.name, seed):
                steps, values = zip(*points, strict=True)
                drawn.append(values)
                axis.plot(steps, values, color=COLOURS[row % len(COLOURS)],
                          linestyle=DASHES[row % len(DASHES)], linewidth=1.4)
    axis.set_yscale(scale)
    axis.set_ylim(*limits(drawn, scale))
    axis.set_title(TITLES.get(name, name), fontsize="small")
    axis.set_xlabel("iteration", fontsize="small")
    axis.tick_params(labelsize="small")
    axis.grid(alpha=0.3)


def limits(curves: Sequence[Sequence[float]], scale: str) -> tuple[float, float]:
    """Lower and upper end of the axis: where curves begin and end, and a margin.

    What a curve does in between may be an explosion, which would flatten all the others; so would
    one that decays to 1e-25 on a logarithmic axis, which ends DECADES below its top.
    """
    ends = [float(curve[index]) for curve in curves for index in (0, -1)]
    if scale == "log":
        top = max(ends) or 1.0
        shown = [end for end in ends if end > DECADES * top]
        return min(shown, default=top) / MARGIN, top * MARGIN
    low, high = min(ends), max(ends)
    margin = (high - low or 1.0) / 5
    return low - margin, high + margin
