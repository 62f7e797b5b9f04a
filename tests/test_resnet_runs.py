"""train resnet as a user runs it: real processes, under torchrun too, real folders, real kills."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch
from official_files import write_cifar10
from test_resume import differing

from dualnet.parallel import World, world_of
from dualnet.run import Run

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
NETS = textwrap.dedent('''
    """Small nets of residual blocks; `plain` has no normalisation, so batches can be joined."""
    from collections import OrderedDict
    from functools import partial

    import torch
    from torch import nn

    from dualnet.nets.residual import Classifier, Conv, GlobalAveragePool, ResidualBlock
    from dualnet.nets.resnet import resnet


    class Block(ResidualBlock):
        def __init__(self, width):
            super().__init__()
            self.conv = Conv(width, width, 3, bias=True)

        def forward(self, x):
            return torch.relu(self.add_branch(x, x))

        def branch(self, x):
            return 0.3 * self.conv(x)

        def last_layer(self):
            return self.conv


    def plain(num_classes):
        return nn.Sequential(OrderedDict([
            ("stem", Conv(3, 8, 3, 2)), *((f"block{n}", Block(8)) for n in range(4)),
            ("pool", GlobalAveragePool()), ("fc", Classifier(8, num_classes))]))


    def tiny(input_shape, num_classes):
        return resnet(input_shape, num_classes, blocks=1)
''')


@pytest.fixture(scope="module")
def folder():
    """100 training images, 20 test images, and the nets."""
    with tempfile.TemporaryDirectory(prefix="dualnet-tests-") as name:
        write_cifar10(Path(name))
        (Path(name) / "nets.py").write_text(NETS)
        yield Path(name)


def words_of(folder, net, out, *more):
    return [str(word) for word in (
        "-m", "dualnet", "train", "resnet", "--net", f"{folder}/nets.py:{net}", "--data", "cifar10",
        "--data-dir", folder, "--batch-size", 20, "--lr", 0.05, "--iterations", 12, "--log-every",
        1, "--checkpoint-every", 4, "--threads", 1, "--stochastic-depth", "uniform", "--out", out,
        *more)]


def start(folder, words, processes=1):
    launcher = [] if processes == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *launcher, *words], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def run(folder, words, processes=1):
    process = start(folder, words, processes)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def curve(out, role="resnet"):
    """Losses by step, those that count after resuming."""
    lines = Run(out).metrics(role)
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def weights(out, step=12):
    return Run(out).load_checkpoint("resnet", step)["net"]


def trained_until(out, step, role="resnet"):
    """Wait until iteration `step` is in the metrics."""
    path, deadline = Run(out).metrics_path(role), time.monotonic() + DEADLINE_S
    while not (path.exists() and f'"step": {step},' in path.read_text()):
        assert time.monotonic() < deadline, f"no iteration {step} within {DEADLINE_S} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(folder):
    """The run that nothing disturbs, in float64."""
    code, _, err = run(folder, words_of(folder, "plain", folder / "alone", "--precision",
                                        "float64"))
    assert code == 0, err
    return folder / "alone"


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joined_batch(folder, alone):
    """In float64, with a net that has no statistics of the batch, blocks skipped in both."""
    out = folder / "two"
    code, said, err = run(folder, words_of(folder, "plain", out, "--precision", "float64"), 2)
    assert code == 0, err
    assert said.count("test accuracy") == 1         # rank 0 alone speaks
    expected = curve(alone)
    assert len(expected) == 12 and len({round(loss, 6) for loss in expected.values()}) == 12
    assert curve(out) == pytest.approx(expected, rel=1e-12)
    one, two = weights(alone), weights(out)
    assert all(torch.allclose(two[name], value, rtol=1e-10, atol=1e-14)
               for name, value in one.items())
    blocks = [{line["step"]: line["resnet/blocks"] for line in Run(path).metrics("resnet")
               if line["split"] == "train"} for path in (alone, out)]
    assert blocks[0] == blocks[1] and len(set(blocks[0].values())) > 2
    summaries = [Run(path).summary() for path in (alone, out)]
    assert [summary["processes"] for summary in summaries] == [1, 2]
    # How long several wait for each other within the backward pass is not known, and not told.
    assert [summary["wait_share"] for summary in summaries] == [{"resnet": 0.0}, {}]
    assert "waiting" not in said
    assert summaries[0]["test_accuracy"] == summaries[1]["test_accuracy"]


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_curve_bit_for_bit(folder):
    code, _, err = run(folder, words_of(folder, "tiny", folder / "whole"))
    assert code == 0, err
    out = folder / "killed"
    process = start(folder, words_of(folder, "tiny", out, "--on-device"))
    trained_until(out, 6)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    if not Run(out).summary_path.exists():      # else it was faster than the signal
        code, _, err = run(folder, words_of(folder, "tiny", out, "--on-device"))
        assert code == 0 and "resuming" in err, err
    assert curve(out) == curve(folder / "whole")
    assert differing(weights(out), weights(folder / "whole")) == []
    found = run(folder, ["-m", "dualnet", "eval", str(out)])
    assert found[1] == f"test accuracy: {100 * Run(out).summary()['test_accuracy']:.2f} %\n"
    assert Run(out).figure_path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 1])
def test_after_one_of_two_is_killed_any_number_goes_on_by_the_same_command(folder, alone,
                                                                           processes):
    out = folder / f"two-killed-{processes}"
    words = words_of(folder, "plain", out, "--precision", "float64")
    process = start(folder, words, 2)
    trained_until(out, 6)
    os.kill(helper_of(process.pid, int(Run(out).environment("resnet")["pid"])), signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0 and not Run(out).summary_path.exists()
    code, _, err = run(folder, words, processes)
    assert code == 0 and "from iteration" in err, err
    assert Run(out).summary()["processes"] == processes
    assert curve(out) == pytest.approx(curve(alone), rel=1e-12)


@pytest.mark.slow
def test_two_processes_that_are_told_to_stop_save_what_they_have_and_leave(folder):
    out = folder / "stopped"
    process = start(folder, words_of(folder, "plain", out, "--iterations", 100_000,
                                     "--checkpoint-every", 0), 2)
    trained_until(out, 6)
    process.terminate()
    _, err = process.communicate(timeout=DEADLINE_S)
    step = Run(out).resumes_from(("resnet",))
    assert step is not None and step >= 6
    assert f"stopped by SIGTERM; run the same command again to resume from iteration {step}" in err
    assert "forcefully exiting" not in err          # as torchrun says of a process that hangs


def helper_of(launcher, first):
    """Process number of the rank that is not `first`."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    other, = (int(pid) for pid in children if int(pid) != first)
    return other


@pytest.mark.slow
def test_a_training_that_diverges_says_where_and_ends_with_76(folder):
    out = folder / "diverged"
    code, _, err = run(folder, words_of(folder, "plain", out, "--lr", "1e30"))
    assert code == 76
    failure = json.loads(Run(out).failure_path.read_text())
    assert f"the loss of iteration {failure['step']} is " in err
    assert all(math.isfinite(loss) for step, loss in curve(out).items() if step < failure["step"])


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused(folder):
    code, _, err = run(folder, words_of(folder, "plain", folder / "odd", "--batch-size", 25), 2)
    assert code != 0
    assert "a batch of 25 images cannot be shared by 2 processes equally" in err
    assert not (folder / "odd").exists()


def test_the_process_is_what_torchrun_says(monkeypatch):
    said = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name in said:
        monkeypatch.delenv(name, raising=False)
    assert world_of() == World(0, 1, 0, 1)
    for name, number in said.items():
        monkeypatch.setenv(name, number)
    found = world_of()
    assert found == World(5, 8, 1, 4)
    assert found.role == "rank1" and len(found.roles) == 4
