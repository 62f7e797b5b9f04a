"""net1, net2, ...: one role of the dual net, for terminals, hosts or a batch system."""

import argparse
import logging
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.runs import add_output, outcome, resolve_auto, run_of
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import MOST_PARTS, ROLES, role_names

STDIN = 0


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    for role in role_names(MOST_PARTS):
        text = f"train as {role}; each other role is another process, here or on another host"
        # Only the roles of every dual net stand in the list of commands.
        shown: dict[str, Any] = {"help": text} if role in ROLES else {}
        parser = commands.add_parser(role, description=f"{text[0].upper()}{text[1:]}.", **shown)
        parser.add_argument("--exchange-dir", type=Path, required=True, metavar="DIR",
                            help="folder that all roles see")
        parser.add_argument("--end-with-stdin", action="store_true",
                            help="end when standard input closes, so that no role outlives the "
                            "process that started it")
        add_settings(parser, DualConfig)
        add_output(parser)
        parser.set_defaults(command=partial(train_role, role), parser=parser)


def train_role(role: str, arguments: argparse.Namespace) -> int:
    """The command `net1`, `net2`, ..."""
    logging.basicConfig(level=logging.INFO, format=f"{role}: %(message)s")
    if arguments.end_with_stdin:
        follow_stdin()
    settings = resolve_auto(settings_of(arguments, DualConfig, "dual").resolved())
    run = run_of(arguments, "dual", settings)
    from dualnet import role_session

    progress = Progress(settings.iterations, (role,), run=run.folder, quiet=arguments.quiet)
    for line in role_session.role(role, settings, run, arguments.exchange_dir,
                             overwrite=arguments.overwrite):
        progress.show(role, line)
    progress.close()
    if role == settings.roles[-1] and not arguments.quiet and run.summary_path.exists():
        print(outcome(run.summary()))
    return 0


def follow_stdin() -> None:
    """End this process, as SIGTERM does, when its standard input closes."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(STDIN, 4096):     # not sys.stdin, whose lock the interpreter wants at its end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
