"""net1, net2, ...: one role of the dual net, for terminals, hosts or a batch system."""

import argparse
import logging
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.parser import add_settings, settings_of
from dualnet.cli.progress import Progress
from dualnet.cli.runs import add_output, outcome, resolve_auto, run_of
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import MOST_PARTS, ROLES, role_names

if TYPE_CHECKING:
    from dualnet.run import Run

STDIN = 0


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    for role in role_names(MOST_PARTS):
        text = f"train as {role}; each other role is another process, here or on another host"
        # Only the roles of every dual net stand in the list of commands.
        shown: dict[str, Any] = {"help": text} if role in ROLES else {}
        parser = commands.add_parser(role, description=f"{text[0].upper()}{text[1:]}.", **shown)
        parser.add_argument("--exchange-dir", type=Path, metavar="DIR",
                            help="folder that all roles see, with --backend file")
        parser.add_argument("--end-with-stdin", action="store_true",
                            help="end when standard input closes, so that no role outlives the "
                            "process that started it")
        add_settings(parser, DualConfig)
        add_output(parser)
        parser.set_defaults(command=partial(train_role, role), parser=parser)


def train_role(role: str, arguments: argparse.Namespace) -> int:
    """The command `net1`, `net2`, ..."""
    if arguments.end_with_stdin:
        follow_stdin()
    settings = settings_of(arguments, DualConfig, "dual").resolved()
    if settings.backend == "file" and arguments.exchange_dir is None:
        arguments.parser.error("the following arguments are required: --exchange-dir")
    settings = resolve_auto(settings)
    return run_role(role, settings, run_of(arguments, "dual", settings), arguments.exchange_dir,
                    overwrite=arguments.overwrite, quiet=arguments.quiet)


def run_role(role: str, settings: DualConfig, run: "Run", exchange_dir: Path | None, *,
             overwrite: bool, quiet: bool) -> int:
    """Train as `role` in this process, and say how it went."""
    logging.basicConfig(level=logging.INFO, format=f"{role}: %(message)s")
    from dualnet import role_session

    progress = Progress(settings.iterations, (role,), run=run.folder, quiet=quiet)
    for line in role_session.role(role, settings, run,
                                  exchange_dir if settings.backend == "file" else None,
                                  overwrite=overwrite):
        progress.show(role, line)
    progress.close()
    if role == settings.roles[-1] and not quiet and run.summary_path.exists():
        print(outcome(run.summary()))
    return 0


def role_of_rank(settings: DualConfig) -> str | None:
    """The role that torchrun has started this process as; None without torchrun.

    Raises UserError unless torchrun has started a process for each part.
    """
    if os.environ.get("RANK") is None:
        return None
    from dualnet.parallel import world_of

    world, roles = world_of(), settings.roles
    if world.size == 1:
        return None
    if world.size != len(roles):
        raise UserError(f"--cut {settings.cut} makes {len(roles)} parts, which need as many "
                        f"processes, and torchrun has started {world.size}; change one of the two")
    return roles[world.rank]


def follow_stdin() -> None:
    """End this process, as SIGTERM does, when its standard input closes."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(STDIN, 4096):     # not sys.stdin, whose lock the interpreter wants at its end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
