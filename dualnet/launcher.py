"""Start the roles of a run as processes, and end all of them together."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from dualnet.run import Run

# What a role has to finish its iteration and write a checkpoint before it is killed.
GRACE_S = 60.0
# The same when this process itself leaves in a hurry, upon a second signal or an error.
HURRY_S = 5.0
PEER_LOST = 75


class Failure(NamedTuple):
    """The role that failed first, its exit code and why in a sentence.

    The code of a role that signal n has ended is 128 + n, but 75 (run the same command again) for
    SIGKILL: what a batch system or the kernel sends when memory or time is up.
    """

    role: str
    code: int
    reason: str


def complete(words: Sequence[str], timeout_s: float, processes: int = 1) -> str | None:
    """Run `python -m dualnet WORDS` to its end, several processes under torchrun.

    Returns None, or the last words of a command that failed; raises subprocess.TimeoutExpired.
    """
    torchrun = [] if processes == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([sys.executable, *torchrun, "-m", "dualnet", *words],
                          capture_output=True, text=True, timeout=timeout_s)
    return None if done.returncode == 0 else last_words(done.stderr)


def last_words(text: str) -> str:
    """The line of a failed command's messages that says most: its last sentence to the user, or
    else the last error of a traceback, which may be that of another process."""
    for pattern in (r"^(?:\[\w+\]:)?dualnet: .*", r"^(?:\[\w+\]:)?[\w.]*(?:Error|Exception)\b.*"):
        if found := re.findall(pattern, text, re.MULTILINE):
            return str(found[-1])
    return "no message"


class Launcher:
    """Runs `python -m dualnet ARGUMENTS` once per role, each writing to its log.

    As a context manager it leaves no process behind.  Each role also ends when this process
    disappears, because its standard input, a pipe from here, closes then.

    at_once  how many roles may run at a time; the next starts when one has ended well.  None: all
    environment  variables that they get besides those of this process
    """

    def __init__(self, run: Run, arguments: Mapping[str, Sequence[str | Path]],
                 at_once: int | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._run, self._at_once = run, at_once or len(arguments)
        self._environment = environment or {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._waiting = dict(arguments)
        self._start_next()

    def _start_next(self) -> None:
        for role, words in list(self._waiting.items()):
            if len(self._running()) >= self._at_once or self.failure() is not None:
                break
            del self._waiting[role]
            with self._run.open_log(role) as log:
                # A session of its own: Ctrl-C reaches this process alone, which passes it on.
                self._processes[role] = subprocess.Popen(
                    [sys.executable, "-m", "dualnet", *map(str, words)],
                    stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, **self._environment})

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes.values() if process.poll() is None]

    @property
    def pids(self) -> dict[str, int]:
        """Role -> process."""
        return {role: process.pid for role, process in self._processes.items()}

    def wait(self, timeout_s: float) -> bool:
        """Wait until a role ends or the time is over, and start those that may run then; whether
        any role is still running."""
        if running := self._running():
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[0].wait(timeout_s)
        self._start_next()
        return bool(running)

    def failure(self) -> Failure | None:
        """The first failure so far; of two at once the cause, not the one that lost its peer."""
        codes = {role: process.poll() for role, process in self._processes.items()}
        failed = [self._describe(role, code) for role, code in codes.items() if code]
        return min(failed, key=lambda failure: failure.code == PEER_LOST, default=None)

    def _describe(self, role: str, code: int) -> Failure:
        log = self._run.log_path(role)
        if code < 0:
            name = signal.Signals(-code).name
            return Failure(role, PEER_LOST if -code == signal.SIGKILL else 128 - code,
                           f"dualnet: {role} was ended by {name}; its messages are in {log}")
        said = log.read_text(encoding="utf-8", errors="replace").rstrip()
        return Failure(role, code, said or f"dualnet: {role} ended with exit code {code}")

    def stop(self, request: int = signal.SIGTERM, grace_s: float = GRACE_S) -> None:
        """End what still runs: by the signal `request`, upon which a role in training writes a
        checkpoint, and by SIGKILL after `grace_s` seconds."""
        deadline = time.monotonic() + grace_s
        for number in (request, signal.SIGKILL):
            for process in self._processes.values():
                if process.poll() is None:
                    process.send_signal(number)
            for process in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.stop(grace_s=GRACE_S if kind is None else HURRY_S)
        for process in self._processes.values():
            if process.stdin:
                process.stdin.close()
