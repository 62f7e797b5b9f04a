"""Train a residual net with a switch, and tell its accuracy and how much faster it was.

The plain net trains for a few iterations in the same process ahead of each variant, so that a
ratio of speeds is one of the same machine in the same minutes.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dualnet import machine, nets, session
from dualnet.config import TrainConfig
from dualnet.data.dataset import Dataset
from dualnet.errors import Diverged, UserError
from dualnet.launcher import complete
from dualnet.methods.boosted.settings import BoostedConfig
from dualnet.methods.boosted.training import Boosted
from dualnet.methods.protocol import Record
from dualnet.methods.resnet.settings import RESNET, ResnetConfig
from dualnet.methods.resnet.training import Resnet
from dualnet.reproduce.runner import Job, dataset_of, thinned
from dualnet.reproduce.target import Outcome
from dualnet.run import Run
from dualnet.train import Clock, train

PROBE = 12      # iterations of the plain net
TESTS = 5       # of a training, in equal distances; tests change nothing of what is trained
GOALS = (0.4, 0.8, 0.9)     # test accuracies of which the time until then is told
TIMEOUT_S = 48 * 3600.0


def in_one_process(job: Job) -> Outcome:
    """Train in this process."""
    dataset = dataset_of(job.settings.data, job.settings.data_dir, job.test_images)
    device = machine.prepare(job.settings, RESNET, (RESNET,))
    plain = _plain_speed(job, dataset, device)
    try:
        lines = _train(_tested(job.settings), dataset, device, job.folder / "variant")
    except Diverged:
        lines = Run(job.folder / "variant").metrics(_role(job.settings))
        figures = _figures(job.settings, lines, plain)
        return Outcome({**figures, "accuracy": None, "diverged_at": float(lines[-1]["step"])},
                       _curves(lines), machine.environment(device))
    return Outcome(_figures(job.settings, lines, plain), _curves(lines),
                   machine.environment(device))


def in_several_processes(job: Job) -> Outcome:
    """Train under torchrun, a process for each GPU up to four; without GPUs, two.

    All test images are scored.  Raises UserError with the last words of a training that fails.
    """
    device = machine.prepare(job.settings, RESNET, (RESNET,))
    count = min(torch.cuda.device_count(), 4) if device.type == "cuda" else 2
    dataset = dataset_of(job.settings.data, job.settings.data_dir, job.test_images)
    plain = _plain_speed(job, dataset, device)
    run, config = Run(job.folder / "variant"), job.folder / "settings.json"
    config.write_text(json.dumps({"method": RESNET, **_tested(job.settings).to_dict()}))
    failure = complete(["train", RESNET, "--config", str(config), "--out", str(run.folder),
                        "--overwrite", "--quiet"], TIMEOUT_S, count)
    if failure and run.divergence() is None:
        raise UserError(f"training in {count} processes failed: {failure}")
    lines = run.metrics(RESNET)
    end: Any = run.divergence() or {}
    figures = {**_figures(job.settings, lines, plain), "processes": float(count)}
    if end:
        figures |= {"accuracy": None, "diverged_at": end["step"]}
    else:
        figures |= {name: run.summary()[name] for name in ("bytes_exchanged", "memory_bytes")}
    return Outcome(figures, _curves(lines), machine.environment(device))


def plain_of(settings: TrainConfig) -> ResnetConfig:
    """The net of the same size without any switch, for a few iterations."""
    shared = ("data", "data_dir", "mean", "scale", "mirror", "crop", "seed", "device", "threads")
    return ResnetConfig(**{name: getattr(settings, name) for name in shared},
                        iterations=min(PROBE, settings.iterations), log_every=2,
                        net=settings.net.removeprefix("preact-"),
                        batch_size=min(settings.batch_size, ResnetConfig.batch_size))


def speed_of(lines: Sequence[Record], batch_size: int) -> float:
    """Images per second of all lines of metrics but the first, which warms up.

    What happens between two iterations counts, as the judgement of a block does; tests do not.
    """
    found = [line for line in lines if line["split"] == "train"]
    steps = [line["step"] for line in found]
    counts = [after - before for before, after in zip([0, *steps[:-1]], steps, strict=True)]
    pairs = list(zip(counts, (line["images_per_s"] for line in found), strict=True))
    pairs = pairs[1:] or pairs
    return sum(count for count, _ in pairs) / sum(count / rate for count, rate in pairs)


def seconds_to(lines: Sequence[Record], batch_size: int, goal: float) -> float | None:
    """Seconds of training, without tests, until the first test that finds the accuracy `goal`;
    None if none does."""
    seconds, last = 0.0, 0
    for line in lines:
        if line["split"] == "test":
            if line["accuracy"] >= goal:
                return seconds
        else:
            seconds += (line["step"] - last) * batch_size / line["images_per_s"]
            last = line["step"]
    return None


def goal_name(goal: float) -> str:
    """The figure of `seconds_to`."""
    return f"seconds_to_{100 * goal:g}_percent"


def _tested(settings: Any) -> Any:
    return settings.replace(eval_every=max(settings.iterations // TESTS, 1))


def _plain_speed(job: Job, dataset: Dataset, device: torch.device) -> float:
    settings = plain_of(job.settings)
    few = dataclasses.replace(dataset, test_images=dataset.test_images[:1],
                              test_labels=dataset.test_labels[:1])
    return speed_of(_train(settings, few, device, job.folder / "plain"), settings.batch_size)


def _role(settings: TrainConfig) -> str:
    return Boosted.name if isinstance(settings, BoostedConfig) else RESNET


def _train(settings: Any, dataset: Dataset, device: torch.device, folder: Path) -> list[Record]:
    batches = session.batches_of(dataset, settings)
    net = nets.build(settings.net, batches.input_shape, dataset.num_classes)
    method: Any = (Boosted if isinstance(settings, BoostedConfig) else Resnet)(
        settings, net, batches, device)
    run = Run(folder)
    run.start(method.name, settings, overwrite=True)
    metrics = run.open_metrics(method.name, machine.environment(device))
    try:
        return list(train(method, method.settings, metrics, Clock()))
    finally:
        metrics.close()


def _figures(settings: TrainConfig, lines: Sequence[Record],
             plain: float) -> dict[str, float | None]:
    training = [line for line in lines if line["split"] == "train"]
    tests = [line for line in lines if line["split"] == "test"]
    speed = speed_of(lines, settings.batch_size)
    judged = [line["boosted/gamma"] for line in training if "boosted/gamma" in line]
    figures: dict[str, float | None] = {
        "accuracy": tests[-1]["accuracy"] if tests else None,
        "train_accuracy": training[-1]["accuracy"], "images_per_s": speed,
        "images_per_s_plain": plain, "speedup": speed / plain, "diverged_at": None,
        "bytes_exchanged": 0.0,
        **{goal_name(goal): seconds_to(lines, settings.batch_size, goal) for goal in GOALS}}
    return figures | ({"gamma_last": judged[-1]} if judged else {})


def _curves(lines: Sequence[Record]) -> dict[str, list[list[float]]]:
    curves = {"loss": thinned([[line["step"], line["loss"]] for line in lines
                               if line["split"] == "train" and line["loss"] is not None])}
    curves["accuracy"] = thinned([[line["step"], line["accuracy"]] for line in lines
                                  if line["split"] == "test"])
    return curves
