"""A target as rows of cells: what was published, what was measured, and what the two differ by."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dualnet.ledger import Line
from dualnet.reproduce.measure import command
from dualnet.reproduce.target import SCALES, Published, Target, Variant, digest
from dualnet.statistics import Difference, paired, signed, spread

NOT_MEASURED = "not measured"
# Of the sign of a difference.
VERDICTS = {1: "higher", -1: "lower", 0: "no difference shown", None: "one seed shows nothing"}


class Row(NamedTuple):
    """A figure of a variant.

    published   value and source of each that was published
    difference  ours less each published value
    paired      difference to the reference of the target by seed, with its interval
    """

    variant: str
    figure: str
    published: str
    ours: str
    difference: str
    spread: str
    n: str
    paired: str
    scale: str
    device: str
    date: str


class Table(NamedTuple):
    """The rows of a target at one scale; `used` are the lines they were taken from."""

    rows: list[Row]
    used: list[Line]


def measured_scales(target: Target, lines: Sequence[Line]) -> list[str]:
    """Scales of which there are lines of a variant as it is defined now."""
    return [scale for scale in SCALES if any(lines_of(variant, lines, scale)
                                             for variant in target.variants(scale))]


def lines_of(variant: Variant, lines: Iterable[Line], scale: str) -> list[Line]:
    """Lines of this variant as it is defined now, whichever seed."""
    return [line for line in lines if line["variant"] == variant.name and line["scale"] == scale
            and line["config"] == digest(variant.settings.replace(seed=line["seed"]))]


def table(target: Target, lines: Sequence[Line], scale: str) -> Table:
    """All rows of one scale, from the newest line of each key."""
    variants = target.variants(scale)
    found = {variant.name: lines_of(variant, lines, scale) for variant in variants}
    rows = []
    for variant in variants:
        reference = target.reference_of(variants, variant)
        for figure in dict.fromkeys([variant.figure, *variant.published]):
            row = _row(variant, figure, found[variant.name], scale)
            if reference:
                row = row._replace(paired=compared(figure, found[variant.name],
                                                   found[reference.name], reference.name))
            rows.append(row)
    return Table(rows, [line for each in found.values() for line in each])


def _row(variant: Variant, figure: str, found: Sequence[Line], scale: str) -> Row:
    published = variant.published.get(figure, ())
    cited = "; ".join(_cited(figure, each) for each in published) or "-"
    if not found:
        return Row(variant.name, figure, cited, NOT_MEASURED, "-", "-", "0", "-", scale, "-", "-")
    ours = spread(by_seed(found, figure).values())
    text = _without(figure, found) if ours is None else said(figure, ours.mean)
    steps = [f"{end:g}" for line in found
             if (end := line["figures"].get("diverged_at")) is not None]
    if steps and figure == variant.figure:
        told = f"{len(steps)} of {len(found)} diverged, in iteration {', '.join(steps)}"
        text = told if ours is None else f"{text} ({told})"
    changes = [] if ours is None else [said_change(figure, ours.mean - each.value)
                                       for each in published if each.value is not None]
    return Row(
        variant.name, figure, cited, text, "; ".join(changes) or "-",
        "-" if ours is None or ours.sd is None else said(figure, ours.sd),
        str(ours.n if ours else 0), "-",
        "; ".join(dict.fromkeys(f"{scale}: {_data(line)}" for line in found)),
        "; ".join(dict.fromkeys(_device(line) for line in found)),
        max(line["date"] for line in found)[:10])


def _without(figure: str, found: Sequence[Line]) -> str:
    """What stands for a figure of which no line has a value."""
    if not any(figure in line["figures"] for line in found):
        return NOT_MEASURED     # it is newer than the lines
    return "not reached" if figure.startswith("seconds_to_") else "-"


def by_seed(lines: Iterable[Line], figure: str) -> dict[int, float | None]:
    """Seed -> the figure; None where it could not be measured."""
    return {line["seed"]: line["figures"].get(figure) for line in lines}


def difference(figure: str, of: Iterable[Line], to: Iterable[Line]) -> Difference | None:
    """Difference by seed of the lines of two variants."""
    return paired(by_seed(of, figure), by_seed(to, figure))


def compared(figure: str, of: Iterable[Line], to: Iterable[Line], reference: str) -> str:
    """The difference by seed in words; "-" where no seed has both figures."""
    found = difference(figure, of, to)
    if found is None:
        return "-"
    unit, form = _points(figure)
    return f"{found.scaled(unit).said(form)} to {reference}: {VERDICTS[found.sign]}"


# -- words -----------------------------------------------------------------------------------------

def said(figure: str, value: float) -> str:
    """A value in the unit of its figure: accuracies in percent, counts in full."""
    if figure.startswith("accuracy"):
        return f"{100 * value:.2f} %"
    if figure == "parameters":
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def said_change(figure: str, change: float) -> str:
    """A difference of values, with its sign; of accuracies in points."""
    unit, form = _points(figure)
    return signed(unit * change, form)


def _points(figure: str) -> tuple[float, str]:
    return (100.0, ".2f") if figure.startswith("accuracy") else (1.0, ".4g")


def _cited(figure: str, published: Published) -> str:
    if published.value is None:
        return published.source
    return f"{said(figure, published.value)} ({published.source})"


def _device(line: Line) -> str:
    return (f"{line['device_name']}, {line['threads']} thread{'s' * (line['threads'] != 1)}"
            if line["device"] == "cpu" else str(line["device_name"]))


def _data(line: Line) -> str:
    if line["data"] is None:
        return "random images"
    return (f"{line['data']}{' (not the official files)' * (line['data_official'] is False)}, "
            f"{line['iterations']} iterations")


def footnote(target: Target, scale: str, used: Sequence[Line]) -> Mapping[str, str]:
    """The command that measures the rows, and what is to be said of it."""
    if not used:
        return {"command": command(target.name, scale, [0, 1] if target.seeded else [0]),
                "remark": f"{target.cost[scale]}; {NOT_MEASURED} yet"}
    seeds = sorted({line["seed"] for line in used})
    commits = sorted({f"{(line['commit'] or 'unknown')[:8]}{' (changed)' * bool(line['dirty'])}"
                      for line in used})
    seconds = sum(line["wall_s"] for line in used)
    return {"command": command(target.name, scale, seeds),
            "remark": f"{seconds:.0f} s in all; commit {', '.join(commits)}"}
