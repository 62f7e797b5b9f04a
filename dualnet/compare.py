"""A table of runs: accuracy, distance to the single net, collapse and cost of each variant.

    <folder>/<variant>-s<seed>/     the runs, ordinary run folders
             table.txt  table.md    for reading
             table.csv  runs.csv    for computing: one row per variant, one row per run
             curves.png
             .lock                  held while a process trains here
"""

import csv
import fcntl
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dualnet.errors import UserError
from dualnet.run import Run
from dualnet.statistics import Difference, Spread, mean_difference, spread
from dualnet.variants import LOCAL, SEED, differing, labels

# A single net is a partner for runs that saw as much of the same data with the same net.
SAME = (SEED, "data", "net", "iterations", "batch_size")


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    accuracy    of the test images, 0-1, through conv3' where the net was cut; None if diverged
    merged      the same through conv3; None for a single net
    difference  accuracy minus that of its single net; None if there is none
    diverged    the iteration in which it diverged, counted from 1, or None
    """

    name: str
    variant: str
    seed: int
    accuracy: float | None
    merged: float | None
    difference: float | None
    collapsed: bool
    diverged: int | None
    seconds: float | None
    bytes: int | None

    @property
    def state(self) -> str:
        """How it ended, in a word."""
        if self.diverged is not None:
            return f"DIVERGED at iteration {self.diverged}"
        return "collapsed" if self.collapsed else "finished"


@dataclass(frozen=True)
class Row:
    """The runs of one variant together; a spread is None where no run has the figure."""

    variant: str
    outcomes: tuple[Outcome, ...]

    def spread(self, figure: str) -> Spread | None:
        """Spread of one of the figures of `Outcome`, over the runs that have it."""
        return spread([getattr(outcome, figure) for outcome in self.outcomes])

    @property
    def difference(self) -> Difference | None:
        """Mean distance to the single net of the same seed, with its interval."""
        return mean_difference([outcome.difference for outcome in self.outcomes])

    @property
    def diverged(self) -> list[int]:
        """The iterations in which runs diverged."""
        return [outcome.diverged for outcome in self.outcomes if outcome.diverged is not None]

    @property
    def collapsed(self) -> int:
        """How many runs collapsed."""
        return sum(outcome.collapsed for outcome in self.outcomes)


class Comparison(NamedTuple):
    """The rows of a table, and the settings in which its runs differ."""

    rows: list[Row]
    settings: list[str]

    @property
    def outcomes(self) -> list[Outcome]:
        """All runs, variant by variant."""
        return [outcome for row in self.rows for outcome in row.outcomes]


def compare(runs: Sequence[Run], names: Sequence[str] | None = None) -> Comparison:
    """The table of `runs`, in the order in which their variants come.

    names  the variant of each run; None: named by the settings in which they differ
    Raises UserError for a run that has neither finished nor diverged.
    """
    configs = [run.config() for run in runs]
    summaries = [{} if run.divergence() else run.summary() for run in runs]
    singles = [(config, summary["test_accuracy"]) for config, summary
               in zip(configs, summaries, strict=True) if config["method"] == "single" and summary]
    rows: dict[str, list[Outcome]] = {}
    for run, config, summary, variant in zip(runs, configs, summaries, names or labels(configs),
                                             strict=True):
        outcome = _outcome(run, variant, config, summary, _partner(config, singles))
        rows.setdefault(variant, []).append(outcome)
    return Comparison([Row(variant, tuple(found)) for variant, found in rows.items()],
                      differing(configs))


def _outcome(run: Run, variant: str, config: dict[str, Any], summary: dict[str, Any],
             single: float | None) -> Outcome:
    accuracy = summary.get("test_accuracy")
    paired = accuracy is not None and single is not None
    return Outcome(
        name=run.folder.resolve().name, variant=variant, seed=config[SEED], accuracy=accuracy,
        merged=summary.get("test_accuracy_merged"),
        difference=accuracy - single if paired else None,  # type: ignore[operator]
        collapsed=bool(summary.get("collapsed")),
        diverged=(run.divergence() or {}).get("step"), seconds=summary.get("wall_s"),
        bytes=summary.get("bytes_exchanged"))


def _partner(config: dict[str, Any],
             singles: Sequence[tuple[dict[str, Any], float]]) -> float | None:
    """Accuracy of the single net that `config` is paired with: of those with the same seed that
    saw the same data, the one that differs in the fewest settings; None if there is none."""
    if config["method"] == "single":
        return None
    def distance(single: dict[str, Any]) -> int:
        return sum(single[key] != config[key] for key in single if key in config
                   and key not in LOCAL)
    candidates = [entry for entry in singles if all(entry[0][key] == config[key] for key in SAME)]
    return min(candidates, key=lambda entry: distance(entry[0]))[1] if candidates else None


# -- writing it down -------------------------------------------------------------------------------

FIGURES = ("accuracy", "merged", "difference", "seconds", "bytes")


def rows_csv(comparison: Comparison) -> str:
    """One line per variant, unrounded; accuracies 0-1, seconds and bytes per run."""
    header = ["variant", "runs", "diverged", "diverged_at", "collapsed"]
    header += [f"{figure}_{part}" for figure in FIGURES for part in Spread._fields]
    lines: list[list[Any]] = [header]
    for row in comparison.rows:
        line = [row.variant, len(row.outcomes), len(row.diverged),
                " ".join(map(str, row.diverged)), row.collapsed]
        for figure in FIGURES:
            line += row.spread(figure) or (None, None, 0)
        lines.append(line)
    return _csv(lines)


def runs_csv(comparison: Comparison) -> str:
    """One line per run, unrounded."""
    names = list(Outcome.__dataclass_fields__)
    return _csv([names, *([getattr(outcome, name) for name in names]
                          for outcome in comparison.outcomes)])


def read_runs(text: str) -> Comparison:
    """What `runs_csv` wrote; which settings differ is not in it."""
    rows: dict[str, list[Outcome]] = {}
    for cells in csv.DictReader(io.StringIO(text)):
        value = {name: float(cell) if cell else None for name, cell in cells.items()
                 if name in FIGURES}
        diverged, sent = (int(cells[name]) if cells[name] else None
                          for name in ("diverged", "bytes"))
        rows.setdefault(cells["variant"], []).append(Outcome(
            cells["name"], cells["variant"], int(cells["seed"]), value["accuracy"],
            value["merged"], value["difference"], cells["collapsed"] == "True", diverged,
            value["seconds"], sent))
    return Comparison([Row(variant, tuple(found)) for variant, found in rows.items()], [])


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def text(comparison: Comparison) -> str:
    """Two tables for a terminal: variants, then runs."""
    return "\n\n".join([_aligned(_variant_cells(comparison)), _aligned(_run_cells(comparison)),
                        _legend(comparison)]) + "\n"


def markdown(comparison: Comparison) -> str:
    """The same tables in Markdown."""
    return "\n\n".join([_piped(_variant_cells(comparison)), _piped(_run_cells(comparison)),
                        _legend(comparison)]) + "\n"


def _legend(comparison: Comparison) -> str:
    settings = ", ".join(comparison.settings) or "none"
    return ("Test accuracy in %: mean +- standard deviation (n runs); the difference is to the "
            f"single net of the same seed, in points.\nSettings that differ: {settings}.")


def _variant_cells(comparison: Comparison) -> list[list[str]]:
    cells = [["variant", "through conv3'", "through conv3", "minus single", "collapsed",
              "seconds", "MB"]]
    for row in comparison.rows:
        count = len(row.outcomes)
        steps = ", ".join(map(str, row.diverged))
        diverged = f"DIVERGED {len(row.diverged)} of {count} (at {steps})" if steps else ""
        accuracy = " ".join(filter(None, [_percent(row.spread("accuracy")), diverged]))
        cells.append([
            row.variant, accuracy or "-", _percent(row.spread("merged")) or "-",
            _points(row.difference), f"{row.collapsed} of {count}",
            _mean(row.spread("seconds"), "{:.1f}".format), _mean(row.spread("bytes"), _megabytes)])
    return cells


def _run_cells(comparison: Comparison) -> list[list[str]]:
    cells = [["run", "seed", "through conv3'", "through conv3", "minus single", "ended",
              "seconds", "MB"]]
    for run in comparison.outcomes:
        accuracies = [_percent(spread([value]), sign) or "-" for value, sign in
                      ((run.accuracy, ""), (run.merged, ""), (run.difference, "+"))]
        cells.append([run.name, str(run.seed), *accuracies, run.state,
                      _mean(spread([run.seconds]), "{:.1f}".format),
                      _mean(spread([run.bytes]), _megabytes)])
    return cells


def _percent(found: Spread | None, sign: str = "") -> str:
    """"64.10 +- 0.52 (3)" for several runs, "64.10" for one, nothing for none."""
    if found is None:
        return ""
    mean = f"{round(100 * found.mean, 2) + 0.0:{sign}.2f}"     # + 0.0: no "-0.00"
    return mean if found.sd is None else f"{mean} +- {100 * found.sd:.2f} ({found.n})"


def _points(found: Difference | None) -> str:
    """"+0.18 [-0.88, +1.24] (3)", or "-"."""
    return "-" if found is None else found.scaled(100).said(".2f")


def _mean(found: Spread | None, said: Callable[[float], str]) -> str:
    return "-" if found is None else said(found.mean)


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f}"


def _aligned(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)
                               ).rstrip() for line in cells)


def _piped(cells: list[list[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


class Folder:
    """The folder of a comparison; knows the names in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text_path, self.markdown_path = path / "table.txt", path / "table.md"
        self.rows_path, self.runs_path = path / "table.csv", path / "runs.csv"
        self.figure_path = path / "curves.png"

    def run(self, kind: str, seed: int) -> Run:
        """The run of one kind and seed."""
        return Run(self.path / f"{kind}-s{seed}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from training here.  Raises UserError if another process does so now."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise UserError(f"cannot write the folder {self.path} ({error.strerror}); choose "
                            "another with --out") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)     # ends with the process
            except BlockingIOError:
                raise UserError(f"another process trains in {self.path}; wait for it, or choose "
                                "another folder with --out") from None
            yield

    def write(self, comparison: Comparison) -> None:
        """Write the tables in each form."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path, content in ((self.text_path, text(comparison)),
                              (self.markdown_path, markdown(comparison)),
                              (self.rows_path, rows_csv(comparison)),
                              (self.runs_path, runs_csv(comparison))):
            path.write_text(content, encoding="utf-8")
