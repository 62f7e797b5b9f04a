"""What the benchmarks measured: a ledger each, one line per run of the command.

    results/bench-exchange.jsonl   and those of pipeline, capacity, resnet, meprop,
                                   monolith and resist
            bench-exchange.png     ...                    drawn from the newest line
            bench.md               the report, rendered from all ledgers

A ratio is taken between figures of one round of one run, and told as the median over the rounds
with the smallest and the largest.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from dualnet import machine
from dualnet.ledger import Ledger, Line, revision

BENCHES = ("exchange", "pipeline", "capacity", "resnet", "meprop", "monolith",
           "resist")
KEYS = ("bench", "device", "device_name", "cores", "versions", "commit", "dirty", "date", "command",
        "wall_s", "rounds", "settings", "measured")
REPORT = "bench.md"
SINGLE, LOCKSTEP = "single", "lockstep"
OVER_GLOO = "gloo: "    # what the name of a way has before that of the same through the folder
Row = dict[str, Any]


class Spread(NamedTuple):
    """Median, smallest and largest of n values."""

    median: float
    low: float
    high: float
    n: int

    def said(self, form: str = ".2f") -> str:
        """"1.29 (1.21 to 1.33)", or the value alone where all read the same."""
        middle, low, high = (f"{value:{form}}" for value in self[:3])
        return middle if low == high else f"{middle} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    """Spread of at least one value.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0, n=3)
    """
    return Spread(median(values), min(values), max(values), len(values))


def ledger(folder: Path, bench: str) -> Ledger:
    """The ledger of one benchmark."""
    return Ledger(folder / f"bench-{bench}.jsonl", KEYS)


def figure_path(folder: Path, bench: str) -> Path:
    """Its figure."""
    return folder / f"bench-{bench}.png"


def newest(folder: Path, bench: str) -> Line | None:
    """The last line of a ledger, None without one.  Raises DataError if it is damaged."""
    lines = ledger(folder, bench).lines()
    return lines[-1] if lines else None


def name_of(row: Row) -> str:
    """What tells a row from the others of its line: its way, and where it was measured if that
    differs.

    >>> name_of({"way": "single"}), name_of({"way": "mapped", "size": 65536, "file_system": "ext4"})
    ('single', 'mapped @ 65536 ext4')
    """
    places = [str(row[key]) for key in ("layer", "cut", "size", "file_system") if row.get(key)]
    way: str = row["way"] if "way" in row else row["how"]
    return f"{way} @ {' '.join(places)}" if places else way


class Stopwatch:
    """Notes when a benchmark began and with which code, and makes its line."""

    def __init__(self) -> None:
        self._started, self._code = time.monotonic(), revision()

    def line(self, bench: str, command: str, rounds: int, settings: Mapping[str, Any],
             measured: Sequence[Row], device: Any) -> Line:
        """The line of the ledger.

        device  torch.device that was measured
        """
        where = machine.environment(device)
        return {"bench": bench,
                **{key: where[key] for key in ("device", "device_name", "cores")},
                "versions": machine.versions(), **self._code,
                "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command,
                "wall_s": round(time.monotonic() - self._started, 1), "rounds": rounds,
                "settings": dict(settings), "measured": list(measured)}


def gather(measured: dict[str, Row], rows: Iterable[Row]) -> None:
    """Add what one round measured to the rows of its ways: a list for every figure; words stay."""
    def add(to: Row, figures: Row) -> None:
        for name, value in figures.items():
            if isinstance(value, dict):
                add(to.setdefault(name, {}), value)
            elif isinstance(value, str):
                to[name] = value
            else:
                to.setdefault(name, []).append(value)

    for row in rows:
        add(measured.setdefault(row["way"], {}), row)


# -- exchange --------------------------------------------------------------------------------------

def row(line: Line, **wanted: Any) -> Row | None:
    """The first row that has these values."""
    return next((row for row in line["measured"]
                 if all(row[key] == value for key, value in wanted.items())), None)


def folders(line: Line) -> list[tuple[str, str]]:
    """Folders that were measured, and their file systems, in their order."""
    return list(dict.fromkeys((row["folder"], row["file_system"]) for row in line["measured"]
                              if row["folder"]))


def sizes(line: Line) -> list[int]:
    """Bytes of the messages, in their order."""
    return list(dict.fromkeys(row["size"] for row in line["measured"]))


def ratios(of: Row, to: Row) -> list[float]:
    """How many times as long as `to` a message of `of` takes, round by round."""
    return [a / b for a, b in zip(of["seconds"], to["seconds"], strict=True)]


# -- pipeline --------------------------------------------------------------------------------------

def speed_ups(line: Line, way: str) -> list[float]:
    """Images per second of a way over those of the single net on one thread, round by round."""
    return _over(line, way, SINGLE)


def over_folder(line: Line, way: str) -> list[float] | None:
    """Images per second of a way over gloo over those of the same through the folder, round by
    round; None for another way, or if it is not there."""
    same = way.removeprefix(OVER_GLOO)
    found = way != same and row(line, way=way) and row(line, way=same)
    return _over(line, way, same) if found else None


def _over(line: Line, way: str, other: str, figure: str = "images_per_s") -> list[float]:
    of, to = row(line, way=way), row(line, way=other)
    assert of and to
    return [a / b for a, b in zip(of[figure], to[figure], strict=True)]


def bounds(line: Line) -> list[float]:
    """Seconds per iteration of the single net over those of the slower half alone."""
    single, lockstep = row(line, way=SINGLE), row(line, way=LOCKSTEP)
    assert single and lockstep
    slower = map(max, zip(*lockstep["alone_s"].values(), strict=True))
    return [line["settings"]["batch_size"] / rate / half
            for rate, half in zip(single["images_per_s"], slower, strict=True)]


class Shares(NamedTuple):
    """Where an iteration of a role goes, medians over the rounds, 0-1.

    compute  what the half takes alone, with as many micro-batches
    waiting  for its peer
    rest     the exchange, and what two processes cost each other; below 0 where the half ran faster
             beside its peer than alone
    """

    compute: float
    waiting: float
    rest: float


def shares(line: Line, way: str, role: str) -> Shares:
    """Where the time of `role` goes."""
    found = row(line, way=way)
    assert found
    batch = line["settings"]["batch_size"]
    compute = [alone * rate / batch for alone, rate in
               zip(found["alone_s"][role], found["images_per_s"], strict=True)]
    waiting = found["wait_share"][role]
    return Shares(median(compute), median(waiting),
                  median(1 - a - b for a, b in zip(compute, waiting, strict=True)))


# -- resnet ----------------------------------------------------------------------------------------

def over_base(line: Line, way: str, figure: str = "images_per_s") -> list[float] | None:
    """A figure of a way over that of its base, round by round; None if it is not there."""
    found = row(line, way=way)
    return _over(line, way, found["base"], figure) if found else None


# -- capacity --------------------------------------------------------------------------------------

def ours(line: Line) -> list[Row]:
    """The rows that are not by Caffe's rule."""
    return [each for each in line["measured"] if not each["how"].startswith("Caffe")]


def batch_ratios(of: Row, role: str = "") -> list[float]:
    """Largest batch of `role`, or of the half that holds fewer, over the single net's."""
    images = of["images"]
    roles = [role] if role else [name for name in images if name != SINGLE]
    return [min(several) / single for *several, single in
            zip(*(images[name] for name in roles), images[SINGLE], strict=True)]
