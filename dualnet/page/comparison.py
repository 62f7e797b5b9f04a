"""All methods beside each other: accuracy against seconds, bytes and memory, from the ledgers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dualnet.config import TrainConfig
from dualnet.ledger import Line
from dualnet.page import elements
from dualnet.page.elements import said
from dualnet.page.scatter import Mark, scatter
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.rows import NOT_MEASURED, by_seed, lines_of, measured_scales
from dualnet.reproduce.target import Target, Variant
from dualnet.statistics import Spread, spread

# Okabe and Ito's palette, in the order in which methods come.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B4513", "#7F7F7F")
HEAD = ("number", "method", "variant", "target", "net", "test accuracy", "n", "seconds",
        "MB communicated", "MB of memory per process")
INTRODUCTION = """\
Accuracy against what it costs, of every method that a target trains: a number in a circle for each
row of the table, the bar is the sample standard deviation over the seeds. Seconds are wall-clock
seconds of a whole measurement, tests included, on a machine that may have had other work; bytes are
those that processes sent to each other; memory is the most that a process held, the libraries
included, and the parts of a dual net are measured in one process. What the ledger does not have is
not measured, and not on that axis. Nets, iterations and images differ from paper to paper, so only
rows of one target tell which method is better.
"""


class Point(NamedTuple):
    """A variant at one scale; accuracy in %, the rest per measurement."""

    method: str
    variant: str
    target: str
    net: str
    accuracy: Spread
    seconds: Spread | None
    megabytes: Spread | None
    memory: Spread | None


class Axis(NamedTuple):
    """What accuracy stands against, and how it is drawn and told."""

    field: str
    title: str
    form: str


AXES = (Axis("seconds", "wall-clock seconds", ".0f"), Axis("megabytes", "MB communicated", ".1f"),
        Axis("memory", "MB of memory per process", ".0f"))


def section(targets: Iterable[Target], results: Path) -> str:
    """The section of the page.  Raises DataError if a ledger is damaged."""
    parts = []
    for (data, device), points in groups(targets, results).items():
        methods = list(dict.fromkeys(point.method for point in points))
        colours = dict(zip(methods, COLOURS, strict=False))
        keys = " ".join(f'<span class="key" style="background:{colours.get(method, COLOURS[-1])}">'
                        f"</span> {said(method)}" for method in methods)
        drawn = "".join(_panel(axis, points, colours, f"{data}, {device}") for axis in AXES)
        rows = [_row(number, point) for number, point in enumerate(points, start=1)]
        parts.append(f'<h3>{said(data)}, {said(device)}</h3><p class="quiet">{keys}</p>'
                     f'<div class="panels">{drawn}</div>'
                     + elements.table(HEAD, [elements.body(HEAD, rows)]))
    return "\n".join(['<section id="methods"><h2>All methods on one axis</h2>',
                      f"<p>{said(INTRODUCTION)}</p>", *(parts or [f"<p>{NOT_MEASURED}</p>"]),
                      "</section>"])


def groups(targets: Iterable[Target], results: Path) -> dict[tuple[str, str], list[Point]]:
    """Points by data set and device."""
    found: dict[tuple[str, str], list[Point]] = {}
    for target in targets:
        lines = list(Ledger(results, target.name).latest().values()) if target.compared else []
        for scale in measured_scales(target, lines):
            for variant in target.variants(scale) if scale != "smoke" else []:
                used = lines_of(variant, lines, scale)
                for where in dict.fromkeys((line["data"], line["device_name"]) for line in used):
                    same = [line for line in used
                            if (line["data"], line["device_name"]) == where]
                    if point := _point(target, variant, same):
                        found.setdefault(where, []).append(point)
    return found


def _point(target: Target, variant: Variant, lines: Sequence[Line]) -> Point | None:
    accuracy = spread(map(_accuracy, lines))
    if accuracy is None:
        return None
    ended = [line for line in lines if _accuracy(line) is not None]
    sizes = {name: spread(value and value / 1e6 for value in by_seed(ended, name).values())
             for name in ("bytes_exchanged", "memory_bytes")}
    memory = sizes["memory_bytes"]
    return Point(_method(variant.settings), variant.name, target.name, variant.settings.net,
                 accuracy, spread(line["wall_s"] for line in ended), sizes["bytes_exchanged"],
                 memory if memory and memory.mean else None)


def _accuracy(line: Line) -> float | None:
    """Of the test images, in %."""
    figures = line["figures"]
    if figures.get("accuracy") is not None:
        return 100 * figures["accuracy"]
    return None if figures.get("errors") is None else 100 - figures["errors"] / 100


def _method(settings: TrainConfig) -> str:
    """"dual" of a DualConfig; TrainConfig itself is the single net."""
    name = type(settings).__name__.removesuffix("Config").lower()
    return "single" if name == "train" else name


# -- how it looks ----------------------------------------------------------------------------------

def _panel(axis: Axis, points: Sequence[Point], colours: dict[str, str], where: str) -> str:
    marks = []
    for number, point in enumerate(points, start=1):
        value: Spread | None = getattr(point, axis.field)
        if value:
            words = (f"{number}: {point.variant} ({point.target}), {_told(point.accuracy, '.2f')} "
                     f"%, {value.mean:{axis.form}} {axis.title}")
            marks.append(Mark(value.mean, point.accuracy.mean, point.accuracy.sd or 0.0,
                              str(number), colours.get(point.method, COLOURS[-1]), words))
    count = f"{len(marks)} of {len(points)} rows"
    if not marks:
        return f"<figure><figcaption>{said(axis.title)}: {NOT_MEASURED}</figcaption></figure>"
    drawing = scatter(marks, axis.title, f"accuracy against {axis.title}, {where}")
    return f"<figure>{drawing}<figcaption>{said(axis.title)}; {count}</figcaption></figure>"


def _row(number: int, point: Point) -> list[str]:
    costs = [_told(getattr(point, axis.field), axis.form) for axis in AXES]
    return [str(number), point.method, point.variant, point.target, point.net,
            f"{_told(point.accuracy, '.2f')} %", str(point.accuracy.n), *costs]


def _told(found: Spread | None, form: str) -> str:
    """"67.57 +- 0.14", without the deviation where n is 1."""
    if found is None:
        return NOT_MEASURED
    return f"{found.mean:{form}}" + ("" if found.sd is None else f" +- {found.sd:{form}}")
