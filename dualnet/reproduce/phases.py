"""Train a variant in phases, narrow nets before the whole one, and tell what became of each."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dualnet import machine
from dualnet.errors import Diverged
from dualnet.methods.net2wider.settings import Net2WiderConfig
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.methods.protocol import Record
from dualnet.methods.single import Single
from dualnet.operations import num_parameters
from dualnet.pretraining import Net2Wider, Partition, Pretraining
from dualnet.reproduce.runner import Job, dataset_of, thinned
from dualnet.reproduce.speed import clock_of
from dualnet.reproduce.target import Outcome
from dualnet.run import Run

BINS = 20
ERRORS_OF = 10_000      # test images of which errors are counted, as the paper does


class Part(NamedTuple):
    """A net in training.

    lines        its lines of metrics
    iteration_s  seconds of one iteration; None if there was none
    """

    lines: list[Record]
    iteration_s: float | None

    def tests(self) -> dict[int, Record]:
        """Iteration -> the line of its test."""
        return {line["step"]: line for line in self.lines if line["split"] == "test"}


class Phase(NamedTuple):
    """Nets that are trained side by side on the same iterations, those from `since` to `until`."""

    since: int
    until: int
    parts: list[Part]

    def serial_s(self) -> float:
        """Seconds of training, one net after another."""
        return (self.until - self.since) * sum(part.iteration_s or 0.0 for part in self.parts)

    def parallel_s(self) -> float:
        """Seconds of training, all at once."""
        return (self.until - self.since) * max(part.iteration_s or 0.0 for part in self.parts)

    def means(self, key: str) -> dict[int, float]:
        """Iteration -> mean of a figure of the tests over the nets, which are no ensemble."""
        tests = [part.tests() for part in self.parts]
        return {step: statistics.fmean(each[step][key] for each in tests) for step in tests[0]}


def phases(job: Job) -> Outcome:
    """Train, test, and tell errors, their change where the nets are joined, and times.

    Seconds are iterations times the median time of one, by `clock_of`; tests and checkpoints are
    left out.
    """
    settings, run = job.settings, Run(job.folder)
    dataset = dataset_of(settings.data, settings.data_dir, job.test_images)
    device = machine.prepare(settings, Single.name, (Single.name,))
    clock = clock_of(device)
    found: list[Phase] = []
    facts: dict[str, Any] = {}
    train, name = _training_of(settings)
    run.start(name, settings, overwrite=True)
    try:
        for phase in train(settings, run, dataset, clock, facts):
            found.append(phase)
    except Diverged:
        end = run.divergence() or {}
        return Outcome({"errors": None, "accuracy": None, "diverged_at": end.get("step")}, {},
                       machine.environment(device))
    return Outcome({**_figures(found), **facts, "bytes_exchanged": 0.0}, _curves(found, run),
                   machine.environment(device))


# -- training --------------------------------------------------------------------------------------

Clock = Callable[[], float]


def _training_of(settings: Any) -> tuple[Callable[..., Iterator[Phase]], str]:
    if isinstance(settings, PartitionConfig):
        return _partition, "partition"
    return (_net2wider, "net2wider") if isinstance(settings, Net2WiderConfig) else (
        _single, Single.name)


def _single(settings: Any, run: Run, dataset: Any, clock: Clock,
            facts: dict[str, Any]) -> Iterator[Phase]:
    whole = Pretraining(settings, run, dataset)
    device = machine.prepare(settings, Single.name, (Single.name,))
    method = Single(settings, whole.net(), whole.batches, device)
    facts["parameters"] = num_parameters(method.net)
    yield Phase(0, settings.iterations, [
        followed(whole.train_first(method, settings.iterations), clock)])


def _partition(settings: PartitionConfig, run: Run, dataset: Any, clock: Clock,
               facts: dict[str, Any]) -> Iterator[Phase]:
    partition = Partition(settings, run, dataset)
    merge_at: Any = settings.merge_at
    subs = [followed(partition.train_sub(role), clock) for role in settings.sub_roles]
    yield Phase(0, merge_at, subs)
    merged = followed(partition.train_merged(), clock, merge_at)
    yield Phase(merge_at, settings.iterations, [merged])
    summary = run.summary()
    facts |= {"parameters": summary["parameters"],
              "parameters_sub_model": max(summary["parameters_sub_models"]),
              "diversity": summary.get("diversity")}


def _net2wider(settings: Net2WiderConfig, run: Run, dataset: Any, clock: Clock,
               facts: dict[str, Any]) -> Iterator[Phase]:
    net2wider = Net2Wider(settings, run, dataset)
    widen_at: Any = settings.widen_at
    yield Phase(0, widen_at, [followed(net2wider.train_teacher(), clock)])
    wider = followed(net2wider.train_wider(), clock, widen_at)
    yield Phase(widen_at, settings.iterations, [wider])
    facts["parameters"] = run.summary()["parameters"]


def followed(lines: Iterator[Record], clock: Clock, since: int = 0) -> Part:
    """Train a net, which has had `since` iterations, to the end.

    The time of an iteration is the median over lines of metrics; the first, which warms up, is left
    out where there are others.
    """
    kept, seconds = [], []
    before, step = clock(), since
    for line in lines:
        now = clock()
        if line["split"] == "train":
            seconds.append((now - before) / (line["step"] - step))
        before, step = now, line["step"]
        kept.append(line)
    return Part(kept, statistics.median(seconds[1:] or seconds) if seconds else None)


# -- what is told of it ----------------------------------------------------------------------------

def _figures(found: Sequence[Phase]) -> dict[str, float | None]:
    """The last test, times, and what the first phase was before and behind its end."""
    whole = found[-1]
    last = whole.parts[0].tests()[whole.until]
    serial_s, parallel_s = (sum(seconds) for seconds in zip(
        *((phase.serial_s(), phase.parallel_s()) for phase in found), strict=True))
    iteration_s = whole.parts[0].iteration_s
    assert iteration_s is not None
    figures: dict[str, float | None] = {
        "errors": _errors(last["accuracy"]), "accuracy": last["accuracy"], "loss": last["loss"],
        "iteration_s": iteration_s, "train_s": serial_s, "train_s_parallel": parallel_s,
        "speedup": whole.until * iteration_s / serial_s,
        "speedup_parallel": whole.until * iteration_s / parallel_s, "diverged_at": None}
    if len(found) == 1 or whole.since == 0:
        return figures
    narrow, at = found[0], whole.since
    narrow_s = narrow.serial_s() / at / len(narrow.parts)
    ends = {"before": narrow.means, "after": whole.means}
    return figures | {
        "iteration_s_narrow": narrow_s, "iteration_speedup": iteration_s / narrow_s,
        **{f"errors_{end}": _errors(means("accuracy")[at]) for end, means in ends.items()},
        **{f"loss_{end}": means("loss")[at] for end, means in ends.items()}}


def _errors(accuracy: float) -> float:
    return ERRORS_OF * (1 - accuracy)


def _curves(found: Sequence[Phase], run: Run) -> dict[str, list[list[float]]]:
    """Loss and errors of the test images, against epochs and against seconds of training where the
    nets of a phase are trained at once; what the nets gave is the mean of them.

    Where nets are joined a curve has two points, before and behind.
    """
    curves: dict[str, list[list[float]]] = {}
    for name, key in (("test_loss", "loss"), ("errors", "accuracy")):
        epochs, seconds, before_s = [], [], 0.0
        for phase in found:
            each_s = phase.parallel_s() / max(phase.until - phase.since, 1)
            reached = {step: line["epoch"] for step, line in phase.parts[0].tests().items()}
            for step, mean in phase.means(key).items():
                value = _errors(mean) if key == "accuracy" else mean
                epochs.append([reached[step], value])
                seconds.append([before_s + (step - phase.since) * each_s, value])
            before_s += phase.parallel_s()
        curves |= {name: thinned(epochs), f"{name}_s": thinned(seconds)}
    if run.probabilities_path.exists():
        curves["probabilities"] = pairs(np.load(run.probabilities_path))
    return curves


def pairs(found: np.ndarray) -> list[list[float]]:
    """How often two nets give the correct class of an image these probabilities, in BINS x BINS
    equal steps from 0 to 1: share of all images and pairs i < j, row by p_i, column by p_j.

    found  probability of the correct class by net and image, float [K, N]
    Empty for one net.            Miranda and Von Zuben 2016, figure 2
    """
    counts = [np.histogram2d(one, other, bins=BINS, range=[[0, 1], [0, 1]])[0]
              for one, other in itertools.combinations(found, 2)]
    if not counts:
        return []
    shares = sum(counts) / (len(counts) * found.shape[1])
    return [[float(f"{share:.4g}") for share in row] for row in shares]
