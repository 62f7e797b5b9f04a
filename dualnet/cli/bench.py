"""bench: what a message costs, how fast the dual net is, how much it holds; ratios in one run."""

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.progress import clock_text
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import ROLES

if TYPE_CHECKING:
    from dualnet.bench.results import Row
    from dualnet.ledger import Line

DEFAULT_FOLDER = Path("/dev/shm")
UNITS = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}
SIZES = "64k,512k,2M,16M,128M"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure speed and memory, as ratios in one run")
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True,
                                     parser_class=type(parser))
    from dualnet.cli import (  # which use what is below
        bench_meprop,
        bench_monolith,
        bench_resist,
        bench_resnet,
    )

    for name, text, flags, command in (
            ("exchange", "one message between two processes, beside memcpy, gloo and np.save",
             _exchange_flags, exchange),
            ("pipeline", "the schedules of the dual net beside the single net", _pipeline_flags,
             pipeline),
            ("capacity", "the largest batch of the single net and of each half", _capacity_flags,
             capacity),
            ("resnet", "the switches of train resnet, and several processes, beside the plain one",
             bench_resnet.flags, bench_resnet.resnet),
            ("meprop", "sparse backward passes of single layers beside the dense one",
             bench_meprop.flags, bench_meprop.meprop),
            ("monolith", "stage 2 of train monolith with kept features beside running the trunks",
             bench_monolith.flags, bench_monolith.monolith),
            ("resist", "rounds of train resist beside rounds of local SGD", bench_resist.flags,
             bench_resist.resist),
            ("report", "render bench.md from the ledgers, measure nothing", None, report)):
        subject = subjects.add_parser(name, help=text)
        if flags is not None:
            flags(subject)
            subject.add_argument("--rounds", type=count, default=5, metavar="N",
                                 help="how often each has its turn (default: 5)")
        subject.add_argument("--results", type=Path, required=flags is None, metavar="DIR",
                             help="folder of ledgers, figures and bench.md"
                             + (" to write to (default: only print)" if flags else ""))
        subject.set_defaults(command=command, parser=subject)


def _exchange_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, action="append", metavar="DIR",
                        help="folder to test, on one file system or another; may be repeated "
                        f"(default: {DEFAULT_FOLDER})")
    parser.add_argument("--sizes", default=SIZES, metavar="BYTES,...",
                        help=f"bytes of a message (default: {SIZES})")
    parser.add_argument("--count", type=count, default=100, metavar="N",
                        help="messages of each size and way per round, fewer above 16M "
                        "(default: 100)")


def _pipeline_flags(parser: argparse.ArgumentParser) -> None:
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


def _capacity_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", default="caffenet", help="network (default: caffenet)")
    parser.add_argument("--cut", metavar="LAYER,...",
                        help="layers behind which it is cut (default: every one; on a GPU, where"
                        " batches are tried, pool2 and the best by counting)")
    parser.add_argument("--memory-limit", type=_size, default="6G", metavar="BYTES",
                        help="memory of a device (default: 6G, the card of the thesis)")
    parser.add_argument("--device", default="auto", metavar="DEVICE",
                        help="auto, cpu, cuda or cuda:N (default: auto)")


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found '{text}'")
    return int(text)


