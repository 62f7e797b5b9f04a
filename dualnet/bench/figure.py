"""The figures of the benchmarks, each from one line of its ledger."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnet.bench import meprop, resist
from dualnet.bench.results import (
    Spread,
    batch_ratios,
    bounds,
    folders,
    ours,
    over_base,
    row,
    shares,
    sizes,
    speed_ups,
    spread,
)
from dualnet.fingerprint import metadata
from dualnet.ledger import Line

# Okabe and Ito's palette, safe for colour-blind readers; dashes tell the folders apart.
COLOURS = {"memcpy": "#000000", "mapped": "#0072B2", "rename": "#D55E00", "gloo": "#009E73",
           "channel": "#56B4E9", "save": "#CC79A7"}
NAMES = {"memcpy": "two memcpys", "save": "np.save + np.load", "gloo": "gloo, loopback",
         "channel": "channel of --backend gloo"}
TICKS = (0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
DASHES = ("-", "--", "-.", ":")
BARS = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00")
PARTS = {"compute": "#0072B2", "waiting": "#BBBBBB", "rest": "#E69F00"}
WORDS = {"compute": "compute", "waiting": "waiting", "rest": "exchange and the rest"}


def draw(line: Line, path: Path) -> None:
    """Draw a line of any of the ledgers into `path`, a PNG that has its fingerprint."""
    figure = {"exchange": _exchange, "pipeline": _pipeline, "capacity": _capacity,
              "resnet": _resnet, "meprop": meprop.draw, "monolith": _resnet,
              "resist": _resist}[line["bench"]](line)
    figure.suptitle(f"bench {line['bench']}: {line['device_name']}, {line['cores']} cores, "
                    f"{line['date'][:10]}, n = {line['rounds']}", fontsize="medium")
    figure.savefig(path, dpi=80, metadata=metadata(line))
    pyplot.close(figure)


def _exchange(line: Line) -> Figure:
    """Time against size on logarithmic axes, and bars from announcement to notice."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for way, colour in COLOURS.items():
        for (folder, system), dash in zip(folders(line) if way in ("mapped", "rename", "save")
                                          else [(None, "")], DASHES, strict=False):
            _curve(left, line, way, folder, colour=colour, dash=dash,
                   label=f"{NAMES.get(way, way)}{f', {system}' if system else ''}")
    left.set_xscale("log", base=2)
    left.set(yscale="log", xlabel="bytes", ylabel="milliseconds", title="one message, sent to read")
    left.set_xticks(sizes(line), [_size(size) for size in sizes(line)])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend(fontsize="small")
    noticed = [each for each in line["measured"] if each["notice_s"]]
    if noticed:
        _bars(right, [f"{each['way']}, {each['file_system']}, {_size(each['size'])}"
                      for each in noticed],
              [[spread([1e3 * value for value in each["notice_s"]]) for each in noticed]])
    right.set(title="from announcement to notice", xlabel="milliseconds")
    return figure


def _curve(axis: Axes, line: Line, way: str, folder: str | None, *, colour: str,
           dash: str, label: str) -> None:
    found = [row(line, way=way, size=size, folder=folder) for size in sizes(line)]
    points = [(each["size"], spread([1e3 * value for value in each["seconds"]]))
              for each in found if each]
    if points:
        at, values = zip(*points, strict=True)
        axis.plot(at, [value.median for value in values], color=colour, linestyle=dash, marker="o",
                  markersize=4, label=label)
        axis.fill_between(at, [value.low for value in values], [value.high for value in values],
                          color=colour, alpha=0.15, linewidth=0)


