"""One message from one process to another: our two transports beside the ways one would compare.

    memcpy   two copies in memory, what writing and reading must cost at least
    mapped   an exchange through mapped slots          rename   an exchange through renamed files
    gloo     torch.distributed send and recv over loopback
    save     np.save to a file and np.load of it, in one process

Between processes a message takes from before `send` to after `recv`; one clock serves all processes
of a machine.  One message is on its way at a time.
"""

import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shared_fs import Exchange

WAYS = ("memcpy", "mapped", "rename", "gloo", "save")
CHANNELS = {"payload": ("net1", "net2"), "reply": ("net2", "net1")}
WARM_UP = 5
PROCESS_TIMEOUT_S = 120.0

Array = np.ndarray[Any, Any]


class Link(Protocol):
    """Two ends that carry arrays of one size, and an empty reply."""

    def send(self, number: int, array: Array) -> None: ...

    def recv(self, number: int, out: Array) -> None: ...

    def close(self) -> None: ...


def measure(way: str, folder: Path, num_bytes: int, count: int) -> list[float]:
    """Seconds of each of `count` messages of `num_bytes` (a multiple of 8) by one of WAYS."""
    if way == "memcpy":
        return _timed(_copier(num_bytes), count)
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-", dir=folder) as scratch:
        if way == "save":
            return _timed(_saver(Path(scratch, "plain.npy"), num_bytes), count)
        return _between_processes(way, scratch, num_bytes, count)


def _copier(num_bytes: int) -> Callable[[], None]:
    payload = _payload(num_bytes)
    copy, target = np.empty_like(payload), np.empty_like(payload)

    def memcpy() -> None:
        np.copyto(copy, payload)
        np.copyto(target, copy)

    return memcpy


def _saver(path: Path, num_bytes: int) -> Callable[[], None]:
    payload = _payload(num_bytes)

    def save_load() -> None:
        np.save(path, payload)
        np.load(path)

    return save_load


def _timed(action: Callable[[], None], count: int) -> list[float]:
    times = []
    for _ in range(count + WARM_UP):
        started = time.monotonic()
        action()
        times.append(time.monotonic() - started)
    return times[WARM_UP:]


def _between_processes(way: str, scratch: str, num_bytes: int, count: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    times, child_times = context.Pipe(duplex=False)
    where = scratch if way != "gloo" else str(_free_port())
    receiver = context.Process(target=_receive, args=(way, where, num_bytes, count, child_times))
    receiver.start()
    try:
        link, payload, reply = _link(way, where, 0), _payload(num_bytes), np.empty(1)
        for number in range(count + WARM_UP):
            payload[0] = time.monotonic()
            link.send(number, payload)
            link.recv(number, reply)
        link.close()
        if not times.poll(PROCESS_TIMEOUT_S):
            raise TimeoutError(f"no times from the receiver of {way} in {PROCESS_TIMEOUT_S:g} s")
        found: list[float] = times.recv()
        return found
    finally:
        receiver.join(PROCESS_TIMEOUT_S)


def _receive(way: str, where: str, num_bytes: int, count: int, times: Connection) -> None:
    link, out, taken = _link(way, where, 1), np.empty(num_bytes // 8), []
    for number in range(count + WARM_UP):
        link.recv(number, out)
        taken.append(time.monotonic() - out[0])
        link.send(number, np.zeros(1))
    link.close()
    times.send(taken[WARM_UP:])


def _link(way: str, where: str, rank: int) -> Link:
    return _Gloo(int(where), rank) if way == "gloo" else _Folder(way, Path(where), rank)


class _Folder:
    """An exchange; rank 0 sends payloads, rank 1 replies."""

    def __init__(self, transport: str, folder: Path, rank: int) -> None:
        self._out, self._in = ("payload", "reply") if rank == 0 else ("reply", "payload")
        self._exchange = Exchange(folder / "exchange", ("net1", "net2")[rank], channels=CHANNELS,
                                  transport=transport).open()  # type: ignore[arg-type]

    def send(self, number: int, array: Array) -> None:
        self._exchange.send(self._out, number, array)

    def recv(self, number: int, out: Array) -> None:
        self._exchange.recv(self._in, number, out)

    def close(self) -> None:
        self._exchange.close()


class _Gloo:
    """A process group of two over loopback."""

    def __init__(self, port: int, rank: int) -> None:
        import torch.distributed

        self._group, self._peer = torch.distributed, 1 - rank
        self._group.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank,
                                       world_size=2)

    def send(self, number: int, array: Array) -> None:
        import torch

        self._group.send(torch.from_numpy(array), self._peer)

    def recv(self, number: int, out: Array) -> None:
        import torch

        self._group.recv(torch.from_numpy(out), self._peer)

    def close(self) -> None:
        self._group.destroy_process_group()


def _payload(num_bytes: int) -> Array:
    return np.random.default_rng(0).standard_normal(num_bytes // 8)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
