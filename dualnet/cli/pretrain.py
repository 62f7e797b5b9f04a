"""train partition, train net2wider: narrow nets first, then a whole one made of them."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dualnet.cli import runs
from dualnet.cli.apart import Apart, add_apart, show, train_apart, train_one
from dualnet.cli.parser import add_settings, settings_of
from dualnet.methods.net2wider.settings import TEACHER, WIDER, Net2WiderConfig
from dualnet.methods.partition.settings import MERGED, PartitionConfig

if TYPE_CHECKING:
    from dualnet.run import Run


def add(methods: Any) -> None:
    """Add the commands to the methods of `train`."""
    for name, config, command, text in (
            ("partition", PartitionConfig, train_partition,
             "sub-models apart, then the net that they are merged to"),
            ("net2wider", Net2WiderConfig, train_net2wider,
             "a narrow net, then the wide one that takes over its function")):
        method = methods.add_parser(name, help=text, description=f"Train {text}.")
        add_settings(method, config)
        runs.add_output(method)
        if name == "partition":
            add_apart(method, "sub-model", "merges them")
        method.set_defaults(command=command, parser=method)


def train_partition(arguments: argparse.Namespace) -> int:
    """The command `train partition`."""
    settings = runs.resolve_auto(settings_of(arguments, PartitionConfig, "partition").resolved())
    run = runs.run_of(arguments, "partition", settings)
    subs = Apart("partition", "sub-model", settings.sub_roles, settings.merge_at or 0)
    from dualnet.diversity import draw
    from dualnet.pretraining import Partition

    def train(role: str) -> Iterator[dict[str, Any]]:
        partition = Partition(settings, run)
        partition.sub(role)     # what cannot be split is refused at once
        return partition.train_sub(role)

    if arguments.only is not None:
        return train_one(arguments, subs, settings, run, train)
    run.start("partition", settings, overwrite=arguments.overwrite)
    try:
        partition = Partition(settings, run)
        partition.sub(settings.sub_roles[0])
        if code := train_apart(arguments, subs, settings, run, partition.train_sub):
            return code
        show(MERGED, partition.train_merged(), settings.iterations, run, arguments.quiet)
    finally:
        runs.discard_if_untrained(run)
    if settings.sub_models > 1:
        draw(run)
    return _report(run)


def train_net2wider(arguments: argparse.Namespace) -> int:
    """The command `train net2wider`."""
    settings = runs.resolve_auto(settings_of(arguments, Net2WiderConfig, "net2wider").resolved())
    run = runs.run_of(arguments, "net2wider", settings)
    from dualnet.pretraining import Net2Wider

    run.start("net2wider", settings, overwrite=arguments.overwrite)
    try:
        phases = Net2Wider(settings, run)
        show(TEACHER, phases.train_teacher(), settings.widen_at, run, arguments.quiet)
        show(WIDER, phases.train_wider(), settings.iterations, run, arguments.quiet)
    finally:
        runs.discard_if_untrained(run)
    return _report(run)


def _report(run: "Run") -> int:
    runs.report(run)
    summary = run.summary()
    if summary["iteration_speedup"]:
        print(f"an iteration of the narrow nets is {summary['iteration_speedup']:.2f} times as "
              "fast as one of the whole")
    if run.diversity_path.exists():
        print(f"diversity: {run.diversity_path}")
    return 0
