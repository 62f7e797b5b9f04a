"""Train a variant in this process: the single net, or both roles of the cut net as two threads.

The roles are those of `train dual`; only the channel between them is in memory.  Same settings,
same numbers.
"""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualnet import data, machine, nets, session
from dualnet.channel import QueueChannel
from dualnet.config import TrainConfig
from dualnet.cut import Part
from dualnet.data.batches import Batches
from dualnet.data.dataset import Dataset
from dualnet.errors import Diverged
from dualnet.methods.dual.build import build_parts, build_role, describe_wire
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, NET2, ROLES
from dualnet.methods.protocol import Method, Record
from dualnet.methods.single import Single
from dualnet.reproduce.target import Outcome
from dualnet.run import Run
from dualnet.train import Clock, train
from shared_fs import NonFinite, PeerLost

POINTS = 30     # of a curve in the ledger


class Job(NamedTuple):
    """What is to be measured: settings with seed and machine filled in, and where the run goes."""

    settings: Any
    folder: Path
    test_images: int | None


class Trained(NamedTuple):
    """What training left behind.

    lines     role -> its lines of metrics
    first     role -> its first iteration's record
    nets      the parts of a cut net, or the single net
    diverged  the iteration in which it diverged, counted from 1, or None
    """

    lines: dict[str, list[Record]]
    first: dict[str, Record]
    nets: list[nn.Module]
    diverged: int | None
    where: dict[str, Any]


def training(job: Job) -> Outcome:
    """Train, test, and tell losses, norms and accuracy."""
    trained = train_net(job)
    return Outcome(_figures(trained), _curves(trained), trained.where)


def train_net(job: Job) -> Trained:
    """Train what the settings describe into `job.folder`, replacing the run that is there."""
    dataset = dataset_of(job.settings.data, job.settings.data_dir, job.test_images)
    batches = session.batches_of(dataset, job.settings)
    if isinstance(job.settings, DualConfig):
        return _train_dual(job.settings.resolved(), Run(job.folder), dataset, batches)
    return _train_single(job.settings, Run(job.folder), dataset, batches)


@lru_cache(maxsize=1)
def dataset_of(name: str, folder: str, test_images: int | None) -> Dataset:
    """The data set with its first `test_images` test images; kept for the next variant."""
    dataset = data.load(name, Path(folder))
    return dataclasses.replace(dataset, test_images=dataset.test_images[:test_images],
                               test_labels=dataset.test_labels[:test_images])


# -- training --------------------------------------------------------------------------------------

class Watched:
    """A method whose first and logged records also tell the root mean square of layers.

    layers  name of a figure -> the layers whose output it is of
    """

    def __init__(self, method: Method, settings: TrainConfig,
                 layers: dict[str, nn.Module]) -> None:
        self._method, self._settings = method, settings
        self._outputs: dict[str, Tensor] = {}
        self.first: Record = {}
        for name, layer in layers.items():
            layer.register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            self._outputs[name] = output.detach()
        return keep

    def steps(self, start: int = 0) -> Iterator[Record]:
        for record in self._method.steps(start):
            if not self.first or self._settings.is_logged(record["step"]):
                record |= {f"rms/{name}": root_mean_square(output)
                           for name, output in self._outputs.items()}
            self.first = self.first or record
            yield record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)


def root_mean_square(x: Tensor) -> float:
    """sqrt(mean x^2) over all elements; in float64, where the squares of 1e-25 are not 0 yet."""
    return float(x.double().square().mean().sqrt())


