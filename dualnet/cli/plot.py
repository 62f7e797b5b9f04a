"""plot: the curves of one or several runs."""

import argparse
from pathlib import Path
from typing import Any

from dualnet.panels import ABSCISSAE, DEFAULT_METRICS, METRICS, SMOOTHING

ALL = "all"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("plot", help="draw the curves of runs")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--metric", default=",".join(DEFAULT_METRICS), metavar="METRIC,...",
                        help=f"what to draw: {', '.join(METRICS)}, or {ALL} (default: "
                        f"{','.join(DEFAULT_METRICS)})")
    parser.add_argument("--x", default="iteration", metavar=f"{{{','.join(ABSCISSAE)}}}",
                        help="what to draw it against (default: iteration)")
    parser.add_argument("--smooth", type=float, default=SMOOTHING, metavar="W",
                        help="weight of what came before in the bold curves, 0 (none) to below 1 "
                        f"(default: {SMOOTHING})")
    parser.add_argument("--out", "-o", type=Path, action="append", metavar="FILE",
                        help="file to write, .png, .svg or .pdf; may be repeated (default: "
                        "loss.png in the first run)")
    parser.set_defaults(command=plot, parser=parser)


def plot(arguments: argparse.Namespace) -> int:
    """The command `plot`."""
    from dualnet.config import choose
    from dualnet.errors import UserError
    from dualnet.plot import draw
    from dualnet.run import Run

    metrics = [choose("metric", word.strip(), (*METRICS, ALL))
               for word in arguments.metric.split(",")]
    x = choose("value of --x", arguments.x, ABSCISSAE)
    if not 0 <= arguments.smooth < 1:
        raise UserError(f"--smooth takes a weight from 0 to below 1, found {arguments.smooth:g}")
    paths = arguments.out or [Run(arguments.runs[0]).figure_path]
    draw(arguments.runs, paths, metrics=METRICS if ALL in metrics else metrics, x=x,
         smoothing=arguments.smooth)
    for path in paths:
        print(path)
    return 0
