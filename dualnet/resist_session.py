"""train resist: all sites in this process, or one of those that torchrun has started."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from dualnet import machine
from dualnet.data.batches import Batches
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net
from dualnet.methods.protocol import Record
from dualnet.methods.resist.settings import RESIST, ResistConfig
from dualnet.methods.resist.training import Helper, Resist
from dualnet.parallel import World, joined, world_of
from dualnet.ranks import help_rank_0
from dualnet.run import Run
from dualnet.session import agreed_digest, alone, begin, common_summary, load_data, newest_start


class Place(NamedTuple):
    """This process among the sites, with what it trains on."""

    world: World
    net: nn.Sequential
    batches: Batches
    device: torch.device


def resist(settings: ResistConfig, run: Run) -> Iterator[Record]:
    """Train as the only process or as the first site, on from the newest checkpoint of `run`.

    Yields each line of metrics and leaves summary.json behind.
    """
    with _place(settings) as (world, net, batches, device):
        method = Resist(settings, net, batches, device, world if world.size > 1 else None)
        yield from lead(method, run, world.share, world.size)


def lead(method: Resist, run: Run, share: Callable[[int], Any],
         processes: int) -> Iterator[Record]:
    """Train `method` as `resist` does.

    share  tells the other processes with which iteration the training begins
    """
    settings = method.settings
    checkpoints = run.checkpoints(RESIST, agreed_digest(settings, method.batches.dataset),
                                  machine.versions())
    start = newest_start(run, RESIST, checkpoints)
    spent = begin(method, checkpoints, start)
    share(start.step)
    clock, last = yield from alone(method, run, checkpoints, start, spent, method.links)
    summary = common_summary(RESIST, settings, method.facts(), clock)
    run.write_summary({
        **summary, "images_per_s": settings.sites * summary["images_per_s"],
        "processes": processes, "test_accuracy": last["accuracy"],
        "wait_share": {RESIST: clock.wait_share()}, "pids": {RESIST: os.getpid()},
        "bytes_exchanged": sum(line.get(f"{RESIST}/bytes", 0) for line in run.metrics(RESIST))
        * (processes - 1) // settings.sites})


def helper(settings: ResistConfig) -> None:
    """Train as another site than the first.  Raises what `help_rank_0` raises."""
    with _place(settings) as (world, net, batches, device):
        method = Helper(settings, net, batches, device, world, world.rank)
        help_rank_0(method.steps(world.share(None)), world.rank)


@contextmanager
def _place(settings: ResistConfig) -> Iterator[Place]:
    """The place of this process, connected with the others while the block lasts.

    Raises UserError if there are several processes, but not one for each site.
    """
    world = world_of()
    if world.size not in (1, settings.sites):
        raise UserError(f"torchrun has started {world.size} processes for --sites "
                        f"{settings.sites}; start one for each site, or one for all")
    place = prepared(settings, world, is_first=world.rank == 0)
    with joined(world, place.device, settings.rank_timeout):
        yield place


def prepared(settings: ResistConfig, world: World, *, is_first: bool) -> Place:
    """The place of this process before it reaches the others; the net of another site than the
    first one has no memory."""
    if not settings.threads:
        settings = settings.replace(
            threads=max(len(os.sched_getaffinity(0)) // world.local_size, 1))
    device = machine.prepare(settings, world.role, world.roles)
    dataset, batches = load_data(settings)
    with torch.device("cpu" if is_first else "meta"):
        net = build_net(settings, batches.input_shape, dataset.num_classes)
    return Place(world, net, batches, device)
