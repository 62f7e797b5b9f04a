"""bench capacity: the largest batch of the single net and of each half."""

import argparse
from typing import TYPE_CHECKING

from dualnet.cli.benching import command_line, device_flag, finish, size_in_bytes
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import ROLES

if TYPE_CHECKING:
    from dualnet.bench.results import Row


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    parser.add_argument("--net", default="caffenet", help="network (default: caffenet)")
    parser.add_argument("--cut", metavar="LAYER,...",
                        help="layers behind which it is cut (default: every one; on a GPU, where"
                        " batches are tried, pool2 and the best by counting)")
    parser.add_argument("--memory-limit", type=size_in_bytes, default="6G", metavar="BYTES",
                        help="memory of a device (default: 6G, the card of the thesis)")
    device_flag(parser)


def capacity(arguments: argparse.Namespace) -> int:
    """The command `bench capacity`."""
    from dualnet import machine
    from dualnet.bench import capacity as bench
    from dualnet.bench.results import Stopwatch
    from dualnet.cli.parser import completed

    named = completed({"net": arguments.net}, "dual")
    settings = DualConfig(**named, loss="euclidean", device=arguments.device).resolved()
    device = machine.prepare(settings, ROLES[0], ROLES)
    cuts = bench.cuts_of(settings, arguments.cut.split(",") if arguments.cut else [])
    limit, stopwatch = arguments.memory_limit, Stopwatch()
    found: list[Row] = []
    print(f"{settings.net}: images in a batch, in {limit / 2**30:g} GiB; the smaller half decides")
    for each in bench.counted(settings, cuts, limit):
        found.append(each)
        _print(each)
    tried = cuts if arguments.cut else list(dict.fromkeys(
        [cut for cut in cuts if cut == "pool2"] + [bench.best(found)]))
    for each in bench.allocated(settings, tried, limit, arguments.rounds, device):
        found.append(each)
        _print(each)
    rule = bench.by_caffes_rule(settings, cuts, limit)
    for each in rule:
        if each["cut"] == "pool2":
            _print(each)
    given = {"net": arguments.net, "shape": list(bench.SHAPE), "memory_limit": limit,
             **bench.PUBLISHED}
    return finish(arguments, lambda: stopwatch.line(
        "capacity", command_line(), arguments.rounds if device.type == "cuda" else 1, given,
        [*found, *rule], device))


def _print(row: "Row") -> None:
    from dualnet.bench.results import batch_ratios, spread

    images = "  ".join(f"{name} {spread(values).said('g')}" for name, values
                       in row["images"].items())
    ratios = ", ".join(f"{role} {spread(batch_ratios(row, role)).said()}" for role in row["images"]
                       if role != "single")
    print(f"{row['cut']:8} {row['how']:10} {images}   dual/single "
          f"{spread(batch_ratios(row)).said()} ({ratios})", flush=True)
