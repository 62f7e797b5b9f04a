"""train single: the uncut net, in one process."""

import argparse
from typing import TYPE_CHECKING, Any

from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.runs import (
    add_output,
    discard_if_untrained,
    report,
    resolve_auto,
    run_of,
    tell_notes,
)
from dualnet.config import TrainConfig

if TYPE_CHECKING:
    from dualnet.run import Run


def add(methods: Any) -> None:
    """Add the method to those of `train`."""
    text = "the uncut net, in one process"
    method = methods.add_parser("single", help=text, description=f"Train {text}.")
    add_settings(method, TrainConfig)
    add_output(method)
    method.set_defaults(command=train_single, parser=method)


def train_single(arguments: argparse.Namespace) -> int:
    """The command `train single`."""
    settings = resolve_auto(settings_of(arguments, TrainConfig, "single"))
    run = run_of(arguments, "single", settings)
    if not arguments.quiet:
        tell_notes(settings)
    run_single(settings, run, overwrite=arguments.overwrite, quiet=arguments.quiet)
    report(run)
    return 0


def run_single(settings: TrainConfig, run: "Run", *, overwrite: bool, quiet: bool) -> None:
    """Train the uncut net in this process, into `run`."""
    from dualnet import session

    run.start("single", settings, overwrite=overwrite)
    progress = Progress(settings.iterations, ("single",), run=run.folder, quiet=quiet)
    try:
        for line in session.single(settings, run):
            progress.show("single", line)
    finally:
        progress.close()
        discard_if_untrained(run)
