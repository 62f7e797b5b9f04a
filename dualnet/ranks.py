"""What the processes that torchrun starts do beside the first one."""

import math
from collections.abc import Iterator

from dualnet.errors import Diverged
from dualnet.methods.protocol import Record
from dualnet.stopping import noted
from shared_fs import PeerLost


def help_rank_0(records: Iterator[Record], rank: int) -> None:
    """Train as another rank than 0, which needs no run folder.

    It is rank 0 that stops all: a request to stop is noted here, and counts when rank 0 has left.
    Raises Diverged, Stopped, or PeerLost if rank 0 ends early.
    """
    with noted() as stop:
        try:
            for record in records:
                if not math.isfinite(record["loss"]):
                    raise Diverged(f"rank {rank} ends as rank 0 does: the loss of iteration "
                                   f"{record['step'] + 1} is {record['loss']}")
        except (RuntimeError, PeerLost):
            stop.check("")
            raise
