"""Measure the variants of a target that its ledger does not hold yet."""

import importlib
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualnet import data
from dualnet.errors import UserError
from dualnet.ledger import Line, revision
from dualnet.reproduce.ledger import Key, Ledger
from dualnet.reproduce.target import Outcome, Target, Variant, digest

if TYPE_CHECKING:
    from dualnet.reproduce.runner import Job

PARENT_GONE = 1


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
        started = time.monotonic()
        code = revision()
        outcome = _outcome(task, Job(task.settings, task.folder(out), task.variant.test_images))
        line = _line(task, outcome, code, time.monotonic() - started)
        ledger.append(line)
        yield line


def _outcome(task: Task, job: "Job") -> Outcome:
    """Measure in a process of its own, since what a process did before shows in the seconds and
    the memory of what it does next.  The scale smoke, whose figures say nothing, stays here.

    Raises UserError if that process is killed.
    """
    if task.scale == "smoke":
        return measured(task.variant.measure, job)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_end_with_parent) as pool:
        try:
            return pool.submit(measured, task.variant.measure, job).result()
        except BrokenProcessPool:
            raise UserError(f"the process that measured '{task.variant.name}' was killed, perhaps "
                            "for lack of memory; run the same command again to go on") from None
        except BaseException:       # or else a wish to stop would wait for the measurement's end
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def measured(measure: str, job: "Job") -> Outcome:
    """What the function `measure` finds, and the most memory that this process has held."""
    from dualnet import machine

    module, function = measure.split(":")
    outcome: Outcome = getattr(importlib.import_module(module), function)(job)
    return outcome._replace(figures={"memory_bytes": machine.peak_memory(), **outcome.figures})


def _end_with_parent() -> None:
    """End this process when the one that started it disappears."""
    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(PARENT_GONE)

    threading.Thread(target=follow, daemon=True).start()


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
