"""A run folder: the only file that knows the names in it, and how they are written and read.

    runs/<name>/config.json                 all settings
                summary.json                the outcome, written once, at the end
                failure.json                in its place, if the training diverged: when and why
                loss.png                    curves
                probabilities.npy           of the correct class of each test image, by sub-model
                diversity.png               the same, one sub-model against another
                boosting.png                how each module of a boosted net was judged
                <role>/env.json             machine, device and versions of the process
                <role>/train.log                messages of a role that `train dual` started
                <role>/metrics.jsonl        one line per record
                <role>/checkpoints/         what training goes on from, and in the end the weights
                <role>/features-*.npy           what resting layers make of each training image
                <role>/home                 32 hex digits that tell this place from any other
                exchange/                   the folder of the messages
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dualnet.checkpoints import Checkpoints
from dualnet.config import Config
from dualnet.errors import UserError
from dualnet.metrics import MetricsFile, MetricsReader, surviving
from shared_fs import Storage, StorageError
from shared_fs.lineage import newest_common

HOME = "home"


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_path = folder / "config.json"
        self.summary_path = folder / "summary.json"
        self.failure_path = folder / "failure.json"
        self.figure_path = folder / "loss.png"
        self.probabilities_path = folder / "probabilities.npy"
        self.diversity_path = folder / "diversity.png"
        self.boosting_path = folder / "boosting.png"
        self.exchange = folder / "exchange"

    def metrics_path(self, role: str) -> Path:
        """Where `role` writes its metrics."""
        return self.folder / role / "metrics.jsonl"

    def log_path(self, role: str) -> Path:
        """Where the messages of `role` go when `train dual` started it."""
        return self.folder / role / "train.log"

    def checkpoints(self, role: str, settings: str | None = None,
                    versions: Mapping[str, str] | None = None) -> Checkpoints:
        """The checkpoints of `role`; the arguments are those of `Checkpoints`."""
        return Checkpoints(self.folder / role / "checkpoints", settings, versions=versions)

    def features_path(self, role: str, name: str) -> Path:
        """Where `role` keeps what resting layers make of the training images, while it needs it.

        name  tells one state of those layers from another
        """
        return self.folder / role / f"features-{name}.npy"

    def remove_features(self, role: str) -> None:
        """Remove what `features_path` names, of any state."""
        for path in self.folder.glob(f"{role}/features-*.npy"):
            path.unlink(missing_ok=True)

    @property
    def roles(self) -> list[str]:
        """The roles that have written metrics, in order."""
        return sorted(path.parent.name for path in self.folder.glob("*/metrics.jsonl"))

    # -- making a run --------------------------------------------------------------------------

    def start(self, method: str, settings: Config, *, overwrite: bool = False) -> None:
        """Make the folder and write config.json, or go on with a run that was interrupted.

        Raises UserError if the folder holds a run that is over, or one with other settings, unless
        `overwrite` removes that run.
        """
        if overwrite:
            self.clear()
        self._refuse_what_is_over()
        self.join(method, settings)

    def admit(self, role: str, method: str, settings: Config, *, overwrite: bool = False) -> None:
        """Before the roles meet: whether `role` can take part in this run.

        Raises UserError if the run is over or has other settings, unless `overwrite` removes this
        role's share of it.
        """
        if overwrite:
            for path in (self.summary_path, self.failure_path, self.config_path):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder / role, ignore_errors=True)
        self._refuse_what_is_over()
        if self.config_path.exists():
            self.check_settings(method, settings)

    def check_settings(self, method: str, settings: Config) -> None:
        """Raises UserError if the folder belongs to a run with other settings."""
        found = self.config()
        if "method" not in found:
            raise self._foreign()
        for key, value in {"method": method, **settings.agreed()}.items():
            if key in found and found[key] != value:
                raise UserError(f"{self.folder} belongs to a run with {key} = {found.get(key)!r}, "
                                f"not {value!r}; choose another folder with --out")

    def join(self, method: str, settings: Config) -> None:
        """Write config.json, or check the one that is there: whichever role comes first.

        Raises UserError if the folder belongs to a run with other settings.
        """
        if self.config_path.exists():
            self.check_settings(method, settings)
        else:
            self._write_config(method, settings)

    def home(self, role: str) -> str:
        """32 hex digits drawn once for the role's folder: the exchange tells by them whether a
        role that returns is the one that began there."""
        folder = self.folder / role
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        storage = Storage(folder)
        try:
            storage.create_once(HOME, uuid.uuid4().hex.encode())
        finally:
            storage.shut()
        return (folder / HOME).read_text(encoding="ascii")

    def leave(self, role: str) -> None:
        """Undo `home`, in a folder in which nothing was trained."""
        if self.config_path.exists() or not self.is_untrained:
            return
        (self.folder / role / HOME).unlink(missing_ok=True)
        for path in (self.folder / role, self.folder):
            with contextlib.suppress(OSError):      # somebody else has put something into it
                path.rmdir()

    def clear(self) -> None:
        """Remove the run, and only that: what this class names, in a folder with a config.json.

        Raises UserError if that file is not of a run.
        """
        if not self.config_path.exists():
            return
        if "method" not in self.config():
            raise self._foreign()
        roles = {path.parent for name in ("train.log", "metrics.jsonl", HOME)
                 for path in self.folder.glob(f"*/{name}")}
        for folder in (self.exchange, *roles):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        for path in (self.summary_path, self.failure_path, self.figure_path,
                     self.probabilities_path, self.diversity_path, self.boosting_path,
                     self.config_path):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _foreign(self) -> UserError:
        return UserError(f"{self.config_path} is not of a run, so nothing is replaced there; "
                         "choose another folder with --out")

    def _refuse_what_is_over(self) -> None:
        if self.is_over:
            state = "a finished run" if self.summary_path.exists() else "a run that diverged"
            raise UserError(f"{self.folder} holds {state}; choose another folder with --out, or "
                            "replace it with --overwrite")

    def _write_config(self, method: str, settings: Config) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _publish_json(self.config_path, {"method": method, **settings.to_dict()})
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write the run folder {self.folder} ({error.strerror}); "
                            "choose another with --out", error.errno)

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

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: from now on the run counts as finished."""
        _publish_json(self.summary_path, summary)

    def write_divergence(self, step: int, reason: str) -> None:
        """Write failure.json: the training diverged in iteration `step`, counted from 1."""
        _publish_json(self.failure_path, {"diverged": True, "step": step, "reason": reason})

    def write_probabilities(self, found: np.ndarray) -> None:
        """Write what the sub-models give the correct classes, float [K, N]."""
        scratch = _scratch(self.probabilities_path)
        with open(scratch, "wb") as file:
            np.save(file, found)
        os.replace(scratch, self.probabilities_path)

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

    @property
    def is_untrained(self) -> bool:
        """Whether nothing of a training is here: no metrics and no checkpoint."""
        return not self.roles and not any(self.folder.glob("*/checkpoints/*.json"))

    def environment(self, role: str) -> dict[str, Any] | None:
        """Where `role` runs or ran: its env.json; None before it has started."""
        path = self.metrics_path(role).parent / "env.json"
        return self._read_json(path) if path.exists() else None

    def metrics(self, role: str) -> list[dict[str, Any]]:
        """The role's records in order, without those that a restart has undone."""
        return surviving(MetricsReader(self.metrics_path(role)).new())

    def resumes_from(self, roles: Sequence[str]) -> int | None:
        """The iteration from which the same command goes on: that of the newest checkpoint that
        all `roles` hold here, 0 if there is none.  None if no role has written metrics."""
        if self.is_untrained:
            return None
        common = newest_common([self.checkpoints(role).held() for role in roles])
        return common.step if common else 0

    def next_generation(self, role: str) -> int:
        """A number that no attempt of `role` alone has had, from 1."""
        lines = MetricsReader(self.metrics_path(role)).new()
        held = self.checkpoints(role).held()
        return 1 + max([line["generation"] for line in lines]
                       + [checkpoint.generation for checkpoint in held], default=0)

    def load_checkpoint(self, role: str, step: int) -> dict[str, Any]:
        """The state of `role` after `step` iterations, on the CPU.

        Raises UserError if its newest checkpoint is not of that iteration.
        """
        checkpoints = self.checkpoints(role)
        newest = checkpoints.newest()
        if newest.step != step:
            raise UserError(f"{self.folder} has not finished: the newest checkpoint of {role} is "
                            f"of iteration {newest.step}, not {step}")
        return checkpoints.load(newest)[0]

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
