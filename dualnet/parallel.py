"""Several processes that train one net on shares of each batch, as torchrun starts them.

Each process is a rank of torch.distributed; rank 0 writes the run folder and tests the net.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dualnet.errors import UserError
from shared_fs import PeerLost


@dataclass(frozen=True)
class World:
    """This process among all.

    rank, size              among those of all machines
    local_rank, local_size  among those of this machine
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def role(self) -> str:
        """A name for this process on its machine."""
        return f"rank{self.local_rank}"

    @property
    def roles(self) -> list[str]:
        """The names of all processes of this machine."""
        return [f"rank{number}" for number in range(self.local_size)]

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over all processes of each value, the same in each of them."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return (total / self.size).tolist()

    def bytes_of_mean(self, net: nn.Module) -> int:
        """What all processes together send for the mean gradient of one backward pass, in bytes: by
        a ring, 2 (size - 1) gradients (Patarasuk and Yuan 2009)."""
        gradient = sum(each.numel() * each.element_size() for each in net.parameters())
        return 2 * (self.size - 1) * gradient

    def share(self, value: Any) -> Any:
        """The `value` of rank 0."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def send(self, rank: int, tensor: Tensor) -> None:
        """Hand `tensor`, on the CPU, to another process.  Raises PeerLost if that has ended."""
        with _naming(rank):
            dist.send(tensor, rank)

    def receive(self, rank: int, tensor: Tensor) -> None:
        """Fill `tensor`, on the CPU, with the next one from another process.

        Raises PeerLost if that has ended or is silent.
        """
        with _naming(rank):
            dist.recv(tensor, rank)

    def parallel(self, net: nn.Module, device: torch.device, *, skips: bool) -> nn.Module:
        """`net`, whose gradients become means over all processes during the backward pass.

        skips  whether there are iterations in which some weights get no gradient
        The statistics of batch normalisation stay those of each process.
        """
        if self.size == 1:
            return net
        with warnings.catch_warnings():     # newer versions of torch have another name for it
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                net, [device] if device.type == "cuda" else None, broadcast_buffers=False,
                find_unused_parameters=skips)


def world_of() -> World:
    """The process that torchrun has made of this one; the only one without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = [os.environ.get(name) for name in names]
    return World(*(int(number) for number in found if number)) if all(found) else World()


@contextmanager
def joined(world: World, device: torch.device, timeout_s: float) -> Iterator[None]:
    """Within the block the processes of `world` can reach each other.

    Raises UserError if GPUs are too few, PeerLost if another process ends or is silent for
    `timeout_s` seconds.
    """
    if world.size == 1:
        yield
        return
    if device.type == "cuda":
        if world.local_size > torch.cuda.device_count():
            raise UserError(f"{world.local_size} processes need as many GPUs, and this machine has "
                            f"{torch.cuda.device_count()}; start fewer, or take --device cpu")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        yield
    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        raise PeerLost(f"another process of the {world.size} has ended or is silent: rank "
                       f"{world.rank} got '{first_sentence(error)}'; run the same command "
                       "again to resume") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _naming(rank: int) -> Iterator[None]:
    """Within the block, a connection that fails says to whom."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        raise PeerLost(f"the process of rank {rank} has ended or is silent "
                       f"('{first_sentence(error)}')") from None


def is_of_connection(error: RuntimeError) -> bool:
    """Whether another process is the cause: gloo raises a plain RuntimeError that begins with the
    place in its source."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def first_sentence(error: RuntimeError) -> str:
    """What torch says of a lost connection, without the place in its source and the advice."""
    line = str(error).splitlines()[0].partition(". This is typically")[0]
    return re.sub(r"^\[.*?\.cc:\d+\] ", "", line)
