"""bench monolith: stage 2 with kept features beside running the trunks."""

import argparse
from typing import Any

from dualnet.cli.benching import command_line, count, device_flag, finish, gathered
from dualnet.methods.monolith.settings import MONOLITH, MonolithConfig


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    for name, default, text in (
            ("depth", 10, "layers of a trunk"), ("width", 1, "times as many maps in a trunk"),
            ("trunks", 3, "trunks side by side"), ("images", 10_000, "images of an epoch"),
            ("batch-size", 300, "images per iteration")):
        parser.add_argument(f"--{name}", type=count, default=default, metavar="N",
                            help=f"{text} (default: {default})")
    device_flag(parser)


def monolith(arguments: argparse.Namespace) -> int:
    """The command `bench monolith`."""
    from dualnet import machine
    from dualnet.bench import monolith as bench
    from dualnet.bench.results import Stopwatch

    settings = MonolithConfig(
        depth=arguments.depth, width=arguments.width, trunks=arguments.trunks,
        head_batch=arguments.batch_size, augment_head=False, threads=1,
        device=arguments.device).resolved()
    device, stopwatch = machine.prepare(settings, MONOLITH, (MONOLITH,)), Stopwatch()
    measured = gathered(bench.rows(settings, arguments.images, arguments.rounds), arguments.rounds,
                        lambda row: f"{row['images_per_s']:.0f}")
    given = {"net": settings.net, "batch_size": settings.head_batch, "images": arguments.images}
    line = stopwatch.line(MONOLITH, command_line(), arguments.rounds, given,
                          measured, device)
    _print(line)
    return finish(arguments, lambda: line)


def _print(line: dict[str, Any]) -> None:
    from dualnet.bench.results import over_base, spread

    settings = line["settings"]
    print(f"{settings['net']}, epochs of {settings['images']} images, {settings['batch_size']} per "
          f"iteration, one thread, n = {line['rounds']} rounds; median (smallest to largest)")
    for row in line["measured"]:
        print(f"{row['way']:20} {spread(row['images_per_s']).said('.0f'):28} images/s   "
              f"{spread(over_base(line, row['way']) or []).said('.3g')} x {row['base']}")
