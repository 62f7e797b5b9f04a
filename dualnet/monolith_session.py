"""train monolith: the three stages in one run folder, each net a role of its own.

    trunk1, trunk2, ...    stage 1, iterations from 0 on, side by side
    head                   stage 2, behind them
    whole                  stage 3, behind that

What is finished is not trained again, and each goes on from its newest checkpoint.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from dualnet import feature_file, machine
from dualnet.checkpoints import Spent
from dualnet.data.dataset import Dataset
from dualnet.methods.monolith.settings import HEAD, MONOLITH, STAGES, TRUNK, WHOLE, MonolithConfig
from dualnet.methods.monolith.training import Head, Staged, head_net, subset_of, trunk_net
from dualnet.methods.protocol import Record
from dualnet.metrics import NOTE
from dualnet.nets.monolith import joined
from dualnet.operations import num_parameters
from dualnet.pretraining import Pretraining, iteration_s
from dualnet.run import Run
from dualnet.session import alone, batches_of, begin, common_summary
from dualnet.train import Clock

NOTES = 10      # how often the progress of what is kept is told


class Monolith(Pretraining):
    """The trunks, the head and the whole net of one run.

    settings  counted for the images of `dataset`
    """

    settings: MonolithConfig

    def __init__(self, settings: MonolithConfig, run: Run, dataset: Dataset | None = None) -> None:
        super().__init__(settings, run, dataset)
        self.spans = settings.spans(self.batches.num_samples)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights, which are loaded only once they have it: nothing is rounded."""
        found: torch.dtype = getattr(torch, self.settings.weight_format)
        return found

    # -- stage 1 -------------------------------------------------------------------------------

    def train_trunk(self, role: str) -> Iterator[Record]:
        """Train a trunk alone on its subset of the images, as far as it is not trained yet."""
        subset = subset_of(self.settings, role, self.batches.num_samples)
        method = self._staged(TRUNK, role, self._trunk_net(role), self.settings.trunk_roles,
                              subset)
        yield from self.train_first(method, self.spans[TRUNK].until)

    def _trunk_net(self, role: str) -> nn.Sequential:
        return trunk_net(self.settings, role, self.batches.input_shape, self.dataset.num_classes)

    def _staged(self, stage: str, role: str, net: nn.Sequential, roles: tuple[str, ...],
                subset: np.ndarray | None = None) -> Staged:
        span = self.spans[stage]
        settings = self.settings.of_stage(stage, span)
        batches = batches_of(self.dataset, settings, subset=subset, since=(span.since, span.epochs))
        return Staged(role, settings, self.settings.stage(stage), span, net, batches,
                      machine.prepare(settings, role, roles))

    def _trained_trunks(self) -> tuple[list[nn.Sequential], Spent]:
        """The trunks after stage 1, and what they took one after another.

        Raises UserError if one is not trained to the end.
        """
        trunks, seconds = [], 0.0
        for role in self.settings.trunk_roles:
            state, spent = self.final(role, self.spans[TRUNK].until)
            trunk = self._trunk_net(role)
            trunk.to(self._dtype).load_state_dict(state["net"])
            trunks.append(trunk)
            seconds += spent.wall_s
        return trunks, Spent(seconds)

    # -- stage 2 -------------------------------------------------------------------------------

    def train_head(self) -> Iterator[Record]:
        """Train the head on the resting trunks, as far as it is not trained yet."""
        span = self.spans[HEAD]
        start, is_new = self.start_whole(HEAD, span.since)
        if start.step >= span.until:
            return
        trunks, spent = self._trained_trunks()
        settings = self.settings.of_stage(HEAD, span)
        batches = batches_of(self.dataset, settings, since=(span.since, span.epochs))
        method = Head(settings, self.settings.stage(HEAD), span, trunks, batches,
                      machine.prepare(settings, HEAD, (HEAD,)))
        if is_new:
            method.compare(trunks)
        else:
            spent = begin(method, self.checkpoints(HEAD), start)
        began = time.monotonic()
        if not batches.is_augmented:
            yield from self._keep(method)
        spent = replace(spent, wall_s=spent.wall_s + time.monotonic() - began)
        yield from alone(method, self.run, self.checkpoints(HEAD), start, spent)
        self.run.remove_features(HEAD)

    def _keep(self, method: Head) -> Iterator[Record]:
        """Have what the trunks make of the training images in a file, which is filled if it is not
        there; yields notes of how far it is."""
        newest = [self.checkpoints(role).newest() for role in self.settings.trunk_roles]
        path = self.run.features_path(HEAD, hashlib.sha256(repr(newest).encode()).hexdigest()[:8])
        shape = self.batches.num_samples, method.num_features
        dtype = np.dtype(self.settings.weight_format)
        if (kept := feature_file.read(path, shape, dtype)) is None:
            began, told = time.monotonic(), 0
            for done in feature_file.write(path, method.features(), shape, dtype):
                if done * NOTES // shape[0] > told:
                    told = done * NOTES // shape[0]
                    left_s = (time.monotonic() - began) / done * (shape[0] - done)
                    yield {"step": self.spans[HEAD].since, "split": NOTE, "left_s": left_s,
                           "text": f"kept the features of {done} of {shape[0]} training images"}
            kept = feature_file.read(path, shape, dtype)
        assert kept is not None
        method.keep(kept)

    # -- stage 3 -------------------------------------------------------------------------------

    def train_all(self) -> Iterator[Record]:
        """Train the whole net to the end and write down what came of all stages."""
        span = self.spans[WHOLE]
        start, is_new = self.start_whole(WHOLE, span.since)
        state, spent = self.final(HEAD, span.since)
        trunks = (self._trained_trunks()[0] if is_new else
                  [self._trunk_net(role) for role in self.settings.trunk_roles])
        head = head_net(self.settings, trunks, self.dataset.num_classes)
        head.to(self._dtype).load_state_dict(state["net"])
        method = self._staged(WHOLE, WHOLE, joined(trunks, head), (WHOLE,))
        if not is_new:
            spent = begin(method, self.checkpoints(WHOLE), start)
        clock, last = yield from alone(method, self.run, self.checkpoints(WHOLE), start, spent)
        self._write_summary(method, clock, last["accuracy"])

    def _write_summary(self, method: Staged, clock: Clock, accuracy: float) -> None:
        settings, metrics = self.settings, {role: self.run.metrics(role) for role in self.run.roles}
        trunk_s = [metrics[role][-1]["time_s"] for role in settings.trunk_roles]
        tested = [line for line in metrics[HEAD] if line["split"] == "test"][-1]
        trunk = self._trunk_net(settings.trunk_roles[0])
        common = common_summary(MONOLITH, settings, method.facts(), clock)
        self.run.write_summary({
            **common, "images_per_s": self._images_seen() / common["wall_s"],
            "test_accuracy": accuracy,
            "accuracy_head": tested["accuracy"],
            **{key.removeprefix(f"{MONOLITH}/"): value for key, value in tested.items()
               if key.startswith(f"{MONOLITH}/accuracy")},
            "accuracy_best_trunk": max(tested[f"{MONOLITH}/accuracy_{role}"]
                                       for role in settings.trunk_roles),
            "iterations_stages": {stage: span.until - span.since
                                  for stage, span in self.spans.items()},
            "iteration_s": {role: iteration_s(lines, self._batch_size(role))
                            for role, lines in metrics.items()},
            "parameters": num_parameters(method.net), "parameters_trunk": num_parameters(trunk),
            "wall_s_parallel": common["wall_s"] - sum(trunk_s) + max(trunk_s),
            "wait_share": {method.name: 0.0}, "pids": {method.name: os.getpid()},
            "bytes_exchanged": 0})

    def _batch_size(self, role: str) -> int:
        return self.settings.stage(TRUNK if role in self.settings.trunk_roles else role).batch_size

    def _images_seen(self) -> int:
        """Images of all iterations of all stages and trunks."""
        times = {TRUNK: self.settings.trunks}
        return sum((span.until - span.since) * self._batch_size(stage) * times.get(stage, 1)
                   for stage, span in ((stage, self.spans[stage]) for stage in STAGES))
