"""Numbers within a text, each with the place in the ledgers that it is from.

    <!--= thesis-table@cpu; admm; accuracy; {mean:.2f} +- {sd:.2f} ({n}) -->50.5 +- 1.3 (3)<!--/-->

    source   a target and a scale; bench-SUBJECT and a device; a folder that `compare` made
    row      a variant, or a way of the benchmark
    figure   one of its figures
    format   Python's, of the fields below; what stands between the marks is replaced

A row may be `A - B`, the difference of two variants seed by seed (fields mean, low, high, n, said),
and of a benchmark `A / B`, the ratio round by round (median, low, high, n, said).  A variant has
mean, sd and n, and the first published value as published.  Accuracies are in percent, differences
of them in points.  Ways that were measured at several places are told apart by them, as
`results.name_of` does: `mapped @ 65536 ext4`.  A figure of a benchmark may be `A / B` too, and a
dot leads into what it is made of: `images.net1 / images.single`.  The row `bound` of the pipeline
is what no schedule of two processes can beat, over the single net.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualnet.bench import results as bench_results
from dualnet.compare import Row, read_runs
from dualnet.errors import DataError
from dualnet.reproduce import rows
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.targets import TARGETS
from dualnet.statistics import Difference, Spread, spread

MARK = re.compile(r"(<!--=)(?:([^\n]*?)(-->)[^\n]*?(<!--/-->))?")
PERCENT = ("accuracy", "merged", "difference")
SCALED = {"megabytes": ("bytes_exchanged", 1e-6), "milliseconds": ("seconds", 1e3),
          "notice_milliseconds": ("notice_s", 1e3)}     # figure -> that of the ledger, its factor


def filled(text: str, path: Path, results: Path) -> str:
    """`text` with what stands between each pair of marks replaced.

    path  the file of the text, for what is said of it
    Raises DataError, naming file, line and mark, for a mark that leads to no number.
    """
    def value(found: re.Match[str]) -> str:
        opening, words, closing, end = found.groups(default="")
        try:
            source, row, figure, form = (word.strip() for word in words.split(";"))
            told = form.format(**fields(results, source, row, figure))
            return f"{opening}{words}{closing}{told}{end}"
        except (LookupError, ValueError, TypeError) as error:
            number = text.count("\n", 0, found.start()) + 1
            raise DataError(f"{path}, line {number}: expected a mark <!--= source; row; figure; "
                            f"format -->...<!--/--> of what was measured, found '{words.strip()}' "
                            f"({type(error).__name__}: {error}); correct the mark") from None
    return MARK.sub(value, text)


def fields(results: Path, source: str, row: str, figure: str) -> Mapping[str, Any]:
    """What can be said of one row.  Raises LookupError or ValueError if there is no such row."""
    name, _, where = source.partition("@")
    if name in TARGETS:
        return _of_target(results, name, where, row, figure)
    if name.removeprefix("bench-") in bench_results.BENCHES:
        return _of_bench(results, name.removeprefix("bench-"), where, row, figure)
    return _of_comparison(results / name / "runs.csv", row, figure)


def _unit(figure: str) -> float:
    return 100.0 if figure.startswith(PERCENT) else 1.0


def _spread(found: Spread | None, unit: float) -> dict[str, Any]:
    if found is None:
        raise ValueError("not measured")
    return {"mean": unit * found.mean, "sd": None if found.sd is None else unit * found.sd,
            "n": found.n}


def _difference(found: Difference | None, unit: float) -> dict[str, Any]:
    if found is None:
        raise ValueError("no seed has both")
    scaled = found.scaled(unit)
    return {**scaled._asdict(), "said": scaled.said(".2f" if unit > 1 else ".4g")}


# -- sources ---------------------------------------------------------------------------------------

def _of_target(results: Path, name: str, scale: str, row: str, figure: str) -> dict[str, Any]:
    lines = list(Ledger(results, name).latest().values())
    variants = {variant.name: variant for variant in TARGETS[name].variants(scale)}
    of, _, to = row.partition(" - ")
    found = rows.lines_of(variants[of], lines, scale)
    figure, unit = SCALED.get(figure, (figure, _unit(figure)))
    if to:
        other = rows.lines_of(variants[to], lines, scale)
        return _difference(rows.difference(figure, found, other), unit)
    told = _spread(spread(rows.by_seed(found, figure).values()), unit)
    published = [unit * each.value for each in variants[of].published.get(figure, ())
                 if each.value is not None]
    return {**told, "published": published[0]} if published else told


def _of_bench(results: Path, bench: str, device: str, row: str, figure: str) -> dict[str, Any]:
    lines = [line for line in bench_results.ledger(results, bench).lines()
             if line["device"].startswith(device)]
    if not lines:
        raise ValueError("not measured")
    if row == "bound":
        return _told(bench_results.bounds(lines[-1]))
    ways = {bench_results.name_of(each): each for each in lines[-1]["measured"]}
    (way, *base), (name, *divisor) = row.split(" / "), figure.split(" / ")
    values = _values(ways[way], name)
    if base or divisor:
        to = _values(ways[base[0] if base else way], divisor[0] if divisor else name)
        values = [a / b for a, b in zip(values, to, strict=True)]
    return _told(values)


def _told(values: list[float]) -> dict[str, Any]:
    found = bench_results.spread(values)
    return {**found._asdict(), "said": found.said()}


def _values(row: Mapping[str, Any], figure: str) -> list[float]:
    """The figure round by round."""
    name, unit = SCALED.get(figure, (figure, 1.0))
    found: Any = row
    for key in name.split("."):
        found = found[key]
    return [unit * value for value in found]


def _of_comparison(path: Path, row: str, figure: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError("no such target, benchmark or comparison")
    variants = {each.variant: each for each in read_runs(path.read_text("utf-8")).rows}
    found: Row = variants[row]
    if figure == "difference":
        return _difference(found.difference, _unit(figure))
    if figure == "collapsed":
        return {"count": found.collapsed, "n": len(found.outcomes)}
    if figure == "megabytes":
        return _spread(found.spread("bytes"), 1e-6)
    return _spread(found.spread(figure), _unit(figure))
