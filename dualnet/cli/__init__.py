"""The command line: parse, call, print, exit code.  Nothing else in the package prints.

Modules that need torch are imported inside the commands, so that --help answers at once.
"""

import signal
import sys
from collections.abc import Sequence

from dualnet import __version__
from dualnet.cli import (
    bench,
    clean,
    compare,
    data,
    doctor,
    evaluate,
    export,
    plot,
    reproduce,
    role,
    status,
    train,
)
from dualnet.cli.exit_codes import EXIT_CODES, tell
from dualnet.cli.parser import Parser, with_dashes
from dualnet.errors import Stopped
from dualnet.stopping import leave

EPILOG = f"""\
examples:
  dualnet train dual --iterations 300
  dualnet train single --data cifar10 --seed 1
  dualnet net1 --exchange-dir /mnt/shared/run1     (and net2 on another machine)
  dualnet compare --losses admm,euclidean --seeds 0,1,2 --single
  dualnet data fetch cifar10
  dualnet plot runs/*
  dualnet export runs/NAME net.pt

exit codes:
{EXIT_CODES}
"""


def build_parser() -> Parser:
    """All commands and their flags."""
    parser = Parser("dualnet", description="Train one network in parts: processes that share "
                    "nothing but a folder.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"dualnet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True,
                                     parser_class=Parser)
    for command in (train, role, status, clean, compare, plot, evaluate, export, data, doctor,
                    bench, reproduce):
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(with_dashes(sys.argv[1:] if argv is None else argv))
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)
    try:
        code: int = arguments.command(arguments)
        return code
    except (Exception, KeyboardInterrupt, Stopped) as error:
        return tell(error)
