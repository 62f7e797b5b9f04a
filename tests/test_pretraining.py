"""train partition and train net2wider: real runs, kills included, on a tiny CIFAR-10."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import write_cifar10
from torch.nn import functional

from dualnet import nets
from dualnet.cli import main
from dualnet.config import TrainConfig
from dualnet.errors import UserError
from dualnet.launcher import Launcher
from dualnet.methods.net2wider.settings import Net2WiderConfig
from dualnet.methods.net2wider.training import Wider, teacher
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.methods.partition.training import Merged, diversity, initial_subs, sub_model
from dualnet.panels import with_mean_of_subs
from dualnet.pretraining import Partition, iteration_s
from dualnet.run import Run
from dualnet.session import load_data

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
TINY = Path(tempfile.mkdtemp(prefix="dualnet-tests-"))     # 100 training images, 20 test images
SMALL = ["--data", "cifar10", "--data-dir", TINY, "--batch-size", "20", "--threads", "1",
         "--log-every", "1", "--precision", "float64", "--quiet", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def tiny_data_set():
    write_cifar10(TINY)
    yield
    shutil.rmtree(TINY)


def train(method, out, *words):
    """In this process; a run that has finished."""
    assert main([str(word) for word in ("train", method, *SMALL, "--out", out, *words)]) == 0
    return Run(out)


def start(method, out, *words):
    """In a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dualnet", "train", method, *map(str, SMALL), "--out", str(out),
         *map(str, words)], cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)


def net_of(run, role, step):
    return run.load_checkpoint(role, step)["net"]


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def scores_of(run, role):
    return {line["step"]: line for line in run.metrics(role) if line["split"] == "test"}


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S} s"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two sub-models for 6 iterations, merged for 6 more."""
    return train("partition", tmp_path_factory.mktemp("whole") / "run", "--iterations", 12)


# -- what is trained ---------------------------------------------------------------------------

@pytest.mark.parametrize(("method", "flag", "role"), [
    ("partition", "--sub-models", "merged"), ("net2wider", "--factor", "wider")])
def test_a_single_sub_model_is_the_single_net(tmp_path, method, flag, role):
    # its schedule is that of all iterations: of 10 the rate falls in the last 3, of 5 it would in
    # the last 2.  The momentum is handed on; widening drops it.
    words = ["--iterations", 10, "--net", "lenet-dropout", "--lr-schedule", "tail"]
    if method == "net2wider":
        words += ["--momentum", 0]
    single = net_of(train("single", tmp_path / "a", *words), "single", 10)
    found = net_of(train(method, tmp_path / "b", *words, flag, 1), role, 10)
    assert is_same(single, found)


def test_after_the_merge_the_test_is_that_of_the_mean_of_the_logits(undisturbed):
    settings = PartitionConfig(**{key: value for key, value in undisturbed.config().items()
                                  if key != "method"})
    partition = Partition(settings, undisturbed)
    logits = []
    for role in ("sub1", "sub2"):
        sub = partition.sub(role)
        sub.net.load_state_dict(net_of(undisturbed, role, 6))
        images = torch.as_tensor(partition.batches.test_images(0)).double()
        logits.append(sub.net.eval()(images))
    labels = torch.as_tensor(partition.batches.test_labels(0))
    line = scores_of(undisturbed, "merged")[6]
    mean = torch.stack(logits).mean(0)
    assert line["loss"] == pytest.approx(functional.cross_entropy(mean, labels).item(), abs=1e-12)
    chances = [each.softmax(1)[torch.arange(20), labels].detach().numpy() for each in logits]
    found = np.load(undisturbed.probabilities_path)
    np.testing.assert_allclose(found, chances, atol=1e-12)
    assert line["partition/diversity"] == pytest.approx(np.abs(chances[0] - chances[1]).mean())
    for role in ("sub1", "sub2"):
        assert line[f"partition/accuracy_{role}"] == scores_of(undisturbed, role)[6]["accuracy"]


