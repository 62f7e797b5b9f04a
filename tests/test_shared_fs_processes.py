"""Who a process is; and `Role`, with which the other tests run a function as a real process."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from shared_fs.process import this_process

# Each process is forked from a server that has imported the slow modules once, and nothing else.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["numpy", "pytest", "shared_fs"])


class Role:
    """A function of a test module, running in a process of its own; ended with the `with` block.

    The function gets `say`, with which it sends objects to the test, and then its arguments.
    What it raises is re-raised by `result`.
    """

    def __init__(self, function, *arguments):
        self._mine, theirs = SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=_run, args=(theirs, function, arguments), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self):
        return self.process.pid

    def hear(self, timeout_s=30):
        """The next object the process says; EOFError if it ended without a word."""
        assert self._mine.poll(timeout_s), f"pid {self.pid} said nothing for {timeout_s} s"
        kind, value = self._mine.recv()
        if kind == "error":
            raise value
        return value

    def result(self, timeout_s=30):
        """What the function returned, after the process has ended."""
        value = self.hear(timeout_s)
        self.process.join(timeout_s)
        assert self.process.exitcode == 0
        return value

    def error(self, timeout_s=30):
        """What the function raised, after the process has ended."""
        with pytest.raises(Exception) as caught:
            self.hear(timeout_s)
        self.process.join(timeout_s)
        return caught.value

    def kill(self):
        # Not through its pid alone: a process that ended a moment ago has none any more.
        self.process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.is_alive():
            self.kill()
        self.process.join(10)


def _run(pipe, function, arguments):
    try:
        pipe.send(("value", function(lambda value: pipe.send(("value", value)), *arguments)))
    except Exception as error:
        pipe.send(("error", error))


def test_this_process_is_alive_to_itself():
    me = this_process()
    assert me.pid == os.getpid()
    assert not me.has_exited(me)


def test_a_process_that_ended_is_seen_to_be_gone_even_as_a_zombie():
    me = this_process()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with open(f"/proc/{child.pid}/stat") as file:
        token = file.read().rpartition(")")[2].split()[19]
    identity = replace(me, pid=child.pid, start_token=token)
    assert not identity.has_exited(me)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, but not reaped: a zombie
    assert identity.has_exited(me)
    child.communicate(timeout=10)
    assert identity.has_exited(me)


@pytest.mark.fault(23, "my pid with another start time")
def test_a_reused_pid_is_another_process():
    me = this_process()
    assert replace(me, start_token="1").has_exited(me)


@pytest.mark.parametrize("field", ["boot_id", "pid_namespace"])
def test_a_process_of_another_host_or_container_is_not_judged_by_its_pid(field):
    me = this_process()
    assert not replace(me, start_token="1", **{field: "elsewhere"}).has_exited(me)
