"""doctor: versions, devices and threads of this machine."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="versions, devices and threads of this machine")
    parser.set_defaults(command=doctor, parser=parser)


def doctor(arguments: argparse.Namespace) -> int:
    """The command `doctor`."""
    from dualnet import session

    for name, value in {**session.versions(), **session.machine()}.items():
        print(f"{name:9} {value}")
    return 0
