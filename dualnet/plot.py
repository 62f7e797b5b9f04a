"""Curves of one or several runs, against iterations or time.  No torch."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter

from dualnet.errors import UserError
from dualnet.panels import (
    ABSCISSAE,
    DEFAULT_METRICS,
    MIDDLE,
    PANELS,
    SECOND,
    SMOOTHING,
    Panel,
    with_chain_as_pair,
    with_mean_of_subs,
)
from dualnet.run import Run
from dualnet.variants import SEED, labels

Record = dict[str, Any]

# Okabe and Ito's palette, safe for colour-blind readers; dashes and markers tell variants apart
# in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.2)),
                           (0, (8, 2, 1, 2, 1, 2)), (0, (10, 3)), (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "<", "P", "*")
COLLAPSED, DIVERGED = "v", "X"


class Style(NamedTuple):
    """How the runs of one variant look."""

    colour: str
    dash: Any
    marker: str


class Curves(NamedTuple):
    """What is drawn of one run: records by role, its ending and its style.

    collapsed  the iteration from which on its lines say collapsed, or None
    diverged   the iteration in which it diverged, or None
    """

    label: str
    records: Mapping[str, list[Record]]
    collapsed: int | None
    diverged: int | None
    style: Style


def draw(folders: Sequence[Path], paths: Sequence[Path], *,
         metrics: Iterable[str] = DEFAULT_METRICS, x: str = "iteration",
         smoothing: float = SMOOTHING, names: Sequence[str] | None = None,
         stamp: Mapping[str, str] | None = None) -> None:
    """Draw the runs in `folders` into each of `paths`, whose suffixes choose the format.

    metrics    some of METRICS; what no run has is left out
    x          "iteration", or "time" in seconds since the training began
    smoothing  weight of what came before in the bold curves, 0 to below 1
    names      what the legend calls each run; None: by the settings in which they differ
    stamp      what is written into a PNG beside its picture
    Raises UserError for a folder without metrics or a suffix that matplotlib cannot write.
    """
    runs = _read([Run(folder) for folder in folders], names)
    panels = [panel for panel in PANELS if panel.metric in set(metrics)
              and any(_points(run, role, panel, ABSCISSAE[x])[0] for run in runs
                      for role in panel.keys)]
    if not panels:
        raise UserError(f"there is nothing to draw: no run has {', '.join(metrics)} in its metrics")
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 0.9 + 2.4 * len(panels)),
                                   sharex=True, squeeze=False, layout="constrained")
    for panel, axis in zip(panels, axes[:, 0], strict=True):
        _draw_panel(axis, panel, runs, ABSCISSAE[x], smoothing)
    axes[-1, 0].set_xlabel("iteration" if x == "iteration" else "seconds of training")
    _legend(figure, runs)
    _save(figure, paths, stamp or {})
    pyplot.close(figure)


# -- reading ---------------------------------------------------------------------------------------

def _read(runs: Sequence[Run], names: Sequence[str] | None) -> list[Curves]:
    records = [with_mean_of_subs(with_chain_as_pair({role: run.metrics(role)
                                                     for role in run.roles})) for run in runs]
    for run, found in zip(runs, records, strict=True):
        if not any(found.values()):
            raise UserError(f"there is nothing to draw in {run.folder}: no role has written "
                            "metrics there")
    names = _names([run.config() for run in runs], names)
    looks = cycle(zip(COLOURS, DASHES, MARKERS, strict=True))
    styles = {name: Style(*look) for name, look in zip(dict.fromkeys(names), looks, strict=False)}
    return [Curves(name, found, _collapsed(found), (run.divergence() or {}).get("step"),
                   styles[name])
            for run, found, name in zip(runs, records, names, strict=True)]


def _names(configs: Sequence[Record], given: Sequence[str] | None) -> list[str]:
    """Variants; seeds where they are all that differs."""
    names = list(given or labels(configs))
    seeds = {config[SEED] for config in configs}
    if len(set(names)) == 1 and len(seeds) > 1:
        return [f"{name}, seed {config[SEED]}" for name, config
                in zip(names, configs, strict=True)]
    return names


def _collapsed(records: Mapping[str, list[Record]]) -> int | None:
    """The first line of the collapse that the run ended in, at any of its cuts."""
    found = []
    for role in ("net2", *MIDDLE):
        first = None
        for record in records.get(role, []):
            if record["split"] == "train":
                first = (first or record["step"]) if record.get("dual/collapsed") else None
        found.append(first)
    return min((first for first in found if first is not None), default=None)


def _points(run: Curves, role: str, panel: Panel, x: str,
            split: str = "train") -> tuple[list[float], np.ndarray]:
    """Abscissae and values of a figure, float [n] each; a null in the metrics is nan."""
    key = panel.keys[role]
    found = [record for record in run.records.get(role, [])
             if record["split"] == split and key in record and x in record]
    values = [np.nan if record[key] is None else record[key] for record in found]
    return [record[x] for record in found], np.array(values, dtype=float)


def smooth(values: np.ndarray, weight: float = SMOOTHING) -> np.ndarray:
    """Exponential moving average without the bias of its start, float [n] -> float [n].

        m_t = weight * m_{t-1} + (1 - weight) * v_t        result_t = m_t / (1 - weight^t)
    """
    mean, result = 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        result[index] = mean / (1 - weight ** (index + 1))
    return result


# -- drawing ---------------------------------------------------------------------------------------

def _draw_panel(axis: Axes, panel: Panel, runs: Sequence[Curves], x: str,
                smoothing: float) -> None:
    """The curves of all runs, then their endings, then what the markers mean."""
    axis.set_ylabel(panel.title)
    axis.grid(alpha=0.3)
    _set_scale(axis, panel, runs)
    for run in sorted(runs, key=lambda run: run.diverged is not None):
        if run.diverged is not None and axis.get_lines():
            axis.set_ylim(axis.get_ylim())     # a run that diverges does not flatten the others
        _draw_run(axis, panel, run, x, smoothing)
    if panel.scale == "share":
        axis.set_ylim(0, 1)
    for run in runs:
        for role in panel.keys:
            _mark_ending(axis, run, role, panel, x, smoothing)
    _explain_markers(axis, panel, runs)


def _set_scale(axis: Axes, panel: Panel, runs: Sequence[Curves]) -> None:
    """Powers of ten where they are asked for and there is a number above 0."""
    values = [_points(run, role, panel, "step")[1] for run in runs for role in panel.keys]
    if panel.scale != "log" or not (np.concatenate(values) > 0).any():
        return
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # Labels between the powers of ten only where there are few of those.
    axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))


def _draw_run(axis: Axes, panel: Panel, run: Curves, x: str, smoothing: float) -> None:
    for role in panel.keys:
        at, values = _points(run, role, panel, x)
        if not at:
            continue
        colour, dash, _ = run.style
        if role in SECOND:
            axis.axvline(run.records[role][0][x], color=colour, linestyle=":", linewidth=1)
        axis.plot(at, values, color=colour, alpha=0.25, linewidth=0.7)
        bold = smooth(values, smoothing)
        axis.plot(at, bold, linestyle=dash, color=colour, linewidth=1.6, **_role_marker(
            run, role, panel, len(at)))
    if panel.metric == "accuracy":
        _draw_tests(axis, panel, run, x)


def _role_marker(run: Curves, role: str, panel: Panel, count: int) -> dict[str, Any]:
    """Open markers tell net1 from net2 where both share an axis."""
    if role != "net1" or not panel.names:
        return {}
    every = max(count // 8, 1)
    return {"marker": run.style.marker, "markerfacecolor": "white", "markersize": 5,
            "markevery": (every // 2, every)}


def _mark_ending(axis: Axes, run: Curves, role: str, panel: Panel, x: str,
                 smoothing: float) -> None:
    """A triangle where the run began to collapse, a cross where it diverged."""
    at, values = _points(run, role, panel, x)
    bold = np.clip(smooth(values, smoothing), *axis.get_ylim())
    steps, _ = _points(run, role, panel, "step")
    for symbol, step in ((COLLAPSED, run.collapsed), (DIVERGED, run.diverged)):
        finite = np.flatnonzero(np.isfinite(bold))
        if step is None or len(finite) == 0:
            continue
        nearest = finite[np.abs(np.array(steps)[finite] - step).argmin()]
        axis.plot(at[nearest], bold[nearest], marker=symbol, color="black", markersize=9,
                  markeredgecolor="white", markeredgewidth=0.8, zorder=5, clip_on=False)


def _draw_tests(axis: Axes, panel: Panel, run: Curves, x: str) -> None:
    """Test images: filled through conv3', open and larger through conv3."""
    for role in panel.keys:
        at, values = _points(run, role, panel, x, split="test")
        merged = Panel("", "", {role: "dual/accuracy_merged"})
        look: dict[str, Any] = {"color": run.style.colour, "marker": run.style.marker,
                                "linestyle": "", "clip_on": False, "zorder": 4}
        if not at:
            continue
        through_conv3 = _points(run, role, merged, x, split="test")
        if through_conv3[0]:
            axis.plot(*through_conv3, **look, markersize=10, markerfacecolor="none")
        axis.plot(at, values, **look, markersize=5, markeredgecolor="white",
                  markeredgewidth=0.4)


