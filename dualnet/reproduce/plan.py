"""What is missing in the ledgers, what it costs, and how long the rest takes."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dualnet import data
from dualnet.config import choose
from dualnet.devices import device_of
from dualnet.precision import in_software
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.measure import Task, missing, tasks
from dualnet.reproduce.target import Target

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
COST = re.compile(r"([\d.]+) (s|min|h)\b( a row| a run)?")


class Plan(NamedTuple):
    """A target at one scale.

    wanted   tasks to be measured
    known    number of tasks that the ledger holds, which are not measured again
    seconds  of one task, by the cost that the target states; None if it states none
    """

    target: Target
    ledger: Ledger
    wanted: list[Task]
    known: int
    seconds: float | None

    @property
    def missing(self) -> dict[str, list[int]]:
        """Variant -> the seeds of which it is to be measured."""
        found: dict[str, list[int]] = {}
        for task in self.wanted:
            found.setdefault(task.variant.name, []).append(task.settings.seed)
        return found

    @property
    def lacks(self) -> list[str]:
        """Data sets that the tasks need and that are not in the folder of the data sets."""
        needed = {(task.settings.data, task.settings.data_dir) for task in self.wanted
                  if task.settings.data in data.DATASETS}
        return sorted(name for name, folder in needed
                      if not data.module_of(name).present(Path(folder)))

    @property
    def in_software(self) -> list[str]:
        """Variants to be measured in a precision for which this machine has no arithmetic."""
        count = torch.cuda.device_count()
        found = [task.variant.name for task in self.wanted if in_software(
            task.settings.precision,
            device_of("all", ("all",), task.settings.device, count).partition(":")[0])]
        return list(dict.fromkeys(found))

    def without(self, variants: Collection[str]) -> "Plan":
        """The same without the tasks of `variants`."""
        return self._replace(wanted=[task for task in self.wanted
                                     if task.variant.name not in variants])

    @property
    def cost_s(self) -> float | None:
        """Of all that is to be measured."""
        if not self.wanted:
            return 0.0
        return None if self.seconds is None else self.seconds * len(self.wanted)


def plan(target: Target, scale: str, seeds: Sequence[int], local: dict[str, Any], results: Path,
         again: bool = False, variants: Sequence[str] = ()) -> Plan:
    """What is to be measured, and what it costs.

    local     settings of this machine: data_dir, device, threads
    again     also what the ledger holds
    variants  the rows that count; none: all
    Raises DataError if the ledger is damaged, UserError for a variant that there is not.
    """
    ledger = Ledger(results, target.name)
    names = [variant.name for variant in target.variants(scale)]
    chosen = [choose("variant", name, names) for name in variants] or names
    found = [task for task in tasks(target, scale, seeds, local) if task.variant.name in chosen]
    wanted = found if again else missing(found, ledger)
    return Plan(target, ledger, wanted, len(found) - len(wanted),
                seconds_of(target.cost[scale], len(names)))


def seconds_of(cost: str, rows: int) -> float | None:
    """Seconds of one row, where `cost` says how long all `rows` take, or "a row" or "a run".

    >>> seconds_of("4 min a seed", 8), seconds_of("7 min a row", 8), seconds_of("not run", 8)
    (30.0, 420.0, None)
    """
    found = COST.search(cost)
    if not found:
        return None
    number, unit, each = found.groups()
    return float(number) * SECONDS[unit] / (1 if each else rows)


def total(costs: Iterable[float | None]) -> float | None:
    """The sum, None if one is not known."""
    found = list(costs)
    return None if None in found else sum(each for each in found if each is not None)


class Remaining:
    """How long the rest takes: what it costs, times how much slower the part that is done was.

    costs  estimated seconds of each measurement in their order; None is taken for their mean
    """

    def __init__(self, costs: Sequence[float | None]) -> None:
        known = [cost for cost in costs if cost is not None]
        mean = sum(known) / len(known) if known else 1.0
        self._left = [mean if cost is None else cost for cost in costs]
        self._estimated = self._taken = 0.0

    def done(self, seconds: float) -> float:
        """The next one took `seconds`; gives how many the others will take."""
        self._estimated += self._left.pop(0)
        self._taken += seconds
        return self._taken / self._estimated * sum(self._left)
