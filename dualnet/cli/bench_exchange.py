"""bench exchange: one message between two processes, beside memcpy, gloo and np.save."""

import argparse
from pathlib import Path

from dualnet.cli.benching import (
    DEFAULT_FOLDER,
    command_line,
    count,
    cpu,
    finish,
    present,
    size_in_bytes,
)
from dualnet.errors import UserError

SIZES = "64k,512k,2M,16M,128M"


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    parser.add_argument("--dir", type=Path, action="append", metavar="DIR",
                        help="folder to test, on one file system or another; may be repeated "
                        f"(default: {DEFAULT_FOLDER})")
    parser.add_argument("--sizes", default=SIZES, metavar="BYTES,...",
                        help=f"bytes of a message (default: {SIZES})")
    parser.add_argument("--count", type=count, default=100, metavar="N",
                        help="messages of each size and way per round, fewer above 16M "
                        "(default: 100)")


def exchange(arguments: argparse.Namespace) -> int:
    """The command `bench exchange`."""
    from dualnet.bench import exchange as bench
    from dualnet.bench.results import Stopwatch, ratios, spread

    sizes = sizes_of(arguments.sizes)
    folders = [present(folder) for folder in arguments.dir or [DEFAULT_FOLDER]]
    stopwatch, measured = Stopwatch(), []
    print(f"milliseconds per message, n = {arguments.rounds} rounds; median of the rounds' medians "
          "(smallest to largest)")
    for rows in bench.rows(folders, sizes, arguments.count, arguments.rounds):
        measured += rows
        print(f"{rows[0]['size']} bytes, {rows[0]['count']} messages a round")
        for row in rows:
            name = f"{row['way']}{' on ' + row['file_system'] if row['file_system'] else ''}"
            milliseconds = spread([1e3 * value for value in row["seconds"]]).said(".3f")
            notice = "" if not row["notice_s"] else "   noticed after " + spread(
                [1e3 * value for value in row["notice_s"]]).said(".3f")
            print(f"  {name:16} {milliseconds:28} {spread(ratios(row, rows[0])).said():24} x memcpy"
                  f"{notice}", flush=True)
    settings = {"sizes": sizes, "folders": [str(folder) for folder in folders],
                "count": arguments.count}
    return finish(arguments, lambda: stopwatch.line(
        "exchange", command_line(), arguments.rounds, settings, measured, cpu()))


def sizes_of(text: str) -> list[int]:
    """Bytes of "64k,2M", multiples of 8.  Raises UserError."""
    try:
        sizes = [size_in_bytes(word) for word in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--sizes: {error}") from None
    for size in sizes:
        if size % 8:
            raise UserError(f"--sizes takes multiples of 8 bytes like 64k,2M, found {size}")
    return list(dict.fromkeys(sizes))
