"""The files that follow from the ledgers.

    results/<target>.png  bench-<subject>.png    drawn again only if their lines changed
            README.md  bench.md  index.html      rendered
    README.md                                    its marked numbers, see marks.py
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dualnet import fingerprint
from dualnet.bench import report as bench_report
from dualnet.bench import results as bench_results
from dualnet.ledger import Line
from dualnet.page import index, marks
from dualnet.reproduce import report
from dualnet.reproduce.drawing import Drawing, drawing_of
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.targets import TARGETS

REPORT, PAGE = "README.md", "index.html"


class FigureFile(NamedTuple):
    """A figure that must be there, the fingerprint it must have, and what draws it."""

    path: Path
    fingerprint: str
    draw: Callable[[], None]


def figures(results: Path) -> Iterator[FigureFile]:
    """All figures of the ledgers.  Raises DataError if a ledger is damaged."""
    for target in TARGETS.values():
        ledger = Ledger(results, target.name)
        drawing = drawing_of(target, ledger)
        if drawing:
            yield FigureFile(ledger.figure_path, fingerprint.fingerprint(drawing.content),
                             partial(_draw, drawing, ledger.figure_path))
    for bench in bench_results.BENCHES:
        line = bench_results.newest(results, bench)
        if line:
            path = bench_results.figure_path(results, bench)
            yield FigureFile(path, fingerprint.fingerprint(line),
                             partial(_draw_bench, line, path))


def _draw(drawing: Drawing, path: Path) -> None:
    # Not at the top: what draws nothing need not wait for matplotlib.
    from dualnet.reproduce.figure import draw

    draw(drawing, path)


def _draw_bench(line: Line, path: Path) -> None:
    from dualnet.bench.figure import draw

    draw(line, path)


def texts(results: Path) -> dict[Path, str]:
    """Every rendered file, and the README beside the folder.

    Raises DataError if a ledger is damaged, or for a mark that leads to no number.
    """
    found = {results / REPORT: report.render(TARGETS.values(), results),
             results / PAGE: index.render(TARGETS.values(), results)}
    if any(bench_results.newest(results, bench) for bench in bench_results.BENCHES):
        found[results / bench_results.REPORT] = bench_report.render(results)
    readme = results.resolve().parent / REPORT
    if readme.is_file():
        found[readme] = marks.filled(readme.read_text(encoding="utf-8"), readme, results)
    return found


def write(results: Path) -> list[Path]:
    """Bring everything up to date; gives what was written.

    Raises OSError if a file cannot be written, DataError if a ledger is damaged.
    """
    results.mkdir(parents=True, exist_ok=True)
    stale = [figure for figure in figures(results)
             if fingerprint.of_png(figure.path) != figure.fingerprint]
    for figure in stale:
        figure.draw()
    written = [figure.path for figure in stale]
    for path, text in texts(results).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            _replace(path, text)
            written.append(path)
    return written


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, also beside another command that writes the same file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
