"""The batch script of examples/slurm on a real Slurm of one node, which takes the node away."""

import subprocess
import sys

import pytest
import torch
from mounts import until
from official_files import write_cifar10
from pairs import DEADLINE_S, ROLES, ROOT, SETTINGS, launch
from slurm import cluster

from dualnet.metrics import MetricsReader
from dualnet.run import Run

pytestmark = pytest.mark.rig

ITERATIONS = 600    # so many that the job is in the midst of them when it is interrupted
FLAGS = [*SETTINGS, "--iterations", str(ITERATIONS), "--quiet"]     # the last of a kind counts
USER_SIGNAL = "SlurmctldParameters=preempt_send_user_signal\n"
SCRIPT = ROOT / "examples" / "slurm" / "file_exchange.sbatch"


@pytest.fixture(scope="module")
def slurm(request, tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm"), request.param) as made:
        yield made


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of the data set, with a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    write_cifar10(folder)
    process = launch(folder, "-m", "dualnet", "train", "dual", *FLAGS, "--out", "run",
                     stdout=subprocess.DEVNULL)
    assert process.wait(DEADLINE_S) == 0
    return folder


class Job:
    """The batch script, submitted to `partition`."""

    def __init__(self, slurm, folder, data, partition):
        self.slurm, self.run = slurm, Run(folder / "run")
        self.number = slurm.submit(
            f"--chdir={folder}", f"--partition={partition}", "--cpus-per-task=1", "--time=20",
            SCRIPT, DUALNET_FLAGS=" ".join(FLAGS), DUALNET_RUN=str(self.run.folder),
            DUALNET_DATA=str(data), PYTHON=sys.executable, PYTHONPATH=str(ROOT))
        self.output = folder / f"dualnet-{self.number}.out"
        self.reader = MetricsReader(self.run.metrics_path("net1"))

    def told(self):
        return "\n" + (self.output.read_text() if self.output.exists() else "")

    def state(self):
        return self.slurm.job(self.number)["JobState"]

    def wait_for(self, condition, what):
        until(condition, f"{what} of job {self.number}", DEADLINE_S, self.told)

    def await_lines(self, count):
        found = []

        def is_enough():
            found.extend(self.reader.new())
            return len(found) >= count

        self.wait_for(is_enough, f"{count} lines of net1")

    def await_end_of(self, *states):
        """What the job is after it has been in one of these."""
        self.wait_for(lambda: self.state() not in states, f"the end of {' and '.join(states)}")
        return self.state()


def preempt(job, enough):
    """Give the whole node to a job of a higher partition until the first one is queued again."""
    taker = job.slurm.submit(
        "--partition=high", "--exclusive", "--time=20", f"--output={enough}.out", "--wrap",
        f"until [ -e {enough} ]; do sleep 0.05; done")
    job.wait_for(lambda: job.slurm.job(taker)["JobState"] == "RUNNING", f"job {taker} in place")
    assert job.await_end_of("RUNNING", "COMPLETING") == "PENDING", job.told()
    enough.touch()


def warn(job, _):
    """Send what Slurm sends before the time of a job is up."""
    job.slurm.call("scancel", "--batch", "--signal=USR1", job.number)


@pytest.mark.fault(13, "what Slurm sends as it takes the node of a job: at once, with a time of "
                       "grace, before its time is up")
@pytest.mark.parametrize(("slurm", "partition", "interrupt"), [
    pytest.param("", "low", preempt, id="at once"),
    pytest.param("", "graceful", preempt, id="grace"),
    pytest.param("", "low", warn, id="time is up"),
    pytest.param(USER_SIGNAL, "low", preempt, id="user signal, at once"),
    pytest.param(USER_SIGNAL, "graceful", preempt, id="user signal, grace"),
], indirect=["slurm"])
def test_a_job_whose_node_is_taken_is_queued_again_and_loses_nothing(
        slurm, calm, tmp_path, partition, interrupt):
    job = Job(slurm, tmp_path, calm, partition)
    job.await_lines(12)
    interrupt(job, tmp_path / "enough")
    job.wait_for(lambda: slurm.job(job.number)["Restarts"] == "1", "a restart")
    assert job.await_end_of("PENDING", "RUNNING", "COMPLETING") == "COMPLETED", job.told()
    assert slurm.job(job.number)["Restarts"] == "1"
    assert "Traceback" not in job.told()
    for role in ROLES:
        # Each iteration was done once: the job went on behind the last one before the interruption.
        lines = [(line["split"], line["step"])
                 for line in MetricsReader(job.run.metrics_path(role)).new()]
        (resumed,) = [step for split, step in lines if split == "resume"]
        assert 0 < resumed < ITERATIONS
        assert [step for split, step in lines if split == "train"] == list(range(1, ITERATIONS + 1))
        found, expected = (run.load_checkpoint(role, ITERATIONS)["part"]
                           for run in (job.run, Run(calm / "run")))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items()), role
