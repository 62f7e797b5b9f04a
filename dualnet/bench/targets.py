"""What the benchmarks should reach, beside what they measured."""

import operator
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from dualnet.bench import meprop, resist, results
from dualnet.bench.results import Spread, row, spread
from dualnet.bench.tables import MEGABYTE, NOT_MEASURED, device, said, table
from dualnet.ledger import Line

EXCHANGE, PIPELINE, CAPACITY, RESNET, MEPROP, MONOLITH, RESIST = results.BENCHES
BETWEEN = 64 * 2**10    # bytes from which on gloo is compared


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


def targets(lines: Mapping[str, Line | None]) -> str:
    """The table, from the newest line of each ledger."""
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
                      str(found.n), device(line), reached))
    cells.append(("two GPUs, any of these", "-", NOT_MEASURED, "0", "-", "-"))
    return table(cells)


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
    yield Target(EXCHANGE, "mapped, 2 MB, faster than the channel of `--backend gloo`", "-",
                 _against("channel", "mapped", 2 * MEGABYTE), None)
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
    for way in ("lockstep", "pipelined"):
        yield Target(PIPELINE, f"`{way}` over gloo, beside the same through the folder", "-",
                     _over_folder(way), None)
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
    for sites in (2, 8):
        for figure, expected in resist.FOLLOWS.items():
            yield Target(RESIST, f"`train resist`, {sites} sites: {figure} of a round over local "
                         f"SGD's, as a share of the ratio of {expected}", "0.85 to 1.15",
                         _followed(sites, figure), lambda value: abs(value - 1) <= resist.WITHIN)


def _over_base(way: str) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        ratios = results.over_base(line, way)
        return spread(ratios) if ratios else None
    return found


def _followed(sites: int, figure: str) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        ratios = resist.followed(line, resist.way_name(sites, decompose=True), figure)
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


def _over_folder(start: str) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        ratios = [results.over_folder(line, each["way"]) for each in line["measured"]
                  if each["way"].startswith(results.OVER_GLOO + start)]
        return spread(ratios[0]) if ratios and ratios[0] else None
    return found


def _is_thesis(line: Line) -> bool:
    return (line["settings"]["net"], line["settings"].get("cut", "pool2")) == ("caffenet", "pool2")


def _capacity_at(cut: str) -> Callable[[Line], Spread | None]:
    def found(line: Line) -> Spread | None:
        ours = [each for each in results.ours(line) if cut in ("", each["cut"])]
        if line["settings"]["net"] != "caffenet" or not ours:
            return None
        return max((spread(results.batch_ratios(each)) for each in ours),
                   key=lambda found: found.median)
    return found
