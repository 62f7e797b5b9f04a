"""A run folder: the only file that knows the names in it, and how they are written and read.

    runs/<name>/config.json                 all settings
                summary.json                the outcome, written once, at the end
                failure.json                in its place, if the training diverged: when and why
                loss.png                    curves
                <role>/env.json             machine, device and versions of the process
                <role>/train.log                messages of a role that `train dual` started
                <role>/metrics.jsonl        one line per record
                <role>/checkpoints/         weights
                exchange/                   the folder of the messages
"""

import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dualnet.config import Config
from dualnet.errors import UserError
from shared_fs import StorageError


class MetricsFile:
    """Appends records as lines of JSON; one writer per file, one write per line."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record`; a number that is not finite becomes null."""
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                  for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MetricsReader:
    """Reads records as they are written; a line that is not whole yet is left for later."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call; none if there is no file yet."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._position)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._position += len(whole + newline)
        return [json.loads(line) for line in whole.splitlines()]


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_path = folder / "config.json"
        self.summary_path = folder / "summary.json"
        self.failure_path = folder / "failure.json"
        self.figure_path = folder / "loss.png"
        self.exchange = folder / "exchange"

    def metrics_path(self, role: str) -> Path:
        """Where `role` writes its metrics."""
        return self.folder / role / "metrics.jsonl"

    def log_path(self, role: str) -> Path:
        """Where the messages of `role` go when `train dual` started it."""
        return self.folder / role / "train.log"

    def checkpoint_path(self, role: str, step: int) -> Path:
        """Where `role` keeps its weights after `step` iterations."""
        return self.folder / role / "checkpoints" / f"step{step:08d}.pt"

    @property
    def roles(self) -> list[str]:
        """The roles that have written metrics, in order."""
        return sorted(path.parent.name for path in self.folder.glob("*/metrics.jsonl"))

    # -- making a run --------------------------------------------------------------------------

    def start(self, method: str, settings: Config, *, overwrite: bool = False) -> None:
        """Make the folder and write config.json.

        Raises UserError if the folder holds a run already, unless `overwrite` removes that run.
        """
        if overwrite:
            self.clear()
        elif self.config_path.exists():
            raise self._taken()
        self._write_config(method, settings)

    def admit(self, role: str, method: str, settings: Config, *, overwrite: bool = False) -> None:
        """Raises UserError if `role` cannot join this run: it has been here already, or the
        folder belongs to other settings."""
        if overwrite or not self.config_path.exists():
            return
        self.check_settings(method, settings)
        if self.metrics_path(role).exists():
            raise self._taken()

    def check_settings(self, method: str, settings: Config) -> None:
        """Raises UserError if the folder belongs to a run with other settings."""
        found = self.config()
        for key, value in {"method": method, **settings.agreed()}.items():
            if found.get(key) != value:
                raise UserError(f"{self.folder} belongs to a run with {key} = {found.get(key)!r}, "
                                f"not {value!r}; choose another folder with --out")

    def join(self, role: str, method: str, settings: Config, *, overwrite: bool = False) -> None:
        """Enter the folder as one of several roles, whichever comes first; see `admit`."""
        self.admit(role, method, settings, overwrite=overwrite)
        if overwrite:
            for path in (self.summary_path, self.failure_path):
                path.unlink(missing_ok=True)
            if self.metrics_path(role).exists():
                shutil.rmtree(self.metrics_path(role).parent)
        if overwrite or not self.config_path.exists():
            self._write_config(method, settings)

    def clear(self) -> None:
        """Remove the run, and only that: what this class names, in a folder with a config.json.

        Raises UserError if that file is not of a run.
        """
        if not self.config_path.exists():
            return
        if "method" not in self.config():
            raise UserError(f"{self.config_path} is not of a run, so nothing is replaced there; "
                            "choose another folder with --out")
        roles = {path.parent for name in ("train.log", "metrics.jsonl")
                 for path in self.folder.glob(f"*/{name}")}
        for folder in (self.exchange, *roles):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        for path in (self.summary_path, self.failure_path, self.figure_path, self.config_path):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _taken(self) -> UserError:
        state = ("a finished run" if self.summary_path.exists() else
                 "a run that diverged" if self.failure_path.exists() else
                 "a run that did not finish")
        return UserError(f"{self.folder} holds {state}; choose another folder with --out, or "
                         "replace it with --overwrite")

    def _write_config(self, method: str, settings: Config) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _publish_json(self.config_path, {"method": method, **settings.to_dict()})
        except OSError as error:
            raise StorageError(f"cannot write the run folder {self.folder} ({error.strerror}); "
                               "choose another with --out") from None

    def open_log(self, role: str) -> BinaryIO:
        """What `role` says while it runs goes here."""
        path = self.log_path(role)
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")

    def open_metrics(self, role: str, environment: Mapping[str, Any]) -> MetricsFile:
        """Make the role's folder, write its env.json and open its metrics."""
        path = self.metrics_path(role)
        path.parent.mkdir(parents=True, exist_ok=True)
        _publish_json(path.parent / "env.json", environment)
        return MetricsFile(path)

    def save_checkpoint(self, role: str, step: int, state: Mapping[str, Any]) -> None:
        """Write `state` whole or not at all."""
        import torch

        path = self.checkpoint_path(role, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(path)
        torch.save(dict(state), scratch)
        os.replace(scratch, path)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: from now on the run counts as finished."""
        _publish_json(self.summary_path, summary)

    def write_divergence(self, step: int, reason: str) -> None:
        """Write failure.json: the training diverged in iteration `step`, counted from 1."""
        _publish_json(self.failure_path, {"diverged": True, "step": step, "reason": reason})

    # -- reading a run -------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """The settings and the method.  Raises UserError if this is no run folder."""
        return self._read_json(self.config_path)

    def summary(self) -> dict[str, Any]:
        """The outcome.  Raises UserError if the run has not finished."""
        return self._read_json(self.summary_path)

    def divergence(self) -> dict[str, Any] | None:
        """`step` and `reason` of a run that diverged; None of one that did not."""
        return self._read_json(self.failure_path) if self.failure_path.exists() else None

    @property
    def is_over(self) -> bool:
        """Whether training it again would give the same: it has finished, or it diverged."""
        return self.summary_path.exists() or self.failure_path.exists()

    def environment(self, role: str) -> dict[str, Any] | None:
        """Where `role` runs or ran: its env.json; None before it has started."""
        path = self.metrics_path(role).parent / "env.json"
        return self._read_json(path) if path.exists() else None

    def metrics(self, role: str) -> list[dict[str, Any]]:
        """The role's records in order."""
        return MetricsReader(self.metrics_path(role)).new()

    def load_checkpoint(self, role: str, step: int) -> dict[str, Any]:
        """What `save_checkpoint` wrote, on the CPU.  Raises UserError if it is not there."""
        import torch

        path = self.checkpoint_path(role, step)
        if not path.exists():
            raise UserError(f"{path} is missing: the run has not finished, or its weights were "
                            "removed")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
        except FileNotFoundError:
            why = "the run has not finished" if self.config_path.exists() else "this is no run"
            raise UserError(f"there is no {path.name} in {self.folder}: {why}") from None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); run again with --overwrite") from None


def _publish_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` whole, so that no reader sees a part of it."""
    scratch = _scratch(path)
    scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")
