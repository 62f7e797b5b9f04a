"""BoostResNet: the boosting by hand, what is frozen, and real runs with kills."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dualnet import nets
from dualnet.cli import main
from dualnet.data.arrays import save
from dualnet.data.batches import Batches, Preprocessing
from dualnet.data.dataset import Dataset
from dualnet.errors import UserError
from dualnet.methods.boosted import telescope
from dualnet.methods.boosted.modules import modules_of
from dualnet.methods.boosted.settings import BoostedConfig
from dualnet.methods.boosted.telescope import Telescope
from dualnet.methods.boosted.training import Boosted, block_loss
from dualnet.methods.single import Single
from dualnet.run import Run

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
CLASSES, SIDE = 4, 8
ALWAYS = -1e6      # a threshold that every module exceeds
DEADLINE_S = 120


def toy_data(count=96, seed=0):
    """Each class a pattern of its own under noise, uint8 [count, 3, 8, 8]."""
    generator = np.random.default_rng(7)
    patterns = generator.uniform(60, 200, (CLASSES, 3, SIDE, SIDE))
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = patterns[labels] + generator.normal(0, 40, (count, 3, SIDE, SIDE))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def probabilities(count, seed, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(count, CLASSES, generator=generator, dtype=torch.float64)
    return logits.softmax(1)


# -- the boosting ----------------------------------------------------------------------------------

def test_costs_and_edge_are_those_of_the_formulas_written_as_loops():
    labels = torch.arange(9) % CLASSES
    scores, outputs = 3 * probabilities(9, 0), probabilities(9, 1)
    total = weighed = 0.0
    for i, y in enumerate(labels.tolist()):
        s, o = scores[i].tolist(), outputs[i].tolist()
        wrong = {label: math.exp(s[label] - s[y]) for label in range(CLASSES) if label != y}
        total += sum(wrong.values())
        weighed += sum(cost * o[label] for label, cost in wrong.items())
        weighed += -sum(wrong.values()) * o[y]
        assert telescope.costs(scores, labels)[i].tolist() == pytest.approx(
            [wrong.get(label, -sum(wrong.values())) for label in range(CLASSES)])
    assert telescope.edge(scores, outputs, labels) == pytest.approx(-weighed / total)
    assert telescope.exponential_loss(scores, labels) == pytest.approx(total / 9)


def test_with_two_classes_the_edge_is_that_of_the_binary_algorithm():
    # y in -1, 1; F = s(1) - s(0); weights D(i) ~ exp(-y F); o = p(1) - p(0); edge = E_D[y o]
    labels = torch.tensor([0, 1, 1, 0, 1])
    y = 2.0 * labels.double() - 1
    scores, outputs = (torch.randn(5, 2, dtype=torch.float64) for _ in range(2))
    outputs = outputs.softmax(1)
    weights = (-y * (scores[:, 1] - scores[:, 0])).exp()
    expected = (weights * y * (outputs[:, 1] - outputs[:, 0])).sum() / weights.sum()
    assert telescope.edge(scores, outputs, labels) == pytest.approx(expected.item())


def test_alpha_and_the_weak_learning_figure_by_hand():
    assert telescope.alpha(0.6) == pytest.approx(0.5 * math.log(1.6 / 0.4))
    assert telescope.weak_learning(0.6, 0.0) == pytest.approx(0.36)
    assert telescope.weak_learning(0.6, 0.5) == pytest.approx((0.36 - 0.25) / 0.75)
    assert telescope.weak_learning(0.5, 0.6) < 0
    assert math.isfinite(telescope.alpha(1.0))


def test_the_weak_classifiers_telescope_to_the_last_module():
    labels = torch.arange(30) % CLASSES
    modules = [probabilities(30, seed, sharpness=1 + seed) for seed in range(4)]
    boosting = Telescope(labels, CLASSES)
    total = torch.zeros(30, CLASSES, dtype=torch.float64)
    before, alpha_before, edge_before = torch.zeros_like(total), 0.0, 0.0
    product = 1.0
    for outputs in modules:
        found = boosting.judge(outputs)
        assert found.edge == pytest.approx(telescope.edge(total, outputs, labels))  # by the sum
        total += found.alpha * outputs - alpha_before * before      # h_t
        product *= 1 - (found.edge ** 2 - edge_before ** 2) / (1 - edge_before ** 2)
        before, alpha_before, edge_before = outputs, found.alpha, found.edge
        boosting.add(outputs)
        torch.testing.assert_close(boosting.scores, total)
    torch.testing.assert_close(total, found.alpha * modules[-1])
    assert product == pytest.approx(1 - found.edge ** 2)


@given(st.integers(0, 1000), st.floats(0.1, 20))
def test_the_exponential_loss_bounds_the_error_whatever_happens(seed, sharpness):
    labels = torch.arange(20) % CLASSES
    boosting = Telescope(labels, CLASSES)
    for offset in range(3):
        outputs = probabilities(20, seed + offset, sharpness)
        found = boosting.judge(outputs)
        wrong = (found.alpha * outputs).argmax(1) != labels
        assert wrong.double().mean() <= found.error <= found.exponential_loss
        boosting.add(outputs)


def test_the_exponential_block_loss_is_the_sum_over_the_wrong_classes():
    logits = torch.randn(6, CLASSES, dtype=torch.float64)
    labels = torch.arange(6) % CLASSES
    expected = np.mean([sum(math.exp(row[label] - row[y]) for label in range(CLASSES) if label != y)
                        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)])
    assert block_loss(logits, labels, "exponential").item() == pytest.approx(expected)


# -- training --------------------------------------------------------------------------------------

def boosted(net="resnet20", count=96, preprocessing=None, **changes):
    images, labels = toy_data(count)
    dataset = Dataset("toy", tuple("abcd"), images, labels, *toy_data(24, seed=1))
    settings = BoostedConfig(**{"net": net, "iterations": 60, "batch_size": 24, "threads": 1,
                                "lr_schedule": "constant", "lr": 0.05, "precision": "float64",
                                **changes})
    batches = Batches(dataset, settings.batch_size, settings.seed,
                      preprocessing or Preprocessing())
    return Boosted(settings, nets.build(net, dataset.input_shape, CLASSES), batches, CPU)


def run(method, first=0, last=60):
    records = []
    for record in method.steps(first):
        records.append(record)
        if record["step"] + 1 == last:
            break
    return records


def copied(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_each_module_adds_to_the_edge_and_the_bounds_hold():
    method = boosted(iterations=120, block_iterations=40)
    rounds = [record for record in run(method, last=120) if "boosted/gamma" in record]
    assert [record["step"] for record in rounds] == [39, 79, 119]
    assert [record["boosted/module"] for record in rounds] == [0, 1, 2]
    for record in rounds:
        assert record["boosted/error"] <= record["boosted/exponential_loss"]
        assert record["boosted/error"] <= record["boosted/bound"]
        assert record["boosted/gamma"] > 0
    assert rounds[-1]["boosted/error"] < 0.1
    assert 1 > rounds[-1]["boosted/edge"] > rounds[0]["boosted/edge"] > 0.1
    # the sum of the gammas telescopes too: 1 - edge^2 is the product of 1 - gamma^2
    assert math.prod(1 - record["boosted/gamma_squared"] for record in rounds) == pytest.approx(
        1 - rounds[-1]["boosted/edge"] ** 2)


def test_a_judgement_is_that_of_the_net_itself_on_all_training_images():
    method = boosted(iterations=12, block_iterations=6)
    run(method, last=6)
    net, batches = method.net(1), method.batches
    with torch.no_grad():
        images = torch.as_tensor(batches.unaugmented(slice(0, 96))).double()
        outputs = net.eval()(images).softmax(1)
    labels = torch.as_tensor(batches.dataset.train_labels)
    first = method.facts()["rounds"][0]
    own = outputs.gather(1, labels[:, None])[:, 0]      # s_0 = 0: all mistakes count alike
    assert first["edge"] == pytest.approx((own - (1 - own) / 3).mean().item(), rel=1e-6)
    assert first["error"] == pytest.approx((outputs.argmax(1) != labels).double().mean().item())


@pytest.mark.parametrize("net", ["resnet20", "preact-resnet20"])
def test_frozen_blocks_do_not_move_by_a_bit_statistics_included(net):
    method = boosted(net, gamma=ALWAYS, preprocessing=Preprocessing(mirror=True))
    run(method, last=12)                                # the stem and the first block are over
    before = copied(method.state_dict())
    run(method, 12, 18)
    method.evaluate()
    after = method.state_dict()
    for kind in ("modules", "heads"):
        for index, (old, new) in enumerate(zip(before[kind], after[kind], strict=False)):
            same = [torch.equal(old[name], new[name]) for name in old]
            assert all(same) if index < 2 else not all(same), (kind, index)
    assert len(after["modules"]) == 4                   # and the fourth has not begun to learn
    fresh = boosted(net)
    for name, tensor in fresh._modules[3].state_dict().items():
        assert torch.equal(tensor, after["modules"][3][name])


def test_kept_features_are_those_that_would_be_computed():
    kept, computed = boosted(gamma=ALWAYS), boosted(gamma=ALWAYS, cache_mb=0)
    run(kept, last=20)
    run(computed, last=20)
    assert kept._features._kept is not None and computed._features._kept is None
    for step in (20, 21):
        torch.testing.assert_close(kept._features.batch(step), computed._features.batch(step))
    torch.testing.assert_close(kept.state_dict()["net"], computed.state_dict()["net"])
    augmented = boosted(gamma=ALWAYS, preprocessing=Preprocessing(mirror=True))
    run(augmented, last=7)
    assert augmented._features._kept is None
    through = augmented._modules[0](torch.as_tensor(augmented.batches.images(7)).double())
    assert torch.equal(augmented._features.batch(7), through)       # of the mirrored images


@pytest.mark.parametrize("stop", [4, 12, 25])
def test_a_resumed_training_is_the_undisturbed_one_bit_for_bit(stop):
    undisturbed, first, second = (boosted(gamma=ALWAYS, iterations=30) for _ in range(3))
    records = run(undisturbed)
    run(first, last=stop)
    second.load_state_dict(copied(first.state_dict()))
    assert run(second, stop) == records[stop:]
    expected, found = undisturbed.state_dict(), second.state_dict()
    assert expected["rounds"] == found["rounds"]
    assert torch.equal(expected["outputs"], found["outputs"])
    for name, tensor in expected["net"].items():
        assert torch.equal(tensor, found["net"][name]), name


def test_weights_at_the_start_are_those_of_the_single_net():
    method = boosted()
    single = Single(method.settings, nets.build("resnet20", (3, SIDE, SIDE), CLASSES),
                    method.batches, CPU)
    whole = method.net(10).state_dict()
    assert whole.keys() == single.net.state_dict().keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in single.net.state_dict().items())


def test_a_module_that_is_no_weak_learner_trains_on_and_is_left_out_in_the_end():
    method = boosted(iterations=24, block_iterations=6, gamma=0.9)
    run(method)
    facts = method.facts()
    assert [each["module"] for each in facts["rounds"]] == ["stem"] * 4
    assert facts["modules_used"] == 1           # there is no net without a module
    lazy = boosted(iterations=12, block_iterations=6, gamma=0.0)
    run(lazy, last=6)
    lazy._in_training.requires_grad_(False)     # the second module never learns
    for parameter in lazy._in_training.parameters():
        parameter.data.zero_()
    outputs = lazy._all_outputs()
    assert lazy._telescope.judge(outputs).gamma < 0     # the same answer to everything
    lazy._judge(11)
    assert lazy.facts()["modules_used"] == 1
    assert list(dict(lazy.net(1).named_children())) == ["stem", "pool", "fc"]


def test_nets_without_residual_blocks_in_a_row_are_refused():
    with pytest.raises(UserError, match="residual blocks in a row"):
        modules_of(nets.build("lenet", (1, 28, 28), 10))
    with pytest.raises(UserError, match=r"10 blocks to train .* found --iterations 9"):
        boosted(iterations=9)
    modules, last = modules_of(nets.build("preact-resnet20", (3, 8, 8), 4))
    assert len(modules) == 10
    assert type(last[0]) is nn.BatchNorm2d


# -- runs ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    save(folder, toy_data(96), toy_data(24, seed=1))
    return folder


def words(folder, out, *more):
    return ["train", "boosted", "--data", "arrays", "--data-dir", str(folder), "--out", str(out),
            "--batch-size", "24", "--threads", "1", "--device", "cpu", "--iterations", "40",
            "--gamma", str(ALWAYS), "--log-every", "5", "--precision", "float64", *map(str, more)]


def test_a_run_leaves_summary_figures_and_a_net_that_eval_finds(folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(folder, out, "--eval-every", 20)) == 0
    said = capsys.readouterr()
    assert "10 of 10 modules" in said.out and "module 3: gamma " in said.err
    summary = Run(out).summary()
    assert summary["method"] == "boosted" and summary["modules_used"] == 10
    assert [each["module"] for each in summary["rounds"]][:2] == ["stem", "block1_0"]
    assert summary["block_iterations"] == 4
    assert (out / "loss.png").stat().st_size > 10_000
    assert (out / "boosting.png").stat().st_size > 10_000
    assert main(["eval", str(out)]) == 0
    assert f"{100 * summary['test_accuracy']:.2f} %" in capsys.readouterr().out
    logged = {line["step"] for line in Run(out).metrics("boosted") if line["split"] == "train"}
    assert logged == {*range(4, 41, 4), *range(5, 41, 5)}
    target = tmp_path / "net.pt"
    assert main(["export", str(out), str(target)]) == 0
    nets.build("resnet20", (3, SIDE, SIDE), CLASSES).load_state_dict(torch.load(target))


def test_a_run_that_stops_growing_is_evaluated_with_what_it_has(folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(folder, out, "--gamma", 0.95, "--block-loss", "exponential")) == 0
    assert "1 of 10 modules" in capsys.readouterr().out
    assert main(["eval", str(out)]) == 0
    accuracy = Run(out).summary()["test_accuracy"]
    assert f"{100 * accuracy:.2f} %" in capsys.readouterr().out


def test_a_run_that_diverges_ends_with_76(folder, tmp_path, capsys):
    assert main(words(folder, tmp_path / "run", "--lr", 1e6, "--block-loss", "exponential",
                      "--quiet")) == 76
    assert "take a smaller learning rate" in capsys.readouterr().err
    assert Run(tmp_path / "run").divergence()["diverged"]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_undisturbed_net(folder, tmp_path):
    every = ["--quiet", "--checkpoint-every", 3]
    assert main(words(folder, tmp_path / "whole", *every)) == 0
    command = words(folder, tmp_path / "killed", *every)
    process = subprocess.Popen([sys.executable, "-m", "dualnet", *command], cwd=ROOT,
                               env={**os.environ})
    killed = Run(tmp_path / "killed")
    deadline = time.monotonic() + DEADLINE_S
    while not any(marker["step"] >= 9 for marker in markers(killed)):
        assert time.monotonic() < deadline and process.poll() is None, "no checkpoint to kill at"
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)
    assert not killed.is_over
    assert main(command) == 0
    whole = Run(tmp_path / "whole")
    one, other = (each.load_checkpoint("boosted", 40)["net"] for each in (whole, killed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert whole.summary()["rounds"] == killed.summary()["rounds"]


def markers(run):
    for path in run.folder.glob("boosted/checkpoints/gen*.json"):
        try:
            yield json.loads(path.read_text())
        except (OSError, ValueError):       # removed, as an older one, since it was listed
            continue
