"""results/bench.md: what the benchmarks should reach and what they measured, from their ledgers."""

import operator
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dualnet.bench import meprop, results
from dualnet.bench.results import Row, Spread, row, spread
from dualnet.ledger import Line

NOT_MEASURED = "not measured"
MEGABYTE = 2**20
BETWEEN = 64 * 2**10    # bytes from which on gloo is compared
EXCHANGE, PIPELINE, CAPACITY, RESNET, MEPROP, MONOLITH = results.BENCHES
INTRODUCTION = """\
# Benchmarks

Rendered by `dualnet bench report` from the newest line of each ledger beside it (`bench-*.jsonl`,
one line per run); not written by hand. Ratios are taken within a round of one run and told as their
median (smallest to largest). Of several folders the first counts for the targets.
"""
PIPELINE_TEXT = """\
Bound: the single net over the slower half alone (its code fed from memory, no exchange, nobody to
wait for), all on one thread: {bound}. "Exchange and the rest" is what a role spends beyond waiting
and beyond the half alone with as many micro-batches; below 0 the half ran faster beside its peer.
"""
CAFFE_TEXT = """\
**The thesis' ratio.** It states {single} images for the single net and {dual} for the dual net,
{published:.2f} times as many, on GTX Titans (6 GiB), the batch doubled until the memory was full;
4096 would be a doubling, {single} is none. By Caffe's rule (data and diff of every blob, indices of
maxima, masks of dropout, what the losses keep, the weights three times, columns of one image per
convolution) and the layer sizes of its finished code, cut at pool2:
"""


class Target(NamedTuple):
    """One row: what is asked of which figure, and what it should be.

    found    from the newest line of `bench`, None if that has no such figure
    reached  whether the median is good enough; None: there is no goal
    """

    bench: str
    what: str
    wanted: str
    found: Callable[[Line], Spread | None]
    reached: Callable[[float], bool] | None
    unit: str = "x"


def render(folder: Path) -> str:
    """The report as Markdown.  Raises DataError if a ledger is damaged."""
    lines = {bench: results.newest(folder, bench) for bench in results.BENCHES}
    blocks = [INTRODUCTION, "## Targets\n", _targets(lines)]
    for bench, section in ((EXCHANGE, _exchange), (PIPELINE, _pipeline), (CAPACITY, _capacity),
                           (RESNET, _resnet), (MEPROP, _meprop), (MONOLITH, _monolith)):
        line = lines[bench]
        blocks.append(f"\n## bench {bench}\n")
        if line is None:
            blocks.append(f"{NOT_MEASURED}; `dualnet bench {bench} --results DIR`.\n")
            continue
        if results.figure_path(folder, bench).exists():
            blocks.append(f"![bench {bench}]({results.figure_path(folder, bench).name})\n")
        blocks += [section(line), _footnote(line)]
    return "\n".join(blocks)


# -- targets ---------------------------------------------------------------------------------------

def _targets(lines: Mapping[str, Line | None]) -> str:
    cells = [("figure", "target", "measured", "n", "device", "reached")]
    for target in _listed(lines[EXCHANGE]):
        line = lines[target.bench]
        found = target.found(line) if line else None
        if line is None or found is None:
            cells.append((target.what, target.wanted, NOT_MEASURED, "0", "-", "-"))
            continue
        reached = "-" if target.reached is None else (
            "yes" if target.reached(found.median) else "no")
        cells.append((target.what, target.wanted, f"{found.said('.3g')} {target.unit}",
                      str(found.n), _device(line), reached))
    cells.append(("two GPUs, any of these", "-", NOT_MEASURED, "0", "-", "-"))
    return _table(cells)


