"""results/bench.md: what the benchmarks should reach and what they measured, from their ledgers."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from dualnet.bench import meprop, resist, results
from dualnet.bench.results import Row, row, spread
from dualnet.bench.tables import NOT_MEASURED, footnote, said, table
from dualnet.bench.targets import (
    CAPACITY,
    EXCHANGE,
    MEPROP,
    MONOLITH,
    PIPELINE,
    RESIST,
    RESNET,
    targets,
)
from dualnet.ledger import Line

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


def render(folder: Path) -> str:
    """The report as Markdown.  Raises DataError if a ledger is damaged."""
    lines = {bench: results.newest(folder, bench) for bench in results.BENCHES}
    blocks = [INTRODUCTION, "## Targets\n", targets(lines)]
    for bench, section in ((EXCHANGE, _exchange), (PIPELINE, _pipeline), (CAPACITY, _capacity),
                           (RESNET, _resnet), (MEPROP, _meprop), (MONOLITH, _monolith),
                           (RESIST, _resist)):
        line = lines[bench]
        blocks.append(f"\n## bench {bench}\n")
        if line is None:
            blocks.append(f"{NOT_MEASURED}; `dualnet bench {bench} --results DIR`.\n")
            continue
        if results.figure_path(folder, bench).exists():
            blocks.append(f"![bench {bench}]({results.figure_path(folder, bench).name})\n")
        blocks += [section(line), footnote(line)]
    return "\n".join(blocks)


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
    return table(cells)


def _pipeline(line: Line) -> str:
    settings = line["settings"]
    cells = [("way", "images/s", "over single", "over the same through the folder",
              "compute, waiting, exchange and the rest")]
    for each in line["measured"]:
        shares = "; ".join(f"{role}: " + ", ".join(
            f"{100 * part:.0f} %" for part in results.shares(line, each["way"], role))
            for role in each.get("alone_s", {}))
        folder = results.over_folder(line, each["way"])
        cells.append((each["way"], spread(each["images_per_s"]).said(".1f"),
                      spread(results.speed_ups(line, each["way"])).said(),
                      spread(folder).said() if folder else "-", shares or "-"))
    head = (f"`{settings['net']}`, cut at {settings['cut']}, {settings['batch_size']} images, one "
            "thread per process unless said.\n")
    return "\n".join([head, table(cells), "", PIPELINE_TEXT.format(
        bound=spread(results.bounds(line)).said())])


def _meprop(line: Line) -> str:
    cells = [("layer", "way", "outputs kept", "backward pass, ms", "times as fast as dense")]
    for each in line["measured"]:
        is_dense = each["way"] == meprop.DENSE
        cells.append((each["layer"], each["way"],
                      f"{each['outputs'] if is_dense else each['k']} of {each['outputs']}",
                      spread([1e3 * value for value in each["seconds"]]).said(".3f"),
                      spread(meprop.speed_ups(line, each["layer"], each["way"])).said()))
    return f"One thread, float32.\n\n{table(cells)}\n"


def _capacity(line: Line) -> str:
    settings = line["settings"]
    cells = [("cut", "how", "single", "net1", "net2", "net1 / single", "net2 / single",
              "dual / single")]
    for each in results.ours(line):
        images = [spread(values).said("g") for values in each["images"].values()]
        ratios = [spread(results.batch_ratios(each, role)).said() for role in ("net1", "net2", "")]
        cells.append((each["cut"], each["how"], *images, *ratios))
    head = (f"`{settings['net']}`, images of {settings['shape']}, largest batches in "
            f"{settings['memory_limit'] / 2**30:g} GiB.\n")
    return "\n".join([head, table(cells), "", *_caffe(line)])


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
                      "one thread each.\n", table(cells), ""])


def _monolith(line: Line) -> str:
    cells = [("way", "images/s", "times as fast as running the trunks")]
    cells += [(each["way"], spread(each["images_per_s"]).said(".0f"),
               spread(results.over_base(line, each["way"]) or []).said(".3g"))
              for each in line["measured"]]
    return "{net}, {batch_size} images per step, one thread.\n\n{}\n".format(
        table(cells), **line["settings"])


def _resist(line: Line) -> str:
    figures = [name for pair in resist.FOLLOWS.items() for name in pair]
    cells = [("way", *figures, *(f"{figure} over {expected}"
                                 for figure, expected in resist.FOLLOWS.items()))]
    for way in resist.ways(line):
        ratios = [results.over_base(line, way, figure) for figure in figures]
        ratios += [resist.followed(line, way, figure) for figure in resist.FOLLOWS]
        cells.append((way, *(spread(each or []).said(".3f") for each in ratios)))
    return ("{net}, {local_iterations} x {batch_size} images a site in a round, sites one after "
            "the other, one thread; each over local SGD at as many sites.\n\n{}\n").format(
                table(cells), **line["settings"])


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
    return [CAFFE_TEXT.format(single=single, dual=dual, published=dual / single), table(cells), "",
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
