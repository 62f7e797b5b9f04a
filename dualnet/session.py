"""One process of a run, from its settings to its summary: the single net, and what all share."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dualnet import data, machine
from dualnet.checkpoints import Checkpoints, Spent
from dualnet.config import TrainConfig, from_dict
from dualnet.cut import join
from dualnet.cuts import Cut, list_cuts
from dualnet.data.batches import Batches, Preprocessing
from dualnet.data.dataset import Dataset
from dualnet.errors import Diverged, UserError
from dualnet.evaluate import score
from dualnet.from_prototxt import build_net
from dualnet.methods import role_of_whole
from dualnet.methods.boosted.settings import ROLE as BOOSTED
from dualnet.methods.boosted.settings import BoostedConfig
from dualnet.methods.boosted.training import Boosted, grown_net
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import through
from dualnet.methods.monolith.settings import MONOLITH, MonolithConfig
from dualnet.methods.monolith.training import whole_net
from dualnet.methods.net2wider.settings import Net2WiderConfig
from dualnet.methods.net2wider.training import wider_net
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.methods.partition.training import merged_net
from dualnet.methods.protocol import Alone, Method, Record
from dualnet.methods.resist.parts import as_tested
from dualnet.methods.resist.settings import RESIST, ResistConfig
from dualnet.methods.resnet.settings import RESNET, ResnetConfig
from dualnet.methods.resnet.training import with_survival
from dualnet.methods.single import Single
from dualnet.run import Run
from dualnet.stopping import noted
from dualnet.train import Clock, Saver, train
from shared_fs import Checkpoint, NonFinite, Start

CONFIGS: dict[str, type[TrainConfig]] = {
    "dual": DualConfig, "single": TrainConfig, "partition": PartitionConfig,
    "net2wider": Net2WiderConfig, RESNET: ResnetConfig, "boosted": BoostedConfig,
    MONOLITH: MonolithConfig, RESIST: ResistConfig}
# Of methods that end with a whole net: how it is built of that of the settings.
WHOLE: dict[str, Callable[[Any, nn.Sequential], nn.Sequential]] = {
    "single": lambda settings, net: net, "partition": merged_net, "net2wider": wider_net,
    RESNET: with_survival, MONOLITH: whole_net, RESIST: as_tested}


def single(settings: TrainConfig, run: Run) -> Iterator[Record]:
    """Train the uncut net, on from its newest checkpoint if it has one.

    Yields each line of metrics and leaves summary.json behind.
    """
    device = machine.prepare(settings, Single.name, (Single.name,))
    dataset, batches = load_data(settings)
    method = Single(settings, build_net(settings, batches.input_shape, dataset.num_classes),
                    batches, device)
    yield from _train_whole(method, settings, run, dataset)


def boosted(settings: BoostedConfig, run: Run) -> Iterator[Record]:
    """Train a residual net block by block, on from its newest checkpoint if it has one.

    Yields each line of metrics and leaves summary.json behind.
    """
    device = machine.prepare(settings, BOOSTED, (BOOSTED,))
    dataset, batches = load_data(settings)
    method = Boosted(settings, build_net(settings, batches.input_shape, dataset.num_classes),
                     batches, device)
    yield from _train_whole(method, settings, run, dataset)


def _train_whole(method: Alone, settings: TrainConfig, run: Run,
                 dataset: Dataset) -> Iterator[Record]:
    """Train `method`, the only one of its run, to its end and write down what came of it."""
    checkpoints = run.checkpoints(method.name, agreed_digest(settings, dataset),
                                  machine.versions())
    start = newest_start(run, method.name, checkpoints)
    spent = begin(method, checkpoints, start)
    clock, last = yield from alone(method, run, checkpoints, start, spent)
    run.write_summary({
        **common_summary(method.name, settings, method.facts(), clock),
        "test_accuracy": last["accuracy"],
        "wait_share": {method.name: 0.0}, "pids": {method.name: os.getpid()},
        "bytes_exchanged": 0})


def alone(method: Alone, run: Run, checkpoints: Checkpoints, start: Start, spent: Spent,
          channel: Any = None) -> Generator[Record, None, tuple[Clock, Record]]:
    """Train `method` from `start` to its end, as the only role that writes to the run.

    spent    what the training up to `start` has taken
    channel  counts what the method waits for others and sends them, see `Clock`
    Yields each line of metrics; returns the clock and the last line.
    """
    clock = Clock(channel, spent, start.step)
    save = Saver(checkpoints, method, clock, start, _keep_two(checkpoints, start))
    metrics = run.open_metrics(method.name, machine.environment(method.device))
    last: Record = {}
    with divergence_noted(run, clock), noted() as stop:
        for last in train(method, method.settings, metrics, clock, generation=start.generation,
                          base=start.base, save=save, stop=stop):
            yield last
    return clock, last


def newest_start(run: Run, role: str, checkpoints: Checkpoints) -> Start:
    """Where `role`, which waits for nobody, goes on: its newest checkpoint, or the beginning."""
    checkpoints.sweep()
    home, generation = run.home(role), run.next_generation(role)
    held = checkpoints.held(home)
    if not held:
        return Start(home, generation, 0, 0)
    return Start(home, generation, held[-1].generation, held[-1].step)


def _keep_two(checkpoints: Checkpoints, start: Start) -> Callable[[Checkpoint], None]:
    """Keeps the newest checkpoint and the one before it, in case that one is damaged."""
    before = start.checkpoint

    def written(checkpoint: Checkpoint) -> None:
        nonlocal before
        if before is not None:
            checkpoints.remove_older(before)
        before = checkpoint

    return written


def agreed_digest(settings: TrainConfig, dataset: Dataset) -> str:
    """Eight hex digits that name the settings and the data a checkpoint belongs to."""
    text = json.dumps({**settings.agreed(), "images": dataset.fingerprint()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def begin(method: Method, checkpoints: Checkpoints, start: Start) -> Spent:
    """Give `method` the state it starts from; what the training has taken so far.

    Raises DataError or WrongSettings if the checkpoint cannot be used.
    """
    if start.checkpoint is None:
        return Spent()
    state, spent = checkpoints.load(start.checkpoint)
    method.load_state_dict(state)
    return spent


@contextmanager
def divergence_noted(run: Run, clock: Clock) -> Iterator[None]:
    """Leaves failure.json behind when the training diverges."""
    try:
        yield
    except (Diverged, NonFinite) as error:
        run.write_divergence(clock.done + 1, str(error))
        raise


def evaluate(run: Run, changes: Mapping[str, Any]) -> dict[str, float]:
    """Test accuracies (0-1) of a finished run by name, from its last checkpoints.

    changes  settings that differ on this machine: data_dir, device
    Raises UserError if the run has not finished.
    """
    method, settings = _settings_of(run, changes)
    device = machine.prepare(settings, Single.name, (Single.name,))
    dataset, batches = load_data(settings)
    net = build_net(settings, batches.input_shape, dataset.num_classes)
    if isinstance(settings, BoostedConfig):
        state = run.load_checkpoint(BOOSTED, settings.iterations)
        net = grown_net(settings, net, state["used"], batches.input_shape)
        net.load_state_dict(state["net"])
        return {"test accuracy": _accuracy(net, batches, device, settings)}
    accuracy = partial(_accuracy, batches=batches, device=device, settings=settings)
    if method in WHOLE:
        net = WHOLE[method](settings, net)
        state = run.load_checkpoint(role_of_whole(method), settings.iterations)
        net.load_state_dict(state["net"])
        return {"test accuracy": accuracy(net)}
    assert isinstance(settings, DualConfig)
    parts = build_parts(settings, net)
    for part, name in zip(parts, settings.roles, strict=True):
        part.load_state_dict(run.load_checkpoint(name, settings.iterations)["part"])
    behind, before = through(settings.roles)
    return {f"test accuracy {behind}": accuracy(join(parts)),
            f"test accuracy {before}": accuracy(join(parts, merged=True))}


def net_of(run: Run) -> nn.Sequential:
    """The uncut net of a run, in the precision of its weights, before they are loaded."""
    _, settings = _settings_of(run, {})
    dataset, batches = load_data(settings)
    net = build_net(settings, batches.input_shape, dataset.num_classes)
    return net.to(getattr(torch, settings.weight_format))


def _settings_of(run: Run, changes: Mapping[str, Any]) -> tuple[str, TrainConfig]:
    """Method and settings of a run, some of them changed."""
    values = {**run.config(), **changes}
    method = values.pop("method")
    return method, from_dict(CONFIGS[method], values, str(run.config_path))


def cuts_of(settings: DualConfig) -> list[Cut]:
    """Every cut of the net of the settings for their data, in the order of the layers."""
    dataset, batches = load_data(settings)
    net = build_net(settings, batches.input_shape, dataset.num_classes)
    return list_cuts(net, batches.input_shape, batch_size=settings.batch_size,
                     message_dtype=settings.message_dtype,
                     before_activation=settings.before_activation)


def _accuracy(net: nn.Module, batches: Batches, device: torch.device,
              settings: TrainConfig) -> float:
    dtype: torch.dtype = getattr(torch, settings.weight_format)
    return score(net.to(device, dtype), batches, device, dtype, settings.num_views)["accuracy"]


def load_data(settings: TrainConfig, share: tuple[int, int] = (0, 1)) -> tuple[Dataset, Batches]:
    """The data set and its batches, or a share of each.  Raises DataError or UserError."""
    if settings.ten_views and not settings.input_side:
        raise UserError("--ten-views needs windows smaller than the images: give their side with "
                        "--input-side")
    dataset = limited(data.load(settings.data, Path(settings.data_dir)), settings)
    return dataset, batches_of(dataset, settings, share)


def limited(dataset: Dataset, settings: TrainConfig) -> Dataset:
    """The data set with the training images that count, see `TrainConfig.num_images`.

    Raises UserError if there are fewer.
    """
    count, held = settings.num_images, len(dataset.train_images)
    if count > held:
        raise UserError(f"--images {count} are more than the {held} training images of "
                        f"'{dataset.name}'; take fewer, or 0 for all")
    return dataset if count in (0, held) else dataclasses.replace(
        dataset, train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count])


def batches_of(dataset: Dataset, settings: TrainConfig, share: tuple[int, int] = (0, 1), *,
               subset: np.ndarray | None = None, since: tuple[int, float] = (0, 0.0)) -> Batches:
    """The batches that the settings make of a data set; the other arguments are those of
    `Batches`."""
    preprocessing = Preprocessing(
        mean=settings.mean, scale=settings.scale, equalise=settings.equalise, bgr=settings.bgr,
        mirror=settings.mirror, crop=settings.crop, window=settings.input_side)
    return Batches(dataset, settings.batch_size, settings.seed, preprocessing, share,
                   subset=subset, since=since)


def common_summary(method_name: str, settings: TrainConfig, facts: Record,
                   clock: Clock) -> dict[str, Any]:
    """The keys of summary.json that all methods have, and the facts of this one."""
    wall_s = clock.wall_s()
    return {
        "method": method_name, "net": settings.net, "data": settings.data,
        "loss": getattr(settings, "loss", None), "schedule": getattr(settings, "schedule", None),
        "seed": settings.seed, "iterations": settings.iterations, **facts,
        "memory_bytes": machine.peak_memory(),
        "wall_s": wall_s, "images_per_s": settings.iterations * settings.batch_size / wall_s,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
