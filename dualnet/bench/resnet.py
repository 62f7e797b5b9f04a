"""train resnet with its switches beside the plain training: ratios within one run.

Ways that differ in what a step computes take turns step by step in this process, so that whatever
else slows the machine slows all of them.  Several processes are real trainings under torchrun, in
every round anew beside that of one process; each process has one thread and the same batch.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dualnet import machine
from dualnet.bench.results import Row
from dualnet.data import arrays
from dualnet.data.dataset import Dataset
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net
from dualnet.launcher import last_words
from dualnet.methods.resnet.settings import RESNET, ResnetConfig
from dualnet.methods.resnet.training import Resnet
from dualnet.run import Run
from dualnet.session import batches_of

SHAPE, CLASSES = (3, 32, 32), 10
BATCHES = 4             # different ones
WARM = 3                # steps of each way before the first round
LINES = 3               # of metrics per training under torchrun; the first is not counted
TIMEOUT_S = 3600.0
BASELINE, ONE = "baseline", "1 process"

STEPS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "stochastic depth, uniform 0.5": {"stochastic_depth": "uniform", "survival": 0.5},
    "stochastic depth, linear to 0.5": {"stochastic_depth": "linear", "survival": 0.5},
    "pre-activated": {"preact": True},
    "channels last": {"channels_last": True}}


def step_rows(settings: ResnetConfig, iterations: int, rounds: int,
              ways: Mapping[str, Mapping[str, Any]] = STEPS) -> Iterator[list[Row]]:
    """Train in each of the ways, `iterations` steps in every round; yields the rows of a round.

    A row has `way`, `base`, the way it is compared with, `images_per_s` and `blocks`, the mean
    share of the blocks that were computed.  The skipped blocks are
    those of the steps of one long training, so rounds differ in them.
    """
    steps = {way: _steps(settings.replace(**changes).resolved(), iterations * rounds + WARM)
             for way, changes in ways.items()}
    for way_steps in steps.values():
        for _ in range(WARM):
            next(way_steps)
    for _ in range(rounds):
        seconds, blocks = dict.fromkeys(steps, 0.0), dict.fromkeys(steps, 0.0)
        for _ in range(iterations):
            for way, way_steps in steps.items():
                started = time.monotonic()
                blocks[way] += next(way_steps) / iterations
                seconds[way] += time.monotonic() - started
        images = iterations * settings.batch_size
        yield [{"way": way, "base": BASELINE, "images_per_s": images / seconds[way],
                "blocks": blocks[way]} for way in steps]


def _steps(settings: ResnetConfig, count: int) -> Iterator[float]:
    """Train on random images; gives the share of the blocks that each step computed."""
    settings = settings.replace(iterations=count, log_every=count + 1, lr=1e-3)
    device = machine.prepare(settings, RESNET, (RESNET,))
    images, labels = _images(BATCHES * settings.batch_size)
    names = tuple(str(number) for number in range(CLASSES))
    dataset = Dataset("random", names, images, labels, images[:CLASSES], labels[:CLASSES])
    method = Resnet(settings, build_net(settings, SHAPE, CLASSES), batches_of(dataset, settings),
                    device)
    blocks = method.facts()["blocks"]
    for record in method.steps():
        yield record.get("resnet/blocks", blocks) / blocks


def parallel_rows(settings: ResnetConfig, processes: int, iterations: int, rounds: int
                  ) -> Iterator[list[Row]]:
    """Train in one process and in several, each with its own `settings.batch_size` images.

    Yields the rows of a round: `way`, `base`, `images_per_s` of all processes together.  Raises
    UserError with the last words of a training that fails.
    """
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-") as scratch:
        folder = Path(scratch)
        arrays.save(folder, _images(BATCHES * processes * settings.batch_size), _images(CLASSES))
        for _ in range(rounds):
            yield [_train(settings, count, iterations, folder) for count in (1, processes)]


def _train(settings: ResnetConfig, processes: int, iterations: int, folder: Path) -> Row:
    """One training; images per second from the end of its first line to the end of its last."""
    every, batch = max(1, iterations // (LINES - 1)), processes * settings.batch_size
    launcher = [] if processes == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as scratch:
        run = Run(Path(scratch, "run"))
        command = [sys.executable, *launcher, "-m", "dualnet", "train", RESNET, "--net",
                   settings.net, "--batch-size", str(batch), "--threads", "1", "--device",
                   settings.device, "--data", "arrays", "--data-dir", str(folder), "--iterations",
                   str(every * LINES), "--log-every", str(every), "--checkpoint-every", "0",
                   "--quiet", "--out", str(run.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0:
            raise UserError(f"{' '.join(command[1:])} failed: {last_words(done.stderr)}")
        lines = [line for line in run.metrics(RESNET) if line["split"] == "train"]
        images = (lines[-1]["step"] - lines[0]["step"]) * batch
        way = ONE if processes == 1 else f"{processes} processes"
        return {"way": way, "base": ONE,
                "images_per_s": images / (lines[-1]["time_s"] - lines[0]["time_s"])}


def gather(measured: dict[str, Row], rows: list[Row]) -> None:
    """Add the rows of one round to those of their ways: a list for every figure."""
    for row in rows:
        known = measured.setdefault(row["way"], {"way": row["way"], "base": row["base"]})
        for name in row.keys() - known.keys():
            known[name] = []
        for name in row.keys() - {"way", "base"}:
            known[name].append(row[name])


def _images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 [N, C, H, W] and their labels."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, *SHAPE), dtype=np.uint8), np.arange(count) % CLASSES
