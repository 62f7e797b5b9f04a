"""train resnet with its switches beside the plain training: ratios within one run.

Ways that differ in what a step computes take turns step by step in this process, so that whatever
else slows the machine slows all of them.  Several processes are real trainings under torchrun, in
every round anew beside that of one process; each process has one thread and the same batch.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dualnet import machine
from dualnet.bench.random_images import CLASSES, SHAPE, dataset, images
from dualnet.bench.results import Row
from dualnet.data import arrays
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net
from dualnet.launcher import complete
from dualnet.methods.resnet.settings import RESNET, ResnetConfig
from dualnet.methods.resnet.training import Resnet
from dualnet.run import Run
from dualnet.session import batches_of

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
        seen = iterations * settings.batch_size
        yield [{"way": way, "base": BASELINE, "images_per_s": seen / seconds[way],
                "blocks": blocks[way]} for way in steps]


def _steps(settings: ResnetConfig, count: int) -> Iterator[float]:
    """Train on random images; gives the share of the blocks that each step computed."""
    settings = settings.replace(iterations=count, log_every=count + 1, lr=1e-3)
    device = machine.prepare(settings, RESNET, (RESNET,))
    method = Resnet(settings, build_net(settings, SHAPE, CLASSES),
                    batches_of(dataset(BATCHES * settings.batch_size), settings), device)
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
        arrays.save(folder, images(BATCHES * processes * settings.batch_size), images(CLASSES))
        for _ in range(rounds):
            yield [_train(settings, count, iterations, folder) for count in (1, processes)]


def _train(settings: ResnetConfig, processes: int, iterations: int, folder: Path) -> Row:
    """One training; images per second from the end of its first line to the end of its last."""
    every, batch = max(1, iterations // (LINES - 1)), processes * settings.batch_size
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as scratch:
        run = Run(Path(scratch, "run"))
        words = ["train", RESNET, "--net", settings.net, "--batch-size", str(batch), "--threads",
                 "1", "--device", settings.device, "--data", "arrays", "--data-dir", str(folder),
                 "--iterations", str(every * LINES), "--log-every", str(every),
                 "--checkpoint-every", "0", "--quiet", "--out", str(run.folder)]
        if failure := complete(words, TIMEOUT_S, processes):
            raise UserError(f"dualnet {' '.join(words)} in {processes} processes failed: {failure}")
        lines = [line for line in run.metrics(RESNET) if line["split"] == "train"]
        seen = (lines[-1]["step"] - lines[0]["step"]) * batch
        way = ONE if processes == 1 else f"{processes} processes"
        return {"way": way, "base": ONE,
                "images_per_s": seen / (lines[-1]["time_s"] - lines[0]["time_s"])}
