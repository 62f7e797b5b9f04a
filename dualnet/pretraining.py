"""Runs that train narrow nets first and then a whole one made of them, all in one run folder.

Every net is a role of its own, with metrics and checkpoints; what is finished is not trained again.
"""

import os
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from dualnet import machine, nets
from dualnet.checkpoints import Checkpoints, Spent
from dualnet.config import TrainConfig
from dualnet.data.dataset import Dataset
from dualnet.errors import UserError
from dualnet.methods.net2wider.settings import TEACHER, WIDER, Net2WiderConfig
from dualnet.methods.net2wider.training import Wider, teacher, wider_net
from dualnet.methods.partition.settings import MERGED, PartitionConfig
from dualnet.methods.partition.training import Merged, sub_model
from dualnet.methods.protocol import Record
from dualnet.operations import num_parameters
from dualnet.run import Run
from dualnet.session import (
    agreed_digest,
    alone,
    batches_of,
    begin,
    common_summary,
    load_data,
    newest_start,
)
from dualnet.supervised import Supervised
from dualnet.train import Clock
from shared_fs import Start


class Pretraining:
    """What all phases of a run share: settings, data, folder.

    dataset  the data, if they are not those of the settings
    """

    def __init__(self, settings: TrainConfig, run: Run, dataset: Dataset | None = None) -> None:
        self.settings, self.run = settings, run
        self.dataset, self.batches = (load_data(settings) if dataset is None else
                                      (dataset, batches_of(dataset, settings)))
        self._digest = agreed_digest(settings, self.dataset)

    def net(self) -> nn.Sequential:
        """The whole net of the settings, before its weights are drawn."""
        return nets.build(self.settings.net, self.batches.input_shape, self.dataset.num_classes)

    def checkpoints(self, role: str) -> Checkpoints:
        """Those of `role`."""
        return self.run.checkpoints(role, self._digest, machine.versions())

    def train_first(self, method: Supervised, until: int) -> Iterator[Record]:
        """Train a narrow net to iteration `until`, its last; nothing happens if it is there."""
        checkpoints = self.checkpoints(method.name)
        start = newest_start(self.run, method.name, checkpoints)
        if start.step < until:
            spent = begin(method, checkpoints, start)
            yield from alone(method, self.run, checkpoints, start, spent)

    def restore(self, method: Supervised, until: int) -> Spent:
        """Give a narrow net the state after iteration `until`, its last, and say what it took.

        Raises UserError if it is not trained to the end.
        """
        if until == 0:
            return Spent()
        state, spent = self.final(method.name, until)
        method.load_state_dict(state)
        return spent

    def final(self, role: str, until: int) -> tuple[dict[str, Any], Spent]:
        """The state of `role` after iteration `until`, its last, and what it took.

        Raises UserError if it is not trained to the end.
        """
        checkpoints = self.checkpoints(role)
        newest = checkpoints.newest()
        if newest.step != until:
            raise UserError(f"{role} is trained for {newest.step} of {until} iterations; run the "
                            "same command again to finish it")
        return checkpoints.load(newest)

    def start_whole(self, role: str, since: int) -> tuple[Start, bool]:
        """Where the whole net goes on, and whether it is made anew of the narrow ones.

        since  iterations of the narrow nets
        """
        start = newest_start(self.run, role, self.checkpoints(role))
        is_new = start.step <= since
        return (Start(start.run, start.generation, 0, since) if is_new else start), is_new

    def train_whole(self, method: Supervised, since: int, start: Start, spents: Sequence[Spent],
                    facts: dict[str, Any]) -> Iterator[Record]:
        """Train the whole net from `start` to its end and write down what came of it.

        since   iterations of the narrow nets
        spents  what the narrow nets took; the time of the whole one goes on from their sum
        """
        checkpoints = self.checkpoints(method.name)
        before_s = sum(spent.wall_s for spent in spents)
        spent = begin(method, checkpoints, start) if start.checkpoint else Spent(before_s)
        clock, last = yield from alone(method, self.run, checkpoints, start, spent)
        own_s = clock.wall_s() - before_s
        self._summarise(method, clock, {
            "test_accuracy": last["accuracy"], **facts,
            **self._at(method.name, since, method.method),
            "wall_s_parallel": own_s + max((spent.wall_s for spent in spents), default=0.0)})

    def _summarise(self, method: Supervised, clock: Clock, facts: dict[str, Any]) -> None:
        seconds = {role: iteration_s(self.run.metrics(role), self.settings.batch_size)
                   for role in self.run.roles}
        narrow = [value for role, value in seconds.items() if value and role != method.name]
        whole = seconds.get(method.name)
        self.run.write_summary({
            **common_summary(method.method, self.settings, method.facts(), clock), **facts,
            "iteration_s": seconds,
            "iteration_speedup": whole / statistics.fmean(narrow) if narrow and whole else None,
            "parameters": num_parameters(method.net),
            "wait_share": {method.name: 0.0}, "pids": {method.name: os.getpid()},
            "bytes_exchanged": 0})

    def _at(self, role: str, step: int, method: str) -> Record:
        """The test of `role` after `step` iterations: its accuracy, and the figures of `method`."""
        found: Record = {}
        for line in self.run.metrics(role):
            if line["split"] == "test" and line["step"] == step:
                found["accuracy_at_start"] = line["accuracy"]
                found |= {key.removeprefix(f"{method}/"): value for key, value in line.items()
                          if key.startswith(f"{method}/")}
        return found