def _listed(exchange: Line | None) -> Iterator[Target]:
    known = results.sizes(exchange) if exchange else []
    for size in [size for size in known if size >= 16 * MEGABYTE] or [16 * MEGABYTE]:
        yield Target(EXCHANGE, f"mapped, {said(size)}, over two memcpys", "at most 1.5",
                     _against("mapped", "memcpy", size), lambda value: value <= 1.5)
    yield Target(EXCHANGE, "mapped, 2 MB, above two memcpys", "at most 0.1 ms", _above_memcpy,
                 lambda value: value <= 0.1, "ms")
    yield Target(EXCHANGE, "mapped, 2 MB, faster than np.save + np.load", "10 times",
                 _against("save", "mapped", 2 * MEGABYTE), lambda value: value >= 10)
    for size in [size for size in known if size >= BETWEEN] or [BETWEEN]:
        yield Target(EXCHANGE, f"mapped, {said(size)}, faster than gloo on loopback", "1 time",
                     _against("gloo", "mapped", size), lambda value: value > 1)
    yield Target(EXCHANGE, "mapped, 64 kB, from announcement to notice", "0.1 ms", _notice,
                 lambda value: value <= 0.1, "ms")
    yield Target(PIPELINE, "best `pipelined` over the single net, as a share of the bound", "0.85",
                 lambda line: _best_pipelined(line, of_bound=True), lambda value: value >= 0.85,
                 "of the bound")
    yield Target(PIPELINE, "`caffenet` at pool2: best `pipelined` over the single net", "1.3",
                 lambda line: _best_pipelined(line) if _is_thesis(line) else None,
                 lambda value: value >= 1.3)
    yield Target(PIPELINE, "the single net on all cores, beside it", "-",
                 lambda line: spread(results.speed_ups(line, "single, all cores")), None)
    for what, cut in (("at pool2", "pool2"), ("at the best cut", "")):
        yield Target(CAPACITY, f"`caffenet`, largest batch dual over single, {what}",
                     "the thesis: 1.57 at pool2", _capacity_at(cut), None)
    for way, least in (("stochastic depth, uniform 0.5", 1.6),
                       ("stochastic depth, linear to 0.5", 1.25), ("2 processes", 1.7)):
        yield Target(RESNET, f"`train resnet`, {way}", f"{least:g}", _over_base(way),
                     partial(operator.le, least))
    yield Target(MEPROP, f"meProp, {meprop.LINEAR}, k = 30 for the batch: backward pass on one "
                 "thread over the dense one", "2",
                 lambda line: spread(meprop.speed_ups(line, meprop.LINEAR, meprop.UNIFIED)),
                 lambda value: value >= 2)
    yield Target(MONOLITH, "`train monolith`, an epoch of stage 2 with kept features over running "
                 "the trunks", "10", _over_base("kept features"), partial(operator.le, 10))


def _over_base(way: str) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        ratios = results.over_base(line, way)
        return spread(ratios) if ratios else None
    return found


def _against(way: str, other: str, size: int) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        of, to = row(line, way=way, size=size), row(line, way=other, size=size)
        return spread(results.ratios(of, to)) if of and to else None
    return found


def _above_memcpy(line: Line) -> Spread | None:
    of, to = (row(line, way=way, size=2 * MEGABYTE) for way in ("mapped", "memcpy"))
    if not of or not to:
        return None
    return spread([1e3 * (a - b) for a, b in zip(of["seconds"], to["seconds"], strict=True)])


def _notice(line: Line) -> Spread | None:
    found = row(line, way="mapped", size=BETWEEN)
    return spread([1e3 * value for value in found["notice_s"]]) if found else None


def _best_pipelined(line: Line, of_bound: bool = False) -> Spread | None:
    """The way with the best median; its speed-ups, or their shares of the bound."""
    ways = [each["way"] for each in line["measured"] if each["way"].startswith("pipelined")]
    if not ways:
        return None
    best = max((results.speed_ups(line, way) for way in ways), key=statistics.median)
    bounds = results.bounds(line) if of_bound else [1.0] * len(best)
    return spread([value / bound for value, bound in zip(best, bounds, strict=True)])


def _is_thesis(line: Line) -> bool:
    return (line["settings"]["net"], line["settings"].get("cut", "pool2")) == ("caffenet", "pool2")


def _capacity_at(cut: str) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        ours = [each for each in _ours(line) if cut in ("", each["cut"])]
        if line["settings"]["net"] != "caffenet" or not ours:
            return None
        return max((spread(results.batch_ratios(each)) for each in ours),
                   key=lambda found: found.median)
    return found


# -- sections --------------------------------------------------------------------------------------

def _exchange(line: Line) -> str:
    cells = [("bytes", "way", "on", "ms", "x two memcpys", "announcement to notice, ms",
              "messages")]
    for each in line["measured"]:
        base = row(line, way="memcpy", size=each["size"])
        assert base
        notice = [1e3 * value for value in each["notice_s"]]
        cells.append((said(each["size"]), each["way"], each["file_system"] or "-",
                      spread([1e3 * value for value in each["seconds"]]).said(".3f"),
                      spread(results.ratios(each, base)).said(),
                      spread(notice).said(".3f") if notice else "-",
                      f"{line['rounds']} x {each['count']}"))
    return _table(cells)


def _pipeline(line: Line) -> str:
    settings = line["settings"]
    cells = [("way", "images/s", "over single", "compute, waiting, exchange and the rest")]
    for each in line["measured"]:
        shares = "; ".join(f"{role}: " + ", ".join(
            f"{100 * part:.0f} %" for part in results.shares(line, each["way"], role))
            for role in each.get("alone_s", {}))
        cells.append((each["way"], spread(each["images_per_s"]).said(".1f"),
                      spread(results.speed_ups(line, each["way"])).said(), shares or "-"))
    head = (f"`{settings['net']}`, cut at {settings['cut']}, {settings['batch_size']} images, one "
            "thread per process unless said.\n")
    return "\n".join([head, _table(cells), "", PIPELINE_TEXT.format(
        bound=spread(results.bounds(line)).said())])


def _meprop(line: Line) -> str:
    cells = [("layer", "way", "outputs kept", "backward pass, ms", "times as fast as dense")]
    for each in line["measured"]:
        is_dense = each["way"] == meprop.DENSE
        cells.append((each["layer"], each["way"],
                      f"{each['outputs'] if is_dense else each['k']} of {each['outputs']}",
                      spread([1e3 * value for value in each["seconds"]]).said(".3f"),
                      spread(meprop.speed_ups(line, each["layer"], each["way"])).said()))
    return f"One thread, float32.\n\n{_table(cells)}\n"


