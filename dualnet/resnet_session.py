"""train resnet: one process, or several that torchrun has started, from settings to summary."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dualnet import machine
from dualnet.from_prototxt import build_net
from dualnet.methods.protocol import Record
from dualnet.methods.resnet.settings import RESNET, ResnetConfig
from dualnet.methods.resnet.training import Resnet
from dualnet.parallel import joined, world_of
from dualnet.ranks import help_rank_0
from dualnet.run import Run
from dualnet.session import agreed_digest, alone, begin, common_summary, load_data, newest_start


def resnet(settings: ResnetConfig, run: Run) -> Iterator[Record]:
    """Train as the only process or as rank 0, on from the newest checkpoint of `run`.

    Yields each line of metrics and leaves summary.json behind.
    """
    with _method(settings) as method:
        checkpoints = run.checkpoints(method.name, agreed_digest(settings, method.batches.dataset),
                                      machine.versions())
        start = newest_start(run, method.name, checkpoints)
        spent = begin(method, checkpoints, start)
        method.world.share((start.step, method.state_dict() if start.checkpoint else None))
        clock, last = yield from alone(method, run, checkpoints, start, spent)
    run.write_summary({
        **common_summary(RESNET, settings, method.facts(), clock),
        "test_accuracy": last["accuracy"],
        # Several processes wait for each other within the backward pass, where nothing counts it.
        "wait_share": {method.name: 0.0} if method.world.size == 1 else {},
        "pids": {method.name: os.getpid()},
        "bytes_exchanged": settings.iterations * method.world.bytes_of_mean(method.net)})


def helper(settings: ResnetConfig) -> None:
    """Train as another rank than 0.  Raises what `help_rank_0` raises."""
    with _method(settings) as method:
        step, state = method.world.share(None)
        if state is not None:
            method.load_state_dict(state)
        help_rank_0(method.steps(step), method.world.rank)


@contextmanager
def _method(settings: ResnetConfig) -> Iterator[Resnet]:
    """What this process trains, connected with the others while the block lasts."""
    world = world_of()
    if not settings.threads:
        settings = settings.replace(
            threads=max(len(os.sched_getaffinity(0)) // world.local_size, 1))
    device = machine.prepare(settings, world.role, world.roles)
    dataset, batches = load_data(settings, share=(world.rank, world.size))
    net = build_net(settings, batches.input_shape, dataset.num_classes)
    with joined(world, device, settings.rank_timeout):
        yield Resnet(settings, net, batches, device, world)
