"""How the modules of a boosted net were judged, drawn in their order.  No torch."""

from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from dualnet.run import Run

ERRORS = {"error": "training error", "exponential_loss": "exponential loss",
          "bound": "bound of the theory"}


def draw(run: Run) -> None:
    """Draw the weak-learning figure of each module, and the training error beneath what bounds it,
    into the folder of a finished run."""
    rounds = run.summary()["rounds"]
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True,
                                             layout="constrained")
    numbers = range(1, len(rounds) + 1)
    colours = ["#0072B2" if each["passes"] else "#D55E00" for each in rounds]
    upper.bar(numbers, [each["gamma"] for each in rounds], color=colours)
    upper.axhline(run.config()["gamma"], color="black", linestyle=":", linewidth=1)
    upper.set_ylabel("weak learning gamma")
    for key, dash in zip(ERRORS, ("-", "--", ":"), strict=True):
        lower.plot(numbers, [each[key] for each in rounds], dash, marker="o", markersize=4,
                   color="#0072B2", label=ERRORS[key])
    _finish(lower, rounds)
    figure.savefig(run.boosting_path, dpi=120)
    pyplot.close(figure)


def _finish(axis: Axes, rounds: list[dict[str, Any]]) -> None:
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.set_ylabel("share of training images")
    axis.set_xticks(range(1, len(rounds) + 1), [each["module"] for each in rounds], rotation=45,
                    ha="right", fontsize="small")
    axis.set_xlabel("module, when judged")
    axis.legend(fontsize="small")
