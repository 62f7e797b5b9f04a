"""The ledger: one line of JSON per variant and seed, appended and never rewritten.

    results/<target>.jsonl    lines
            <target>.png      drawn from them
            README.md         the report, rendered from all ledgers
"""

import fcntl
import json
import math
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dualnet.errors import DataError
from shared_fs import StorageError

Line = dict[str, Any]
KEYS = ("target", "variant", "seed", "scale", "config", "figure", "ours", "unit", "published",
        "iterations", "data", "data_official", "device", "device_name", "threads", "versions",
        "commit", "dirty", "date", "command", "wall_s", "figures", "curves")
ROOT = Path(__file__).resolve().parents[2]
CODE = ("dualnet", "shared_fs", "pyproject.toml", "requirements.txt")


class Key(NamedTuple):
    """What is measured once."""

    variant: str
    seed: int
    scale: str
    config: str


class Ledger:
    """The lines of one target."""

    def __init__(self, folder: Path, target: str) -> None:
        self.path = folder / f"{target}.jsonl"
        self.figure_path = folder / f"{target}.png"

    def lines(self) -> list[Line]:
        """All lines in the order of their making; none if there is no file.

        Raises DataError, naming file and line, if one is damaged.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [self._checked(number, line) for number, line
                in enumerate(text.splitlines(), start=1)]

    def _checked(self, number: int, text: str) -> Line:
        try:
            line: Line = json.loads(text)
            missing = [key for key in KEYS if key not in line]
        except (ValueError, TypeError):
            missing = ["all, being no JSON"]
        if missing:
            raise DataError(f"{self.path}, line {number}: expected a measurement as one line of "
                            f"JSON, missing is {', '.join(missing)}; take the line out, or restore "
                            "the file")
        return line

    def latest(self) -> dict[Key, Line]:
        """The newest line of each key."""
        return {key_of(line): line for line in self.lines()}

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, whole and on the disk before this returns.

        Raises ValueError for a line without one of KEYS, StorageError if it cannot be written.
        """
        missing = [key for key in KEYS if key not in line]
        if missing:
            raise ValueError(f"a line of the ledger needs {', '.join(missing)}")
        text = json.dumps(_finite(line), allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)     # two commands may write to one ledger
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.path} ({error.strerror}); choose another "
                               "folder with --results") from None


def key_of(line: Line) -> Key:
    """What the line is a measurement of."""
    return Key(line["variant"], line["seed"], line["scale"], line["config"])


def _finite(value: Any) -> Any:
    """The same with null in place of what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value


def revision() -> Line:
    """`commit` of the code, and whether it differs from that (`dirty`); null outside git."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=all", "--", *CODE)
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True,
                              timeout=60)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
