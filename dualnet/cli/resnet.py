"""train resnet: in this process, or as one of those that torchrun starts."""

import argparse
from typing import Any

from dualnet.cli import runs
from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.ranks import help_rank_0
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
    from dualnet.resnet_session import helper, resnet

    if world_of().rank:
        return help_rank_0(helper, settings)
    settings = runs.resolve_auto(settings)
    run = runs.run_of(arguments, RESNET, settings)
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
