"""How much faster an iteration of a sub-model is than one of the whole net."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from dualnet import machine, nets, session
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.methods.partition.training import sub_model
from dualnet.operations import num_parameters
from dualnet.reproduce.runner import Job, dataset_of
from dualnet.reproduce.target import Outcome
from dualnet.supervised import Supervised

TURNS = 11      # of each net; the first warms up


def iteration_speed(job: Job) -> Outcome:
    """Seconds of an iteration of the whole net and of one sub-model, and their ratio.

    The two have their turns in the same process, one after the other, TURNS times; each figure is
    the median over the turns.  An iteration is one of training, the images' preparation included.
    With one sub-model the two nets are the same, and the ratio tells how exact the measurement is.
    """
    settings: PartitionConfig = job.settings
    device = machine.prepare(settings, "whole", ("whole",))
    dataset = dataset_of(settings.data, settings.data_dir, job.test_images)
    both = [_training(each, dataset, device) for each in
            (settings.replace(sub_models=1), settings)]
    turns = min(TURNS, settings.iterations)
    whole_s, sub_s = (statistics.median(found) for found in in_turns(
        [method.steps() for method in both], turns, settings.iterations // turns,
        clock_of(device)))
    return Outcome({
        "iteration_speedup": whole_s / sub_s, "iteration_s": whole_s, "iteration_s_narrow": sub_s,
        "parameters": float(num_parameters(both[1].net)),
        "parameters_share": num_parameters(both[1].net) / num_parameters(both[0].net)},
        {}, machine.environment(device))


def clock_of(device: torch.device) -> Callable[[], float]:
    """What counts the seconds of training on `device`.

    With one CPU thread these are the seconds in which the processor worked for this process: on a
    machine that does nothing else that is the time that passes, and what others do there is left
    out as far as it can be.
    """
    is_one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if is_one_thread else time.perf_counter


def _training(settings: PartitionConfig, dataset: Any, device: torch.device) -> Supervised:
    """The first sub-model, ready to train for all iterations."""
    settings = settings.replace(merge_at=settings.iterations)
    batches = session.batches_of(dataset, settings)
    net = nets.build(settings.net, batches.input_shape, dataset.num_classes)
    return sub_model(settings, settings.sub_roles[0], net, batches, device)


def in_turns(works: Sequence[Iterator[Any]], turns: int, count: int,
             clock: Callable[[], float]) -> list[list[float]]:
    """Take `count` items of each iterator in turn, `turns` times.

    Returns seconds per item, of each iterator and turn but the first where there are others.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(turns):
        for work, found in zip(works, seconds, strict=True):
            started = clock()
            for _ in range(count):
                next(work)
            found.append((clock() - started) / count)
    return [found[1:] or found for found in seconds]
