"""How large a batch fits: what each part of a cut net keeps for its backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet import losses, machine, nets
from dualnet.cut import Part
from dualnet.errors import UserError
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import ROLES
from dualnet.nets.dropout import set_iteration
from dualnet.reproduce.runner import Job
from dualnet.reproduce.target import Outcome

SHAPE, CLASSES = (3, 32, 32), 10
BATCHES = (4, 8)
TITAN_BYTES = 6 * 2**30     # the thesis' GeForce GTX Titan

# A forward pass up to the loss of one process, of a number of images on a device.
Forward = Callable[[int, torch.device], Tensor]


def capacity(job: Job) -> Outcome:
    """Bytes kept per image, single net against net1 and net2, and the ratio of largest batches.

    On a GPU the largest batches are found by trying them, in all of its memory.
    """
    settings: DualConfig = job.settings
    device = machine.prepare(settings, ROLES[0], ROLES)
    forwards = _forwards(settings, device)
    each = {name: bytes_per_image(forward, device) for name, forward in forwards.items()}
    figures: dict[str, float | None] = {
        f"bytes_per_image_{name}": value for name, value in each.items()}
    figures["ratio"] = each["single"] / max(each[role] for role in ROLES)
    if device.type == "cuda":
        largest = {name: float(largest_batch(forward, device))
                   for name, forward in forwards.items()}
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


def _forwards(settings: DualConfig, device: torch.device) -> dict[str, Forward]:
    net = nets.build(settings.net, SHAPE, CLASSES)
    front, back = (part.to(device) for part in build_parts(settings, net))
    single = nets.build(settings.net, SHAPE, CLASSES).to(device)
    for module in (front, back, single):
        set_iteration(module, settings.seed, 0)
    with torch.no_grad():
        boundary = front(torch.zeros(1, *SHAPE, device=device)).shape[1:]
    return {"single": _classifier(single, SHAPE), "net1": _front(front),
            "net2": _classifier(back, tuple(boundary))}


def _classifier(net: nn.Module, shape: tuple[int, ...]) -> Forward:
    def forward(count: int, device: torch.device) -> Tensor:
        labels = torch.zeros(count, dtype=torch.long, device=device)
        return functional.cross_entropy(net(torch.randn(count, *shape, device=device)), labels)
    return forward


def _front(part: Part) -> Forward:
    def forward(count: int, device: torch.device) -> Tensor:
        x = part.tail(part(torch.randn(count, *SHAPE, device=device)))
        return losses.euclidean(x, torch.randn_like(x))
    return forward


def bytes_per_image(forward: Forward, device: torch.device) -> float:
    """Bytes that one more image adds to what is kept for the backward pass.

    The difference between two batch sizes leaves out the weights, which are kept once.
    """
    few, many = (saved_bytes(forward, count, device) for count in BATCHES)
    return (many - few) / (BATCHES[1] - BATCHES[0])


def saved_bytes(forward: Forward, count: int, device: torch.device) -> int:
    """Bytes of all storages kept for the backward pass of `count` images, each counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor       # the graph keeps it, so no address is used twice

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(count, device)
    return sum(storages.values())


def largest_batch(forward: Forward, device: torch.device, limit: int = 2**20) -> int:
    """The largest batch whose forward and backward pass fits, by doubling and bisection.

    Raises UserError if not even one image fits.
    """
    def fits(count: int) -> bool:
        try:
            forward(count, device).backward()
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    return bisected(fits, limit)


def bisected(fits: Callable[[int], Any], limit: int) -> int:
    """The largest number up to `limit` that fits, if all below it fit.

    Raises UserError if 1 does not fit.

    >>> bisected(lambda number: number <= 2608, 2**20)
    2608
    """
    if not fits(1):
        raise UserError("not even one image fits into the memory; close what else uses the GPU")
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= limit and fits(middle) else (low, middle)
    return low
