"""eval: test accuracy of a finished run, from its checkpoints."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("eval", help="test accuracy of a finished run")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets, if it moved")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: auto)")
    parser.set_defaults(command=evaluate, parser=parser)


def evaluate(arguments: argparse.Namespace) -> int:
    """The command `eval`."""
    from dualnet import session
    from dualnet.run import Run

    changes = {"device": arguments.device}
    if arguments.data_dir:
        changes["data_dir"] = arguments.data_dir
    for name, accuracy in session.evaluate(Run(arguments.run), changes).items():
        print(f"{name}: {100 * accuracy:.2f} %")
    return 0
