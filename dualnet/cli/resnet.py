"""train resnet: in this process, or as one of those that torchrun starts."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from dualnet.cli import runs
from dualnet.cli.exit_codes import explain
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.errors import Stopped
from dualnet.methods.resnet.settings import RESNET, ResnetConfig


def add(methods: Any) -> None:
    """Add the method to those of `train`."""
    text = "a residual net, with switches that make it faster; under torchrun in several processes"
    method = methods.add_parser(RESNET, help=text, description=f"Train {text}.")
    add_settings(method, ResnetConfig)
    runs.add_output(method)
    method.set_defaults(command=train_resnet, parser=method)


def train_resnet(arguments: argparse.Namespace) -> int:
    """The command `train resnet`."""
    settings = settings_of(arguments, ResnetConfig, RESNET).resolved()
    from dualnet.parallel import world_of

    if world_of().rank:
        return _help_rank_0(settings)
    settings = runs.resolve_auto(settings)
    run = runs.run_of(arguments, RESNET, settings)
    from dualnet.resnet_session import resnet

    run.start(RESNET, settings, overwrite=arguments.overwrite)
    progress = Progress(settings.iterations, (RESNET,), run=run.folder, quiet=arguments.quiet)
    try:
        for line in resnet(settings, run):
            progress.show(RESNET, line)
    finally:
        progress.close()
        runs.discard_if_untrained(run)
    runs.report(run)
    return 0


def _help_rank_0(settings: ResnetConfig) -> int:
    """Train as another rank than 0, which says what there is to say and writes what is written."""
    from dualnet import data
    from dualnet.resnet_session import helper
    from shared_fs import PeerLost

    try:
        helper(settings.replace(data=data.resolve(settings.data, Path(settings.data_dir))))
    except (Stopped, PeerLost) as error:
        code, sentence = explain(error)
        print(f"dualnet: {sentence}", file=sys.stderr, flush=True)
        # Sums that rank 0 has left are under way, and an orderly exit waits for them in vain.
        os._exit(code)
    return 0
