"""Write the comparison as a Markdown table."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dualnet.reproduce.fidelity.golden import CaseResult

HEAD = """# Caffe fidelity

What dualnet computes against arrays that BVLC Caffe 1.0.0 wrote (CPU, one thread, float32), for
every layer, loss, filler and solver, and for five iterations of the dual net under each loss.
"Relative" is the largest difference over the largest element of Caffe's array. For fillers, which
are random, it is the distance of two distributions, and the tolerance what chance explains. Each
row shows the array that is nearest to its tolerance. Written by `dualnet reproduce caffe-fidelity`.
"""


def write_table(results: Sequence[CaseResult], path: Path) -> None:
    """Write `results` to `path`: a summary by file, then every case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table(results))


def table(results: Sequence[CaseResult]) -> str:
    """The text of the table."""
    num_passed = sum(result.passed for result in results)
    lines = [HEAD, f"Measured with torch {torch.__version__} on the CPU: "
             f"**{num_passed} of {len(results)} cases within tolerance.**", "",
             "| file | cases | within | largest relative | tolerance |", "|---|---|---|---|---|"]
    for file in dict.fromkeys(_group(result) for result in results):
        lines.append(_summary(file, [r for r in results if _group(r) == file]))
    lines += ["", "## Every case", "",
              "| file | case | array | absolute | relative | tolerance | |",
              "|---|---|---|---|---|---|---|"]
    lines += [_row(result) for result in results]
    undefined = [r for r in results if r.undefined]
    if undefined:
        lines += ["", "## What Caffe leaves undefined", "",
                  "Not compared; dualnet refuses it.", ""]
        lines += [f"* {r.file} {r.case}: {r.undefined}" for r in undefined]
    ignored = [r for r in results if r.ignored]
    if ignored:
        lines += ["", "## Fields that nothing here reads", ""]
        lines += [f"* {r.file} {r.case}: {', '.join(r.ignored)}" for r in ignored]
    return "\n".join(lines) + "\n"


def _group(result: CaseResult) -> str:
    return result.file if result.case else "end to end"


def _summary(file: str, results: list[CaseResult]) -> str:
    worst = max((r.worst for r in results),
                key=lambda d: d.relative / d.tolerance if d.tolerance else d.relative)
    passed = sum(result.passed for result in results)
    return (f"| {file} | {len(results)} | {passed} | {worst.relative:.1e} "
            f"| {worst.tolerance:.1e} |")


def _row(result: CaseResult) -> str:
    worst = result.worst
    verdict = "ok" if result.passed else "**differs**"
    return (f"| {result.file} | {result.case} | {worst.array} | {worst.absolute:.1e} "
            f"| {worst.relative:.1e} | {worst.tolerance:.1e} | {verdict} |")