def device_flag(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark of one process trains."""
    parser.add_argument("--device", default="auto", metavar="DEVICE",
                        help="auto, cpu, cuda or cuda:N (default: auto)")


def gathered(rounds: "Iterable[list[Row]]", count: int, said: Callable[["Row"], str]
             ) -> "list[Row]":
    """The rows of all rounds together, a list for every figure; each round is told as it ends.

    said  what is told of a row behind the name of its way
    """
    from dualnet.bench.results import gather

    measured: dict[str, Row] = {}
    for number, rows in enumerate(rounds, start=1):
        gather(measured, rows)
        print(f"round {number}/{count}  " + "  ".join(f"{row['way']} {said(row)}" for row in rows),
              file=sys.stderr, flush=True)
    return list(measured.values())


def counts(text: str) -> list[int]:
    return list(dict.fromkeys(count(word.strip()) for word in text.split(",")))


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kMG]?)", text.strip())
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected bytes like 64k, 2M or 6G, found '{text}'")
    return int(match[1]) * UNITS[match[2]]


# -- exchange --------------------------------------------------------------------------------------

def exchange(arguments: argparse.Namespace) -> int:
    """The command `bench exchange`."""
    from dualnet.bench import exchange as bench
    from dualnet.bench.results import Stopwatch, ratios, spread

    sizes = sizes_of(arguments.sizes)
    folders = [_checked(folder) for folder in arguments.dir or [DEFAULT_FOLDER]]
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
        "exchange", command_line(), arguments.rounds, settings, measured, _cpu()))


def sizes_of(text: str) -> list[int]:
    """Bytes of "64k,2M", multiples of 8.  Raises UserError."""
    try:
        sizes = [_size(word) for word in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--sizes: {error}") from None
    for size in sizes:
        if size % 8:
            raise UserError(f"--sizes takes multiples of 8 bytes like 64k,2M, found {size}")
    return list(dict.fromkeys(sizes))


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"--dir {folder} is no folder; name one that is there")
    return folder


# -- pipeline --------------------------------------------------------------------------------------

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
                      _checked(arguments.dir))
    for done, (number, row) in enumerate(rows, start=1):
        left_s = (time.monotonic() - started) / done * (total - done)
        print(f"round {number + 1}/{arguments.rounds}  {row['way']}  {row['images_per_s']:.1f} "
              f"images/s  ETA {clock_text(left_s)}", file=sys.stderr, flush=True)
        gather(measured, [row])
    given = {"net": settings.net, "cut": settings.cut, "batch_size": settings.batch_size,
             "iterations": arguments.iterations, "micro_batches": arguments.micro_batches}
    line = stopwatch.line("pipeline", command_line(), arguments.rounds, given,
                          list(measured.values()), _cpu())
    _print_pipeline(line)
    return finish(arguments, lambda: line)


def _print_pipeline(line: "Line") -> None:
    from dualnet.bench.results import bounds, shares, speed_ups, spread

    for row in line["measured"]:
        way = row["way"]
        parts = "; ".join("{} computes {:.0f} %, waits {:.0f} %, rest {:.0f} %".format(
            role, *(100 * part for part in shares(line, way, role))) for role in
            row.get("alone_s", {}))
        print(f"{way:24} {spread(row['images_per_s']).said('.1f'):24} images/s   "
              f"{spread(speed_ups(line, way)).said():20} x single   {parts}")
    print(f"bound: {spread(bounds(line)).said()} x single (the slower half alone)")


# -- capacity --------------------------------------------------------------------------------------

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
        _print_largest(each)
    tried = cuts if arguments.cut else list(dict.fromkeys(
        [cut for cut in cuts if cut == "pool2"] + [bench.best(found)]))
    for each in bench.allocated(settings, tried, limit, arguments.rounds, device):
        found.append(each)
        _print_largest(each)
    rule = bench.by_caffes_rule(settings, cuts, limit)
    for each in rule:
        if each["cut"] == "pool2":
            _print_largest(each)
    given = {"net": arguments.net, "shape": list(bench.SHAPE), "memory_limit": limit,
             **bench.PUBLISHED}
    return finish(arguments, lambda: stopwatch.line(
        "capacity", command_line(), arguments.rounds if device.type == "cuda" else 1, given,
        [*found, *rule], device))


def _print_largest(row: "Row") -> None:
    from dualnet.bench.results import batch_ratios, spread

    images = "  ".join(f"{name} {spread(values).said('g')}" for name, values
                       in row["images"].items())
    ratios = ", ".join(f"{role} {spread(batch_ratios(row, role)).said()}" for role in row["images"]
                       if role != "single")
    print(f"{row['cut']:8} {row['how']:10} {images}   dual/single "
          f"{spread(batch_ratios(row)).said()} ({ratios})", flush=True)


# -- what all of them do ---------------------------------------------------------------------------

def report(arguments: argparse.Namespace) -> int:
    """The command `bench report`."""
    from dualnet.bench.report import render
    from dualnet.bench.results import REPORT
    from shared_fs import StorageError

    path, text = arguments.results / REPORT, render(arguments.results)
    try:
        arguments.results.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror}); choose another folder with "
                           "--results") from None
    print(f"report: {path}")
    return 0


def finish(arguments: argparse.Namespace, line: "Callable[[], Line]") -> int:
    """Write the ledger, the figure and the report, where that is asked for."""
    if arguments.results is None:
        return 0
    from dualnet.bench import results
    from dualnet.bench.figure import draw

    found = line()
    ledger = results.ledger(arguments.results, found["bench"])
    ledger.append(found)
    draw(found, results.figure_path(arguments.results, found["bench"]))
    print(f"ledger: {ledger.path}\nfigure: "
          f"{results.figure_path(arguments.results, found['bench'])}")
    return report(arguments)


def command_line() -> str:
    return shlex.join(["dualnet", *sys.argv[1:]])


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
