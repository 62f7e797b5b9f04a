"""Bidart and Wong 2018, "MonolithNet": table 1, and what the paper leaves out beside it.

The paper does not say how large the random subset of a trunk is, and compares with no average of
the trunks, which costs no training at all.
"""

from typing import Any

from dualnet.methods.monolith.settings import MonolithConfig
from dualnet.reproduce.target import Published, Target, Variant

PAPER = "Bidart and Wong 2018"
STAGES = "dualnet.reproduce.stages:stages"
# Test errors in % on CIFAR-10 and millions of weights; the column is headed "accuracy".
TABLE_1 = {
    "DenseNet (L=100, k=24)": (3.70, 27.2), "DenseNet-BC (L=100, k=24)": (3.46, 25.6),
    "PyramidNet (alpha=270)": (3.73, 28.3), "PyramidNet (bottleneck, alpha=270)": (3.38, 27.0),
    "PyramidNet (bottleneck, alpha=200)": (3.38, 26.0), "FractalNet": (4.60, 38.6),
    "ResNet-101": (6.43, 1.7), "ResNet1202": (7.93, 19.4), "Pre-activation ResNet": (4.62, 10.2),
    "WideResNet-28-10": (3.89, 36.5), "Shake-Shake 2x96d": (2.86, 26.2),
    "MonolithNet": (3.01, 437.0)}
IMAGES = {"smoke": 40, "cpu": 10_000, "gpu": 50_000, "full": 50_000}

# The rates and batch sizes are the published ones; so are the epochs of the head, which reads kept
# features.  The drops of the others stand where they do in the published schedule.
SHORT: dict[str, Any] = {"augment_head": False, "checkpoint_every": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {**SHORT, "data": "shapes", "depth": 10, "width": 1, "trunk_epochs": 0.0,
              "head_epochs": 0.0, "whole_epochs": 0.0, "trunk_batch": 8, "head_batch": 10,
              "whole_batch": 10, "log_every": 1},
    "cpu": {**SHORT, "depth": 10, "width": 1, "trunk_epochs": 10.0, "trunk_drops": "3,6,8",
            "whole_epochs": 3.0, "whole_drops": "1.5"},
    "gpu": {**SHORT, "depth": 16, "width": 4, "trunk_epochs": 20.0, "trunk_drops": "6,12,16",
            "whole_epochs": 5.0, "whole_drops": "2.5"},
    "full": {}}


def _stages(scale: str) -> list[Variant]:
    return [_variant(scale, f"three stages, {words}", subset)
            for words, subset in (("each trunk on 80 % of the images", 0.8),
                                  ("each trunk on all images", 1.0))]


def _variant(scale: str, name: str, subset: float) -> Variant:
    count = IMAGES[scale]
    settings = MonolithConfig(**{
        "data": "cifar10", "images": 0 if scale == "full" else count, "subset": subset,
        **SETTINGS[scale]}).resolved().counted(count)
    errors, millions = TABLE_1["MonolithNet"]
    silent = [Published(None, f"{PAPER}: not stated")]
    return Variant(name, settings, {
        "accuracy": [Published(1 - errors / 100, f"{PAPER}, table 1, an error of {errors} % after "
                               "200, 40 and 25 epochs of WRN-28-20")],
        **dict.fromkeys(("accuracy_best_trunk", "accuracy_mean_logits",
                         "accuracy_mean_probabilities", "accuracy_head"), silent),
        "parameters_3xwrn_28_20": [
            Published(millions * 1e6, f"{PAPER}, table 1, in millions; the text has 457"),
            Published(437_469_738.0, "the net of the paper, by arithmetic")]},
        test_images=20 if scale == "smoke" else None, measure=STAGES)


OTHERS = "; ".join(f"{name} {errors:.2f} % ({millions:g} million)"
                   for name, (errors, millions) in TABLE_1.items())
TARGETS = (
    Target("monolith-table-1", f"{PAPER}, table 1",
           "test accuracy of three wide residual nets behind one head after each of the three "
           "stages, beside the best trunk and the averages of the trunks, which need no training",
           {"smoke": "5 s", "cpu": "WRN-10-1, 10,000 images: 7 min a row",
            "gpu": "WRN-16-4, 50,000 images: not run", "full": "3.7e18 operations a row: not run"},
           _stages, {"loss": "linear", "accuracy": "linear"},
           remark=f"Errors and weights of table 1: {OTHERS}. `accuracy` is that after stage 3, "
                  "`accuracy_head` after stage 2; the curve of the accuracy shows the mean of the "
                  "trunks, then the mean of their probabilities, the head and the whole net. "
                  "`parameters_3xwrn_28_20` are counted without training that net."),
)
