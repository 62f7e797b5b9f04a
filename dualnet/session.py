"""One process of a run, from its settings to its summary."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualnet import data, machine, nets
from dualnet.channel import FileChannel
from dualnet.config import TrainConfig, from_dict
from dualnet.cut import join
from dualnet.data.batches import Batches, Preprocessing
from dualnet.data.dataset import Dataset
from dualnet.errors import Diverged
from dualnet.evaluate import score
from dualnet.methods.dual.build import build_parts, build_role, describe_wire
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, NET2, ROLES
from dualnet.methods.protocol import Method, Record
from dualnet.methods.single import Single
from dualnet.run import Run
from dualnet.train import Clock, train
from shared_fs import Exchange, NonFinite


def single(settings: TrainConfig, run: Run) -> Iterator[Record]:
    """Train the uncut net; yields each line of metrics and leaves summary.json behind."""
    device = machine.prepare(settings, Single.name, (Single.name,))
    dataset, batches = load_data(settings)
    net = nets.build(settings.net, dataset.input_shape, dataset.num_classes)
    method = Single(settings, net, batches, device)
    metrics = run.open_metrics(Single.name, machine.environment(device))
    clock = Clock()
    last: Record = {}
    with _divergence_noted(run, clock):
        for last in train(method, settings, metrics, clock):
            yield last
    run.save_checkpoint(Single.name, settings.iterations, method.state_dict())
    run.write_summary({
        **common_summary(Single.name, settings, method, clock), "test_accuracy": last["accuracy"],
        "wait_share": {Single.name: 0.0}, "pids": {Single.name: os.getpid()},
        "bytes_exchanged": 0})


def role(name: str, settings: DualConfig, run: Run, exchange_dir: Path, *,
         overwrite: bool = False) -> Iterator[Record]:
    """Train as `name`, net1 or net2, through `exchange_dir`; yields each line of metrics.

    net2 leaves summary.json behind.  Raises the errors of shared_fs.
    """
    device = machine.prepare(settings, name, ROLES)
    dataset, batches = load_data(settings)
    parts = build_parts(settings, nets.build(settings.net, dataset.input_shape,
                                             dataset.num_classes))
    wire = describe_wire(parts, dataset.input_shape)
    run.admit(name, "dual", settings, overwrite=overwrite)
    exchange = Exchange(
        exchange_dir, name, channels=wire.channels(), roles=ROLES,
        agreement={**settings.agreed(), "images": dataset.fingerprint()},
        window=settings.window, fsync=settings.fsync,  # type: ignore[arg-type]
        nonfinite=settings.nonfinite,  # type: ignore[arg-type]
        handshake_timeout_s=settings.handshake_timeout, peer_timeout_s=settings.peer_timeout,
        progress_timeout_s=settings.progress_timeout)
    last: Record = {}
    with exchange:
        run.join(name, "dual", settings, overwrite=overwrite)
        channel = FileChannel(exchange)
        method = build_role(name, settings, parts, wire, batches, channel, device)
        metrics = run.open_metrics(name, machine.environment(device))
        clock = Clock(channel)
        with _divergence_noted(run, clock):
            for last in train(method, settings, metrics, clock, channel.generation):
                channel.report(**_live(last, settings.iterations))
                yield last
        run.save_checkpoint(name, settings.iterations, method.state_dict())
        mine = {"wait_share": clock.wait_share(), "bytes": channel.bytes_sent, "pid": os.getpid()}
        channel.report(phase="done", step=settings.iterations, **mine)
        summary = common_summary("dual", settings, method, clock)
    if name == NET2:
        both = {NET1: exchange.peer_info(NET1), NET2: mine}
        run.write_summary({
            **summary, "test_accuracy": last["accuracy"],
            "test_accuracy_merged": last["dual/accuracy_merged"],
            "wait_share": {each: info["wait_share"] for each, info in both.items()},
            "pids": {each: info["pid"] for each, info in both.items()},
            "bytes_exchanged": sum(info["bytes"] for info in both.values())})


def _live(line: Record, iterations: int) -> dict[str, Any]:
    """What onlookers are told of a line of metrics; see the command `status`."""
    if line["split"] != "train":
        return {}
    keys = ("loss", "accuracy", "images_per_s", "wait_share")
    shown: dict[str, Any] = {key: line[key] if math.isfinite(line[key]) else None
                             for key in keys if key in line}
    left_s = line["time_s"] / line["step"] * (iterations - line["step"])
    return {**shown, "iterations": iterations, "left_s": left_s}


@contextmanager
def _divergence_noted(run: Run, clock: Clock) -> Iterator[None]:
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
    values = {**run.config(), **changes}
    method = values.pop("method")
    settings = from_dict({"dual": DualConfig, "single": TrainConfig}[method], values,
                         str(run.config_path))
    device = machine.prepare(settings, Single.name, (Single.name,))
    dataset, batches = load_data(settings)
    net = nets.build(settings.net, dataset.input_shape, dataset.num_classes)
    accuracy = partial(_accuracy, batches=batches, device=device, settings=settings)
    if method == "single":
        net.load_state_dict(run.load_checkpoint(Single.name, settings.iterations)["net"])
        return {"test accuracy": accuracy(net)}
    parts = build_parts(settings, net)
    for part, name in zip(parts, ROLES, strict=True):
        part.load_state_dict(run.load_checkpoint(name, settings.iterations)["part"])
    return {"test accuracy through conv3' of net2": accuracy(join(parts)),
            "test accuracy through conv3 of net1": accuracy(join(parts, merged=True))}


def _accuracy(net: nn.Module, batches: Batches, device: torch.device,
              settings: TrainConfig) -> float:
    dtype: torch.dtype = getattr(torch, settings.precision)
    return score(net.to(device, dtype), batches, device, dtype)["accuracy"]


def load_data(settings: TrainConfig) -> tuple[Dataset, Batches]:
    """The data set and its batches.  Raises DataError or UserError."""
    dataset = data.load(settings.data, Path(settings.data_dir))
    return dataset, batches_of(dataset, settings)


def batches_of(dataset: Dataset, settings: TrainConfig) -> Batches:
    """The batches that the settings make of a data set."""
    preprocessing = Preprocessing(
        mean=settings.mean, scale=settings.scale, equalise=settings.equalise, bgr=settings.bgr,
        mirror=settings.mirror, crop=settings.crop)
    return Batches(dataset, settings.batch_size, settings.seed, preprocessing)


def common_summary(method_name: str, settings: TrainConfig, method: Method,
                   clock: Clock) -> dict[str, Any]:
    """The keys of summary.json that do not depend on other processes."""
    wall_s = clock.wall_s()
    return {
        "method": method_name, "net": settings.net, "data": settings.data,
        "loss": getattr(settings, "loss", None), "schedule": getattr(settings, "schedule", None),
        "seed": settings.seed, "iterations": settings.iterations, **method.facts(),
        "wall_s": wall_s, "images_per_s": settings.iterations * settings.batch_size / wall_s,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
