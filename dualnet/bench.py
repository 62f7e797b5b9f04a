"""Measure the exchange: one message from publish to read, beside memcpy and np.save + np.load."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from shared_fs import Exchange

CHANNELS = {"payload": ("net1", "net2"), "reply": ("net2", "net1")}
WARM_UP = 10


def exchange(folder: Path, num_bytes: int, count: int) -> dict[str, list[float]]:
    """Seconds of `count` messages of `num_bytes` each, by way: exchange, memcpy, save_load.

    exchange   publish, announce, notice and read, between two processes, from before `send` to
               after `recv` (one clock serves all processes of a machine)
    memcpy     two copies in memory, what writing and reading must cost at least
    save_load  np.save to a file in `folder` and np.load of it, in one process
    """
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-", dir=folder) as scratch:
        return {"exchange": _exchange(Path(scratch, "exchange"), num_bytes, count),
                **_in_one_process(Path(scratch, "plain.npy"), num_bytes, count)}


def _exchange(folder: Path, num_bytes: int, count: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    times, child_times = context.Pipe(duplex=False)
    receiver = context.Process(target=_receive, args=(folder, num_bytes, count, child_times))
    receiver.start()
    try:
        _send(folder, num_bytes, count)
        return times.recv()
    finally:
        receiver.join(60)


def _in_one_process(path: Path, num_bytes: int, count: int) -> dict[str, list[float]]:
    payload = np.random.default_rng(0).integers(0, 255, num_bytes, dtype=np.uint8)
    target, copy = np.empty_like(payload), np.empty_like(payload)

    def memcpy() -> None:
        np.copyto(copy, payload)
        np.copyto(target, copy)

    def save_load() -> None:
        np.save(path, payload)
        np.load(path)

    return {"memcpy": _timed(memcpy, count), "save_load": _timed(save_load, count)}


def _timed(action: Callable[[], None], count: int) -> list[float]:
    times = []
    for _ in range(count + WARM_UP):
        started = time.monotonic()
        action()
        times.append(time.monotonic() - started)
    return times[WARM_UP:]


def _send(folder: Path, num_bytes: int, count: int) -> None:
    """Send one message at a time, the time of sending in its first eight bytes."""
    payload = np.random.default_rng(0).integers(0, 255, num_bytes, dtype=np.uint8)
    reply = np.empty(1)
    with Exchange(folder, "net1", channels=CHANNELS) as link:
        for number in range(count + WARM_UP):
            payload[:8].view(np.float64)[0] = time.monotonic()
            link.send("payload", number, payload)
            link.recv("reply", number, reply)


def _receive(folder: Path, num_bytes: int, count: int, times: object) -> None:
    payload, taken = np.empty(num_bytes, dtype=np.uint8), []
    with Exchange(folder, "net2", channels=CHANNELS) as link:
        for number in range(count + WARM_UP):
            link.recv("payload", number, payload)
            taken.append(time.monotonic() - payload[:8].view(np.float64)[0])
            link.send("reply", number, np.zeros(1))
    times.send(taken[WARM_UP:])  # type: ignore[attr-defined]


def ratios(found: dict[str, list[float]]) -> dict[str, float]:
    """Median of the exchange divided by the median of each other way."""
    middle = median(found["exchange"])
    return {name: middle / median(times) for name, times in found.items() if name != "exchange"}
