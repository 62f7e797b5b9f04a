"""One message from one process to another: our two transports beside the ways one would compare.

    memcpy   two copies in memory, what writing and reading must cost at least
    mapped   an exchange through mapped slots          rename   an exchange through renamed files
    gloo     torch.distributed send and recv over loopback
    channel  what the roles have with --backend gloo: a header before each message, which says what
             it is and is checked, as are the numbers for being finite
    save     np.save to a file and np.load of it, in one process

Between processes a message takes from before `send` to after `recv`; one clock serves all processes
of a machine.  One message is on its way at a time, and its receiver waits for it already.

From announcement to notice: from before `send` until `recv` stops waiting.  It holds the copy into
the slot or file, which comes before the announcement, but not the copy out of it.  So it is an
upper limit of what the announcement takes, and told only of messages so small that their copy
hardly counts: 64 kB into a slot take 1 or 2 microseconds.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np

from dualnet.rendezvous import free_port
from shared_fs import Exchange
from shared_fs.profile import kind_of

WAYS = ("memcpy", "mapped", "rename", "gloo", "channel", "save")
AT_PORT = ("gloo", "channel")
IN_FOLDER = ("mapped", "rename", "save")    # the others do without
LARGE = 2**24       # bytes of messages of which fewer are sent
SMALL = 2**16       # bytes up to which the copy hardly counts beside the announcement
CHANNELS = {"payload": ("net1", "net2"), "reply": ("net2", "net1")}
WARM_UP = 5
PROCESS_TIMEOUT_S = 120.0

Array = np.ndarray[Any, Any]
Row = dict[str, Any]


class Times(NamedTuple):
    """Seconds of each message, and from its announcement to its notice, where there is one."""

    message: list[float]
    notice: list[float]


class Link(Protocol):
    """Two ends that carry arrays of one size, and an empty reply."""

    def send(self, number: int, array: Array) -> None: ...

    def recv(self, number: int, out: Array) -> None: ...

    def waited_s(self) -> float | None:
        """Seconds that `recv` has waited so far, if the link knows."""
        ...

    def close(self) -> None: ...


def count_of(count: int, num_bytes: int) -> int:
    """How many of `count` messages are sent where they have `num_bytes`: fewer of large ones."""
    return min(count, max(WARM_UP, count * LARGE // num_bytes))


def measure(way: str, folder: Path, num_bytes: int, count: int) -> Times:
    """Times of `count` messages of `num_bytes` (a multiple of 8) by one of WAYS, some warmed up."""
    if way == "memcpy":
        return Times(_timed(_copier(num_bytes), count), [])
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-", dir=folder) as scratch:
        if way == "save":
            return Times(_timed(_saver(Path(scratch, "plain.npy"), num_bytes), count), [])
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


def _between_processes(way: str, scratch: str, num_bytes: int, count: int) -> Times:
    context = multiprocessing.get_context("spawn")
    times, child_times = context.Pipe(duplex=False)
    where = str(free_port()) if way in AT_PORT else scratch
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
        found: Times = times.recv()
        receiver.join(PROCESS_TIMEOUT_S)
        return found
    finally:
        receiver.terminate()        # nothing, where it has ended
        receiver.join()


def _receive(way: str, where: str, num_bytes: int, count: int, times: Connection) -> None:
    link, out = _link(way, where, 1), np.empty(num_bytes // 8)
    message, notice = [], []
    for number in range(count + WARM_UP):
        waited, started = link.waited_s(), time.monotonic()
        link.recv(number, out)
        message.append(time.monotonic() - out[0])
        if waited is not None and num_bytes <= SMALL:
            notice.append(started + (link.waited_s() or 0.0) - waited - out[0])
        link.send(number, np.zeros(1))
    link.close()
    times.send(Times(message[WARM_UP:], notice[WARM_UP:]))


def _link(way: str, where: str, rank: int) -> Link:
    if way == "channel":
        return _Channel(int(where), rank)
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

    def waited_s(self) -> float | None:
        return self._exchange.wait_s

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

    def waited_s(self) -> float | None:
        return None

    def close(self) -> None:
        self._group.destroy_process_group()


class _Channel:
    """Both ends of a group of two over loopback; a message is read where it arrives, as the roles
    do it, and only its first number is told."""

    def __init__(self, port: int, rank: int) -> None:
        import torch

        from dualnet.group import Group
        from dualnet.rendezvous import Meeting

        torch.set_num_threads(1)        # for the copies; numpy's have one, too
        self._out, self._in = ("payload", "reply") if rank == 0 else ("reply", "payload")
        self._group = Group(
            Meeting("127.0.0.1", port), ("net1", "net2")[rank], backend="gloo",
            device=torch.device("cpu"), channels=CHANNELS, roles=("net1", "net2"), agreement={},
            window=2, nonfinite="error", home="", held=list, took_part=0,
            join_timeout_s=PROCESS_TIMEOUT_S, peer_timeout_s=PROCESS_TIMEOUT_S).__enter__()

    def send(self, number: int, array: Array) -> None:
        import torch

        self._group.channel.send(self._out, number, torch.from_numpy(array))

    def recv(self, number: int, out: Array) -> None:
        import torch

        out[0] = self._group.channel.recv(self._in, number, out.shape, torch.float64)[0]

    def waited_s(self) -> float | None:
        return None     # it waits until the whole message is there

    def close(self) -> None:
        self._group.finish()
        self._group.__exit__(None, None, None)


class Cell(NamedTuple):
    """What is measured once a round: a way, a size, and a folder for those that use one."""

    way: str
    size: int
    folder: Path | None


def cells(folders: Sequence[Path], size: int) -> list[Cell]:
    """Everything that is compared at one size."""
    return [Cell(way, size, folder) for way in WAYS
            for folder in (folders if way in IN_FOLDER else [None])]


def rows(folders: Sequence[Path], sizes: Sequence[int], count: int,
         rounds: int) -> Iterator[list[Row]]:
    """Measure size by size, each way and folder in each round; the rows of a size at a time.

    A row has the median of each round: `seconds` of a message, and `notice_s`.
    """
    for size in sizes:
        found: dict[Cell, list[Times]] = {cell: [] for cell in cells(folders, size)}
        for _ in range(rounds):
            for cell, times in found.items():
                times.append(measure(cell.way, cell.folder or folders[0], size,
                                     count_of(count, size)))
        yield [_row(cell, times) for cell, times in found.items()]


def _row(cell: Cell, rounds: Sequence[Times]) -> Row:
    folder = None if cell.folder is None else str(cell.folder)
    return {"way": cell.way, "size": cell.size, "folder": folder,
            "file_system": None if cell.folder is None else kind_of(cell.folder),
            "count": len(rounds[0].message),
            "seconds": [median(times.message) for times in rounds],
            "notice_s": [median(times.notice) for times in rounds if times.notice]}


def _payload(num_bytes: int) -> Array:
    return np.random.default_rng(0).standard_normal(num_bytes // 8)
