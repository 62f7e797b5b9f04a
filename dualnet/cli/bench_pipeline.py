"""bench pipeline: the schedules of the dual net beside the single net."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.benching import DEFAULT_FOLDER, command_line, count, counts, cpu, finish, present
from dualnet.cli.progress import clock_text
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig

if TYPE_CHECKING:
    from dualnet.ledger import Line


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    parser.add_argument("--net", default="caffenet", help="network (default: caffenet)")
    parser.add_argument("--cut", default="pool2", metavar="LAYER",
                        help="layer behind which it is cut (default: pool2)")
    parser.add_argument("--batch-size", type=count, default=64, metavar="N",
                        help="images per iteration (default: 64)")
    parser.add_argument("--iterations", type=count, default=10, metavar="N",
                        help="iterations of each way per round, after as many that warm up "
                        "(default: 10)")
    parser.add_argument("--micro-batches", type=counts, default="1,2,4,8,16", metavar="M,...",
                        help="parts of a batch (default: 1,2,4,8,16)")
    parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
                        help="folder of the messages and of what is trained, removed again "
                        f"(default: {DEFAULT_FOLDER})")


def pipeline(arguments: argparse.Namespace) -> int:
    """The command `bench pipeline`."""
    from dualnet.bench import pipeline as bench
    from dualnet.bench.results import Stopwatch, gather

    settings = DualConfig(net=arguments.net, cut=arguments.cut, batch_size=arguments.batch_size)
    if max(arguments.micro_batches) > settings.batch_size:
        raise UserError(f"--micro-batches must be at most --batch-size {settings.batch_size}, found"
                        f" {max(arguments.micro_batches)}")
    stopwatch, started = Stopwatch(), time.monotonic()
    total = arguments.rounds * (2 + len(bench.dual_ways(arguments.micro_batches))
                                + len(bench.gloo_ways(arguments.micro_batches)))
    measured: dict[str, dict[str, Any]] = {}
    rows = bench.rows(settings, arguments.micro_batches, arguments.iterations, arguments.rounds,
                      present(arguments.dir))
    for done, (number, row) in enumerate(rows, start=1):
        left_s = (time.monotonic() - started) / done * (total - done)
        print(f"round {number + 1}/{arguments.rounds}  {row['way']}  {row['images_per_s']:.1f} "
              f"images/s  ETA {clock_text(left_s)}", file=sys.stderr, flush=True)
        gather(measured, [row])
    given = {"net": settings.net, "cut": settings.cut, "batch_size": settings.batch_size,
             "iterations": arguments.iterations, "micro_batches": arguments.micro_batches}
    line = stopwatch.line("pipeline", command_line(), arguments.rounds, given,
                          list(measured.values()), cpu())
    _print(line)
    return finish(arguments, lambda: line)


def _print(line: "Line") -> None:
    from dualnet.bench.results import bounds, shares, speed_ups, spread

    for row in line["measured"]:
        way = row["way"]
        parts = "; ".join("{} computes {:.0f} %, waits {:.0f} %, rest {:.0f} %".format(
            role, *(100 * part for part in shares(line, way, role))) for role in
            row.get("alone_s", {}))
        print(f"{way:24} {spread(row['images_per_s']).said('.1f'):24} images/s   "
              f"{spread(speed_ups(line, way)).said():20} x single   {parts}")
    print(f"bound: {spread(bounds(line)).said()} x single (the slower half alone)")
