"""What the parts of a net keep in memory while they train, and the largest batch that fits.

Kept are the tensors that the backward pass needs, for each image, and weights, gradients and
momentum once.  Gradients of activations and scratch memory of kernels come and go: they are not
counted, but trying a batch on a GPU needs them too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet import losses
from dualnet.cut import Part
from dualnet.errors import UserError
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import NET1, NET2
from dualnet.nets.dropout import set_iteration

BATCHES = (4, 8)
COPIES = 3      # of each weight: itself, its gradient, its momentum
MOMENTUM = 0.9

# A forward pass up to the loss of one process, of a number of images on a device.
Forward = Callable[[int, torch.device], Tensor]


class Load(NamedTuple):
    """What one process trains: its layers, and the forward pass up to its loss."""

    net: nn.Module
    forward: Forward


def single_load(settings: DualConfig, net: nn.Sequential, shape: tuple[int, ...],
                device: torch.device) -> Load:
    """The uncut net for images of `shape`."""
    set_iteration(net.to(device), settings.seed, 0)
    return Load(net, _classifier(net, shape))


def part_loads(settings: DualConfig, net: nn.Sequential, shape: tuple[int, ...],
               device: torch.device) -> dict[str, Load]:
    """net1 and net2, cut as the settings say."""
    front, back = (part.to(device) for part in build_parts(settings, net))
    for part in (front, back):
        set_iteration(part, settings.seed, 0)
    with torch.no_grad():
        boundary = front.eval()(torch.zeros(1, *shape, device=device)).shape[1:]
    front.train()
    return {NET1: Load(front, _front(front, shape)),
            NET2: Load(back, _classifier(back, tuple(boundary)))}


def _classifier(net: nn.Module, shape: tuple[int, ...]) -> Forward:
    def forward(count: int, device: torch.device) -> Tensor:
        labels = torch.zeros(count, dtype=torch.long, device=device)
        return functional.cross_entropy(net(torch.randn(count, *shape, device=device)), labels)
    return forward


def _front(part: Part, shape: tuple[int, ...]) -> Forward:
    def forward(count: int, device: torch.device) -> Tensor:
        x = part.tail(part(torch.randn(count, *shape, device=device)))
        return losses.euclidean(x, torch.randn_like(x))
    return forward


def weight_bytes(net: nn.Module) -> int:
    """Bytes of all weights with their gradients and momentum, and of the buffers."""
    weights = sum(weight.nbytes for weight in net.parameters())
    return COPIES * weights + sum(buffer.nbytes for buffer in net.buffers())


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
        # The address of the storage itself, since that of its data is 0 on the meta device.
        storages[storage._cdata] = storage.nbytes()
        return tensor       # the graph keeps it, so no address is used twice

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(count, device)
    return sum(storages.values())


def largest_batch(load: Load, device: torch.device, limit: int = 2**20) -> int:
    """The largest batch that can be trained on a GPU, by doubling and bisection.

    Each is tried: forward and backward pass, and an update with momentum.
    Raises UserError if not even one image fits.
    """
    sgd = torch.optim.SGD(load.net.parameters(), lr=0.0, momentum=MOMENTUM)

    def fits(count: int) -> bool:
        sgd.zero_grad()
        try:
            load.forward(count, device).backward()
            sgd.step()
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
