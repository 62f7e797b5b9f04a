"""bench exchange: what a message costs in a folder of this machine."""

import argparse
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path("/dev/shm")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure speed, as ratios in one run")
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True,
                                     parser_class=type(parser))
    exchange_parser = subjects.add_parser(
        "exchange", help="one message between two processes through a folder")
    exchange_parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
                                 help=f"folder to test (default: {DEFAULT_FOLDER})")
    exchange_parser.add_argument("--size", type=int, default=2 * 2**20, metavar="BYTES",
                                 help="bytes of a message (default: 2097152)")
    exchange_parser.add_argument("--count", type=int, default=300, metavar="N",
                                 help="messages to measure (default: 300)")
    exchange_parser.set_defaults(command=exchange, parser=exchange_parser)


def exchange(arguments: argparse.Namespace) -> int:
    """The command `bench exchange`."""
    from dualnet import bench
    from dualnet.errors import UserError

    if arguments.size < 8 or arguments.count < 1:
        raise UserError("bench exchange needs --size of at least 8 bytes and --count of at least "
                        f"1, found {arguments.size} and {arguments.count}")
    if not arguments.dir.is_dir():
        raise UserError(f"--dir {arguments.dir} is no folder; name one that is there")
    found = bench.exchange(arguments.dir, arguments.size, arguments.count)
    ratios = bench.ratios(found)
    print(f"{arguments.size} bytes, n = {arguments.count}, in {arguments.dir}")
    print(f"{'':10}  median ms   max ms   exchange / this")
    for name, times in found.items():
        times = sorted(times)
        middle, largest = 1e3 * times[len(times) // 2], 1e3 * times[-1]
        ratio = f"{ratios[name]:.2f}" if name in ratios else ""
        print(f"{name:10}  {middle:9.3f}  {largest:7.3f}   {ratio}")
    return 0
