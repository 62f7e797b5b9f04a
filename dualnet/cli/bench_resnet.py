"""bench resnet: the switches of train resnet, and several processes, beside the plain training."""

import argparse
from typing import Any

from dualnet.cli.benching import command_line, count, device_flag, finish, gathered
from dualnet.errors import UserError
from dualnet.methods.resnet.settings import ResnetConfig


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    parser.add_argument("--net", default="resnet20", help="network (default: resnet20)")
    parser.add_argument("--batch-size", type=count, default=128, metavar="N",
                        help="images per iteration of each process (default: 128)")
    parser.add_argument("--iterations", type=count, default=20, metavar="N",
                        help="steps of each way per round, besides those that warm up "
                        "(default: 20)")
    parser.add_argument("--processes", type=count, default=2, metavar="N",
                        help="processes beside one, on a thread each; 1 leaves them out "
                        "(default: 2)")
    device_flag(parser)


def resnet(arguments: argparse.Namespace) -> int:
    """The command `bench resnet`."""
    from dualnet import machine
    from dualnet.bench import resnet as bench
    from dualnet.bench.results import Stopwatch

    if arguments.iterations < 2:
        raise UserError("--iterations must be at least 2, found 1")
    settings = ResnetConfig(net=arguments.net, batch_size=arguments.batch_size, threads=1,
                            device=arguments.device)
    device, stopwatch = machine.prepare(settings, "resnet", ("resnet",)), Stopwatch()
    parts = [bench.step_rows(settings, arguments.iterations, arguments.rounds)]
    if arguments.processes > 1:
        parts.append(bench.parallel_rows(settings, arguments.processes, arguments.iterations,
                                         arguments.rounds))
    measured = [row for rounds in parts for row in gathered(
        rounds, arguments.rounds, lambda row: f"{row['images_per_s']:.1f}")]
    given = {"net": settings.net, "batch_size": settings.batch_size,
             "iterations": arguments.iterations, "processes": arguments.processes}
    line = stopwatch.line("resnet", command_line(), arguments.rounds, given,
                          measured, device)
    _print(line)
    return finish(arguments, lambda: line)


def _print(line: dict[str, Any]) -> None:
    from dualnet.bench.results import over_base, spread

    settings = line["settings"]
    print(f"{settings['net']}, {settings['batch_size']} images per process, one thread each, n = "
          f"{line['rounds']} rounds; median (smallest to largest)")
    for row in line["measured"]:
        blocks = row.get("blocks", [])
        share = f"   {100 * sum(blocks) / len(blocks):.0f} % of the blocks" if blocks else ""
        print(f"{row['way']:32} {spread(row['images_per_s']).said('.1f'):26} images/s   "
              f"{spread(over_base(line, row['way']) or []).said()} x {row['base']}{share}")
