"""The report: every target with what was published and what was measured, from the ledgers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dualnet.ledger import Line
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.rows import NOT_MEASURED, Row, footnote, measured_scales, table
from dualnet.reproduce.target import Target
from dualnet.reproduce.targets import CAFFE_FIDELITY, FIDELITY_TABLE

INTRODUCTION = """\
# Results

Published figures of the papers, and the same measured with this program. Rendered by
`dualnet reproduce --report` from the ledgers beside it (`*.jsonl`, one line per variant and seed);
not written by hand. `ours` is the mean over n seeds, `spread` the sample standard deviation,
`difference` ours less each published value. `paired` is the difference to another variant, seed by
seed: its mean, its 95 % interval by Student's t and the number of seeds that both have; higher or
lower is said only where the interval leaves out zero. Differences of accuracies are in points.
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
    blocks += [_table(target, lines, scale) for scale in measured_scales(target, lines) or ["cpu"]]
    return "\n".join(blocks)


def _table(target: Target, lines: Sequence[Line], scale: str) -> str:
    rows, used = table(target, lines, scale)
    cells = [Row._fields, ("---",) * len(Row._fields), *rows]
    text = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    words = footnote(target, scale, used)
    return f"{text}\n\n`{words['command']}`, {words['remark']}.\n"
