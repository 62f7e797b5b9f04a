"""train resist: all sites in this process, or one of those of torchrun or of a folder."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli import runs
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.ranks import help_rank_0
from dualnet.errors import UserError
from dualnet.methods.resist.settings import RESIST, ResistConfig

if TYPE_CHECKING:
    from dualnet.run import Run


def add(methods: Any) -> None:
    """Add the method to those of `train`."""
    text = "sub-nets of a residual net at several sites, averaged after each round (ResIST)"
    method = methods.add_parser(RESIST, help=text, description=f"Train {text}.")
    add_settings(method, ResistConfig)
    runs.add_output(method)
    method.add_argument("--exchange-dir", type=Path, metavar="DIR",
                        help="folder through which sites that are processes reach each other, on"
                        " one host or on several; with --site")
    method.add_argument("--site", type=int, metavar="N",
                        help="which site this process is, from 1; the first one tests and writes"
                        " the run; with --exchange-dir")
    method.set_defaults(command=train_resist, parser=method)


def train_resist(arguments: argparse.Namespace) -> int:
    """The command `train resist`."""
    settings = settings_of(arguments, ResistConfig, RESIST).resolved()
    from dualnet.parallel import world_of
    from dualnet.resist_session import helper, resist

    site = _site(arguments, settings, world_of().size)
    if site is not None:
        return _train_site(arguments, runs.resolve_auto(settings), site)
    if world_of().rank:
        return help_rank_0(helper, settings)
    settings = runs.resolve_auto(settings)
    run = runs.run_of(arguments, RESIST, settings)
    run.start(RESIST, settings, overwrite=arguments.overwrite)
    try:
        _show(resist(settings, run), settings, arguments, run)
    finally:
        runs.discard_if_untrained(run)
    return _tell(run)


def _site(arguments: argparse.Namespace, settings: ResistConfig, processes: int) -> int | None:
    """Which site of a folder this process is, counted from 0; None without a folder.

    Raises UserError for flags that do not fit together.
    """
    site = arguments.site
    if (arguments.exchange_dir is None) != (site is None):
        raise UserError("--exchange-dir and --site belong together: the folder of all sites, and "
                        "which of them this process is")
    if site is None:
        return None
    if not 1 <= site <= settings.sites or settings.sites == 1:
        raise UserError(f"--site takes 1 to --sites {settings.sites}, of at least two sites, found "
                        f"{site}")
    if processes > 1:
        raise UserError("--exchange-dir is for sites without torchrun, which connects them itself; "
                        "leave one of the two")
    return int(site) - 1


def _train_site(arguments: argparse.Namespace, settings: ResistConfig, site: int) -> int:
    """Train as a site with the others at --exchange-dir; the first one tells how it went."""
    logging.basicConfig(level=logging.INFO, format=f"site {site + 1}: %(message)s")
    from dualnet.resist_folder import resist_in_folder

    run = runs.run_of(arguments, RESIST, settings)
    lines = resist_in_folder(settings, run, arguments.exchange_dir, site,
                             overwrite=arguments.overwrite)
    _show(lines, settings, arguments, run)
    return 0 if site else _tell(run)


def _show(lines: Iterator[dict[str, Any]], settings: ResistConfig, arguments: argparse.Namespace,
          run: "Run") -> None:
    progress = Progress(settings.iterations, (RESIST,), run=run.folder, quiet=arguments.quiet)
    try:
        for line in lines:
            progress.show(RESIST, line)
    finally:
        progress.close()


def _tell(run: "Run") -> int:
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
