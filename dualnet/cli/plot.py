"""plot: the curves of one or several runs."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("plot", help="draw the curves of runs")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--out", "-o", type=Path, action="append", metavar="FILE",
                        help="file to write, .png, .svg or .pdf; may be repeated (default: "
                        "loss.png in the first run)")
    parser.set_defaults(command=plot, parser=parser)


def plot(arguments: argparse.Namespace) -> int:
    """The command `plot`."""
    from dualnet.plot import draw
    from dualnet.run import Run

    paths = arguments.out or [Run(arguments.runs[0]).figure_path]
    draw(arguments.runs, paths)
    for path in paths:
        print(path)
    return 0
