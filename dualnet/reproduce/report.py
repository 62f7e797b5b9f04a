"""The report: every target with what was published and what was measured, from the ledgers."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from dualnet.ledger import Line
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.measure import command
from dualnet.reproduce.target import SCALES, Published, Target, Variant, digest
from dualnet.reproduce.targets import CAFFE_FIDELITY, FIDELITY_TABLE

NOT_MEASURED = "not measured"
HEADER = ("variant", "figure", "published", "ours", "spread", "n", "scale", "device", "date")
INTRODUCTION = """\
# Results

Published figures of the papers, and the same measured with this program. Rendered by
`dualnet reproduce --report` from the ledgers beside it (`*.jsonl`, one line per variant and seed);
not written by hand. `ours` is the mean over n seeds, `spread` the sample standard deviation.
Accuracies are of the test images, through conv3' where the net was cut. `loss1` is the loss of
net1, `loss2` the classification loss, `rms_` the root mean square of an activation over a batch;
`_first` is a figure of the first iteration, `_last` of the last line of metrics, `@N` after N
iterations. `errors` are per 10,000 test images; `_before` and `_after` are of the nets just before
and just after they are merged or widened. Costs are for cores that do nothing else.
"""


def render(targets: Iterable[Target], results: Path) -> str:
    """The report as Markdown.  Raises DataError if a ledger is damaged."""
    sections = [_section(target, Ledger(results, target.name)) for target in targets]
    return "\n".join([INTRODUCTION, *sections, _fidelity(results / FIDELITY_TABLE)])


def _fidelity(path: Path) -> str:
    """Where the table of the comparison with Caffe is."""
    table = (f"[{path.name}]({path.name})" if path.exists() else
             f"{NOT_MEASURED}; `dualnet reproduce {CAFFE_FIDELITY} --golden DIR`")
    return f"## {CAFFE_FIDELITY}\n\nLayers, losses, solvers and nets against Caffe: {table}.\n"


def _section(target: Target, ledger: Ledger) -> str:
    lines = list(ledger.latest().values())
    blocks = [f"## {target.name}\n", f"{target.paper}: {target.shows}.\n"]
    if target.remark:
        blocks.append(f"{target.remark}\n")
    if ledger.figure_path.exists():
        blocks.append(f"![{target.name}]({ledger.figure_path.name})\n")
    measured = [scale for scale in SCALES if any(_lines_of(variant, lines, scale)
                                                 for variant in target.variants(scale))]
    for scale in measured or ["cpu"]:
        blocks.append(_table(target, lines, scale))
    return "\n".join(blocks)


def _table(target: Target, lines: Sequence[Line], scale: str) -> str:
    rows = [HEADER, ("---",) * len(HEADER)]
    used: list[Line] = []
    for variant in target.variants(scale):
        found = _lines_of(variant, lines, scale)
        used += found
        rows += [_row(variant, figure, found, scale) for figure in
                 dict.fromkeys([variant.figure, *variant.published])]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_footnote(target, scale, used)}\n"


def _lines_of(variant: Variant, lines: Sequence[Line], scale: str) -> list[Line]:
    """Lines of this variant as it is defined now, whichever seed."""
    return [line for line in lines if line["variant"] == variant.name and line["scale"] == scale
            and line["config"] == digest(variant.settings.replace(seed=line["seed"]))]


def _row(variant: Variant, figure: str, found: Sequence[Line], scale: str) -> tuple[str, ...]:
    published = "; ".join(_cited(figure, each) for each in variant.published.get(figure, ()))
    head = (variant.name, figure, published or "-")
    if not found:
        return (*head, NOT_MEASURED, "-", "0", scale, "-", "-")
    values = [line["figures"].get(figure) for line in found]
    mean, spread, count = mean_and_spread(values)
    ours = "-" if mean is None else said(figure, mean)
    steps = [f"{end:g}" for line in found
             if (end := line["figures"].get("diverged_at")) is not None]
    if steps and figure == variant.figure:
        told = f"{len(steps)} of {len(found)} diverged, in iteration {', '.join(steps)}"
        ours = told if mean is None else f"{ours} ({told})"
    where = dict.fromkeys(_device(line) for line in found)
    what = dict.fromkeys(f"{scale}: {_data(line)}" for line in found)
    return (*head, ours, "-" if spread is None else said(figure, spread), str(count),
            "; ".join(what), "; ".join(where), max(line["date"] for line in found)[:10])


def _cited(figure: str, published: Published) -> str:
    if published.value is None:
        return published.source
    return f"{said(figure, published.value)} ({published.source})"


def said(figure: str, value: float) -> str:
    """A value in the unit of its figure: accuracies in percent, counts in full."""
    if figure.startswith("accuracy"):
        return f"{100 * value:.2f} %"
    if figure == "parameters":
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def mean_and_spread(values: Iterable[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation (None of fewer than two) and number of the values there are.

    >>> mean_and_spread([1.0, None, 4.0])
    (2.5, 2.1213203435596424, 2)
    """
    found = [value for value in values if value is not None]
    if not found:
        return None, None, 0
    return (statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None,
            len(found))


def _device(line: Line) -> str:
    return (f"{line['device_name']}, {line['threads']} thread{'s' * (line['threads'] != 1)}"
            if line["device"] == "cpu" else str(line["device_name"]))


def _data(line: Line) -> str:
    if line["data"] is None:
        return "random images"
    return (f"{line['data']}{' (not the official files)' * (line['data_official'] is False)}, "
            f"{line['iterations']} iterations")


def _footnote(target: Target, scale: str, used: Sequence[Line]) -> str:
    if not used:
        return f"To measure: `{command(target.name, scale, [0, 1])}`, {target.cost[scale]}."
    seeds = sorted({line["seed"] for line in used})
    commits = sorted({f"{(line['commit'] or 'unknown')[:8]}{' (changed)' * bool(line['dirty'])}"
                      for line in used})
    seconds = sum(line["wall_s"] for line in used)
    return (f"`{command(target.name, scale, seeds)}`, {seconds:.0f} s in all; "
            f"commit {', '.join(commits)}.")
