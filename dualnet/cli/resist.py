"""train resist: all sites in this process, or one of those that torchrun starts."""

import argparse
from typing import Any

from dualnet.cli import runs
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.ranks import help_rank_0
from dualnet.methods.resist.settings import RESIST, ResistConfig


def add(methods: Any) -> None:
    """Add the method to those of `train`."""
    text = "sub-nets of a residual net at several sites, averaged after each round (ResIST)"
    method = methods.add_parser(RESIST, help=text, description=f"Train {text}.")
    add_settings(method, ResistConfig)
    runs.add_output(method)
    method.set_defaults(command=train_resist, parser=method)


def train_resist(arguments: argparse.Namespace) -> int:
    """The command `train resist`."""
    settings = settings_of(arguments, ResistConfig, RESIST).resolved()
    from dualnet.parallel import world_of
    from dualnet.resist_session import helper, resist

    if world_of().rank:
        return help_rank_0(helper, settings)
    settings = runs.resolve_auto(settings)
    run = runs.run_of(arguments, RESIST, settings)
    run.start(RESIST, settings, overwrite=arguments.overwrite)
    progress = Progress(settings.iterations, (RESIST,), run=run.folder, quiet=arguments.quiet)
    try:
        for line in resist(settings, run):
            progress.show(RESIST, line)
    finally:
        progress.close()
        runs.discard_if_untrained(run)
    runs.report(run)
    print(said(run.summary()))
    return 0


def said(summary: dict[str, Any]) -> str:
    """What the sites exchanged, in a line."""
    if summary["sites"] == 1:
        return "one site: nothing to exchange"
    return (f"{summary['sites']} sites, {summary['dealt_blocks']} blocks dealt out, at most "
            f"{summary['blocks_per_site']} to a site; sent and received: "
            f"{summary['bytes_rounds'] / 1e6:.1f} MB")
