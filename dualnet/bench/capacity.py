"""The largest batch of the single net and of each half, at every cut, in a given memory.

Counted: what the backward pass keeps for each image, and weights, gradients and momentum once.
Allocated, on a GPU: forward and backward pass and update are tried.  The dual net trains as many
images at a time as the half that holds fewer.

A row has `cut`; `how`: "counted", "allocated", or a reading of Caffe's rule; `images`: single,
net1, net2 -> largest batch, one per repeat; `memory`: the bytes of each, where they were counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import nn

from dualnet.bench.caffe_memory import Kept, caffe_memory
from dualnet.bench.results import SINGLE, Row, batch_ratios
from dualnet.config import choose
from dualnet.cuts import list_cuts
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net
from dualnet.memory import (
    Load,
    bytes_per_image,
    largest_batch,
    part_loads,
    single_load,
    weight_bytes,
)
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import ROLES

SHAPE, CLASSES = (3, 32, 32), 10
# Dziwulski 2017, section 9.7.1: the largest batches on a GeForce GTX Titan, cut at pool2.
PUBLISHED = {"published_single": 2608, "published_dual": 4095}


def cuts_of(settings: DualConfig, wanted: Sequence[str] = ()) -> list[str]:
    """The layers named, or every layer that the net can be cut behind.

    Raises UserError if there is none, or if it cannot be cut behind one that is named.
    """
    found = [cut.boundary for cut in list_cuts(_net(settings), SHAPE, batch_size=1)]
    if not found:
        raise UserError(f"--net {settings.net} cannot be cut anywhere")
    return [choose("cut", cut, found) for cut in wanted] or found


def counted(settings: DualConfig, cuts: Sequence[str], limit: int) -> Iterator[Row]:
    """What fits into `limit` bytes by counting, cut by cut.  Raises UserError if nothing does."""
    device = torch.device("cpu")
    single = _counted(single_load(settings, _net(settings), SHAPE, device))
    for cut in cuts:
        parts = part_loads(settings.replace(cut=cut), _net(settings), SHAPE, device)
        yield _row(cut, "counted", {SINGLE: single, **{role: _counted(load) for role, load
                                                       in parts.items()}}, limit)


def by_caffes_rule(settings: DualConfig, cuts: Sequence[str], limit: int) -> list[Row]:
    """What fits by Caffe's own rule, in each of its readings; empty for nets it does not know."""
    return [_row(cut, reading, memory, limit) for cut in cuts
            for reading, memory in caffe_memory(_net(settings), SHAPE, cut).items()]


def allocated(settings: DualConfig, cuts: Sequence[str], limit: int, rounds: int,
              device: torch.device) -> Iterator[Row]:
    """What fits on a GPU, of which `limit` bytes are used, by trying it.

    Each round tries all; nothing on a CPU.
    """
    if device.type != "cuda":
        return
    share = min(limit / torch.cuda.get_device_properties(device).total_memory, 1.0)
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        for cut in cuts:
            loads = makers(settings.replace(cut=cut), device)
            images: dict[str, list[int]] = {name: [] for name in loads}
            for _ in range(rounds):
                for name, make in loads.items():
                    images[name].append(largest_batch(make(), device))
            yield {"cut": cut, "how": "allocated", "images": images, "memory": {}}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def best(rows: Sequence[Row]) -> str:
    """The cut with the largest ratio of the dual net to the single net."""
    cut: str = max(rows, key=lambda row: median(batch_ratios(row)))["cut"]
    return cut


def _row(cut: str, how: str, memory: Mapping[str, Kept], limit: int) -> Row:
    return {"cut": cut, "how": how,
            "images": {name: [kept.images(limit)] for name, kept in memory.items()},
            "memory": {name: kept._asdict() for name, kept in memory.items()}}


def makers(settings: DualConfig, device: torch.device) -> dict[str, Callable[[], Load]]:
    """One net at a time is on the device, so each is made when its turn comes."""
    def single() -> Load:
        return single_load(settings, _net(settings), SHAPE, device)

    def part(role: str) -> Load:
        net, forward = part_loads(settings, _net(settings), SHAPE, torch.device("cpu"))[role]
        return Load(net.to(device), forward)

    return {SINGLE: single, **{role: partial(part, role) for role in ROLES}}


def _counted(load: Load) -> Kept:
    return Kept(bytes_per_image(load.forward, torch.device("cpu")), weight_bytes(load.net))


def _net(settings: DualConfig) -> nn.Sequential:
    return build_net(settings, SHAPE, CLASSES)
