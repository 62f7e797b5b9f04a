"""What the subjects of `bench` share: flags, folders, and what they leave behind."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.rendering import render
from dualnet.errors import UserError

if TYPE_CHECKING:
    from dualnet.bench.results import Row
    from dualnet.ledger import Line

DEFAULT_FOLDER = Path("/dev/shm")
UNITS = {"": 1, "k": 2**10, "M": 2**20, "G": 2**30}


def count(text: str) -> int:
    """The number that the text of a flag is.  Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found '{text}'")
    return int(text)


def counts(text: str) -> list[int]:
    """Numbers with commas between them, each once.  Raises as `count` does."""
    return list(dict.fromkeys(count(word.strip()) for word in text.split(",")))


def size_in_bytes(text: str) -> int:
    """Bytes of "64k" or "6G".  Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+)([kMG]?)", text.strip())
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected bytes like 64k, 2M or 6G, found '{text}'")
    return int(match[1]) * UNITS[match[2]]


def device_flag(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark of one process trains."""
    parser.add_argument("--device", default="auto", metavar="DEVICE",
                        help="auto, cpu, cuda or cuda:N (default: auto)")


def present(folder: Path) -> Path:
    """The folder of a flag --dir.  Raises UserError if it is not there."""
    if not folder.is_dir():
        raise UserError(f"--dir {folder} is no folder; name one that is there")
    return folder


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


def command_line() -> str:
    """The command as it was given."""
    return shlex.join(["dualnet", *sys.argv[1:]])


def cpu() -> Any:
    """The device of a benchmark that has no choice."""
    import torch

    return torch.device("cpu")


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


def report(arguments: argparse.Namespace) -> int:
    """The command `bench report`; where the folder has the page of all results, that too."""
    from dualnet.bench.report import render as rendered
    from dualnet.bench.results import REPORT
    from dualnet.page.files import PAGE
    from shared_fs import StorageError

    path, text = arguments.results / REPORT, rendered(arguments.results)
    try:
        arguments.results.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror}); choose another folder with "
                           "--results") from None
    print(f"report: {path}")
    if path.with_name(PAGE).exists():
        render(arguments.results)
    return 0