def _train_single(settings: TrainConfig, run: Run, dataset: Dataset, batches: Batches) -> Trained:
    name = Single.name
    device = machine.prepare(settings, name, (name,))
    net = nets.build(settings.net, dataset.input_shape, dataset.num_classes)
    method = Single(settings, net, batches, device)
    watched = Watched(method, settings, {
        layer: net.get_submodule(layer) for layer in ("pool2",) if hasattr(net, layer)})
    run.start(name, settings, overwrite=True)
    clock, lines = Clock(), []
    diverged = None
    try:
        lines = _lines(name, watched, settings, run, clock, device)
        run.write_summary({
            **session.common_summary(name, settings, method, clock),
            "test_accuracy": lines[-1]["accuracy"], "wait_share": {name: 0.0},
            "pids": {name: os.getpid()}, "bytes_exchanged": 0})
    except Diverged as error:
        diverged = clock.done + 1
        run.write_divergence(diverged, str(error))
    return Trained({name: lines or run.metrics(name)}, {name: watched.first}, [net], diverged,
                   machine.environment(device))


def _lines(role: str, method: Any, settings: TrainConfig, run: Run, clock: Clock,
           device: torch.device) -> list[Record]:
    metrics = run.open_metrics(role, machine.environment(device))
    try:
        return list(train(method, settings, metrics, clock))
    finally:
        metrics.close()


def _train_dual(settings: DualConfig, run: Run, dataset: Dataset, batches: Batches) -> Trained:
    """Both roles in lockstep, as two threads; one that fails closes its end and ends the other."""
    parts = build_parts(settings, nets.build(settings.net, dataset.input_shape,
                                             dataset.num_classes))
    wire = describe_wire(parts, dataset.input_shape)
    channels = QueueChannel.pair(list(wire.channels()), timeout_s=settings.progress_timeout)
    devices = [machine.prepare(settings, name, ROLES) for name in ROLES]
    # A `Batches` keeps the order of the current epoch, so each thread has its own.
    each_batches = (batches, session.batches_of(dataset, settings))
    roles = [build_role(name, settings, parts, wire, own, channel, device) for name, own, channel,
             device in zip(ROLES, each_batches, channels, devices, strict=True)]
    watched = [Watched(role, settings, layers) for role, layers
               in zip(roles, _layers(parts), strict=True)]
    run.start("dual", settings, overwrite=True)
    clocks = [Clock(channel) for channel in channels]
    lines: dict[str, list[Record]] = {}

    def work(index: int) -> None:
        try:
            lines[ROLES[index]] = _lines(ROLES[index], watched[index], settings, run,
                                         clocks[index], devices[index])
        finally:
            channels[index].close()

    diverged = None
    try:
        _both(work)
        _summarise(run, settings, roles[1], lines[NET2][-1], clocks, channels)
    except (Diverged, NonFinite) as error:
        diverged = min(clock.done for clock in clocks) + 1
        run.write_divergence(diverged, str(error))
    return Trained({role: lines.get(role) or run.metrics(role) for role in ROLES},
                   {role: each.first for role, each in zip(ROLES, watched, strict=True)},
                   list(parts), diverged, machine.environment(devices[1]))


def _layers(parts: list[Part]) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    return ({"boundary": parts[0].body, "x": parts[0].tail}, {"y": parts[1].head})


