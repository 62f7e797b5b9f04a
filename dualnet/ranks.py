"""What the processes that torchrun starts do beside the first one."""

import math
from collections.abc import Iterator

from dualnet.errors import Diverged
from dualnet.methods.protocol import Record
from dualnet.stopping import noted
from shared_fs import PeerLost


def train_through(records: Iterator[Record], who: str) -> None:
    """Train to the end, for somebody else who writes down what came of it.

    Raises Diverged, which begins with `who`, when a loss is not finite.
    """
    for record in records:
        if not math.isfinite(record["loss"]):
            raise Diverged(f"{who}: the loss of iteration {record['step'] + 1} is "
                           f"{record['loss']}")


def help_rank_0(records: Iterator[Record], rank: int) -> None:
    """Train as another rank than 0, which needs no run folder.

    It is rank 0 that stops all: a request to stop is noted here, and counts when rank 0 has left.
    Raises Diverged, Stopped, or PeerLost if rank 0 ends early.
    """
    with noted() as stop:
        try:
            train_through(records, f"rank {rank} ends as rank 0 does")
        except (RuntimeError, PeerLost):
            stop.check("")
            raise