def test_the_summary_has_what_the_paper_reports(undisturbed):
    summary = undisturbed.summary()
    # caffenet-small halved: conv 1,216 + 6,416... by hand: 16*76 + 16*401 + 32*145 + 32*289,
    # fc5 32*(32*16+1), fc6 10*33
    expected = 16 * 76 + 16 * 401 + 32 * 145 + 32 * 289 + 32 * 513 + 330
    assert summary["parameters_sub_models"] == [expected] * 2
    assert summary["parameters"] == 149_738
    assert set(summary["iteration_s"]) == {"sub1", "sub2", "merged"}
    assert (summary["method"], summary["merge_at"], summary["sub_models"]) == ("partition", 6, 2)
    assert summary["wall_s_parallel"] < summary["wall_s"]
    assert summary["test_accuracy"] == scores_of(undisturbed, "merged")[12]["accuracy"]
    assert summary["accuracy_at_start"] == scores_of(undisturbed, "merged")[6]["accuracy"]
    assert undisturbed.diversity_path.read_bytes()[:4] == b"\x89PNG"


def test_eval_builds_the_merged_net_again(undisturbed, capsys):
    assert main(["eval", str(undisturbed.folder), "--device", "cpu"]) == 0
    assert f"{100 * undisturbed.summary()['test_accuracy']:.2f} %" in capsys.readouterr().out


def test_the_whole_net_is_exported(undisturbed, tmp_path):
    path = tmp_path / "net.pt"
    assert main(["export", str(undisturbed.folder), str(path)]) == 0
    iterations = undisturbed.config()["iterations"]
    assert is_same(torch.load(path), net_of(undisturbed, "merged", iterations))


class RandomBatches:
    """Batches for a method without a run."""

    num_test_batches = num_test_samples = 1

    def images(self, step):
        return np.random.default_rng(step).standard_normal((8, 1, 28, 28))

    def labels(self, step):
        return np.random.default_rng(step).integers(0, 10, 8)

    def epoch(self, step):
        return float(step)


@pytest.mark.parametrize("solver", ["torch", "caffe"])
@pytest.mark.parametrize(("output", "merges"), [("mean", True), ("scaled", True), ("mean", False)])
def test_momentum_is_merged_by_the_rule_of_the_weights(solver, output, merges):
    settings = PartitionConfig(net="lenet", iterations=8, batch_size=8, precision="float64",
                               output=output, merge_momentum=merges, solver=solver,
                               lr_schedule="constant", log_every=100).resolved()
    cpu, batches = torch.device("cpu"), RandomBatches()
    subs = [sub_model(settings, role, nets.build("lenet", (1, 28, 28), 10), batches, cpu)
            for role in settings.sub_roles]
    for sub in subs:
        assert len(list(sub.steps())) == 4      # up to the merge
    merged = Merged(settings, subs, batches, cpu)
    momentum = merged.optimizer.momentum(merged.net)
    if not merges:
        assert momentum == {}
        return
    one, other = (sub.optimizer.momentum(sub.net) for sub in subs)
    assert all(tensor.abs().max() > 0 for tensor in one.values())
    assert torch.equal(momentum["conv1.weight"], torch.cat([one["conv1.weight"],
                                                            other["conv1.weight"]]))
    conv2 = momentum["conv2.weight"]
    assert torch.equal(conv2[:25, :10], one["conv2.weight"])
    assert torch.equal(conv2[25:, 10:], other["conv2.weight"])
    assert not conv2[:25, 10:].any() and not conv2[25:, :10].any()
    divisor = 2 if output == "mean" else 1
    assert torch.equal(momentum["fc4.weight"], torch.cat([one["fc4.weight"], other["fc4.weight"]],
                                                         dim=1) / divisor)
    assert torch.equal(momentum["fc4.bias"], (one["fc4.bias"] + other["fc4.bias"]) / divisor)
    before = merged.net.conv1.weight.detach().clone()
    next(merged.steps(4))       # w - lr (m v + g), or with Caffe's solver w - (m v + lr g)
    gradient = merged.net.conv1.weight.grad
    step = (0.9 * momentum_of(one, other) * (0.01 if solver == "torch" else 1) + 0.01 * gradient)
    torch.testing.assert_close(merged.net.conv1.weight, before - step, rtol=0, atol=1e-15)