def _explain_markers(axis: Axes, panel: Panel, runs: Sequence[Curves]) -> None:
    """The legend of a panel whose markers mean something of their own."""
    keys = [_key(name, linestyle="-", **({"marker": "o", "markerfacecolor": "white"}
                                         if role == "net1" else {}))
            for role, name in panel.names.items() if any(role in run.records for run in runs)]
    if panel.metric == "accuracy":
        keys = [_key("test images", marker="o", linestyle="")]
        if any("net2" in run.records for run in runs):
            keys = [_key("test images through conv3'", marker="o", linestyle="", markersize=5),
                    _key("test images through conv3", marker="o", linestyle="", markersize=9,
                         markerfacecolor="none")]
    if keys:
        axis.legend(handles=keys, fontsize="small",
                    loc="upper left" if panel.metric == "accuracy" else "best")


def _legend(figure: Figure, runs: Sequence[Curves]) -> None:
    """Each variant once, with how its runs ended; below the axes, where it hides nothing."""
    handles = []
    for label in dict.fromkeys(run.label for run in runs):
        same = [run for run in runs if run.label == label]
        colour, dash, marker = same[0].style
        handles.append(Line2D([], [], color=colour, linestyle=dash, marker=marker, markersize=5,
                              label=f"{label}{_endings(same)}"))
    for role, text in SECOND.items():
        if any(role in run.records for run in runs):
            handles.append(_key(text, linestyle=":"))
    for symbol, text, found in (
            (COLLAPSED, "collapsed from here on", [run.collapsed for run in runs]),
            (DIVERGED, "diverged", [run.diverged for run in runs])):
        if any(step is not None for step in found):
            handles.append(_key(text, marker=symbol, linestyle="", markersize=9))
    figure.legend(handles=handles, loc="outside lower center", fontsize="small", handlelength=4,
                  ncols=min(len(handles), 3), frameon=False)


def _endings(runs: Sequence[Curves]) -> str:
    words = []
    for what, steps in (("COLLAPSED", [run.collapsed for run in runs]),
                        ("DIVERGED", [run.diverged for run in runs])):
        count = sum(step is not None for step in steps)
        if count:
            words.append(what if len(runs) == 1 else f"{count} of {len(runs)} {what}")
    return f" ({', '.join(words)})" if words else ""


def _key(label: str, **look: Any) -> Line2D:
    return Line2D([], [], label=label, **{"color": "black", "markersize": 6, **look})


def _save(figure: Figure, paths: Sequence[Path], stamp: Mapping[str, str]) -> None:
    """Write the figure; the same runs give the same bytes, so no date and no random names."""
    extra: dict[str, Mapping[str, Any]] = {
        ".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": stamp}
    for path in paths:
        try:
            with matplotlib.rc_context({"svg.hashsalt": "dualnet"}):
                figure.savefig(path, dpi=120, metadata=extra.get(path.suffix.lower(), {}))
        except ValueError as error:
            raise UserError(f"cannot write {path}: {error}") from None
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
