"""bench meprop: sparse backward passes of single layers beside the dense one."""

import argparse

from dualnet.cli.benching import command_line, count, cpu, finish


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the subject."""
    parser.add_argument("--count", type=count, default=20, metavar="N",
                        help="backward passes of each way per round (default: 20)")


def meprop(arguments: argparse.Namespace) -> int:
    """The command `bench meprop`."""
    from dualnet.bench import meprop as bench
    from dualnet.bench.results import Stopwatch, ratios, spread

    stopwatch, measured = Stopwatch(), []
    print(f"CPU milliseconds per backward pass on one thread, n = {arguments.rounds} rounds of "
          f"{arguments.count}; median of the rounds' medians (smallest to largest)")
    for rows in bench.rows(arguments.count, arguments.rounds):
        measured += rows
        print(f"{rows[0]['layer']}, {rows[0]['k']} of {rows[0]['outputs']} outputs kept")
        for row in rows:
            milliseconds = spread([1e3 * value for value in row["seconds"]]).said(".3f")
            print(f"  {row['way']:10} {milliseconds:28} "
                  f"{spread(ratios(rows[0], row)).said():24} x as fast as dense", flush=True)
    return finish(arguments, lambda: stopwatch.line(
        "meprop", command_line(), arguments.rounds, {"count": arguments.count}, measured,
        cpu()))