def _pipeline(line: Line) -> Figure:
    """Speed-up of each way with the bound as a line, and where the time of each role goes."""
    names = [each["way"] for each in line["measured"]]
    roles = [(each["way"], role) for each in line["measured"] for role in each.get("alone_s", {})]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.4 + 0.42 * len(names)),
                                            layout="constrained")
    found = [spread(speed_ups(line, name)) for name in names]
    _bars(left, names, [found])
    limit = spread(bounds(line))
    left.axvline(limit.median, color="black", linestyle="--", label=f"bound {limit.median:.2f}")
    left.axvspan(limit.low, limit.high, color="black", alpha=0.1, linewidth=0)
    left.legend(fontsize="small", loc="lower right")
    left.set(title="images per second over the single net on one thread")
    split = [shares(line, way, role) for way, role in roles]
    start = [0.0] * len(split)
    for part, colour in PARTS.items():
        lengths = [max(getattr(each, part), 0.0) for each in split]
        right.barh(range(len(split)), lengths, left=start, color=colour, label=WORDS[part])
        start = [a + b for a, b in zip(start, lengths, strict=True)]
    _rows(right, [f"{way}, {role}" for way, role in roles])
    right.set(title="where an iteration goes", xlim=(0, max([1.0, *start])))
    figure.legend(*right.get_legend_handles_labels(), fontsize="small", ncols=3,
                  loc="outside lower right")
    return figure


def _capacity(line: Line) -> Figure:
    """Largest batch of each half over that of the single net, cut by cut."""
    found = ours(line)
    names = [f"{each['cut']}, {each['how']}" for each in found]
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.5 * len(names)), layout="constrained")
    roles = [role for role in found[0]["images"] if role != "single"]
    _bars(axis, names, [[spread(batch_ratios(each, role)) for each in found] for role in roles],
          roles)
    axis.axvline(1.0, color="black", linewidth=0.8)
    if any(each["cut"] == "pool2" for each in found) and line["settings"]["net"] == "caffenet":
        published = line["settings"]["published_dual"] / line["settings"]["published_single"]
        axis.axvline(published, color="black", linestyle="--",
                     label=f"thesis, pool2: {published:.2f}")
    axis.set(xscale="log", title=f"{line['settings']['net']}: largest batch over the single net's")
    top = max(max(batch_ratios(each, role)) for each in found for role in roles)
    axis.set_xticks([tick for tick in TICKS if tick <= top], minor=False)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.legend(fontsize="small")
    return figure


def _resnet(line: Line) -> Figure:
    """How many times as fast as its base each way is."""
    others = [each for each in line["measured"] if each["way"] != each["base"]]
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.42 * len(others)), layout="constrained")
    _bars(axis, [each["way"] for each in others],
          [[spread(over_base(line, each["way"]) or []) for each in others]])
    axis.axvline(1.0, color="black", linewidth=0.8)
    plain = "running the trunks" if line["bench"] == "monolith" else "the plain training"
    axis.set(title=f"{line['settings']['net']}: images per second over {plain}")
    return figure


def _resist(line: Line) -> Figure:
    """What a round takes over one of local SGD, each figure beside the one it should follow."""
    names = resist.ways(line)
    figures = [name for pair in resist.FOLLOWS.items() for name in pair]
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.9 * len(names)), layout="constrained")
    _bars(axis, names, [[spread(over_base(line, way, name) or []) for way in names]
                        for name in figures], figures)
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set(title=f"{line['settings']['net']}: a round over one of local SGD")
    axis.legend(fontsize="small", loc="center right")
    return figure


def _bars(axis: Axes, names: Sequence[str], groups: Sequence[Sequence[Spread]],
          labels: Sequence[str] = ("",)) -> None:
    """Horizontal bars with whiskers from the smallest to the largest value."""
    height = 0.8 / len(groups)
    for number, (group, colour) in enumerate(zip(groups, BARS, strict=False)):
        middle = [value.median for value in group]
        whiskers = [[value.median - value.low for value in group],
                    [value.high - value.median for value in group]]
        at = [index + (number - (len(groups) - 1) / 2) * height for index in range(len(names))]
        axis.barh(at, middle, height, xerr=whiskers, color=colour, capsize=2,
                  label=labels[number] or None)
        for position, value in zip(at, middle, strict=True):
            axis.annotate(f" {value:.2f}", (0, position), va="center", fontsize="small",
                          color="white", xycoords=("axes fraction", "data"))
    _rows(axis, names)


def _rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names, fontsize="small")
    axis.set_ylim(len(names) - 0.4, -0.9)
    axis.grid(axis="x", alpha=0.3)


def _size(size: int) -> str:
    return f"{size // 2**20} M" if size >= 2**20 else f"{size // 2**10} k"
