"""Roles of the dual net as real processes, which tests stop, kill and start again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from official_files import write_cifar10

from dualnet.metrics import MetricsReader
from dualnet.run import Run

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
ROLES = ("net1", "net2")
ITERATIONS = 60
SETTINGS = ["--data", "cifar10", "--batch-size", "10", "--iterations", str(ITERATIONS),
            "--checkpoint-every", "5", "--log-every", "1", "--eval-every", "20", "--threads", "1"]


def wait_for(condition, what):
    """Poll until `condition()` is true; what it gave."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S} s"
        time.sleep(0.002)
    return found


def is_alive(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def launch(folder, *words, within=(), **streams):
    """`python WORDS` in `folder`, which holds the data set; `within` is a command that runs it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DUALNET_DATA": str(folder)}
    # A test run in the background of a script would hand its ignored SIGINT down.
    return subprocess.Popen(
        [*within, sys.executable, *map(str, words)], cwd=folder, env=environment, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **streams)


def undisturbed(folder):
    """The weights of `train dual` with SETTINGS that nothing has disturbed, by role and name."""
    write_cifar10(folder)
    process = launch(folder, "-m", "dualnet", "train", "dual", *SETTINGS, "--out", "run", "--quiet",
                     stdout=subprocess.DEVNULL)
    assert process.wait(DEADLINE_S) == 0
    return {role: Run(folder / "run").load_checkpoint(role, ITERATIONS)["part"] for role in ROLES}


def check_weights(run, calm, roles=ROLES):
    """All iterations are there, once each, and the weights are those of the undisturbed run."""
    for role in roles:
        found = run.load_checkpoint(role, ITERATIONS)["part"]
        assert found.keys() == calm[role].keys()
        assert all(torch.equal(found[name], value) for name, value in calm[role].items()), role
        steps = [line["step"] for line in run.metrics(role) if line["split"] == "train"]
        assert steps == list(range(1, ITERATIONS + 1))


class Pair:
    """Two roles by hand, each started by the same command again and again."""

    def __init__(self, folder, *words, roles=ROLES, within=()):
        folder.mkdir()
        write_cifar10(folder)
        self.folder, self.run, self.within = folder, Run(folder / "run"), within
        self.words = [*SETTINGS, *words, "--exchange-dir", "meeting", "--out", "run", "--quiet"]
        self.processes, self.readers = {}, {}
        for role in roles:
            self.start(role)

    def start(self, role, *program):
        """Start `role`; `program` in place of `-m dualnet` if it is given."""
        with open(self.folder / f"{role}.log", "ab") as log:
            self.processes[role] = launch(self.folder, *(program or ("-m", "dualnet")), role,
                                          *self.words, within=self.within, stdout=log, stderr=log)
        self.readers[role] = MetricsReader(self.run.metrics_path(role))
        self.readers[role].new()

    def kill(self, roles):
        for role in roles:
            self.processes[role].kill()
        for role in roles:
            self.processes[role].wait(30)

    def log(self, role):
        return (self.folder / f"{role}.log").read_text()

    def await_lines(self, role, count):
        """Wait until `role` has written `count` more lines; False if it has ended before."""
        found = 0
        deadline = time.monotonic() + DEADLINE_S
        while found < count:
            assert time.monotonic() < deadline, f"no {count} lines of {role} in {DEADLINE_S} s"
            found += len(self.readers[role].new())
            for each, process in self.processes.items():
                assert process.poll() in (None, 0), self.log(each)
            if self.processes[role].poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def held(self, role):
        return [(each.generation, each.step) for each in self.run.checkpoints(role).held()]

    def starts(self, role):
        """(generation, base, iteration) of each line that says where a generation resumes."""
        lines = MetricsReader(self.run.metrics_path(role)).new()
        return [(line["generation"], line["base"], line["step"]) for line in lines
                if line["split"] == "resume"]

    def finish(self):
        for role, process in self.processes.items():
            assert process.wait(DEADLINE_S) == 0, self.log(role)

    def weights(self, role):
        return self.run.load_checkpoint(role, ITERATIONS)["part"]

    def clear(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
