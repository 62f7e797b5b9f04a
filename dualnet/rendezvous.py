"""Where the roles of a group meet: a store of torch.distributed at MASTER_ADDR and MASTER_PORT.

torchrun keeps that store and names it to its processes.  Without torchrun the first role keeps it,
for as long as the run lasts, so nothing of an earlier run can be in it.
"""

import ipaddress
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from dualnet.errors import UserError
from shared_fs.waiting import wait_for

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

Answer = TypeVar("Answer")

PROBE_S = 2.0           # seconds that one try to connect may take
LONGEST_SLEEP_S = 0.05


@dataclass(frozen=True)
class Meeting:
    """Where the roles meet.

    attempt     0, or how often torchrun has started all roles again
    is_torchruns  whether torchrun keeps the store
    """

    host: str
    port: int
    attempt: int = 0
    is_torchruns: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def meeting_of_environment() -> Meeting:
    """What torchrun, a batch script or a user has set.  Raises UserError."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError("the roles meet at MASTER_ADDR and MASTER_PORT, expected a host and a port "
                        f"in the environment, found '{host}' and '{port}'; set both, to the "
                        "machine of net1 and a free port of it, or start the roles with torchrun")
    return Meeting(host, int(port), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
                   os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True")


def environment_here() -> dict[str, str]:
    """What to set for roles on this machine alone, which no other machine can reach."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
            "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def free_port() -> int:
    """A port of the loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class MeetingStore:
    """The store at which roles meet; every question to it has a deadline.

    torch itself waits without one for the answer to `add`, `set` and `check`: for a quarter of an
    hour after the network is cut, for ever while the process that keeps the store stands still.

    store      what torch's groups take; its own questions have no deadline
    timeout_s  of each question, seconds
    All raise torch's DistError.
    """

    def __init__(self, store: "Store", meeting: Meeting, timeout_s: float) -> None:
        self.store, self._meeting, self._timeout_s = store, meeting, timeout_s

    def add(self, key: str, amount: int) -> int:
        return self._ask(lambda: int(self.store.add(key, amount)))

    def set(self, key: str, value: str) -> None:
        self._ask(lambda: self.store.set(key, value))

    def check(self, keys: Sequence[str]) -> bool:
        return self._ask(lambda: bool(self.store.check(list(keys))))

    def get(self, key: str) -> bytes:
        return self._ask(lambda: bytes(self.store.get(key)))

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        from torch.distributed import DistNetworkError

        answer: Future[Answer] = Future()

        def ask() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        Thread(target=ask, daemon=True).start()     # left alone if it hangs: the role then ends
        try:
            return answer.result(self._timeout_s)
        except TimeoutError:
            raise DistNetworkError(f"no answer from {self._meeting} within {self._timeout_s:g} s"
                                   ) from None


def open_store(meeting: Meeting, leader: str, *, leads: bool, join_timeout_s: float,
               timeout_s: float) -> MeetingStore:
    """The store of this attempt, once it can be reached.

    leader     the role that keeps it without torchrun; `leads`: whether that is this one
    timeout_s  of each later question, seconds
    Raises UserError if this machine cannot listen there, WaitTimeout, torch's DistError.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    keeps, limit = leads and not meeting.is_torchruns, timedelta(seconds=timeout_s)
    if keeps:
        store = TCPStore(meeting.host, meeting.port, None, True, limit, wait_for_workers=False,
                         master_listen_fd=_listening(meeting).detach())
    else:
        wait_for(lambda: _is_reached(meeting), lambda: f"{leader} to listen at {meeting}: start it "
                 "with the same MASTER_ADDR and MASTER_PORT, and see that this machine reaches it",
                 timeout_s=join_timeout_s, longest_sleep_s=LONGEST_SLEEP_S, clock=time)
        store = TCPStore(meeting.host, meeting.port, None, False, limit, wait_for_workers=False)
    return MeetingStore(PrefixStore(f"dualnet/{meeting.attempt}", store), meeting, timeout_s)


def _listening(meeting: Meeting) -> socket.socket:
    """A socket at the address of the meeting; at all of this machine where that is a name, which
    may mean another address here than elsewhere."""
    host = "127.0.0.1" if meeting.host == "localhost" else meeting.host
    try:
        if not _is_number(host):
            both = socket.has_dualstack_ipv6()
            return socket.create_server(
                ("", meeting.port), family=socket.AF_INET6 if both else socket.AF_INET,
                dualstack_ipv6=both)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, meeting.port), family=family)
    except OSError as error:
        raise UserError(f"net1 cannot listen at {meeting} ({os.strerror(error.errno or 0)}); "
                        "MASTER_ADDR has to be an address of its machine, and MASTER_PORT a port "
                        "that nothing else uses") from None


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_reached(meeting: Meeting) -> bool | None:
    try:
        socket.create_connection((meeting.host, meeting.port), PROBE_S).close()
    except OSError:     # nobody listens yet, or the name is not known yet
        return None
    return True