def _both(work: Callable[[int], None]) -> None:
    """Run work(0) in a thread and work(1) here; raise the error that came first."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, args=(0,), daemon=True)
    thread.start()
    guarded(1)
    thread.join()
    causes = [error for error in errors if not isinstance(error, PeerLost)] or errors
    if causes:
        raise causes[0]


def _summarise(run: Run, settings: DualConfig, net2: Any, last: Record, clocks: list[Clock],
               channels: tuple[QueueChannel, QueueChannel]) -> None:
    run.write_summary({
        **session.common_summary("dual", settings, net2, clocks[1]),
        "test_accuracy": last["accuracy"], "test_accuracy_merged": last["dual/accuracy_merged"],
        "wait_share": {role: clock.wait_share() for role, clock
                       in zip(ROLES, clocks, strict=True)},
        "pids": dict.fromkeys(ROLES, os.getpid()),
        "bytes_exchanged": sum(channel.bytes_sent for channel in channels)})


# -- what is told of it ----------------------------------------------------------------------------

# Figure -> the role and the key of its records.
LOGGED = {"loss1": (NET1, "loss"), "loss2": (NET2, "loss"), "rms_pool2": (NET1, "rms/boundary"),
          "rms_conv3": (NET1, "rms/x"), "rms_conv3p": (NET2, "rms/y"),
          "grad_norm_net1": (NET1, "dual/grad_norm")}
LOGGED_SINGLE = {"loss2": (Single.name, "loss"), "rms_pool2": (Single.name, "rms/pool2")}


def _logged(trained: Trained) -> dict[str, tuple[str, str]]:
    return LOGGED_SINGLE if Single.name in trained.lines else LOGGED


def _figures(trained: Trained) -> dict[str, float | None]:
    """First and last value of each logged figure, accuracies, and how it ended.

    NAME_first is of the first iteration, NAME_last of the last line of metrics: for losses the
    mean since the line before.
    """
    figures: dict[str, float | None] = {"diverged_at": trained.diverged}
    for name, (role, key) in _logged(trained).items():
        values = [line.get(key) for line in _split(trained, role, "train")]
        figures |= {f"{name}_first": trained.first[role].get(key),
                    f"{name}_last": values[-1] if values else None}
        if name == "grad_norm_net1":
            figures[f"{name}_max"] = max([v for v in values if v is not None], default=None)
    tests = _split(trained, NET2 if NET2 in trained.lines else Single.name, "test")
    for line in tests:
        figures[f"accuracy@{line['step']}"] = line["accuracy"]
    last: Record = tests[-1] if tests and trained.diverged is None else {}
    figures["accuracy"] = last.get("accuracy")
    if NET2 in trained.lines:
        figures["accuracy_merged"] = last.get("dual/accuracy_merged")
        ends = [line.get("dual/collapsed") for line in _split(trained, NET2, "train")]
        figures["collapsed"] = float(bool(ends and ends[-1]))
    return {name: None if value is not None and not math.isfinite(value) else value
            for name, value in figures.items()}


def _curves(trained: Trained) -> dict[str, list[list[float]]]:
    curves = {}
    for name, (role, key) in _logged(trained).items():
        first = trained.first[role]
        points = [[1, first[key]]] if key in first else []
        points += [[line["step"], line[key]] for line in _split(trained, role, "train")
                   if line.get(key) is not None and line["step"] > 1]
        curves[name] = thinned(points)
    role = NET2 if NET2 in trained.lines else Single.name
    curves["accuracy"] = thinned([[line["step"], line["accuracy"]]
                                  for line in _split(trained, role, "test")])
    return curves


def _split(trained: Trained, role: str, split: str) -> list[Record]:
    return [line for line in trained.lines[role] if line["split"] == split]


def thinned(points: list[list[float]], count: int = POINTS) -> list[list[float]]:
    """At most `count` of the points, first and last included, in four significant digits; those
    that are not finite are left out."""
    points = [point for point in points if math.isfinite(point[1])]
    if len(points) > count:
        points = [points[round(index * (len(points) - 1) / (count - 1))]
                  for index in range(count)]
    return [[step, float(f"{value:.4g}")] for step, value in points]


# -- the custom layer ------------------------------------------------------------------------------

def against_default(job: Job) -> Outcome:
    """Train with the loss of the settings and with `euclidean`; how far their numbers differ.

    Rounding differs from the first iteration on, and training magnifies it: so the first five
    iterations count apart.
    """
    default = job.settings.replace(loss="euclidean")
    ours, theirs = (train_net(job._replace(settings=settings, folder=job.folder / settings.loss))
                    for settings in (job.settings, default))
    pairs = zip(*([line["loss"] for line in _split(trained, NET1, "train")]
                  for trained in (ours, theirs)), strict=True)
    differences = [abs(a - b) / abs(b) for a, b in pairs]
    figures = _figures(ours)
    figures |= {"difference_loss1_5": max(differences[:5]), "difference_loss1": max(differences)}
    figures["difference_weights"] = max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for one, other in zip(ours.nets, theirs.nets, strict=True)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    return Outcome(figures, _curves(ours), ours.where)
