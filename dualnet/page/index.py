"""index.html: every published number beside ours, in one file that needs nothing else."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from dualnet.bench import results as bench_results
from dualnet.fingerprint import fingerprint
from dualnet.ledger import Ledger as AnyLedger
from dualnet.page import comparison, elements
from dualnet.page.elements import said
from dualnet.page.style import STYLE
from dualnet.reproduce.drawing import drawing_of
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.rows import NOT_MEASURED, Row, footnote, measured_scales, table
from dualnet.reproduce.target import Target
from dualnet.reproduce.targets import FIDELITY_TABLE

FRAME = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>dualnet: published and measured</title>
<style>
{style}</style>
</head>
<body>
<h1>Published and measured</h1>
{parts}
</body>
</html>
"""
INTRODUCTION = """\
Every published number that dualnet measures again stands beside what it measured. Rendered by
`dualnet reproduce --report` from the ledgers at the end of this page; not written by hand, and
`dualnet reproduce --verify` checks it. What was not measured says so. `ours` is the mean over n
seeds, `spread` the sample standard deviation, `difference` ours less each published value, of
accuracies in points. `paired` is the difference to another variant, seed by seed, with its 95 %
interval by Student's t. Most of it was measured at scale `cpu`, which is smaller than what was
published: compare the rows of a table with each other before their digits with the published ones.
"""
# Rendered by other commands, beside the page.
OTHERS = {bench_results.REPORT: "speed and memory: the benchmarks",
          FIDELITY_TABLE: "layers, losses, solvers and nets against BVLC Caffe",
          "faults.md": "what became of each fault that was injected"}


def render(targets: Collection[Target], results: Path) -> str:
    """The page.  Raises DataError if a ledger is damaged."""
    papers: dict[str, list[Target]] = {}
    for target in targets:
        papers.setdefault(target.publication, []).append(target)
    sections = [_paper(paper, found, results) for paper, found in papers.items()]
    contents = "".join(f"<li>{elements.link(f'#{anchor(paper)}', paper)}: "
                       f"{', '.join(target.name for target in found)}</li>"
                       for paper, found in papers.items())
    contents = f"<li>{elements.link('#methods', 'All methods on one axis')}</li>{contents}"
    return FRAME.format(style=STYLE, parts="\n".join([
        f"<p>{said(INTRODUCTION)}</p>", f"<nav><ul>{contents}</ul></nav>",
        comparison.section(targets, results), *sections,
        _others(results), _ledgers(targets, results)]))


def anchor(text: str) -> str:
    """The name of a place in the page."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _paper(paper: str, targets: Iterable[Target], results: Path) -> str:
    """One table, then the figures."""
    figures: list[str] = []
    bodies: list[str] = []
    for target in targets:
        ledger = Ledger(results, target.name)
        drawing = drawing_of(target, ledger)
        if drawing and ledger.figure_path.exists():
            seeds = sorted({line["seed"] for line in drawing.lines})
            caption = (f"{target.name}: {target.shows}; scale {drawing.scale}, seed"
                       f"{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
            figures.append(elements.figure(ledger.figure_path, f"{target.name}, measured beside "
                                           "published values", caption))
        bodies += _bodies(target, ledger)
    return "\n".join([f'<section id="{anchor(paper)}">', f"<h2>{said(paper)}</h2>",
                      elements.table(Row._fields, bodies), '<div class="figures">', *figures,
                      "</div>", "</section>"])


def _bodies(target: Target, ledger: Ledger) -> Iterator[str]:
    """The rows of each scale under what they are of and the command that measures them."""
    lines = list(ledger.latest().values())
    for scale in measured_scales(target, lines) or ["cpu"]:
        rows, used = table(target, lines, scale)
        words = footnote(target, scale, used)
        remark = f"<br>{said(target.remark)}" if target.remark else ""
        yield elements.body(Row._fields, rows, missing=NOT_MEASURED, group=(
            f"<strong>{said(target.name)}</strong> {said(target.paper)}: {said(target.shows)}."
            f"{remark}<br><code>{said(words['command'])}</code>, {said(words['remark'])}"))


def _others(results: Path) -> str:
    found = [f"<li>{elements.link(name, text)}</li>" for name, text in OTHERS.items()
             if (results / name).exists()]
    return f'<section id="more"><h2>More</h2><ul>{"".join(found)}</ul></section>'


def _ledgers(targets: Iterable[Target], results: Path) -> str:
    """Where the numbers are kept; a number that is changed there changes a fingerprint here."""
    head = ("ledger", "lines", "newest", "fingerprint")
    ledgers: list[AnyLedger] = [
        *(Ledger(results, target.name) for target in targets),
        *(bench_results.ledger(results, bench) for bench in bench_results.BENCHES)]
    rows = []
    for ledger in ledgers:
        if lines := ledger.lines():
            rows.append((ledger.path.name, str(len(lines)),
                         max(line["date"] for line in lines)[:10], fingerprint(lines)))
    for path in sorted(results.glob("*/runs.csv")):
        text = path.read_text(encoding="utf-8")
        rows.append((path.relative_to(results).as_posix(), str(text.count("\n") - 1), "-",
                     fingerprint(text)))
    text = elements.table(head, [elements.body(head, rows)])
    return f'<section id="ledgers"><h2>Ledgers</h2>\n{text}\n</section>'
