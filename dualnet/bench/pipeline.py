"""The dual net beside the single net: images per second, and where the time of each role goes.

Each way is a real training on random images, in every round anew, so that a machine that changes
its speed favours none.  Of its two lines of metrics the first warms up, and the second counts.

Each half is also timed alone: the same code of the role in one process, fed from memory, with no
exchange and nobody to wait for.  That gives the bound, what no schedule of two processes can beat:
the time of the single net over that of the slower half, all on one thread; and what a role spends
beyond it and beyond waiting: the exchange, and two processes in one memory.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualnet import machine, session
from dualnet.bench.random_images import CLASSES, images
from dualnet.bench.results import OVER_GLOO, Row
from dualnet.data import arrays
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net
from dualnet.launcher import complete
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.settings import DualConfig
from dualnet.run import Run

BATCHES = 4         # different ones
WARM_UP = 2         # iterations of a half alone
LR = 1e-6           # of a half alone, which learns from random numbers
TIMEOUT_S = 3600.0
SINGLE, ALL_CORES = "single", "single, all cores"


def dual_ways(micro_batches: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Name -> settings of the ways to train the dual net."""
    return {"lockstep": {"schedule": "lockstep"},
            **{f"pipelined, M = {number}": {"schedule": "pipelined", "micro_batches": number}
               for number in micro_batches},
            "async": {"schedule": "async"}}


def gloo_ways(micro_batches: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Those of the dual ways that are also trained over gloo: without and with the most messages
    on their way at a time."""
    ways = dual_ways(micro_batches)
    return {OVER_GLOO + way: {**ways[way], "backend": "gloo"}
            for way in ("lockstep", f"pipelined, M = {max(micro_batches)}")}


def rows(settings: DualConfig, micro_batches: Sequence[int], iterations: int, rounds: int,
         folder: Path) -> Iterator[tuple[int, Row]]:
    """Measure everything once per round; yields (round, a row with what it measured) at once.

    settings    net, cut and batch size
    iterations  of each training, after as many that warm up
    folder      of data, runs and messages, removed again
    A row has `way`, `images_per_s`, and for dual ways role -> `wait_share` and `alone_s`, seconds
    per iteration of that half alone.  Raises UserError with the last words of a command that fails.
    """
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-", dir=folder) as scratch:
        settings = settings.replace(data="arrays", data_dir=scratch, threads=1, eval_every=0)
        _write_images(Path(scratch), settings.batch_size)
        ways = dual_ways(micro_batches)
        for number in range(rounds):
            yield number, _train(SINGLE, ["single", "--threads", "1"], settings, iterations)
            yield number, _train(ALL_CORES, ["single"], settings, iterations)
            alone = {role: _alone(role, settings, ways, iterations) for role in settings.roles}
            for way, changes in (ways | gloo_ways(micro_batches)).items():
                words = ["dual", "--threads", "1", "--cut", settings.cut, *_words(changes)]
                row, same = _train(way, words, settings, iterations), way.removeprefix(OVER_GLOO)
                yield number, row | {"alone_s": {role: its[same] for role, its in alone.items()}}


def _write_images(folder: Path, batch_size: int) -> None:
    count = max(batch_size, CLASSES)
    arrays.save(folder, images(BATCHES * count), images(count))


def _words(changes: Mapping[str, Any]) -> list[str]:
    return [word for name, value in changes.items()
            for word in (f"--{name.replace('_', '-')}", str(value))]


def _train(way: str, words: Sequence[str], settings: DualConfig, iterations: int) -> Row:
    """Train once, in processes of their own, and read their metrics."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=settings.data_dir) as scratch:
        folder = Path(scratch, "run")
        words = ["train", *words, "--net", settings.net, "--batch-size", str(settings.batch_size),
                 "--quiet", "--data", "arrays", "--data-dir", settings.data_dir, "--iterations",
                 str(2 * iterations), "--log-every", str(iterations), "--checkpoint-every", "0",
                 "--out", str(folder)]
        if failure := complete(words, TIMEOUT_S):
            raise UserError(f"dualnet {' '.join(words)} failed: {failure}")
        return {"way": way, **_figures(Run(folder))}


def _figures(run: Run) -> Row:
    """Images per second, and wait share of each role, from the second line of metrics."""
    lines = {role: [line for line in run.metrics(role) if line["split"] == "train"][1]
             for role in run.roles}
    last = list(lines.values())[-1]         # net2's is the end of the iteration
    return {"images_per_s": last["images_per_s"],
            "wait_share": {role: line["wait_share"] for role, line in lines.items()
                           if role != SINGLE}}


# -- one half alone --------------------------------------------------------------------------------

class Fed:
    """A channel on which every message is there at once, and random; what is sent is dropped."""

    wait_s, bytes_sent, generation = 0.0, 0, 1

    def __init__(self) -> None:
        self._tensors: dict[tuple[int, ...], Tensor] = {}

    def send(self, name: str, sequence: int, tensor: Tensor) -> None:
        pass

    def flush(self) -> None:
        pass

    def recv(self, name: str, sequence: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if shape not in self._tensors:
            self._tensors[shape] = torch.rand(shape, dtype=dtype)
        return self._tensors[shape]

    def report(self, **info: Any) -> None:
        pass


def _alone(role: str, settings: DualConfig, ways: Mapping[str, Mapping[str, Any]],
           iterations: int) -> dict[str, float]:
    """Way -> seconds per iteration of `role` with nobody to wait for, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return {way: pool.apply(alone_s, (role, settings.replace(**changes), iterations))
                for way, changes in ways.items()}


def alone_s(role: str, settings: DualConfig, iterations: int) -> float:
    """Seconds per iteration of one role, fed from memory.

    One more iteration is planned than is made, since the last one is logged, and diagnosed.
    """
    planned = WARM_UP + iterations + 1
    settings = settings.replace(iterations=planned, log_every=planned, lr=LR).resolved()
    device = machine.prepare(settings, role, settings.roles)
    dataset, batches = session.load_data(settings)
    parts = build_parts(settings, build_net(settings, dataset.input_shape, dataset.num_classes))
    wires = describe_wires(parts, dataset.input_shape)
    method = build_role(role, settings, parts, wires, batches, Fed(), device)
    steps = method.steps()
    for _ in range(WARM_UP):
        next(steps)
    started = time.monotonic()
    for _ in range(iterations):
        next(steps)
    return (time.monotonic() - started) / iterations
