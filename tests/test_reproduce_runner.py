"""Both roles in one process: the numbers of two processes, and what is told of a run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dualnet.channel import QueueChannel
from dualnet.memory import bisected, bytes_per_image
from dualnet.methods.dual.settings import DualConfig
from dualnet.reproduce.capacity import capacity
from dualnet.reproduce.runner import (
    Job,
    against_default,
    root_mean_square,
    thinned,
    train_net,
    training,
)
from dualnet.run import Run
from shared_fs import PeerLost

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def settings_for(loss, **changes):
    return DualConfig(**{
        "loss": loss, "data": "shapes", "iterations": 3, "batch_size": 10, "log_every": 1,
        "lr_schedule": "constant", "threads": 1, "device": "cpu", **changes}).resolved()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["admm", "euclidean"])
def test_two_threads_give_the_weights_of_two_processes_bit_for_bit(tmp_path, loss):
    settings = settings_for(loss, iterations=4, lr_net1=1e-5 if loss == "euclidean" else None)
    config = tmp_path / "settings.json"
    Run(tmp_path / "made").start("dual", settings)
    config.write_bytes((tmp_path / "made" / "config.json").read_bytes())
    subprocess.run([sys.executable, "-m", "dualnet", "train", "dual", "--config", config, "--out",
                    tmp_path / "processes", "--quiet"], cwd=ROOT, check=True, timeout=240)
    trained = train_net(Job(settings, tmp_path / "threads", None))
    for role, part in zip(("net1", "net2"), trained.nets, strict=True):
        theirs = Run(tmp_path / "processes").load_checkpoint(role, 4)["part"]
        ours = part.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (Run(tmp_path / name).summary() for name in ("threads", "processes"))
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    assert ours["bytes_exchanged"] == theirs["bytes_exchanged"]


def test_without_a_loss_weight_the_gradients_are_exactly_zero_and_net2_learns_all_the_same(
        tmp_path):
    settings = settings_for("no_loss_weight", iterations=30, batch_size=50, lr_net1=0.05, lr=0.05)
    trained = train_net(Job(settings, tmp_path / "run", 20))
    assert all(parameter.grad is not None and parameter.grad.count_nonzero() == 0
               for parameter in trained.nets[0].parameters())
    assert all(line["dual/grad_norm"] == 0 for line in trained.lines["net1"])
    losses = [line["loss"] for line in trained.lines["net2"] if line["split"] == "train"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    outcome = training(Job(settings.replace(loss="euclidean", lr_net1=1e-6), tmp_path / "run", 20))
    assert outcome.figures["grad_norm_net1_max"] > 0


def test_a_loss_that_overflows_is_an_outcome_and_ends_both_roles(tmp_path):
    settings = settings_for("euclidean", iterations=40, lr_net1=1.0, lr=0.05)
    outcome = training(Job(settings, tmp_path / "run", 20))
    assert 1 < outcome.figures["diverged_at"] < 40
    assert outcome.figures["accuracy"] is None
    assert Run(tmp_path / "run").divergence()["step"] == outcome.figures["diverged_at"]


def test_an_end_that_is_closed_ends_the_wait_of_the_other():
    near, far = QueueChannel.ends({"z": ("net1", "net2")}, timeout_s=200).values()
    near.send("z", 0, torch.ones(2))
    near.close()
    assert far.recv("z", 0, (2,), torch.float32).tolist() == [1, 1]     # what was sent arrives
    with pytest.raises(PeerLost, match="message 1 on z will not come"):
        far.recv("z", 1, (2,), torch.float32)


def test_figures_are_of_the_first_iteration_and_the_last_line(tmp_path):
    settings = settings_for("frozen", iterations=5, log_every=2)
    trained = train_net(Job(settings, tmp_path / "run", 20))
    outcome = training(Job(settings, tmp_path / "again", 20))
    lines = [line for line in trained.lines["net1"] if line["split"] == "train"]
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert outcome.figures["loss1_last"] == lines[-1]["loss"]
    assert outcome.figures["rms_pool2_last"] == lines[-1]["rms/boundary"]
    # the mean of the losses of iterations 1 and 2 stands in the first line
    first, = (step for step, _ in outcome.curves["loss1"] if step == 1)
    assert first == 1 and outcome.figures["loss1_first"] != lines[0]["loss"]
    # by hand: the root mean square of the boundary from its mean norm is at most as large
    count = 32 * 8 * 8
    norm = [line for line in trained.lines["net2"] if line["split"] == "train"][-1]["dual/norm_z"]
    assert 0.9 < norm / count ** 0.5 / lines[-1]["rms/boundary"] <= 1 + 1e-6


def test_root_mean_square_by_hand():
    # (9 + 16) / 2 = 12.5; and squares of 1e-25, which float32 has no number for
    assert root_mean_square(torch.tensor([3.0, -4.0])) == pytest.approx(12.5 ** 0.5)
    assert root_mean_square(torch.full((2, 2), 1e-25)) == pytest.approx(1e-25, rel=1e-6, abs=0)


def test_a_thinned_curve_keeps_its_ends():
    points = [[step, step / 3] for step in range(1, 101)]
    thin = thinned(points, 7)
    assert len(thin) == 7 and thin[0] == [1, 0.3333] and thin[-1] == [100, 33.33]
    broken = [[0, float("nan")], *points[:3], [4, float("inf")]]
    assert thinned(broken, 7) == [[1, 0.3333], [2, 0.6667], [3, 1.0]]


def test_the_loss_by_hand_trains_as_the_default_does(tmp_path):
    settings = settings_for("euclidean_by_hand", lr_net1=1e-5)
    figures = against_default(Job(settings, tmp_path, 20)).figures
    assert figures["difference_loss1"] < 1e-6
    assert figures["difference_weights"] < 1e-6
    changed = settings.replace(loss="zero_target")      # another loss is told from the default
    assert against_default(Job(changed, tmp_path, 20)).figures["difference_loss1"] > 1e-3


# -- capacity --------------------------------------------------------------------------------------

def test_bytes_kept_per_image_by_hand():
    # y = relu(x W^T), then its sum: linear keeps x (3 numbers) for W, relu keeps its output (5)
    weight = torch.randn(5, 3, requires_grad=True)
    def forward(count, device):
        return torch.relu(torch.randn(count, 3, device=device) @ weight.T).sum()
    assert bytes_per_image(forward, CPU) == (3 + 5) * 4


def test_a_storage_that_two_layers_keep_counts_once():
    weight = torch.randn(4, 4, requires_grad=True)
    def forward(count, device):
        x = torch.randn(count, 4, device=device)
        return (x @ weight + x @ weight.T).sum()
    assert bytes_per_image(forward, CPU) == 4 * 4


def test_the_ratio_is_that_of_the_single_net_to_the_larger_part(tmp_path):
    settings = DualConfig(loss="euclidean", device="cpu", threads=1).resolved()
    figures = capacity(Job(settings, tmp_path, None)).figures
    larger = max(figures["bytes_per_image_net1"], figures["bytes_per_image_net2"])
    assert figures["ratio"] == figures["bytes_per_image_single"] / larger
    # by hand, caffenet-small, in numbers: image, conv1 (relu) and pool1's input and index ...
    relu1, pool1, relu2, pool2, conv3 = 32 * 1024, 32 * 256, 32 * 256, 32 * 64, 64 * 64
    floats = 3 * 1024 + relu1 + pool1 + relu2 + pool2 + conv3
    indices = 2 * (pool1 + pool2)       # int64
    loss = conv3                        # x - y
    assert figures["bytes_per_image_net1"] == 4 * (floats + indices + loss)


@pytest.mark.parametrize("answer", [1, 2, 3, 1000, 2608])
def test_bisection_finds_the_largest_that_fits(answer):
    tried = []
    assert bisected(lambda number: tried.append(number) or number <= answer, 2**12) == answer
    assert len(tried) < 30
