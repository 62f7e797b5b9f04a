"""The dual net beside the single net: images per second, and where the time of each role goes.

Each way is a real training of `iterations` iterations; every line of its metrics but the first
(which warms up) is one repeat.  The bound is what no schedule of two processes can beat: the time
of the single net over that of the slower half, both on the same number of threads.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dualnet.errors import UserError
from dualnet.run import Run

LINES = 6           # of metrics per training; the first is not counted
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Speed:
    """What one way of training reached.

    images_per_s  one figure per repeat
    wait_share    role -> share of the time it waited for its peer, 0-1, one figure per repeat
    """

    way: str
    images_per_s: list[float]
    wait_share: Mapping[str, list[float]]

    def busy_s(self, role: str, batch_size: int) -> float:
        """Seconds of work per iteration of `role`, median over the repeats."""
        pairs = zip(self.images_per_s, self.wait_share[role], strict=True)
        return median(batch_size / rate * (1 - share) for rate, share in pairs)


def ways(micro_batches: Sequence[int]) -> dict[str, list[str]]:
    """Name -> words of the command, for all ways that are compared on one thread per process."""
    dual = ["train", "dual", "--threads", "1", "--schedule"]
    return {"single": ["train", "single", "--threads", "1"],
            "single, all cores": ["train", "single"],
            "lockstep": [*dual, "lockstep"],
            **{f"pipelined, M = {number}": [*dual, "pipelined", "--micro-batches", str(number)]
               for number in micro_batches},
            "async": [*dual, "async"]}


def measure(way: str, words: Sequence[str], settings: Sequence[str], iterations: int) -> Speed:
    """Train once, in processes of their own, and read their metrics.

    settings  further words of the command: --net, --batch-size, ...
    Raises UserError with the last words of a command that fails.
    """
    every = max(1, iterations // LINES)
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-") as scratch:
        folder = Path(scratch, "run")
        command = [sys.executable, "-m", "dualnet", *words, *settings, "--quiet", "--data",
                   "shapes", "--iterations", str(every * LINES), "--log-every", str(every),
                   "--checkpoint-every", "0", "--out", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise UserError(f"{' '.join(command[1:])} failed: {last[0]}")
        return _speed(way, Run(folder))


def _speed(way: str, run: Run) -> Speed:
    lines = {role: [line for line in run.metrics(role) if line["split"] == "train"][1:]
             for role in run.roles}
    last = list(lines.values())[-1]         # of net2 it is the end of the iteration
    return Speed(way, [line["images_per_s"] for line in last],
                 {role: [line["wait_share"] for line in its] for role, its in lines.items()})


def bound(single: Speed, lockstep: Speed, batch_size: int) -> float:
    """How many times faster than the single net two processes can be at best."""
    slower = max(lockstep.busy_s(role, batch_size) for role in lockstep.wait_share)
    return batch_size / median(single.images_per_s) / slower
