"""bench resist: rounds of ResIST beside rounds of local SGD."""

import argparse
from typing import Any

from dualnet.cli.benching import command_line, count, counts, device_flag, finish, gathered
from dualnet.methods.resist.settings import RESIST, ResistConfig


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    parser.add_argument("--net", default=ResistConfig.net,
                        help=f"network (default: {ResistConfig.net})")
    parser.add_argument("--sites", type=counts, default="2,8", metavar="S,...",
                        help="numbers of sites (default: 2,8)")
    for name, default, text in (("batch-size", 8, "images per iteration of each site"),
                                ("local-iterations", 3, "iterations of a round")):
        parser.add_argument(f"--{name}", type=count, default=default, metavar="N",
                            help=f"{text} (default: {default})")
    device_flag(parser)


def resist(arguments: argparse.Namespace) -> int:
    """The command `bench resist`."""
    from dualnet import machine
    from dualnet.bench import resist as bench
    from dualnet.bench.results import Stopwatch

    settings = ResistConfig(
        net=arguments.net, batch_size=arguments.batch_size, threads=1, device=arguments.device,
        local_iterations=arguments.local_iterations).resolved()
    device, stopwatch = machine.prepare(settings, RESIST, (RESIST,)), Stopwatch()
    measured = gathered(bench.rows(settings, arguments.sites, arguments.rounds), arguments.rounds,
                        lambda row: f"{row['seconds']:.2f} s")
    given = {"net": settings.net, "sites": arguments.sites, "batch_size": settings.batch_size,
             "local_iterations": settings.local_iterations}
    line = stopwatch.line(RESIST, command_line(), arguments.rounds, given,
                          measured, device)
    _print(line)
    return finish(arguments, lambda: line)


def _print(line: dict[str, Any]) -> None:
    from dualnet.bench.resist import FOLLOWS, ways
    from dualnet.bench.results import over_base, spread

    settings = line["settings"]
    print(f"{settings['net']}, rounds of {settings['local_iterations']} x {settings['batch_size']} "
          f"images a site, one thread, n = {line['rounds']} rounds; over local SGD, median "
          "(smallest to largest)")
    for way in ways(line):
        for figure, expected in FOLLOWS.items():
            found, wanted = (spread(over_base(line, way, name) or []).said(".3f")
                             for name in (figure, expected))
            print(f"{way:18} {figure:8} {found:24} {expected:11} {wanted}")
