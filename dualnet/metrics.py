"""The lines of metrics of one role: written one by one, read while they grow, rolled back.

A role that starts from a checkpoint first writes where it does so:

    {"step": 400, "split": "resume", "generation": 3, "base": 1, ...}

generation 3 goes on from iteration 400 of generation 1; what was written after it is history.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]

RESUME = "resume"
NOTE = "note"       # of something else than training that takes long; it is shown, not written

log = logging.getLogger("dualnet")


class MetricsFile:
    """Appends records as lines of JSON; one writer per file, one write per line.

    What a killed process left of a line is removed first.  A disk that is full costs the lines it
    does not take, and a warning; training goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open as long as the run)
        self._size = _size_of_whole_lines(path)
        self._file.truncate(self._size)
        self._warned = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written yet, in earlier processes either."""
        return self._size == 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record`; a number that is not finite becomes null."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                  for key, value in record.items()}
        data = (json.dumps(finite) + "\n").encode()
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes were written")
        except OSError as error:
            self._lose_a_line(error)
        else:
            self._size += len(data)

    def sync(self) -> None:
        """Make the lines survive a power loss, as the checkpoint written next will."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._lose_a_line(error)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _lose_a_line(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("cannot write %s (%s); training goes on without these lines of metrics",
                        self._path, error.strerror or error)
        try:
            self._file.truncate(self._size)     # a part of a line would spoil the next one
        except OSError as again:
            log.debug("cannot cut %s: %s", self._path, again)


def _size_of_whole_lines(path: Path) -> int:
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    return len(whole + newline)


class MetricsReader:
    """Reads records as they are written; a line that is not whole yet is left for later."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def new(self) -> list[Record]:
        """The records since the last call; none if there is no file yet."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._position)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._position += len(whole + newline)
        return [json.loads(line) for line in whole.splitlines()]


@dataclass
class _Segment:
    """What one generation wrote: it goes on from iteration `start` of generation `base`."""

    generation: int
    base: int
    start: int
    lines: list[Record] = field(default_factory=list)


def surviving(records: Sequence[Record]) -> list[Record]:
    """The records of the training that the newest weights come from, each iteration once.

    The newest generation counts whole; of the one it goes on from, what came up to its start; and
    so on.  The test at that start is made again, so only the later one counts.
    """
    segments = _segments(records)
    kept: list[Record] = []
    end = math.inf
    wanted: int | None = None
    for segment in reversed(segments):      # of two with one number, the later is meant
        if wanted is not None and segment.generation != wanted:
            continue
        kept = [line for line in segment.lines if _counts(line, end)] + kept
        end, wanted = segment.start, segment.base
        if wanted == 0:
            break
    return kept


def _segments(records: Sequence[Record]) -> list[_Segment]:
    segments: list[_Segment] = []
    for record in records:
        if record["split"] == RESUME:
            segments.append(_Segment(record["generation"], record["base"], record["step"]))
            continue
        if not segments:
            segments.append(_Segment(record["generation"], 0, 0))
        elif segments[-1].generation != record["generation"]:   # a full disk took its first line
            segments.append(_Segment(record["generation"], segments[-1].generation,
                                     record["step"] - 1))
        segments[-1].lines.append(record)
    return segments


def _counts(line: Record, end: float) -> bool:
    """Whether a line is part of what went before a start from iteration `end`."""
    step: int = line["step"]
    return step < end or (step == end and line["split"] == "train")
