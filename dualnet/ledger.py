"""A ledger: measurements, one line of JSON each, appended and never rewritten."""

import fcntl
import json
import math
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualnet.errors import DataError
from shared_fs import StorageError

Line = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
CODE = ("dualnet", "shared_fs", "pyproject.toml", "requirements.txt")


class Ledger:
    """The lines of one file.

    keys  what every line must have
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self._keys = path, keys

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
            missing = [key for key in self._keys if key not in line]
        except (ValueError, TypeError):
            missing = ["all, being no JSON"]
        if missing:
            raise DataError(f"{self.path}, line {number}: expected a measurement as one line of "
                            f"JSON, missing is {', '.join(missing)}; take the line out, or restore "
                            "the file")
        return line

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, whole and on the disk before this returns.

        Raises ValueError for a line without one of the keys, StorageError if it cannot be written.
        """
        missing = [key for key in self._keys if key not in line]
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
