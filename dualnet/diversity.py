"""What sub-models think of the same images, drawn one against another.  No torch."""

import itertools

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

from dualnet.run import Run

# More points than this hide each other.
MAX_POINTS = 2000
MAX_SUBS = 10


def draw(run: Run) -> None:
    """Draw the probability of the correct class of each test image by one sub-model against that
    by another, for each pair, as Miranda and Von Zuben 2016, figure 2, into the run folder.

    Of more than ten sub-models the first ten are drawn, of many images evenly chosen ones.
    """
    found = np.load(run.probabilities_path)
    shown = found[:MAX_SUBS, ::max(1, found.shape[1] // MAX_POINTS)]
    count = len(shown) - 1
    side = max(1.4 * count, 4.0)
    figure, axes = pyplot.subplots(count, count, figsize=(side, side), sharex=True, sharey=True,
                                   squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_visible(False)
    for one, other in itertools.combinations(range(len(shown)), 2):
        axis = axes[other - 1, one]
        axis.set_visible(True)
        axis.plot(shown[one], shown[other], ".", color="#0072B2", markersize=2, alpha=0.4)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.label_outer()
        if other == count:
            axis.set_xlabel(f"sub{one + 1}")
        if one == 0:
            axis.set_ylabel(f"sub{other + 1}")
    figure.suptitle("probability of the correct class, test images", fontsize="medium")
    figure.savefig(run.diversity_path, dpi=120)
    pyplot.close(figure)