def momentum_of(one, other):
    """That of conv1 before the step; the merged net's own has moved on."""
    return torch.cat([one["conv1.weight"], other["conv1.weight"]])


def test_sub_models_start_from_weights_of_their_own_or_from_those_of_the_whole_net():
    def subs(initial):
        settings = PartitionConfig(net="lenet", initial=initial, seed=3).resolved()
        return initial_subs(settings, nets.build("lenet", (1, 28, 28), 10))

    own, cut = subs("own"), subs("cut")
    assert not torch.equal(own[0].conv1.weight, own[1].conv1.weight)
    # xavier: +-sqrt(3 / fan-in); conv2 of a half reads 10 * 25 numbers, of the whole 20 * 25
    assert own[0].conv2.weight.abs().max().item() == pytest.approx((3 / 250) ** 0.5, rel=1e-2)
    assert cut[0].conv2.weight.abs().max().item() == pytest.approx((3 / 500) ** 0.5, rel=1e-2)


def test_widening_without_noise_changes_no_loss_and_with_noise_a_little(tmp_path):
    for noise, bound in ((0.0, 1e-12), (0.02, 0.5)):
        run = train("net2wider", tmp_path / f"{noise}", "--iterations", 6, "--noise", noise)
        line = scores_of(run, "wider")[3]
        difference = abs(line["loss"] - line["net2wider/loss_teacher"])
        assert difference < bound and (difference > 1e-6) == (noise > 0)
        assert line["net2wider/loss_teacher"] == scores_of(run, "teacher")[3]["loss"]
        assert run.summary()["parameters"] == 149_738


def test_a_wider_net_begins_with_the_momentum_of_nothing():
    settings = Net2WiderConfig(net="lenet", iterations=8, batch_size=8, noise=0.0,
                               precision="float64", lr_schedule="constant").resolved()
    cpu, batches = torch.device("cpu"), RandomBatches()
    narrow = teacher(settings, nets.build("lenet", (1, 28, 28), 10), batches, cpu)
    assert len(list(narrow.steps())) == 4 and narrow.optimizer.momentum(narrow.net)
    wider = Wider(settings, narrow, batches, cpu)
    assert wider.optimizer.momentum(wider.net) == {}
    before = wider.net.conv1.weight.detach().clone()
    next(wider.steps(4))        # the first update is the rate times the gradient, and no more
    torch.testing.assert_close(wider.net.conv1.weight,
                               before - 0.01 * wider.net.conv1.weight.grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("method", "flag", "role"), [
    ("partition", "--merge-at", "merged"), ("net2wider", "--widen-at", "wider")])
def test_a_merge_or_widening_may_come_before_all_training(tmp_path, method, flag, role):
    run = train(method, tmp_path / "run", "--iterations", 2, flag, 0)
    assert run.roles == [role] and list(scores_of(run, role)) == [2]
    assert run.summary()["parameters"] == 149_738


def test_ten_views_are_scored_by_their_mean_probability(tmp_path):
    words = ["--iterations", 2, "--input-side", 28, "--ten-views", "--net", "lenet"]
    run = train("single", tmp_path / "run", *words)
    settings = TrainConfig(**{key: value for key, value in run.config().items()
                              if key != "method"})
    dataset, batches = load_data(settings)
    net = nets.build("lenet", batches.input_shape, dataset.num_classes).double()
    assert batches.input_shape == (3, 28, 28)
    net.load_state_dict(net_of(run, "single", 2))
    chances = [net(torch.as_tensor(view.copy()).double()).softmax(1)
               for view in batches.test_views(0, 10)]
    mean = torch.stack(chances).mean(0)
    labels = torch.as_tensor(batches.test_labels(0))
    line = scores_of(run, "single")[2]
    assert line["loss"] == pytest.approx(functional.nll_loss(mean.log(), labels).item(), abs=1e-12)
    assert line["accuracy"] == (mean.argmax(1) == labels).double().mean().item()
    middle = net(torch.as_tensor(batches.test_images(0)).double())
    assert abs(line["loss"] - functional.cross_entropy(middle, labels).item()) > 1e-6


