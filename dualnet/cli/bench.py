"""bench: what a message costs, how fast the dual net is, as ratios in one run."""

import argparse
import re
from pathlib import Path
from statistics import median
from typing import Any

from dualnet.errors import UserError

DEFAULT_FOLDER = Path("/dev/shm")
UNITS = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure speed, as ratios in one run")
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True,
                                     parser_class=type(parser))
    exchange_parser = subjects.add_parser(
        "exchange", help="one message between two processes, beside memcpy, gloo and np.save")
    exchange_parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
                                 help=f"folder to test (default: {DEFAULT_FOLDER})")
    exchange_parser.add_argument("--sizes", default="64k,2M,16M", metavar="BYTES,...",
                                 help="bytes of a message (default: 64k,2M,16M)")
    exchange_parser.add_argument("--count", type=int, default=100, metavar="N",
                                 help="messages of each size and way per round (default: 100)")
    add_rounds(exchange_parser)
    exchange_parser.set_defaults(command=exchange, parser=exchange_parser)
    pipeline_parser = subjects.add_parser(
        "pipeline", help="the schedules of the dual net beside the single net")
    pipeline_parser.add_argument("--net", default="caffenet", help="network (default: caffenet)")
    pipeline_parser.add_argument("--cut", default="pool2", metavar="LAYER",
                                 help="layer behind which it is cut (default: pool2)")
    pipeline_parser.add_argument("--batch-size", type=int, default=64, metavar="N",
                                 help="images per iteration (default: 64)")
    pipeline_parser.add_argument("--iterations", type=int, default=60, metavar="N",
                                 help="iterations of each way, in six repeats of which the first "
                                 "warms up (default: 60)")
    pipeline_parser.add_argument("--micro-batches", default="1,2,4,8", metavar="M,...",
                                 help="parts of a batch (default: 1,2,4,8)")
    pipeline_parser.set_defaults(command=pipeline, parser=pipeline_parser)


def add_rounds(parser: Any) -> None:
    """How often everything is measured."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N",
                        help="how often each way has its turn (default: 5)")


def exchange(arguments: argparse.Namespace) -> int:
    """The command `bench exchange`."""
    from dualnet.bench import exchange as bench

    sizes = [size_of(word) for word in arguments.sizes.split(",")]
    if arguments.count < 1 or arguments.rounds < 1:
        raise UserError("--count and --rounds must be at least 1, found "
                        f"{arguments.count} and {arguments.rounds}")
    if not arguments.dir.is_dir():
        raise UserError(f"--dir {arguments.dir} is no folder; name one that is there")
    print(f"milliseconds per message, n = {arguments.rounds} rounds of {arguments.count}, in "
          f"{arguments.dir}; median of the rounds' medians (smallest to largest)")
    for size in sizes:
        found: dict[str, list[float]] = {way: [] for way in bench.WAYS}
        for _ in range(arguments.rounds):
            for way, medians in found.items():
                medians.append(median(bench.measure(way, arguments.dir, size, arguments.count)))
        print(f"{size} bytes")
        for way, medians in found.items():
            ratio = median(medians) / median(found["memcpy"])
            print(f"  {way:8}  {spread([1e3 * value for value in medians])}"
                  f"   {ratio:8.2f} x memcpy")
    return 0


def size_of(word: str) -> int:
    """Bytes named by "2097152", "64k" or "2M", a multiple of 8.  Raises UserError."""
    match = re.fullmatch(r"(\d+)([kMG]?)", word.strip())
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if size < 8 or size % 8:
        raise UserError(f"--sizes takes multiples of 8 bytes like 64k,2M, found '{word}'")
    return size


def spread(values: list[float]) -> str:
    """Median and range of some figures."""
    return f"{median(values):9.3f} ({min(values):.3f} to {max(values):.3f})"


def pipeline(arguments: argparse.Namespace) -> int:
    """The command `bench pipeline`."""
    from dualnet.bench import pipeline as bench

    try:
        parts = [int(word) for word in arguments.micro_batches.split(",")]
    except ValueError:
        raise UserError("--micro-batches takes numbers like 1,2,4, found "
                        f"'{arguments.micro_batches}'") from None
    settings = ["--net", arguments.net, "--batch-size", str(arguments.batch_size)]
    found: dict[str, bench.Speed] = {}
    for way, words in bench.ways(parts).items():
        its = [*settings, "--cut", arguments.cut] if "dual" in words else settings
        found[way] = bench.measure(way, words, its, arguments.iterations)
        rate = median(found[way].images_per_s)
        shares = ", ".join(f"{role} waits {100 * median(its):.0f} %"
                           for role, its in found[way].wait_share.items())
        print(f"{way:20} {spread(found[way].images_per_s)} images/s   "
              f"{rate / median(found['single'].images_per_s):5.2f} x single   {shares}")
    limit = bench.bound(found["single"], found["lockstep"], arguments.batch_size)
    print(f"bound: {limit:.2f} x single (the slower half alone)")
    return 0
