"""Which process a role is, so that another process of the same host can see it end."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one with the same pid.

    boot_id        of the running kernel: equal means the same host and no reboot between
    pid_namespace  pids can be compared only inside one (containers share a boot_id)
    start_token    start time of the process in clock ticks, from /proc/<pid>/stat
    All three are "" where /proc does not tell.
    """

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    start_token: str

    def has_exited(self, observer: "Process") -> bool:
        """True if `observer` can tell that this process is gone; False if alive or not tellable."""
        here = (observer.boot_id, observer.pid_namespace)
        if not self.start_token or "" in here or (self.boot_id, self.pid_namespace) != here:
            return False
        return _start_token(self.pid) != self.start_token


def this_process() -> Process:
    """The calling process."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    pid = os.getpid()
    return Process(pid, platform.node(), _boot_id(), namespace, _start_token(pid))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _start_token(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat, "" if there is no such process or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    # The second field is the command in parentheses and may hold spaces and parentheses itself.
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]
