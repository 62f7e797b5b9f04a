"""Whether every figure, table and number is what the ledgers say."""

import csv
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from dualnet import fingerprint
from dualnet.bench import results as bench_results
from dualnet.compare import read_runs, rows_csv
from dualnet.page import files
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.targets import TARGETS

SHOWN = 80      # characters of a line that is wrong
RENDER = "dualnet reproduce --report renders it again"


def problems(results: Path) -> list[str]:
    """A sentence for each disagreement, none if everything agrees.

    Raises DataError if a ledger is damaged.
    """
    return [*_strangers(results), *_lines(results), *_figures(results), *_texts(results),
            *_comparisons(results)]


def _strangers(results: Path) -> Iterator[str]:
    """Ledgers and figures that nothing stands for."""
    names = {*TARGETS, *(f"bench-{bench}" for bench in bench_results.BENCHES)}
    for path in sorted([*results.glob("*.jsonl"), *results.glob("*.png")]):
        if path.stem not in names:
            yield f"{path}: expected a target or a benchmark of that name, found none"


def _lines(results: Path) -> Iterator[str]:
    """Lines that contradict themselves."""
    for name in TARGETS:
        ledger = Ledger(results, name)
        for number, line in enumerate(ledger.lines(), start=1):
            value = line["figures"].get(line["figure"])
            if line["ours"] != value:
                yield (f"{ledger.path}, line {number}: expected ours to be figures' "
                       f"{line['figure']}, {value}, found {line['ours']}")
            if line["target"] != name:
                yield (f"{ledger.path}, line {number}: expected target {name}, found "
                       f"{line['target']}")


def _figures(results: Path) -> Iterator[str]:
    """Figures drawn from other lines than there are, or from none."""
    wanted = {figure.path: figure.fingerprint for figure in files.figures(results)}
    for path, expected in wanted.items():
        yield from _drawn(path, expected, "the lines in its ledger",
                          "dualnet reproduce --report draws it again")
    for path in sorted(results.glob("*.png")):
        if path not in wanted:
            yield f"{path}: expected lines that it is drawn from, found none"


def _drawn(path: Path, expected: str, source: str, remedy: str) -> Iterator[str]:
    """A figure without the fingerprint of its source."""
    found = fingerprint.of_png(path)
    if found != expected:
        yield (f"{path}: expected the fingerprint {expected} of {source}, found "
               f"{found or 'none'}; {remedy}")


def _texts(results: Path) -> Iterator[str]:
    """Rendered files that are not what the ledgers give: the first line of each."""
    for path, text in files.texts(results).items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        pairs = itertools.zip_longest(text.splitlines(), found.splitlines())
        for number, (expected, line) in enumerate(pairs, start=1):
            if expected != line:
                want, have = _where_they_part(expected, line)
                yield f"{path}, line {number}: expected {want}, found {have}; {RENDER}"
                break


def _where_they_part(a: str | None, b: str | None) -> tuple[str, str]:
    """Both lines, quoted, from a few words before their first difference."""
    if a is None or b is None:
        want, have = ("no line" if each is None else f"'{each[:SHOWN]}'" for each in (a, b))
        return want, have
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
              min(len(a), len(b)))
    start = max(at - SHOWN // 2, 0)
    return f"'{a[start:start + SHOWN]}'", f"'{b[start:start + SHOWN]}'"


def _comparisons(results: Path) -> Iterator[str]:
    """Tables and figures of `compare` that do not follow from their runs."""
    for runs in sorted(results.glob("*/runs.csv")):
        expected = fingerprint.fingerprint(runs.read_text(encoding="utf-8"))
        yield from _drawn(runs.with_name("curves.png"), expected, str(runs),
                          "dualnet compare draws both")
    for path in sorted(results.glob("*/table.csv")):
        runs = path.with_name("runs.csv")
        if not runs.exists():
            yield f"{path}: expected its runs in {runs}, found no such file"
            continue
        table = rows_csv(read_runs(runs.read_text(encoding="utf-8")))
        rows = zip(_cells(table), _cells(path.read_text(encoding="utf-8")), strict=False)
        for number, (want, have) in enumerate(rows, start=1):
            if len(want) != len(have) or not all(map(_same, want, have)):
                yield f"{path}, line {number}: expected {want} of the runs, found {have}"
        if len(_cells(table)) != len(_cells(path.read_text(encoding="utf-8"))):
            yield f"{path}: expected one line per variant of {runs}"


def _cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def _same(a: str, b: str) -> bool:
    """Equal, or equal numbers but for rounding, which differs between versions of Python."""
    try:
        return a == b or math.isclose(float(a), float(b), rel_tol=1e-9)
    except ValueError:
        return False
