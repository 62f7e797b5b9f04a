"""Train a variant in this process: the single net, or each role of the cut net as a thread.

The roles are those of `train dual`; only the channel between them is in memory.  Same settings,
same numbers.
"""

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualnet import data, machine, nets, session
from dualnet.channel import QueueChannel
from dualnet.config import TrainConfig
from dualnet.data.dataset import Dataset
from dualnet.errors import Diverged
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.figures import joint_facts
from dualnet.methods.dual.role import Role
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, all_channels
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
    figures = _figures(trained)
    if trained.diverged is None:
        figures["bytes_exchanged"] = Run(job.folder).summary()["bytes_exchanged"]
    return Outcome(figures, _curves(trained), trained.where)


def train_net(job: Job) -> Trained:
    """Train what the settings describe into `job.folder`, replacing the run that is there."""
    dataset = dataset_of(job.settings.data, job.settings.data_dir, job.test_images)
    if isinstance(job.settings, DualConfig):
        return _train_dual(job.settings.resolved(), Run(job.folder), dataset)
    return _train_single(job.settings, Run(job.folder), dataset)


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


def _train_single(settings: TrainConfig, run: Run, dataset: Dataset) -> Trained:
    name = Single.name
    device = machine.prepare(settings, name, (name,))
    net = nets.build(settings.net, dataset.input_shape, dataset.num_classes)
    method = Single(settings, net, session.batches_of(dataset, settings), device)
    watched = Watched(method, settings, {
        layer: net.get_submodule(layer) for layer in ("pool2",) if hasattr(net, layer)})
    run.start(name, settings, overwrite=True)
    clock, lines = Clock(), []
    diverged = None
    try:
        lines = _lines(name, watched, settings, run, clock, device)
        run.write_summary({
            **session.common_summary(name, settings, method.facts(), clock),
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


def _train_dual(settings: DualConfig, run: Run, dataset: Dataset) -> Trained:
    """All roles, a thread each; one that fails closes its end and ends the others."""
    parts = build_parts(settings, nets.build(settings.net, dataset.input_shape,
                                             dataset.num_classes))
    wires = describe_wires(parts, dataset.input_shape)
    channels = QueueChannel.ends(all_channels(wires), timeout_s=settings.progress_timeout)
    devices = {name: machine.prepare(settings, name, settings.roles) for name in settings.roles}
    # A `Batches` keeps the order of the current epoch, so each thread has its own.
    roles = {name: build_role(name, settings, parts, wires, session.batches_of(dataset, settings),
                              channels[name], devices[name]) for name in settings.roles}
    watched = {name: Watched(role, settings, _layers(role)) for name, role in roles.items()}
    run.start("dual", settings, overwrite=True)
    clocks = {name: Clock(channel) for name, channel in channels.items()}
    lines: dict[str, list[Record]] = {}

    def work(name: str) -> None:
        try:
            lines[name] = _lines(name, watched[name], settings, run, clocks[name], devices[name])
        finally:
            channels[name].close()

    diverged = None
    *_, last = settings.roles
    try:
        _together(settings.roles, work)
        facts = joint_facts({name: role.facts() for name, role in roles.items()})
        run.write_summary({
            **session.common_summary("dual", settings, facts, clocks[last]),
            "test_accuracy": lines[last][-1]["accuracy"],
            "test_accuracy_merged": lines[last][-1]["dual/accuracy_merged"],
            "wait_share": {name: clock.wait_share() for name, clock in clocks.items()},
            "pids": dict.fromkeys(settings.roles, os.getpid()),
            "bytes_exchanged": sum(channel.bytes_sent for channel in channels.values())})
    except (Diverged, NonFinite) as error:
        diverged = min(clock.done for clock in clocks.values()) + 1
        run.write_divergence(diverged, str(error))
    return Trained({name: lines.get(name) or run.metrics(name) for name in settings.roles},
                   {name: each.first for name, each in watched.items()},
                   list(parts), diverged, machine.environment(devices[last]))


def _layers(role: Role) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {"y": role.part.head} if role.answering else {}
    return found | ({"boundary": role.part.body, "x": role.part.tail} if role.asking else {})


def _together(names: Sequence[str], work: Callable[[str], None]) -> None:
    """Run `work` of the last name here and of each other in a thread; raise the first error."""
    errors: list[BaseException] = []

    def guarded(name: str) -> None:
        try:
            work(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(name,), daemon=True) for name in names[:-1]]
    for thread in threads:
        thread.start()
    guarded(names[-1])
    for thread in threads:
        thread.join()
    causes = [error for error in errors if not isinstance(error, PeerLost)] or errors
    if causes:
        raise causes[0]


# -- what is told of it ----------------------------------------------------------------------------

def _logged(trained: Trained) -> dict[str, tuple[str, str]]:
    """Figure -> the role and the key of its records."""
    first, last = next(iter(trained.lines)), _last(trained)
    if first == Single.name:
        return {"loss2": (first, "loss"), "rms_pool2": (first, "rms/pool2")}
    return {"loss1": (first, "loss"), "loss2": (last, "loss"),
            "rms_pool2": (first, "rms/boundary"), "rms_conv3": (first, "rms/x"),
            "rms_conv3p": (last, "rms/y"), "grad_norm_net1": (first, "dual/grad_norm")}


def _last(trained: Trained) -> str:
    """The role that knows the labels."""
    return list(trained.lines)[-1]


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
    tests = _split(trained, _last(trained), "test")
    for line in tests:
        figures[f"accuracy@{line['step']}"] = line["accuracy"]
    last: Record = tests[-1] if tests and trained.diverged is None else {}
    figures["accuracy"] = last.get("accuracy")
    if len(trained.lines) > 1:
        figures["accuracy_merged"] = last.get("dual/accuracy_merged")
        ends = [_split(trained, role, "train")[-1:] for role in trained.lines]
        figures["collapsed"] = float(any(line.get("dual/collapsed") for end in ends
                                         for line in end))
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
    curves["accuracy"] = thinned([[line["step"], line["accuracy"]]
                                  for line in _split(trained, _last(trained), "test")])
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
