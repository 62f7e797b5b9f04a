"""Solomatov and Stepanov 2017, "Speeding up ResNet training": the table, each technique alone and
stacked.

Their "20" is n, so the net has 6n + 2 = 122 layers.  Their published code left the switch of half
precision unused, so that row may have been trained in single precision.  Two techniques they name
as related and could not reproduce (boosting beyond 88 %, YellowFin), or had no time for (meProp),
have rows of their own.
"""

from collections.abc import Mapping
from typing import Any

from dualnet.config import TrainConfig
from dualnet.methods.boosted.settings import BoostedConfig
from dualnet.methods.resnet.settings import ResnetConfig
from dualnet.reproduce.target import Published, Target, Variant

PAPER = "Solomatov and Stepanov 2017"
ONE = "dualnet.reproduce.speedups:in_one_process"
SEVERAL = "dualnet.reproduce.speedups:in_several_processes"
BASELINE_MIN = 162.0        # of training, on one GTX 1080 Ti
SMOKE = {"data": "shapes", "iterations": 2, "batch_size": 4, "log_every": 1}
EPOCHS = {"smoke": 1, "cpu": 2, "gpu": 15, "full": 200}
NETS = {"smoke": "resnet20-projection", "cpu": "resnet20-projection",
        "gpu": "resnet122-projection", "full": "resnet122-projection"}
IMAGES = 50_000
# Of one of GOALS, the time to this accuracy is a row.
GOAL = {"smoke": "seconds_to_40_percent", "cpu": "seconds_to_40_percent",
        "gpu": "seconds_to_80_percent", "full": "seconds_to_90_percent"}
MODERN = "KellerJordan/cifar10-airbench, 2025, airbench94_muon: 94.01 % in 2.59 s on one A100"
STOCHASTIC = {"stochastic_depth": "uniform", "survival": 0.5}
PREACT = {"preact": True}


def _settings(scale: str, batch_size: int = 128) -> dict[str, Any]:
    """The baseline; rates fall to a tenth after 40 % and 80 %, which is 80 and 160 of 200 epochs.
    A larger batch has a rate in proportion, reached in the first epochs."""
    iterations = EPOCHS[scale] * (IMAGES // batch_size)
    settings: dict[str, Any] = {
        "data": "cifar10", "net": NETS[scale], "mean": "channel", "scale": 1 / 127.5,
        "mirror": True, "crop": 4, "batch_size": batch_size, "iterations": iterations, "lr": 0.1,
        "lr_schedule": "step", "lr_step": iterations * 2 // 5, "weight_decay": 1e-4,
        "checkpoint_every": 0}
    if batch_size > 128:
        settings |= {"base_batch": 128, "warmup_epochs": min(3.0, EPOCHS[scale] / 10)}
    return settings


def _boosted(scale: str) -> dict[str, Any]:
    """Each block has the schedule of the baseline within its own share of the iterations."""
    settings = _settings(scale)
    blocks = 1 + 3 * (3 if NETS[scale] == NETS["cpu"] else 20)
    share = settings["iterations"] // blocks
    return {**settings, "lr_step": max(share * 2 // 5, 1)}


def _variant(scale: str, name: str, settings: Mapping[str, Any], accuracy: Published,
             minutes: float | None = None, config: type[TrainConfig] = ResnetConfig,
             measure: str = ONE) -> Variant:
    is_smoke = scale == "smoke"
    chosen: Any = config(**{**settings, **(SMOKE if is_smoke else {})})
    if isinstance(chosen, BoostedConfig):
        if is_smoke:        # one module, which is judged on all training images
            chosen = chosen.replace(block_iterations=chosen.iterations)
    else:
        chosen = chosen.resolved()
    speedup = [Published(BASELINE_MIN / minutes, f"{PAPER}, results, of {minutes:g} minutes on GTX "
                         "1080 Ti")] if minutes else []
    to_goal = [Published(None, MODERN)] if name == "baseline" else []
    return Variant(name, chosen, {"accuracy": [accuracy], "speedup": speedup,
                                  GOAL[scale]: to_goal},
                   test_images=20 if is_smoke else None, measure=ONE if is_smoke else measure)


def _table(scale: str) -> list[Variant]:
    base, large = _settings(scale), _settings(scale, 1024)
    half = {"precision": "float16" if scale in ("gpu", "full") else "bfloat16"}

    def said(value: float) -> Published:
        return Published(value, f"{PAPER}, results, 200 epochs, 122 layers")

    def words(text: str) -> Published:
        return Published(None, f"{PAPER}: {text}")

    stacked = words("not among its rows")
    return [
        _variant(scale, "baseline", base, said(0.93), 162),
        _variant(scale, "half precision", {**base, **half}, said(0.928), 162),
        _variant(scale, "pre-activation", {**base, **PREACT}, said(0.935), 162),
        _variant(scale, "several GPUs, batch 1024", large, said(0.92), 49, measure=SEVERAL),
        _variant(scale, "stochastic depth", {**base, **STOCHASTIC}, said(0.931), 90),
        _variant(scale, "pre-activation, stochastic depth", {**base, **PREACT, **STOCHASTIC},
                 stacked),
        _variant(scale, "pre-activation, stochastic depth, half precision",
                 {**base, **PREACT, **STOCHASTIC, **half}, stacked),
        _variant(scale, "best model", {**large, **PREACT, **STOCHASTIC}, said(0.934), 32,
                 measure=SEVERAL),
        _variant(scale, "BoostResNet", _boosted(scale),
                 Published(0.88, f"{PAPER}, \"approximately 88%\""), config=BoostedConfig),
        _variant(scale, "YellowFin", {**base, "optimizer": "yellowfin"},
                 words("not reproduced; \"~1.5x speedup\" as related work")),
        _variant(scale, "meProp, a quarter of the maps", {**base, "meprop": 0.25},
                 words("no time to try it")),
    ]


TARGETS = (
    Target("resnet-speedups", f"{PAPER}, results",
           "time and accuracy of a residual net with techniques that make it train faster, as "
           "ratios to the plain net measured in the same minutes, and the seconds of training to "
           "a given test accuracy",
           {"smoke": "60 s", "cpu": "20 layers, 2 epochs a row: about 10 min a row",
            "gpu": "122 layers, 15 epochs a row: at most 8 min a row on one GPU, not run yet",
            "full": "122 layers, 200 epochs a row, up to 4 GPUs: not run"},
           _table, {"loss": "log", "accuracy": "linear"},
           references=("baseline",)),
)
