"""Look at an exchange from outside: who takes part, how far they are, who is gone.

Nothing is written and no lock is taken, so anybody who may read the folder can look at any time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StorageError
from .peer_text import all_printable, printable
from .process import this_process
from .profile import detect
from .records import Hello, read_hellos, read_run
from .status import BEAT_S, Status, StatusReader, block_name
from .storage import Storage
from .waiting import wait_for

# A role of another host that is alive rewrites its block at least once in this time.
WATCH_S = 3 * BEAT_S


@dataclass(frozen=True)
class Observation:
    """One role as it looks from outside.

    state  one of the states of its status block; or "absent" (it has not said hello), "killed"
           (its process is gone without a word), "silent" (no heartbeat from another host)
    hello  who it is; None if absent
    """

    role: str
    state: str
    hello: Hello | None
    status: Status | None

    @property
    def info(self) -> dict[str, Any]:
        """What it last reported; its texts are printable."""
        return dict(all_printable(self.status.info)) if self.status else {}

    @property
    def who(self) -> str:
        """Its process: "pid 4711 on node7"; empty if it is absent."""
        if self.hello is None:
            return ""
        return f"pid {self.hello.process.pid} on {printable(self.hello.process.host)}"

    @property
    def error(self) -> str:
        """Why it failed, as one printable line; empty if it did not."""
        return printable(self.status.error) if self.status else ""


def is_exchange(folder: Path | str) -> bool:
    """Whether a role has ever said hello in `folder`."""
    return (Path(folder) / "hello").is_dir()


def observe(folder: Path | str) -> list[Observation]:
    """All roles of the exchange in `folder`, the leader first.

    Takes up to 6 s for a role of another host, to see whether its heart beats.
    Raises StorageError if there is no exchange.
    """
    if not is_exchange(folder):
        raise StorageError(f"{folder}: no role has ever said hello here; name an exchange folder")
    storage = Storage(folder)
    try:
        present = [name.removesuffix(".json") for name in storage.listing("hello")]
        hellos = read_hellos(storage, present)
        known = [read_run(storage), *(hello.agreement for hello in hellos.values())]
        roles = next((found["roles"] for found in known if found.get("roles")), sorted(present))
        return [_look(storage, role, hellos.get(role)) for role in roles]
    finally:
        storage.shut()


def _look(storage: Storage, role: str, hello: Hello | None) -> Observation:
    if hello is None:
        return Observation(role, "absent", None, None)
    direct = detect(storage.root, hello.profile).direct_status
    reader = StatusReader(storage, role, hello.incarnation, direct=direct)
    try:
        status = reader.poll()
        state = status.state if status else "starting"
        if state == "over":
            state = "done"  # the difference matters to the other roles only
        if state in ("starting", "running"):
            here = this_process()
            if hello.process.has_exited(here):
                state = "killed"
            elif hello.process.boot_id != here.boot_id:
                status, state = _listen(storage, reader, status, state)
        return Observation(role, state, hello, status)
    finally:
        reader.close()


def _listen(storage: Storage, reader: StatusReader, status: Status | None,
            state: str) -> tuple[Status | None, str]:
    """Wait for a heartbeat of a process that this host cannot see."""
    give_up = storage.monotonic() + WATCH_S

    def beat() -> tuple[Status | None, str] | None:
        news = reader.poll()
        if news is not None:
            return news, news.state
        return (status, "silent") if storage.monotonic() >= give_up else None

    return wait_for(beat, lambda: f"a heartbeat in {block_name('*')}", timeout_s=2 * WATCH_S,
                    longest_sleep_s=0.05, clock=storage)