@pytest.mark.parametrize("method", ["partition", "net2wider"])
def test_the_recipe_of_cuda_convnet_trains(tmp_path, method):
    run = train(method, tmp_path / "run", "--recipe", "cuda-convnet", "--iterations", 2,
                "--batch-size", 10)
    assert run.summary()["parameters"] == 2_112_970
    narrow = {"partition": [533_226] * 2, "net2wider": 533_226}[method]
    assert narrow in run.summary().values()


# -- processes ---------------------------------------------------------------------------------

def test_sub_models_in_parallel_processes_are_those_trained_one_after_another(tmp_path,
                                                                              undisturbed):
    process = start("partition", tmp_path / "run", "--iterations", 12, "--jobs", 2)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out
    run = Run(tmp_path / "run")
    pids = {run.environment(role)["pid"] for role in run.roles}
    assert len(pids) == 3 and run.roles == ["merged", "sub1", "sub2"]
    for role, step in (("sub1", 6), ("sub2", 6), ("merged", 12)):
        assert is_same(net_of(run, role, step), net_of(undisturbed, role, step))


def test_what_was_killed_goes_on_and_what_was_finished_stays(tmp_path):
    words = ["--iterations", 60, "--merge-at", 30, "--checkpoint-every", 5]
    undisturbed = train("partition", tmp_path / "a", *words)
    run = Run(tmp_path / "b")
    train("partition", run.folder, *words, "--only", "sub1")
    assert not run.summary_path.exists() and run.roles == ["sub1"]
    finished = run.metrics_path("sub1").read_bytes()
    for role, only in (("sub2", ["--only", "sub2"]), ("merged", [])):
        process = start("partition", run.folder, *words, *only)
        folder = run.folder / role / "checkpoints"
        wait_for(lambda folder=folder: list(folder.glob("*.json")), f"checkpoint in {folder}")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == -signal.SIGKILL       # it had not ended
    train("partition", run.folder, *words)
    assert run.metrics_path("sub1").read_bytes() == finished
    for role in ("sub2", "merged"):
        lines = [json.loads(line) for line in run.metrics_path(role).read_text().splitlines()]
        resumes = [line["step"] for line in lines if line["split"] == "resume"]
        assert resumes and resumes[-1] >= 5, (role, resumes)
    for role, step in (("sub1", 30), ("sub2", 30), ("merged", 60)):
        assert is_same(net_of(run, role, step), net_of(undisturbed, role, step)), role
    keys = ("merge_at", "accuracy_at_start", "diversity", "test_accuracy")
    assert [run.summary()[key] for key in keys] == [undisturbed.summary()[key] for key in keys]


def test_a_signal_reaches_the_processes_which_save_and_the_same_command_goes_on(tmp_path):
    words = ["--iterations", 400, "--merge-at", 300, "--jobs", 2, "--checkpoint-every", 0]
    run = Run(tmp_path / "run")
    process = start("partition", run.folder, *words)
    wait_for(lambda: all(run.metrics_path(role).exists() and run.metrics(role)
                         for role in ("sub1", "sub2")) or process.poll() is not None,
             "line of both sub-models")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, out
    assert "stopped by SIGTERM; run the same command again to resume" in out
    for role in ("sub1", "sub2"):
        assert 1 <= run.checkpoints(role).newest().step <= 300
    assert not run.is_over


def test_roles_start_as_others_end_and_none_behind_a_failure(tmp_path):
    run = Run(tmp_path / "run")
    with Launcher(run, {role: ["--version"] for role in "abc"}, at_once=2) as launcher:
        assert [run.log_path(role).exists() for role in "abc"] == [True, True, False]
        while launcher.wait(0.1):
            pass
        assert all("dualnet" in run.log_path(role).read_text() for role in "abc")
    run = Run(tmp_path / "other")
    with Launcher(run, {"a": ["nonsense"], "b": ["--version"]}, at_once=1) as launcher:
        while launcher.wait(0.1):
            pass
        assert launcher.failure().role == "a" and not run.log_path("b").exists()


# -- what is refused ---------------------------------------------------------------------------

