"""Measure the variants of a target that its ledger does not hold yet."""

import importlib
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dualnet import data
from dualnet.ledger import Line, revision
from dualnet.reproduce.ledger import Key, Ledger
from dualnet.reproduce.target import Outcome, Target, Variant, digest


class Task(NamedTuple):
    """One line to be: a variant with one seed, its settings complete."""

    target: Target
    variant: Variant
    settings: Any
    scale: str

    @property
    def key(self) -> Key:
        """Under which the ledger knows it."""
        return Key(self.variant.name, self.settings.seed, self.scale, digest(self.settings))

    def folder(self, out: Path) -> Path:
        """Where its run goes."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", self.variant.name)
        return out / f"{name}-{self.scale}-s{self.settings.seed}"


def tasks(target: Target, scale: str, seeds: Sequence[int], local: dict[str, Any]) -> list[Task]:
    """All lines of a target at one scale, seed by seed.

    local  settings of this machine: data_dir, device, threads
    """
    return [Task(target, variant, variant.settings.replace(seed=seed, **local), scale)
            for seed in (seeds if target.seeded else seeds[:1])
            for variant in target.variants(scale)]


def missing(found: Sequence[Task], ledger: Ledger) -> list[Task]:
    """Those whose line is not in the ledger.  Raises DataError if it is damaged."""
    known = ledger.latest()
    return [task for task in found if task.key not in known]


def measure(wanted: Sequence[Task], ledger: Ledger, out: Path) -> Iterator[Line]:
    """Measure one after another; each line is in the ledger before it is yielded."""
    from dualnet.reproduce.runner import Job

    for task in wanted:
        module, function = task.variant.measure.split(":")
        started = time.monotonic()
        code = revision()
        outcome: Outcome = getattr(importlib.import_module(module), function)(
            Job(task.settings, task.folder(out), task.variant.test_images))
        line = _line(task, outcome, code, time.monotonic() - started)
        ledger.append(line)
        yield line


def _line(task: Task, outcome: Outcome, code: Line, wall_s: float) -> Line:
    variant, settings = task.variant, task.settings
    trained = settings.data != "auto"       # else random images went through it once
    return {
        "target": task.target.name, **task.key._asdict(), "figure": variant.figure,
        "ours": outcome.figures[variant.figure], "unit": variant.unit,
        "published": [each._asdict() for each in variant.published.get(variant.figure, ())],
        "iterations": settings.iterations if trained else None,
        "data": settings.data if trained else None,
        "data_official": _is_official(settings.data, settings.data_dir) if trained else None,
        **{key: outcome.where[key] for key in ("device", "device_name", "threads")},
        "versions": {key: outcome.where[key] for key in ("dualnet", "python", "torch", "numpy")},
        **code, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(task.target.name, task.scale, [settings.seed]),
        "wall_s": round(wall_s, 2), "figures": outcome.figures, "curves": outcome.curves}


def command(target: str, scale: str, seeds: Sequence[int]) -> str:
    """The command that measures a target again."""
    return f"dualnet reproduce {target} --scale {scale} --seeds {','.join(map(str, seeds))}"


@lru_cache
def _is_official(name: str, folder: str) -> bool | None:
    """Whether all files of the data set are the official ones; None for one without files."""
    found = data.module_of(name).verify(Path(folder))
    return all(found.values()) if found else None
