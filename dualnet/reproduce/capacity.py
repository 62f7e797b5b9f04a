"""How large a batch fits: what each part of a cut net keeps for its backward pass."""

import torch

from dualnet import machine, nets
from dualnet.errors import UserError
from dualnet.memory import Load, bytes_per_image, largest_batch, part_loads, single_load
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import ROLES
from dualnet.reproduce.runner import Job
from dualnet.reproduce.target import Outcome

SHAPE, CLASSES = (3, 32, 32), 10
TITAN_BYTES = 6 * 2**30     # the thesis' GeForce GTX Titan


def capacity(job: Job) -> Outcome:
    """Bytes kept per image, single net against net1 and net2, and the ratio of largest batches.

    On a GPU the largest batches are found by trying them, in all of its memory.
    """
    settings: DualConfig = job.settings
    device = machine.prepare(settings, ROLES[0], ROLES)
    loads = _loads(settings, device)
    each = {name: bytes_per_image(load.forward, device) for name, load in loads.items()}
    figures: dict[str, float | None] = {
        f"bytes_per_image_{name}": value for name, value in each.items()}
    figures["ratio"] = each["single"] / max(each[role] for role in ROLES)
    if device.type == "cuda":
        largest = {name: float(largest_batch(load, device)) for name, load in loads.items()}
        figures |= {f"largest_batch_{name}": value for name, value in largest.items()}
        figures["ratio"] = min(largest[role] for role in ROLES) / largest["single"]
    return Outcome(figures, {}, machine.environment(device))


def capacity_of_titan(job: Job) -> Outcome:
    """`capacity` on a GPU of which only as much is used as the thesis' cards had."""
    device = machine.prepare(job.settings, ROLES[0], ROLES)
    if device.type != "cuda":
        raise UserError("the scale full needs a GPU; take --scale cpu, which counts the bytes")
    share = TITAN_BYTES / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)
    try:
        return capacity(job)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _loads(settings: DualConfig, device: torch.device) -> dict[str, Load]:
    single, cut = (nets.build(settings.net, SHAPE, CLASSES) for _ in range(2))
    return {"single": single_load(settings, single, SHAPE, device),
            **part_loads(settings, cut, SHAPE, device)}