@pytest.mark.parametrize(("method", "words", "message"), [
    ("partition", ["--sub-models", "3"], "the 32 units of layer 'conv1' cannot be shared equally "
                                         "by 3 sub-models"),
    ("partition", ["--sub-models", "100"], "layer 'conv1' has 32 units, too few for 100"),
    ("partition", ["--sizes", "conv1=30"], "the sizes of layer 'conv1' must be 2 numbers"),
    ("partition", ["--sizes", "conv1:1"], "--sizes takes LAYER=NUMBER+NUMBER,..., found 'conv1:1'"),
    ("partition", ["--merge-at", "4"], "--merge-at 4 leaves nothing of 4 iterations"),
    ("partition", ["--only", "sub3"], "unknown sub-model 'sub3'; did you mean sub"),
    ("partition", ["--only", "sub1", "--sub-models", "3"], "cannot be shared equally"),
    ("net2wider", ["--factor", "3"], "layer 'conv1' has 32 units, which is no multiple of "
                                     "--factor 3"),
    ("net2wider", ["--net", "cuda-convnet", "--mapping", "random"], "only the exact mapping"),
    ("net2wider", ["--widen-at", "9"], "--widen-at 9 leaves nothing"),
    ("single", ["--ten-views"], "--ten-views needs windows smaller than the images"),
    ("single", ["--layer-decay", "conv9=1"], "unknown layer in --layer-decay 'conv9'"),
    ("dual", ["--ten-views", "--input-side", "24"], "--ten-views is for nets in one process"),
])
def test_a_wrong_wish_is_one_sentence_and_leaves_no_folder(tmp_path, capsys, method, words,
                                                           message):
    given = ["train", method, *SMALL, "--iterations", 4, "--out", tmp_path / "run", *words]
    assert main([str(word) for word in given]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_method_or_of_other_settings_is_refused(tmp_path, capsys, undisturbed):
    given = ["train", "partition", *SMALL, "--out", undisturbed.folder, "--iterations", 12]
    assert main([str(word) for word in given]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    train("partition", tmp_path / "run", "--iterations", 4, "--only", "sub1")
    given = ["train", "partition", *SMALL, "--iterations", 4, "--sub-models", 4, "--out",
             tmp_path / "run"]
    assert main([str(word) for word in given]) == 2
    assert "belongs to a run with sub_models = 2, not 4" in capsys.readouterr().err


# -- figures by hand ---------------------------------------------------------------------------

def test_diversity_is_the_mean_distance_over_pairs_and_images():
    # pairs: |0 - 1|, |0 - 0.5|, |1 - 0.5| for image 1; 0.2, 0.2, 0 for image 2
    found = np.array([[0.0, 0.4], [1.0, 0.6], [0.5, 0.6]])
    assert diversity(found) == pytest.approx((1 + 0.5 + 0.5 + 0.2 + 0.2 + 0) / 6)
    assert diversity(found[:1]) == 0


def test_sub_models_are_drawn_as_their_mean_at_the_sum_of_their_times():
    def line(step, loss, time_s):
        return {"step": step, "split": "train", "loss": loss, "time_s": time_s}

    records = {"sub1": [line(1, 1.0, 2.0), line(2, 0.5, 4.0)], "sub2": [line(1, 3.0, 5.0)],
               "merged": [line(3, 0.1, 9.0)]}
    assert with_mean_of_subs(records) == {
        "subs": [line(1, 2.0, 7.0)], "merged": [line(3, 0.1, 9.0)]}


def test_the_time_of_an_iteration_is_a_median_without_the_first_line():
    lines = [{"split": "train", "images_per_s": speed} for speed in (1, 100, 200, 50)]
    assert iteration_s(lines, 20) == 0.2
    assert iteration_s(lines[:1], 20) == 20
    assert iteration_s([], 20) is None


def test_the_merge_or_widening_is_half_way_by_default():
    assert PartitionConfig(iterations=9).resolved().merge_at == 4
    assert Net2WiderConfig(iterations=9).resolved().widen_at == 4
    with pytest.raises(UserError, match="--sub-models must be at least 1"):
        PartitionConfig(sub_models=0)
