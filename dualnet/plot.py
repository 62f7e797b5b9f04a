"""Curves of one or several runs: loss of net1, classification loss, accuracy.  No torch."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from dualnet.errors import UserError
from dualnet.run import Run

# Okabe and Ito's palette, safe for colour-blind readers; the dashes tell runs apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
SMOOTHING = 0.5


def draw(folders: Sequence[Path], paths: Sequence[Path]) -> None:
    """Draw the runs in `folders` into each of `paths`, whose suffixes choose the format.

    Raises UserError for a folder without metrics or a suffix that matplotlib cannot write.
    """
    runs = [Run(folder) for folder in folders]
    for run in runs:
        if not any(run.metrics(role) for role in run.roles):
            raise UserError(f"there is nothing to draw in {run.folder}: no role has written "
                            "metrics there")
    has_net1 = any("net1" in run.roles for run in runs)
    titles = ["loss of net1 at the cut"] * has_net1 + ["classification loss", "accuracy"]
    figure, axes = pyplot.subplots(len(titles), 1, figsize=(8, 2.6 * len(titles)), sharex=True,
                                   layout="constrained")
    for run, colour, dash in zip(runs, cycle(COLOURS), cycle(DASHES), strict=False):
        _draw_run(run, dict(zip(titles, axes, strict=True)), colour, dash)
    for title, axis in zip(titles, axes, strict=True):
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    if has_net1:
        axes[0].set_yscale("log")
        for which in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
            which(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[-1].set_ylim(0, 1)
    axes[-1].set_xlabel("iteration")
    axes[-1].legend(loc="lower right", fontsize="small")
    _save(figure, paths)
    pyplot.close(figure)


def _draw_run(run: Run, axes: dict[str, Axes], colour: str, dash: str) -> None:
    name = run.folder.resolve().name
    for role in run.roles:
        records = run.metrics(role)
        train = [record for record in records if record["split"] == "train"]
        if role == "net1":
            _curve(axes["loss of net1 at the cut"], train, "loss", colour, dash, name)
            continue
        _curve(axes["classification loss"], train, "loss", colour, dash, name)
        _curve(axes["accuracy"], train, "accuracy", colour, dash, f"{name}, training")
        test = [record for record in records if record["split"] == "test"]
        axes["accuracy"].plot([record["step"] for record in test],
                              [record["accuracy"] for record in test], "o", color=colour,
                              label=f"{name}, test images", clip_on=False)
        merged = [record for record in test if "dual/accuracy_merged" in record]
        if merged:
            axes["accuracy"].plot([record["step"] for record in merged],
                                  [record["dual/accuracy_merged"] for record in merged], "x",
                                  color="black", label=f"{name}, test images through conv3",
                                  clip_on=False)


def _curve(axis: Axes, records: list[dict[str, Any]], key: str, colour: str, dash: str,
           label: str) -> None:
    """The values as they are, light, and smoothed, bold; a null leaves a gap."""
    steps = [record["step"] for record in records]
    values = np.array([np.nan if record[key] is None else record[key] for record in records],
                      dtype=float)
    axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
    axis.plot(steps, smooth(values), dash, color=colour, linewidth=1.8, label=label)


def smooth(values: np.ndarray, weight: float = SMOOTHING) -> np.ndarray:
    """Exponential moving average without the bias of its start, float [n] -> float [n].

        m_t = weight * m_{t-1} + (1 - weight) * v_t        result_t = m_t / (1 - weight^t)
    """
    mean, result = 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        result[index] = mean / (1 - weight ** (index + 1))
    return result


def _save(figure: Any, paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            figure.savefig(path, dpi=120)
        except ValueError as error:
            raise UserError(f"cannot write {path}: {error}") from None
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
