"""Nets of a run that are trained apart from each other: here one after another, in processes of
their own, or one alone for a batch system."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualnet.cli.follow import follow
from dualnet.cli.progress import Progress
from dualnet.cli.role import follow_stdin
from dualnet.config import choose

if TYPE_CHECKING:
    from dualnet.launcher import Failure
    from dualnet.metrics import MetricsReader
    from dualnet.run import Run

RESUME_HINT = "run the same command again to resume"

# Trains a net by its role, on from where it is.
Train = Callable[[str], Iterator[dict[str, Any]]]


class Apart(NamedTuple):
    """The nets.

    what   what one of them is called
    until  their last iteration
    """

    method: str
    what: str
    roles: tuple[str, ...]
    until: int


def add_apart(parser: argparse.ArgumentParser, what: str, then: str) -> None:
    """The flags with which one net is trained alone.

    then  what the same command does without them
    """
    first = what.removesuffix("-model")
    parser.add_argument("--only", metavar="ROLE", help=f"train one {what} alone, {first}1, {first}2"
                        ", ..., so that a batch system can run them on several hosts; the same "
                        f"command without it {then}")
    parser.add_argument("--end-with-stdin", action="store_true",
                        help=f"end when standard input closes, so that no {what} outlives the "
                        "process that started it")


def train_one(arguments: argparse.Namespace, apart: Apart, settings: Any, run: "Run",
              train: Train) -> int:
    """One of the nets in this process."""
    role = choose(apart.what, arguments.only, apart.roles)
    logging.basicConfig(level=logging.INFO, format=f"{role}: %(message)s")
    if arguments.end_with_stdin:
        follow_stdin()
    run.admit(role, apart.method, settings, overwrite=arguments.overwrite)
    lines = train(role)         # what is impossible is refused before a folder is made
    run.join(apart.method, settings)
    show(role, lines, apart.until, run, arguments.quiet)
    return 0


def train_apart(arguments: argparse.Namespace, apart: Apart, settings: Any, run: "Run",
                train: Train) -> int:
    """All of them, --jobs at a time; the exit code of the first that fails."""
    if settings.jobs == 1 or not apart.until:
        for role in apart.roles:
            show(role, train(role), apart.until, run, arguments.quiet)
        return 0
    if failure := _in_processes(apart, settings, run, arguments.quiet):
        hint = "" if run.is_over else f"\ndualnet: {RESUME_HINT}"
        print(f"{failure.reason}{hint}", file=sys.stderr)
        return failure.code
    return 0


def _in_processes(apart: Apart, settings: Any, run: "Run", quiet: bool) -> "Failure | None":
    """Train the nets in processes of their own, --jobs at a time.

    Passes a signal on to them, upon which each writes a checkpoint, and raises Stopped then.
    """
    at_once = min(settings.jobs, len(apart.roles))
    threads = settings.threads or max(len(os.sched_getaffinity(0)) // at_once, 1)
    words: list[str | Path] = [
        "train", apart.method, "--config", run.config_path, "--out", run.folder, "--threads",
        str(threads), "--device", settings.device, "--data-dir", settings.data_dir, "--quiet",
        "--end-with-stdin", "--only"]
    progress = Progress(apart.until, apart.roles, run=run.folder, quiet=quiet)
    arguments = {role: [*words, role] for role in apart.roles}
    failure, stop = follow(run, arguments, lambda readers, _: _show_lines(readers, progress),
                           at_once)
    progress.close()
    if not run.is_over:
        stop.check(RESUME_HINT)
    return failure


def _show_lines(readers: "dict[str, MetricsReader]", progress: Progress) -> None:
    """Show what the nets have written since the last look; whose a test is, is said."""
    for role, reader in readers.items():
        for line in reader.new():
            if line["split"] == "test":
                progress.say(f"{role}, step {line['step']}: test accuracy "
                             f"{100 * line['accuracy']:.2f} %")
            else:
                progress.show(role, line)


def show(role: str, lines: Iterator[dict[str, Any]], until: int | None, run: "Run",
         quiet: bool) -> None:
    """Train a net up to iteration `until`, showing its lines of metrics."""
    progress = Progress(until or 0, (role,), run=run.folder / role, quiet=quiet)
    try:
        for number, line in enumerate(lines):
            if number == 0:
                progress.say(f"{role}:")
            progress.show(role, line)
    finally:
        progress.close()
