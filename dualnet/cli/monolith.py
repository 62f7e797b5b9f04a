"""train monolith: trunks apart, then a head on them, then the whole net."""

import argparse
from typing import TYPE_CHECKING, Any

from dualnet.cli import runs
from dualnet.cli.apart import Apart, add_apart, show, train_apart, train_one
from dualnet.cli.parser import add_settings, settings_of
from dualnet.methods.monolith.settings import (
    HEAD,
    HIDDEN,
    MONOLITH,
    TRUNK,
    WHOLE,
    WORDS,
    MonolithConfig,
)

if TYPE_CHECKING:
    from dualnet.data.batches import Batches
    from dualnet.run import Run

HEADINGS = ("", "trained", "resting", "weights", "an image", "batch", "memory", "forward",
            "iteration", "iterations", "operations")
LEGEND = """\
weights     with gradients and momentum of those that are trained
an image    what is kept of it for the backward pass; memory: weights, and this of a batch
forward     multiply-adds of an image; iteration: additions and multiplications, all of them
operations  of the whole stage, its nets and what is computed once included"""


def add(methods: Any) -> None:
    """Add the method to those of `train`."""
    text = ("wide residual nets apart, a head that reads the features of all of them, and then"
            " everything together")
    method = methods.add_parser(MONOLITH, help=text, description=f"Train {text}.")
    add_settings(method, MonolithConfig, without=HIDDEN)
    runs.add_output(method)
    add_apart(method, "trunk", "goes on with the head")
    method.add_argument("--meta", action="store_true", help="print weights, memory and operations"
                        " of each stage, and train nothing")
    method.set_defaults(command=train_monolith, parser=method)


def train_monolith(arguments: argparse.Namespace) -> int:
    """The command `train monolith`."""
    settings = runs.resolve_auto(settings_of(arguments, MonolithConfig, MONOLITH).resolved())
    from dualnet.monolith_session import Monolith
    from dualnet.session import load_data

    dataset, batches = load_data(settings)
    if arguments.meta:
        return _tell_costs(settings, batches)
    settings = settings.counted(batches.num_samples)
    spans = settings.spans(batches.num_samples)
    run = runs.run_of(arguments, MONOLITH, settings)
    trunks = Apart(MONOLITH, "trunk", settings.trunk_roles, spans[TRUNK].until)
    monolith = Monolith(settings, run, dataset)
    if arguments.only is not None:
        return train_one(arguments, trunks, settings, run, monolith.train_trunk)
    run.start(MONOLITH, settings, overwrite=arguments.overwrite)
    try:
        if code := train_apart(arguments, trunks, settings, run, monolith.train_trunk):
            return code
        show(HEAD, monolith.train_head(), spans[HEAD].until, run, arguments.quiet)
        show(WHOLE, monolith.train_all(), spans[WHOLE].until, run, arguments.quiet)
    finally:
        runs.discard_if_untrained(run)
    runs.report(run)
    print(beside(run))
    return 0


def beside(run: "Run") -> str:
    """The test accuracies of what was there before the last stage."""
    summary = run.summary()
    trunks = [summary[f"accuracy_{role}"] for role in
              MonolithConfig(trunks=run.config()["trunks"]).trunk_roles]
    found = {"trunks": trunks, "mean of their logits": [summary["accuracy_mean_logits"]],
             "mean of their probabilities": [summary["accuracy_mean_probabilities"]],
             "head on resting trunks": [summary["accuracy_head"]]}
    return "\n".join(f"{name}: " + ", ".join(f"{100 * value:.2f} %" for value in values)
                     for name, values in found.items())


def _tell_costs(settings: MonolithConfig, batches: "Batches") -> int:
    """Print what each stage would cost; no net is made."""
    from dualnet.monolith_costs import costs_of, parameters_of

    dataset = batches.dataset
    costs = costs_of(settings, batches.input_shape, dataset.num_classes, batches.num_samples)
    print(f"{settings.net}, {dataset.num_classes} classes, {batches.num_samples} training images "
          f"of {list(batches.input_shape)}: {parameters_of(costs):,} weights; a trunk with its "
          f"proxy layer {costs[0].trained:,}")
    rows = [HEADINGS, *(
        (WORDS[cost.stage], f"{cost.trained:,}", f"{cost.resting:,}", _bytes(cost.weight_bytes),
         _bytes(cost.image_bytes), str(cost.batch_size), _bytes(cost.memory), _count(cost.forward),
         _count(cost.batch_size * cost.operations), f"{cost.iterations:,}", _count(cost.total))
        for cost in costs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(f"{row[0]:{widths[0]}}  " + "  ".join(
            f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)))
    print(LEGEND)
    return 0


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else (
        f"{size / 2**20:.2f} MiB" if size >= 2**20 else f"{size / 2**10:.2f} kiB")


def _count(number: float) -> str:
    """1.25e+17 as 125 P, and so on."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {prefix}".rstrip()
        number /= 1000
    return f"{number:.3g} E"