class Partition(Pretraining):
    """Sub-models and the net that they are merged to."""

    settings: PartitionConfig

    def sub(self, role: str) -> Supervised:
        """Sub-model `role` before its training.  Raises UserError for impossible sizes."""
        device = machine.prepare(self.settings, role, self.settings.sub_roles)
        return sub_model(self.settings, role, self.net(), self.batches, device)

    def train_sub(self, role: str) -> Iterator[Record]:
        """Train sub-model `role` up to the merge, as far as it is not trained yet."""
        assert self.settings.merge_at is not None
        yield from self.train_first(self.sub(role), self.settings.merge_at)

    def train_merged(self) -> Iterator[Record]:
        """Merge the sub-models and train the whole net to the end."""
        settings = self.settings
        assert settings.merge_at is not None
        subs = [self.sub(role) for role in settings.sub_roles]
        spents = [self.restore(sub, settings.merge_at) for sub in subs]
        device = machine.prepare(settings, MERGED, (MERGED,))
        method = Merged(settings, subs, self.batches, device)
        start, is_new = self.start_whole(MERGED, settings.merge_at)
        if is_new:
            self.run.write_probabilities(method.compare(subs))
        facts = {"merge_at": settings.merge_at, "sub_models": settings.sub_models,
                 "parameters_sub_models": [num_parameters(sub.net) for sub in subs]}
        yield from self.train_whole(method, settings.merge_at, start, spents, facts)


class Net2Wider(Pretraining):
    """The teacher and the net that it is widened to."""

    settings: Net2WiderConfig

    def teacher(self) -> Supervised:
        """The teacher before its training.  Raises UserError for impossible sizes."""
        device = machine.prepare(self.settings, TEACHER, (TEACHER,))
        return teacher(self.settings, self.net(), self.batches, device)

    def train_teacher(self) -> Iterator[Record]:
        """Train the teacher up to the widening, as far as it is not trained yet.

        Raises UserError, before anything is trained, if it cannot be widened as asked.
        """
        assert self.settings.widen_at is not None
        wider_net(self.settings, self.net())
        yield from self.train_first(self.teacher(), self.settings.widen_at)

    def train_wider(self) -> Iterator[Record]:
        """Widen the teacher and train the whole net to the end."""
        settings = self.settings
        assert settings.widen_at is not None
        narrow = self.teacher()
        spent = self.restore(narrow, settings.widen_at)
        device = machine.prepare(settings, WIDER, (WIDER,))
        method = Wider(settings, narrow, self.batches, device)
        start, is_new = self.start_whole(WIDER, settings.widen_at)
        if is_new:
            method.compare(narrow)
        facts = {"widen_at": settings.widen_at, "parameters_teacher": num_parameters(narrow.net)}
        yield from self.train_whole(method, settings.widen_at, start, [spent], facts)


def iteration_s(lines: Sequence[Record], batch_size: int) -> float | None:
    """Seconds per iteration: the median over lines of metrics, the first, which warms up, left out
    where there are others.  None if no iteration is logged."""
    speeds = [line["images_per_s"] for line in lines if line["split"] == "train"]
    return batch_size / statistics.median(speeds[1:] or speeds) if speeds else None
