"""bench resnet: the switches of train resnet, and several processes, beside the plain training."""

import argparse
import sys
from statistics import median
from typing import Any

from dualnet.cli.bench import add_rounds
from dualnet.errors import UserError
from dualnet.methods.resnet.settings import ResnetConfig


def add(subjects: Any) -> None:
    """Add the subject to the parser of `bench`."""
    parser = subjects.add_parser(
        "resnet", help="the switches of train resnet, and several processes, beside the plain one")
    parser.add_argument("--net", default="resnet20", help="network (default: resnet20)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N",
                        help="images per iteration of each process (default: 128)")
    parser.add_argument("--iterations", type=int, default=20, metavar="N",
                        help="steps of each way per round, besides those that warm up "
                        "(default: 20)")
    parser.add_argument("--processes", type=int, default=2, metavar="N",
                        help="processes beside one, on a thread each; 1 leaves them out "
                        "(default: 2)")
    parser.add_argument("--device", default="auto", metavar="DEVICE",
                        help="auto, cpu, cuda or cuda:N (default: auto)")
    add_rounds(parser)
    parser.set_defaults(command=resnet, parser=parser)


def resnet(arguments: argparse.Namespace) -> int:
    """The command `bench resnet`."""
    from dualnet.bench import resnet as bench

    for name in ("batch_size", "iterations", "processes", "rounds"):
        if getattr(arguments, name) < (2 if name == "iterations" else 1):
            raise UserError(f"--{name.replace('_', '-')} is too small: {getattr(arguments, name)}")
    settings = ResnetConfig(net=arguments.net, batch_size=arguments.batch_size, threads=1,
                            device=arguments.device)
    measured: dict[str, dict[str, Any]] = {}
    parts = [bench.step_rows(settings, arguments.iterations, arguments.rounds)]
    if arguments.processes > 1:
        parts.append(bench.parallel_rows(settings, arguments.processes, arguments.iterations,
                                         arguments.rounds))
    for rows_of_rounds in parts:
        for number, rows in enumerate(rows_of_rounds, start=1):
            bench.gather(measured, rows)
            print(f"round {number}/{arguments.rounds}  " + "  ".join(
                f"{row['way']} {row['images_per_s']:.1f}" for row in rows), file=sys.stderr,
                flush=True)
    print(f"{settings.net}, {settings.batch_size} images per process, one thread each, n = "
          f"{arguments.rounds} rounds; median (smallest to largest)")
    for way, row in measured.items():
        share = f"   {100 * _mean(row['blocks']):.0f} % of the blocks" if "blocks" in row else ""
        print(f"{way:32} {_said(row['images_per_s'], '.1f'):26} images/s   "
              f"{_said(bench.speed_ups(measured, way), '.2f')} x{share}")
    return 0


def _said(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
