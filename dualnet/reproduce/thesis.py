"""Dziwulski 2017, "Distributed neural network training": its experiments, section by section.

The draft states neither layer sizes nor learning rates.  So its experiments were also run in real
Caffe (BVLC 1.0, one CPU thread, plain updates w -= lr * gradient, xavier fillers, mean image
subtracted, scale 1/64, batch 100, the first 1000 test images, one seed); the settings here are
those of these runs, and their figures stand beside the thesis'.  The finished version of the
thesis has the table of accuracies over 120 epochs, and all settings.
"""

from collections.abc import Mapping
from typing import Any

from dualnet.config import RECIPES, TrainConfig
from dualnet.methods.dual.settings import DualConfig
from dualnet.reproduce.target import Published, Target, Variant

PAPER = "Dziwulski 2017"
CHANCE = "classified no better than chance, about 100 of 1000"


# Enough to see that a target works.
SMOKE = {"data": "shapes", "iterations": 3, "batch_size": 10, "eval_every": 0}
SMOKE_TEST_IMAGES = 50

TURNS = {"schedule": "alternating", "net1_steps": 50, "net2_steps": 150}

# The settings of the runs in real Caffe.
CAFFE = {"net": "caffenet-small", "mean": "image", "scale": 1 / 64, "batch_size": 100,
         "lr": 0.05, "lr_schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
GAUSSIAN = {**CAFFE, "net": "caffenet-small-gaussian", "scale": 1.0, "lr": 0.01}

NORMS = {"loss1": "log", "loss2": "linear", "rms_conv3": "log", "rms_pool2": "log"}


def _variant(scale: str, name: str, config: type[TrainConfig], settings: Mapping[str, Any],
             published: Mapping[str, list[Published]] | None = None, **more: Any) -> Variant:
    """A variant, cut down where `scale` is smoke."""
    is_smoke = scale == "smoke"
    chosen = config(**{"data": "cifar10", **settings, **(SMOKE if is_smoke else {})})
    if isinstance(chosen, DualConfig):
        chosen = chosen.resolved()
    return Variant(name, chosen, published or {},
                   test_images=SMOKE_TEST_IMAGES if is_smoke else None, **more)


def _at(scale: str, cpu: Any, full: Any) -> Any:
    """What belongs to the scale: `cpu`, or else `full`."""
    return cpu if scale == "cpu" else full


def _single(scale: str, name: str, settings: Mapping[str, Any],
            published: Mapping[str, list[Published]] | None = None) -> Variant:
    return _variant(scale, name, TrainConfig, settings, published)


def _dual(scale: str, name: str, loss: str, settings: Mapping[str, Any],
          published: Mapping[str, list[Published]] | None = None, **more: Any) -> Variant:
    return _variant(scale, name, DualConfig, {**settings, "loss": loss}, published, **more)


def _caffe(value: float, iterations: int) -> Published:
    return Published(value, "real Caffe, first iteration" if iterations == 1 else
                     f"real Caffe, {iterations} iterations")


def _said(text: str, section: str) -> Published:
    return Published(None, f"{PAPER}, {section}: {text}")


def _shrinking(loss1: tuple[float, float], conv3: tuple[float, float],
               pool2: tuple[float, float], iterations: int) -> dict[str, list[Published]]:
    names = ("loss1", "rms_conv3", "rms_pool2")
    return {f"{name}_{end}": [_caffe(value, iterations if end == "last" else 1)]
            for name, pair in zip(names, (loss1, conv3, pool2), strict=True)
            for end, value in zip(("first", "last"), pair, strict=True)}


# -- section 9.4 of the draft: the default Euclidean loss ------------------------------------------

def _euclidean(scale: str) -> list[Variant]:
    def steps(full: int) -> dict[str, int]:
        return {"iterations": _at(scale, 250, full)}

    def accuracy(cpu: float, full: float, iterations: int) -> dict[str, list[Published]]:
        return {"accuracy": [_at(scale, _caffe(cpu, 250), _caffe(full, iterations))]}

    chance = _said(CHANCE, "section 9.4")
    collapsed = accuracy(0.124, 0.144, 800)["accuracy"]
    plateau = accuracy(0.097, 0.107, 800)["accuracy"]
    return [
        _single(scale, "single", {**CAFFE, **steps(2500)}, accuracy(0.425, 0.682, 2500)),
        _dual(scale, "frozen", "frozen", {**CAFFE, **steps(2500)}, accuracy(0.406, 0.587, 2500)),
        _dual(scale, "euclidean, lr1 1e-6", "euclidean",
              {**CAFFE, **steps(1500), "lr_net1": 1e-6},
              {**accuracy(0.403, 0.527, 1500),
               **_shrinking((948, 105), (0.656, 0.17), (0.964, 0.302), 1500)}),
        _dual(scale, "euclidean, lr1 1e-5", "euclidean",
              {**CAFFE, **steps(1500), "lr_net1": 1e-5},
              {**accuracy(0.384, 0.492, 1500),
               **_shrinking((948, 37.2), (0.656, 0.161), (0.964, 0.245), 1500)}),
        _dual(scale, "euclidean, lr1 1e-4", "euclidean",
              {**CAFFE, **steps(800), "lr_net1": 1e-4},
              {"accuracy": [chance, *collapsed],
               **_shrinking((948, 0.566), (0.656, 0.0193), (0.964, 0.0122), 800)}),
        _dual(scale, "equal rates 0.01", "euclidean",
              {**CAFFE, "iterations": 60, "batch_size": 256, "lr": 0.01, "lr_net1": 0.01},
              {"accuracy": [chance, _caffe(0.09, 60)],
               **_shrinking((953, 0.00181), (0.657, 5.96e-25), (0.965, 0.0), 60)}),
        _single(scale, "single, gaussian", {**GAUSSIAN, **steps(800)},
                accuracy(0.388, 0.566, 800)),
        _dual(scale, "euclidean, gaussian", "euclidean",
              {**GAUSSIAN, **steps(800), "lr_net1": 1e-5},
              {"accuracy": [chance, *plateau],
               **_shrinking((0.00754, 0.000686), (0.0017, 0.000459), (0.0152, 0.00386), 800)}),
    ]


# -- section 9.5 -----------------------------------------------------------------------------------

def _missing_loss_weight(scale: str) -> list[Variant]:
    source = f"{PAPER}, section 9.5.1, iterations not stated"
    settings = {**CAFFE, "iterations": _at(scale, 500, 2500)}
    return [
        _single(scale, "single", settings,
                {"accuracy": [Published(0.6375, source),
                              _at(scale, _caffe(0.557, 500), _caffe(0.682, 2500))]}),
        _dual(scale, "no loss_weight", "no_loss_weight", {**settings, "lr_net1": 0.05},
              {"accuracy": [Published(0.5253, source),
                            _at(scale, _caffe(0.499, 500), _caffe(0.587, 2500))],
               "grad_norm_net1_max": [Published(0.0, source), _caffe(0.0, 2500)],
               "loss1_first": [_caffe(948, 1)], "loss1_last": [_caffe(904, 2500)],
               "loss2_last": [_caffe(1.171, 2500)]}),
    ]


def _custom_layer(scale: str) -> list[Variant]:
    settings = {**CAFFE, "iterations": _at(scale, 50, 1000), "lr_net1": 1e-5, "log_every": 1}
    published = {"difference_loss1_5": [_said("the trends of the losses are similar",
                                              "section 9.5.2"), _caffe(1.2e-7, 5)],
                 "difference_loss1": [], "difference_weights": []}
    return [_dual(scale, f"gradient by hand, {precision}", "euclidean_by_hand",
                  {**settings, "precision": precision, "message_dtype": precision}, published,
                  figure="difference_loss1_5", unit="relative",
                  measure="dualnet.reproduce.runner:against_default")
            for precision in ("float32", "float64")]


def _normalized_both(scale: str) -> list[Variant]:
    nothing = {"accuracy": [_said("proposed, but too complex to differentiate; no figure",
                                  "section 9.5.3, eq. 9.3")]}
    return [_dual(scale, f"{denominator}, lr1 {lr:g}", "normalized_both",
                  {**CAFFE, "iterations": _at(scale, 150, 300), "denominator": denominator,
                   "lr_net1": lr}, nothing)
            for denominator, lr in (("constant", 1e-4), ("constant", 1e-2), ("exact", 1e-3),
                                    ("exact", 1e-2))]


def _normalized(scale: str) -> list[Variant]:
    failed = _said("no significant improvement; the losses dropped to zero very quickly, then the "
                   "outputs overflowed", "section 9.5.3, eq. 9.4")
    stable = {"accuracy": [failed, _caffe(0.396, 300)],
              **_shrinking((22.3, 6.83), (0.656, 0.17), (0.964, 0.29), 300)}
    violent = {"accuracy": [failed, _caffe(0.116, 6)], "diverged_at": [_caffe(7, 7)],
               "loss1_first": [_caffe(22.3, 1)]}
    rows: tuple[tuple[str, float, dict[str, list[Published]]], ...] = (
        ("constant", 1e-4, stable), ("constant", 1e-2, violent), ("exact", 1e-3, {}),
        ("exact", 1e-2, violent), ("target", 1e-4, {}), ("target", 1e-2, {}))
    return [_dual(scale, f"{denominator}, lr1 {lr:g}", "normalized",
                  {**CAFFE, "iterations": _at(scale, 150, 300), "denominator": denominator,
                   "lr_net1": lr}, published or {"accuracy": [failed]})
            for denominator, lr, published in rows]


# -- sections 9.6 and 9.7 --------------------------------------------------------------------------

def _alternating(scale: str) -> list[Variant]:
    # The finished version took 40 rounds of turns; a quick look takes three iterations.
    turns = {**TURNS, "net1_steps": 1, "net2_steps": 2} if scale == "smoke" else TURNS
    iterations = _at(scale, 400, 8000)
    updates = iterations * 150 // 200       # of net2, and so of the others
    final = Published(0.7215, f"{PAPER}, finished version, 8000 iterations of 1000 images")
    base = {**CAFFE, "iterations": iterations}
    rested = {**CAFFE, "iterations": updates}
    return [
        _single(scale, "single", rested,
                {"accuracy": [Published(0.7778, f"{PAPER}, finished version, 120 epochs")]}),
        _dual(scale, "euclidean, lockstep", "euclidean", {**rested, "lr_net1": 1e-5}),
        _dual(scale, "euclidean, alternating", "euclidean", {**base, **turns, "lr_net1": 1e-5},
              {"accuracy": [final]}),
        _dual(scale, "misaligned, alternating", "misaligned", {**base, **turns, "lr_net1": 1e-5}),
        _dual(scale, "admm, alternating", "admm", {**base, **turns}),
    ]


def _capacity(scale: str) -> list[Variant]:
    ratio = Published(4095 / 2608, f"{PAPER}, section 9.7.1: 4095 images against 2608")
    largest = {f"largest_batch_{name}": [Published(value, ratio.source)]
               for name, value in (("single", 2608.0), ("net1", 4095.0))} if scale == "full" else {}
    net = "caffenet-small" if scale == "smoke" else "caffenet"
    measure = "capacity_of_titan" if scale == "full" else "capacity"
    each: dict[str, list[Published]] = {
        f"bytes_per_image_{name}": [] for name in ("single", "net1", "net2")}
    return [Variant(f"cut at {cut}", DualConfig(net=net, cut=cut, loss="euclidean").resolved(),
                    {"ratio": [ratio], **each, **largest} if cut == "pool2" else each,
                    figure="ratio", unit="ratio", measure=f"dualnet.reproduce.capacity:{measure}")
            for cut in ("pool1", "pool2", "relu3")]


def _learning_rate(scale: str) -> list[Variant]:
    stretched = {"accuracy": [_said("a rate 100 times smaller stretches the learning curve",
                                    "section 9.7.2")]}
    sensible = {"accuracy": [_said("drastically decreasing net1's rate lets net2 converge",
                                   "section 9.5.3")]}
    rates = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    settings = {**CAFFE, "iterations": _at(scale, 150, 1500)}
    return [
        _single(scale, "single, lr 0.05", settings, stretched),
        _single(scale, "single, lr 0.0005", {**settings, "lr": 5e-4}, stretched),
        *(_dual(scale, f"euclidean, lr1 {lr:g}", "euclidean", {**settings, "lr_net1": lr},
                sensible) for lr in rates)]


# -- the finished version's table ------------------------------------------------------------------

TABLE = {"single": (0.6616, 0.7247, 0.7467, 0.7721, 0.7720, 0.7756, 0.7777, 0.7778),
         "euclidean": (0.6083, 0.6718, 0.7011, 0.7185, 0.7203, 0.7199, 0.7224, 0.7215)}
EPOCHS = tuple(range(15, 121, 15))
TABLE_LOSSES = ("admm", "euclidean", "frozen", "zero_target")
RECIPE = {**RECIPES["thesis"], "momentum": 0.9}


def _column(name: str, iterations: int) -> dict[str, list[Published]]:
    """The row of the table, as figures after so many iterations; the last is `accuracy`."""
    source = f"{PAPER}, finished version"
    every = iterations // len(EPOCHS)
    found = {f"accuracy@{every * number}": [Published(value, f"{source}, {epochs} epochs")]
             for number, (value, epochs) in enumerate(zip(TABLE[name], EPOCHS, strict=True),
                                                      start=1)}
    return found | {"accuracy": [Published(TABLE[name][-1], f"{source}, 120 epochs")]}


def _table(scale: str) -> list[Variant]:
    if scale in ("smoke", "cpu"):
        return _small_table(scale)
    single = {**RECIPE, "iterations": 6000, "eval_every": 750}
    # With net1 and net2 in turns, 8000 iterations give net2 its 6000 updates, 120 epochs.
    faithful = {**RECIPE, **TURNS, "iterations": 8000, "eval_every": 1000, "lr": 4e-3}
    rows = [_single(scale, "single", single, _column("single", 6000)),
            _dual(scale, "admm", "admm", single)]
    for loss in TABLE_LOSSES[1:]:
        rate = {} if loss == "frozen" else {"lr_net1": 5e-11}
        rows.append(_dual(scale, loss, loss, {**faithful, **rate},
                          _column(loss, 8000) if loss in TABLE else {}))
    return rows + _mnist(scale, 6000)


def _small_table(scale: str) -> list[Variant]:
    """Half an epoch of caffenet-small at a rate at which it learns, instead of 120 of caffenet."""
    base = {"net": "caffenet-small", "mean": "image", "scale": 1 / 64, "batch_size": 100,
            "lr": 0.01, "lr_schedule": "tail", "momentum": 0.9, "iterations": 250}
    last = {name: {"accuracy": _column(name, 6000)["accuracy"]} for name in TABLE}
    return [_single(scale, "single", base, last["single"]),
            *(_dual(scale, loss, loss, base, last.get(loss)) for loss in TABLE_LOSSES),
            *_mnist(scale, 250)]


def _mnist(scale: str, iterations: int) -> list[Variant]:
    near = {"accuracy": [Published(None, f"{PAPER}, finished version: within 0.005 of the single "
                                         "net")]}
    base = {"net": "lenet", "data": "mnist", "mean": "image", "scale": 1 / 64, "batch_size": 100,
            "lr": 0.01, "lr_schedule": "tail", "momentum": 0.9, "iterations": iterations}
    return [_single(scale, "mnist, single", base),
            *(_dual(scale, f"mnist, {loss}", loss, base, near)
              for loss in ("admm", "euclidean", "frozen"))]


TARGETS = (
    Target("thesis-9.1", f"{PAPER}, figure 9.1 (section 9.4)",
           "the default Euclidean loss: both losses, the norms that explain them, accuracy",
           {"smoke": "20 s", "cpu": "4 min a seed", "gpu": "10 min a seed, estimated",
            "full": "10 min a seed on a GPU, estimated"}, _euclidean, NORMS,
           references=("single", "single, gaussian"), compared=False),
    Target("thesis-9.2", f"{PAPER}, figure 9.2 (section 9.5.1)",
           "the missing loss_weight: net1's gradients are zero, net2 learns all the same",
           {"smoke": "8 s", "cpu": "2 min a seed", "gpu": "3 min a seed, estimated",
            "full": "3 min a seed on a GPU, estimated"}, _missing_loss_weight,
           {**NORMS, "grad_norm_net1": "linear"},
           references=("single",), compared=False),
    Target("thesis-9.3", f"{PAPER}, figure 9.3 (section 9.5.2)",
           "the custom layer, its gradient by hand, gives the numbers of the built-in loss",
           {"smoke": "6 s", "cpu": "1 min a seed", "gpu": "1 min a seed, estimated",
            "full": "1 min a seed on a GPU, estimated"}, _custom_layer, NORMS, compared=False),
    Target("thesis-eq-9.3", f"{PAPER}, equation 9.3",
           "the loss divided by the norms of both copies: two denominators, two rates",
           {"smoke": "12 s", "cpu": "2 min a seed", "gpu": "2 min a seed, estimated",
            "full": "2 min a seed on a GPU, estimated"}, _normalized_both, NORMS, compared=False),
    Target("thesis-eq-9.4", f"{PAPER}, equation 9.4",
           "the loss divided by the norm of one copy: shrinks, then overflows at a high rate",
           {"smoke": "16 s", "cpu": "2 min a seed", "gpu": "3 min a seed, estimated",
            "full": "3 min a seed on a GPU, estimated"}, _normalized, NORMS, compared=False),
    Target("thesis-alternating", f"{PAPER}, section 9.6",
           "50 iterations of net1, then 150 of net2, in turns",
           {"smoke": "16 s", "cpu": "4 min a seed", "gpu": "8 min a run, estimated",
            "full": "8 min a run on a GPU, estimated"}, _alternating, NORMS,
           references=("single",), compared=False),
    Target("thesis-9.4", f"{PAPER}, figure 9.4 (section 9.7.1)",
           "the largest batches: bytes kept for the backward pass, the loss of net1 included",
           {"smoke": "2 s", "cpu": "10 s", "gpu": "2 min, estimated",
            "full": "2 min on a GPU of at least 6 GiB, estimated"}, _capacity, seeded=False),
    Target("thesis-learning-rate", f"{PAPER}, section 9.7.2",
           "a rate 100 times smaller, and which rates of net1 let net2 learn",
           {"smoke": "20 s", "cpu": "3 min a seed", "gpu": "4 min a seed, estimated",
            "full": "4 min a seed on a GPU, estimated"}, _learning_rate, NORMS,
           references=("single, lr 0.05",), compared=False),
    Target("thesis-table", f"{PAPER}, finished version, table of accuracies",
           "single against dual over 120 epochs of CIFAR-10, with controls, and on MNIST",
           {"smoke": "20 s", "cpu": "3 min a seed", "gpu": "8 min a run, estimated",
            "full": "8 min a run on a GPU, estimated"}, _table,
           {"loss2": "linear", "rms_conv3": "log"}, references=("single", "mnist, single")),
)