def _capacity(line: Line) -> str:
    settings = line["settings"]
    cells = [("cut", "how", "single", "net1", "net2", "net1 / single", "net2 / single",
              "dual / single")]
    for each in _ours(line):
        images = [spread(values).said("g") for values in each["images"].values()]
        ratios = [spread(results.batch_ratios(each, role)).said() for role in ("net1", "net2", "")]
        cells.append((each["cut"], each["how"], *images, *ratios))
    head = (f"`{settings['net']}`, images of {settings['shape']}, largest batches in "
            f"{settings['memory_limit'] / 2**30:g} GiB.\n")
    return "\n".join([head, _table(cells), "", *_caffe(line)])


def _resnet(line: Line) -> str:
    settings = line["settings"]
    cells = [("way", "images/s", "over", "times as fast", "blocks computed")]
    for each in line["measured"]:
        ratios = results.over_base(line, each["way"])
        assert ratios
        blocks = each.get("blocks")
        cells.append((each["way"], spread(each["images_per_s"]).said(".1f"), each["base"],
                      spread(ratios).said(),
                      f"{100 * statistics.fmean(blocks):.0f} %" if blocks else "-"))
    return "\n".join([f"`{settings['net']}`, {settings['batch_size']} images per process and step, "
                      "one thread each.\n", _table(cells), ""])


def _monolith(line: Line) -> str:
    cells = [("way", "images/s", "times as fast as running the trunks")]
    cells += [(each["way"], spread(each["images_per_s"]).said(".0f"),
               spread(results.over_base(line, each["way"]) or []).said(".3g"))
              for each in line["measured"]]
    return "{net}, {batch_size} images per step, one thread.\n\n{}\n".format(
        _table(cells), **line["settings"])


def _ours(line: Line) -> list[Row]:
    return [each for each in line["measured"] if not each["how"].startswith("Caffe")]


def _caffe(line: Line) -> list[str]:
    """What Caffe's rule says of the published batches."""
    settings = line["settings"]
    rules = [each for each in line["measured"]
             if each["how"].startswith("Caffe") and each["cut"] == "pool2"]
    if settings["net"] != "caffenet" or not rules:
        return []
    single, dual = settings["published_single"], settings["published_dual"]
    limit = f"{settings['memory_limit'] / 2**30:g} GiB"
    cells = [("nets in memory", "MB per image: single, net1, net2", "single / net1 per image",
              f"dual / single in {limit}",
              f"GB for {single} in single", f"GB for {dual} in net1", f"GB for {dual} in net2")]
    for each in rules:
        memory = each["memory"]
        each_image = [memory[name]["per_image"] for name in ("single", "net1", "net2")]
        needed = [(memory[name]["per_image"] * count + memory[name]["once"]) / 1e9 for name, count
                  in (("single", single), ("net1", dual), ("net2", dual))]
        cells.append((each["how"].removeprefix("Caffe: "),
                      ", ".join(f"{value / 1e6:.2f}" for value in each_image),
                      f"{each_image[0] / each_image[1]:.2f}",
                      spread(results.batch_ratios(each)).said(),
                      *(f"{value:.1f}" for value in needed)))
    return [CAFFE_TEXT.format(single=single, dual=dual, published=dual / single), _table(cells), "",
            _conclusion(rules, single, dual)]


def _conclusion(rules: Sequence[Row], single: int, dual: int) -> str:
    training, tested = rules[0]["memory"], rules[1]["memory"]
    alone, with_test = (each["single"]["per_image"] / each["net1"]["per_image"]
                        for each in (training, tested))
    return (f"So {dual / single:.2f} does not follow from the training nets ({alone:.2f}): net1 "
            "keeps nearly all that the single net keeps. It would follow if the single net was "
            f"held with a test net of the same batch and net1 without one ({with_test:.2f} per "
            "image); both published batches then need about the same memory, but more than the "
            f"card had, so its layers were smaller or the card larger. {single} images in the "
            "single net alone do fit the rule and the card. Which nets were in memory is not "
            "stated, so this is a hypothesis.\n")


# -- words -----------------------------------------------------------------------------------------

def _footnote(line: Line) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    changed = " (changed)" * bool(line["dirty"])
    return (f"`{line['command']}`, {line['wall_s']:.0f} s, {line['date'][:10]}; {_device(line)}; "
            f"commit {(line['commit'] or 'unknown')[:8]}{changed}; {versions}.\n")


def _device(line: Line) -> str:
    return (f"{line['device_name']}, {line['cores']} cores" if line["device"] == "cpu"
            else str(line["device_name"]))


def said(size: int) -> str:
    """"64 kB", "2 MB"."""
    return f"{size // MEGABYTE} MB" if size >= MEGABYTE else f"{size // 2**10} kB"


def _table(cells: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|" + " --- |" * len(cells[0]), *rest])
