"""doctor: versions, devices and threads of this machine."""

import argparse
from typing import Any

from dualnet.methods.dual.wire import ROLES


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="versions, devices and threads of this machine")
    parser.set_defaults(command=doctor, parser=parser)


def doctor(arguments: argparse.Namespace) -> int:
    """The command `doctor`."""
    from dualnet import machine

    for name, value in {**machine.versions(), **machine.describe(ROLES)}.items():
        print(f"{name:9} {value}")
    return 0
