"""train partition, train net2wider: narrow nets first, then a whole one made of them."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli import runs
from dualnet.cli.follow import follow
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.role import follow_stdin
from dualnet.config import choose
from dualnet.methods.net2wider.settings import TEACHER, WIDER, Net2WiderConfig
from dualnet.methods.partition.settings import MERGED, PartitionConfig

if TYPE_CHECKING:
    from dualnet.launcher import Failure
    from dualnet.metrics import MetricsReader
    from dualnet.run import Run

RESUME_HINT = "run the same command again to resume"


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
            method.add_argument("--only", metavar="ROLE", help="train one sub-model alone, sub1, "
                                "sub2, ..., so that a batch system can run them on several hosts; "
                                "the same command without it merges them")
            method.add_argument("--end-with-stdin", action="store_true",
                                help="end when standard input closes, so that no sub-model outlives"
                                " the process that started it")
        method.set_defaults(command=command, parser=method)


def train_partition(arguments: argparse.Namespace) -> int:
    """The command `train partition`."""
    settings = runs.resolve_auto(settings_of(arguments, PartitionConfig, "partition").resolved())
    run = runs.run_of(arguments, "partition", settings)
    if arguments.only is not None:
        return _train_only(arguments, settings, run)
    from dualnet.diversity import draw
    from dualnet.pretraining import Partition

    run.start("partition", settings, overwrite=arguments.overwrite)
    try:
        partition = Partition(settings, run)
        partition.sub(settings.sub_roles[0])       # what cannot be split is refused at once
        if settings.jobs > 1 and settings.merge_at:
            if failure := _in_processes(settings, run, arguments.quiet):
                hint = "" if run.is_over else f"\ndualnet: {RESUME_HINT}"
                print(f"{failure.reason}{hint}", file=sys.stderr)
                return failure.code
        else:
            for role in settings.sub_roles:
                _show(role, partition.train_sub(role), settings.merge_at, run, arguments.quiet)
        _show(MERGED, partition.train_merged(), settings.iterations, run, arguments.quiet)
    finally:
        runs.discard_if_untrained(run)
    if settings.sub_models > 1:
        draw(run)
    return _report(run)


def _train_only(arguments: argparse.Namespace, settings: PartitionConfig, run: "Run") -> int:
    """One sub-model in this process."""
    role = choose("sub-model", arguments.only, settings.sub_roles)
    logging.basicConfig(level=logging.INFO, format=f"{role}: %(message)s")
    if arguments.end_with_stdin:
        follow_stdin()
    from dualnet.pretraining import Partition

    run.admit(role, "partition", settings, overwrite=arguments.overwrite)
    partition = Partition(settings, run)
    partition.sub(role)         # what cannot be split is refused before a folder is made
    run.join("partition", settings)
    _show(role, partition.train_sub(role), settings.merge_at, run, arguments.quiet)
    return 0


def _in_processes(settings: PartitionConfig, run: "Run", quiet: bool) -> "Failure | None":
    """Train the sub-models in processes of their own, --jobs at a time.

    Passes a signal on to them, upon which each writes a checkpoint, and raises Stopped then.
    """
    at_once = min(settings.jobs, settings.sub_models)
    threads = settings.threads or max(len(os.sched_getaffinity(0)) // at_once, 1)
    words: list[str | Path] = [
        "train", "partition", "--config", run.config_path, "--out", run.folder, "--threads",
        str(threads), "--device", settings.device, "--data-dir", settings.data_dir, "--quiet",
        "--end-with-stdin", "--only"]
    progress = Progress(settings.merge_at or 0, settings.sub_roles, run=run.folder, quiet=quiet)
    arguments = {role: [*words, role] for role in settings.sub_roles}
    failure, stop = follow(run, arguments, lambda readers, _: _show_lines(readers, progress),
                           at_once)
    progress.close()
    if not run.is_over:
        stop.check(RESUME_HINT)
    return failure


def _show_lines(readers: "dict[str, MetricsReader]", progress: Progress) -> None:
    """Show what the sub-models have written since the last look; whose a test is, is said."""
    for role, reader in readers.items():
        for line in reader.new():
            if line["split"] == "test":
                progress.say(f"{role}, step {line['step']}: test accuracy "
                             f"{100 * line['accuracy']:.2f} %")
            else:
                progress.show(role, line)


def train_net2wider(arguments: argparse.Namespace) -> int:
    """The command `train net2wider`."""
    settings = runs.resolve_auto(settings_of(arguments, Net2WiderConfig, "net2wider").resolved())
    run = runs.run_of(arguments, "net2wider", settings)
    from dualnet.pretraining import Net2Wider

    run.start("net2wider", settings, overwrite=arguments.overwrite)
    try:
        phases = Net2Wider(settings, run)
        _show(TEACHER, phases.train_teacher(), settings.widen_at, run, arguments.quiet)
        _show(WIDER, phases.train_wider(), settings.iterations, run, arguments.quiet)
    finally:
        runs.discard_if_untrained(run)
    return _report(run)


def _show(role: str, lines: Iterator[dict[str, Any]], until: int | None, run: "Run",
          quiet: bool) -> None:
    """Train a phase up to iteration `until`, showing its lines of metrics."""
    progress = Progress(until or 0, (role,), run=run.folder / role, quiet=quiet)
    try:
        for number, line in enumerate(lines):
            if number == 0:
                progress.say(f"{role}:")
            progress.show(role, line)
    finally:
        progress.close()


def _report(run: "Run") -> int:
    runs.report(run)
    summary = run.summary()
    if summary["iteration_speedup"]:
        print(f"an iteration of the narrow nets is {summary['iteration_speedup']:.2f} times as "
              "fast as one of the whole")
    if run.diversity_path.exists():
        print(f"diversity: {run.diversity_path}")
    return 0
