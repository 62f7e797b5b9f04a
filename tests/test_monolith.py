"""train monolith: the stages by hand, what rests, and real runs with kills in each stage."""

import json
import os
import resource
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

from dualnet import feature_file, nets
from dualnet.cli import main
from dualnet.errors import UserError
from dualnet.methods.monolith.settings import HEAD, STAGES, TRUNK, WHOLE, MonolithConfig, Span
from dualnet.methods.monolith.training import Head, averages, subset_of, trunk_net
from dualnet.monolith_costs import costs_of
from dualnet.monolith_session import Monolith
from dualnet.nets.monolith import average_proxies, joined
from dualnet.panels import with_mean_of_subs
from dualnet.run import Run
from dualnet.session import load_data
from shared_fs import StorageError

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
CPU = torch.device("cpu")
TINY = Path(tempfile.mkdtemp(prefix="dualnet-tests-"))     # 100 training images, 20 test images
SMALL = ["--data", "cifar10", "--data-dir", TINY, "--depth", 10, "--width", 1, "--trunks", 2,
         "--trunk-batch", 16, "--head-batch", 20, "--whole-batch", 20, "--threads", 1,
         "--log-every", 1, "--precision", "float64", "--quiet", "--device", "cpu"]
# of 80 images 5 iterations an epoch in stage 1, of 100 images 5 in the others
EPOCHS = ["--trunk-epochs", 1, "--head-epochs", 2, "--whole-epochs", 0.8]     # 5, 10 and 4


@pytest.fixture(scope="module", autouse=True)
def tiny_data_set():
    write_cifar10(TINY)
    yield
    shutil.rmtree(TINY)


def words(out, *more):
    return [str(word) for word in ("train", "monolith", *SMALL, "--out", out, *more)]


def train(out, *more):
    """In this process; a run that has finished."""
    assert main(words(out, *more)) == 0
    return Run(out)


def start(out, *more):
    """In a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "dualnet", *words(out, *more)], cwd=ROOT,
                            env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def net_of(run, role, step):
    return run.load_checkpoint(role, step)["net"]


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def last_test(run, role):
    return [line for line in run.metrics(role) if line["split"] == "test"][-1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run", *EPOCHS, "--no-augment-head")


def settings_of(**changes):
    return MonolithConfig(**{
        "data": "cifar10", "data_dir": str(TINY), "depth": 10, "width": 1, "trunks": 2,
        "precision": "float64", "head_batch": 20, "threads": 1, **changes}).resolved()


def head_of(**changes):
    """The head of a new net with drawn trunks that have seen some images, and these trunks."""
    settings = settings_of(**changes)
    _, batches = load_data(settings.replace(batch_size=20))
    trunks = [trunk_net(settings, role, batches.input_shape, 10).double()
              for role in settings.trunk_roles]
    for trunk in trunks:
        trunk.train()(torch.as_tensor(batches.images(0)).double())
    span = Span(0, 6, 0.0, 5)
    return Head(settings.of_stage(HEAD, span), settings.stage(HEAD), span, trunks, batches,
                CPU), trunks


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


# -- settings --------------------------------------------------------------------------------------

def test_the_published_stages_on_cifar10_by_hand():
    # 40,000 images in batches of 128: 312 an epoch; 50,000 in 300: 166; in 88: 568
    settings = MonolithConfig().resolved()
    spans = settings.spans(50_000)
    assert spans[TRUNK] == Span(0, 200 * 312, 0.0, 312)
    assert spans[HEAD] == Span(62_400, 62_400 + 40 * 166, 200.0, 166)
    assert spans[WHOLE] == Span(69_040, 69_040 + 25 * 568, 240.0, 568)
    assert settings.counted(50_000).iterations == 83_240
    stages = {name: settings.stage(name) for name in STAGES}
    assert [stage.lr for stage in stages.values()] == [0.1, 0.005, 1e-4]
    assert spans[TRUNK].milestones(stages[TRUNK]) == (60 * 312, 120 * 312, 160 * 312)
    assert spans[HEAD].milestones(stages[HEAD]) == tuple(62_400 + 13 * n * 166 for n in (1, 2, 3))
    assert spans[WHOLE].milestones(stages[WHOLE]) == (69_040 + 13 * 568,)
    assert [stage.factor for stage in stages.values()] == [0.2, 0.3, 0.2]
    assert (settings.momentum, settings.weight_decay) == (0.9, 5e-4)
    assert (settings.mirror, settings.crop, settings.mean) == (True, 4, "channel")
    assert settings.net == "3xwrn-28-20" and settings == settings.resolved()


def test_subsets_are_of_the_given_size_differ_and_depend_on_seed_and_trunk_alone():
    settings = MonolithConfig(subset=0.3)
    one, other = (subset_of(settings, role, 100) for role in ("trunk1", "trunk2"))
    assert len(set(one.tolist())) == len(one) == 30 and one.tolist() == sorted(one)
    assert one.min() >= 0 and one.max() < 100 and set(one) != set(other)
    assert np.array_equal(one, subset_of(settings.replace(trunks=7), "trunk1", 100))
    assert not np.array_equal(one, subset_of(settings.replace(seed=1), "trunk1", 100))


def test_each_stage_has_its_own_rate_and_epochs_and_the_iterations_count_on(undisturbed):
    run = undisturbed
    lines = {role: [line for line in run.metrics(role) if line["split"] == "train"]
             for role in run.roles}
    assert {role: [each[0]["step"], each[-1]["step"]] for role, each in lines.items()} == {
        "trunk1": [1, 5], "trunk2": [1, 5], "head": [6, 15], "whole": [16, 19]}
    assert {role: {line["lr"] for line in each} for role, each in lines.items()} == {
        "trunk1": {0.1}, "trunk2": {0.1}, "head": {0.005}, "whole": {1e-4}}
    assert [lines[role][-1]["epoch"] for role in ("trunk1", "head", "whole")] == pytest.approx(
        [1, 3, 3.8])
    assert run.config()["iterations"] == 19


def test_the_rate_drops_after_the_epochs_that_are_named(tmp_path):
    run = train(tmp_path / "run", "--trunk-epochs", 1, "--head-epochs", 2, "--head-drops", "1,1.4",
                "--head-factor", 0.5, "--whole-epochs", 0.2, "--no-augment-head")
    rates = [line["lr"] for line in run.metrics("head") if line["split"] == "train"]
    assert rates == pytest.approx([0.005] * 5 + [0.0025] * 2 + [0.00125] * 3)


# -- stage 2 ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("keeps", [False, True])
def test_resting_trunks_do_not_move_by_a_bit_statistics_included(keeps):
    method, trunks = head_of(**({} if not keeps else {"augment_head": False}))
    before = [copied(trunk.state_dict()) for trunk in trunks]
    head = copied(method.net.state_dict())
    if keeps:
        method.keep(np.concatenate(list(method.features())))
    for _ in method.steps():
        pass
    method.evaluate()
    assert all(is_same(state, trunk.state_dict())
               for state, trunk in zip(before, trunks, strict=True))
    assert all(parameter.grad is None for trunk in trunks for parameter in trunk.parameters())
    assert not any(torch.equal(head[name], tensor)
                   for name, tensor in method.net.state_dict().items())
    assert set(method.state_dict()["net"]) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_kept_features_train_the_head_as_computed_ones_do():
    kept, _ = head_of(augment_head=False, mirror=False, crop=0)
    computed, _ = head_of(mirror=False, crop=0)
    kept.keep(np.concatenate(list(kept.features())))
    for parameter in kept.trunks.parameters():      # nobody asks the trunks again
        parameter.data.fill_(torch.nan)
    for one, other in zip(kept.steps(), computed.steps(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-12)
    for name, tensor in kept.net.state_dict().items():
        torch.testing.assert_close(tensor, computed.net.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_an_augmented_head_sees_other_features_each_time():
    method, _ = head_of()
    images = torch.as_tensor(method.batches.images(3)).double()
    assert torch.equal(method._batch(3), method.trunks(images))
    plain = method.batches.dataset.train_images[method.batches.sample_ids(3)]
    assert not np.array_equal(images.numpy(), plain)


def test_averages_are_those_of_logits_and_of_probabilities_by_hand():
    method, trunks = head_of()
    images = torch.as_tensor(method.batches.test_images(0)).double()
    labels = method.batches.test_labels(0)
    logits = np.stack([trunk.eval()(images).detach().numpy() for trunk in trunks])
    logits[1] *= 5      # a trunk that is more certain counts more among logits
    with torch.no_grad():
        for tensor in trunks[1].fc.parameters():
            tensor.mul_(5)
    chances = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    expected = {"accuracy_trunk1": logits[0], "accuracy_trunk2": logits[1],
                "accuracy_mean_logits": logits.mean(0),
                "accuracy_mean_probabilities": chances.mean(0)}
    found = averages(trunks, method.batches, CPU, torch.float64)
    assert found == {name: (each.argmax(1) == labels).mean() for name, each in expected.items()}


class Answers(torch.nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_a_certain_trunk_outvotes_two_others_among_logits_and_not_among_probabilities():
    # logits: mean (10/3, 2), class 0; probabilities: about (1, 0), (.05, .95), (.05, .95): class 1
    method, _ = head_of()
    trunks = [Answers(10, 0), Answers(0, 3), Answers(0, 3)]
    method.batches.dataset.test_labels[:3] = 0      # of class 0 more images than of class 1
    share = [(method.batches.dataset.test_labels == label).mean() for label in (0, 1)]
    assert share[0] != share[1]
    found = averages(trunks, method.batches, CPU, torch.float64)
    assert (found["accuracy_mean_logits"], found["accuracy_mean_probabilities"]) == tuple(share)


def test_a_linear_head_begins_as_the_mean_of_the_logits():
    method, trunks = head_of(neurons=0)
    images = torch.as_tensor(method.batches.test_images(0)).double()
    mean = sum(trunk.eval()(images) for trunk in trunks) / 2
    net = joined(trunks, method.net).eval()
    torch.testing.assert_close(net(images), mean, rtol=1e-12, atol=1e-12)
    labels = torch.as_tensor(method.batches.test_labels(0))
    assert method.evaluate()["loss"] == pytest.approx(
        functional.cross_entropy(mean, labels).item(), rel=1e-12)
    average_proxies(method.net, [trunks[0], trunks[0]])     # and of one trunk that one's
    twice = method.net(torch.cat([method.trunks.trunk1(images)] * 2, 1))
    torch.testing.assert_close(twice, trunks[0](images), rtol=1e-12, atol=1e-12)


# -- runs ------------------------------------------------------------------------------------------

def test_the_summary_has_the_stages_and_what_joining_alone_gives(undisturbed, capsys):
    summary = undisturbed.summary()
    # stem 432, blocks 4,672 14,432 57,536, last normalisation 128, proxy 650; head 128 -> 16 -> 10
    assert summary["parameters_trunk"] == 77_850
    assert summary["parameters"] == 2 * 77_200 + 129 * 16 + 17 * 10
    assert summary["test_accuracy"] == last_test(undisturbed, "whole")["accuracy"]
    assert summary["accuracy_head"] == last_test(undisturbed, "head")["accuracy"]
    for role in ("trunk1", "trunk2"):
        assert summary[f"accuracy_{role}"] == last_test(undisturbed, role)["accuracy"]
    assert summary["accuracy_best_trunk"] == max(summary["accuracy_trunk1"],
                                                 summary["accuracy_trunk2"])
    assert all(0 <= summary[f"accuracy_mean_{what}"] <= 1 for what in ("logits", "probabilities"))
    assert summary["iterations_stages"] == {"trunk": 5, "head": 10, "whole": 4}
    assert summary["wall_s_parallel"] < summary["wall_s"] and summary["bytes_exchanged"] == 0
    # 2 x 5 x 16 images, 10 x 20 and 4 x 20
    assert summary["images_per_s"] * summary["wall_s"] == pytest.approx(160 + 200 + 80)
    assert not list(undisturbed.folder.glob("head/*.npy"))      # no longer needed
    assert main(["eval", str(undisturbed.folder), "--device", "cpu"]) == 0
    assert f"{100 * summary['test_accuracy']:.2f} %" in capsys.readouterr().out


def test_stage_3_begins_with_the_trunks_and_the_head_of_the_stages_before(tmp_path):
    run = train(tmp_path / "run", *EPOCHS, "--whole-lr", 0, "--trunks", 1, "--neurons", 0,
                "--no-augment-head")
    whole, trunk = net_of(run, "whole", 19), net_of(run, "trunk1", 5)
    moved = ("running_mean", "running_var", "num_batches_tracked")      # as in all training
    for name, tensor in trunk.items():
        if not name.startswith("fc.") and not name.endswith(moved):
            assert torch.equal(tensor, whole[f"trunks.trunk1.{name}"]), name
    head = net_of(run, "head", 15)
    assert set(head) == {"fc2.weight", "fc2.bias"}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in head.items())
    assert main(["eval", str(run.folder), "--device", "cpu"]) == 0      # the linear head, too


def test_the_whole_net_is_exported(undisturbed, tmp_path):
    path = tmp_path / "net.pt"
    assert main(["export", str(undisturbed.folder), str(path)]) == 0
    assert is_same(torch.load(path), net_of(undisturbed, "whole", 19))
    nets.build("2xwrn-10-1", (3, 32, 32), 10).load_state_dict(torch.load(path))     # by its name


def test_trunks_in_parallel_processes_are_those_trained_one_after_another(tmp_path, undisturbed):
    process = start(tmp_path / "run", *EPOCHS, "--no-augment-head", "--jobs", 2)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, out
    assert "mean of their logits: " in out and "head on resting trunks: " in out
    run = Run(tmp_path / "run")
    assert len({run.environment(role)["pid"] for role in run.roles}) == 3   # head and whole in one
    for role, step in (("trunk1", 5), ("trunk2", 5), ("head", 15), ("whole", 19)):
        assert is_same(net_of(run, role, step), net_of(undisturbed, role, step)), role


def test_a_kill_in_each_stage_resumes_to_the_undisturbed_net(tmp_path):
    more = ["--trunk-epochs", 3, "--head-epochs", 6, "--whole-epochs", 3, "--checkpoint-every", 2]
    undisturbed = train(tmp_path / "a", *more)
    run = Run(tmp_path / "b")
    train(run.folder, *more, "--only", "trunk1")
    assert not run.summary_path.exists() and run.roles == ["trunk1"]
    finished = run.metrics_path("trunk1").read_bytes()
    for role, only in (("trunk2", ["--only", "trunk2"]), ("head", []), ("whole", [])):
        process = start(run.folder, *more, *only)
        folder, deadline = run.folder / role / "checkpoints", time.monotonic() + DEADLINE_S
        while not list(folder.glob("*.json")):
            assert time.monotonic() < deadline and process.poll() is None, role
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == -signal.SIGKILL
    train(run.folder, *more)
    assert run.metrics_path("trunk1").read_bytes() == finished
    for role in ("trunk2", "head", "whole"):
        lines = [json.loads(line) for line in run.metrics_path(role).read_text().splitlines()]
        assert any(line["split"] == "resume" for line in lines), role
    for role, step in (("trunk1", 15), ("trunk2", 15), ("head", 45), ("whole", 60)):
        assert is_same(net_of(run, role, step), net_of(undisturbed, role, step)), role
    keys = [key for key in undisturbed.summary() if "accuracy" in key]
    assert [run.summary()[key] for key in keys] == [undisturbed.summary()[key] for key in keys]


def test_features_that_are_kept_are_written_once_and_made_again_where_they_are_damaged(tmp_path):
    # stopped behind the features, by iterations whose loss is not finite
    more = [*EPOCHS, "--no-augment-head"]
    assert main(words(tmp_path / "run", *more, "--head-lr", 1e300)) == 76
    path, = (tmp_path / "run" / "head").glob("features-*.npy")
    found = np.load(path)
    assert found.shape == (100, 128) and found.dtype == np.float64
    rows = (found.shape, found.dtype)
    assert np.array_equal(feature_file.read(path, *rows), found)
    assert feature_file.read(path, (99, 128), found.dtype) is None
    assert feature_file.read(path, found.shape, np.dtype("float32")) is None
    path.write_bytes(path.read_bytes()[:-8])
    assert feature_file.read(path, *rows) is None
    halves = iter((found[:60], found[60:]))
    assert list(feature_file.write(path, halves, *rows)) == [60, 100]
    assert np.array_equal(feature_file.read(path, *rows), found)


def test_kept_features_are_read_again_by_a_run_that_goes_on(tmp_path):
    settings = settings_of(augment_head=False, trunk_epochs=0.0, trunk_batch=16, head_epochs=1.0,
                           log_every=1, batch_size=20).counted(100)
    run = Run(tmp_path / "run")
    run.start("monolith", settings)
    for role in settings.trunk_roles:
        assert list(Monolith(settings, run).train_trunk(role))

    def splits(until=None):
        found = []
        lines = Monolith(settings, run).train_head()
        for line in lines:
            found.append(line["split"])
            if line["split"] == until:
                break
        lines.close()
        return found

    assert splits(until="train") == ["note"] * 5 + ["train"]
    assert splits(until="train") == ["resume", "train"]
    path, = run.folder.glob("head/features-*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    assert splits() == ["note"] * 5 + ["resume"] + ["train"] * 5 + ["test"]
    assert not path.exists() and splits() == []


def test_a_file_of_features_that_is_interrupted_or_refused_leaves_nothing(tmp_path):
    path, rows = tmp_path / "features.npy", ((4, 2), np.dtype("float32"))
    writing = feature_file.write(path, iter([np.zeros((2, 2))] * 2), *rows)
    assert next(writing) == 2
    writing.close()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot keep .* features .*--augment-head"):
        list(feature_file.write(tmp_path / "file" / "features.npy", iter([]), *rows))


def test_trunks_are_drawn_as_their_mean():
    def line(step, loss):
        return {"step": step, "split": "train", "loss": loss, "time_s": 1.0}

    records = {"trunk1": [line(1, 1.0)], "trunk2": [line(1, 3.0)], "head": [line(2, 0.1)]}
    assert with_mean_of_subs(records) == {
        "subs": [{**line(1, 2.0), "time_s": 2.0}], "head": [line(2, 0.1)]}


# -- costs -----------------------------------------------------------------------------------------

def test_costs_of_a_small_net_by_hand():
    settings = MonolithConfig(depth=10, width=1, trunks=2, images=0).resolved()
    trunk, head, whole = costs_of(settings, (3, 32, 32), 10, 50_000)
    # multiply-adds of 3x3 convolutions: stem 432 weights and block 1 4,608 at 32 x 32; block 2
    # 13,824 and its shortcut 512 at 16 x 16; block 3 55,296 and 2,048 at 8 x 8; proxy 640
    forward = (432 + 4_608) * 1024 + (13_824 + 512) * 256 + (55_296 + 2_048) * 64
    assert (trunk.trained, trunk.resting, trunk.forward) == (77_850, 0, forward + 640)
    # backward twice as many, but nobody asks for the gradient of the image
    assert trunk.operations == 2 * (3 * trunk.forward - 432 * 1024)
    assert trunk.total == 2 * trunk.operations * 128 * 200 * 312
    assert head.trained == 129 * 16 + 170 and head.resting == 2 * 77_200
    reads = 128 * 16 + 160
    assert head.forward == 2 * forward + reads
    assert head.operations == 2 * (2 * forward + 3 * reads - 128 * 16)
    assert whole.trained == head.trained + head.resting
    assert whole.operations == 2 * (2 * (3 * forward - 432 * 1024) + 3 * reads)
    # statistics: mean and variance of 16 16 16 32 32 64 64 maps, and a count each
    statistics = 4 * 2 * (16 + 16 + 16 + 32 + 32 + 64 + 64) + 7 * 8
    assert trunk.weight_bytes == 3 * 4 * 77_850 + statistics
    assert head.weight_bytes == 3 * 4 * head.trained + 4 * head.resting + 2 * statistics
    # the features, what the 16 neurons give behind the ReLU, logits: nothing of the trunks
    assert head.image_bytes < 4 * (128 + 16 + 10) + 100 < whole.image_bytes / 100
    # both trunks read the same image, 3 x 32 x 32 numbers
    assert whole.image_bytes == pytest.approx(2 * trunk.image_bytes - 4 * 3072, rel=1e-3)


def test_kept_features_cost_a_pass_of_the_trunks_once():
    plain = MonolithConfig(depth=10, width=1, trunks=2).resolved()
    _, computed, _ = costs_of(plain, (3, 32, 32), 10, 500)
    _, kept, _ = costs_of(plain.replace(augment_head=False), (3, 32, 32), 10, 500)
    assert computed.once == 0 and kept.once == 500 * (computed.operations - kept.operations)
    reads = 128 * 16 + 160
    assert kept.operations == 2 * (3 * reads - 128 * 16)


def test_meta_tells_the_published_net_without_making_it(capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["train", "monolith", "--meta", "--data", "cifar10", "--data-dir", str(TINY)]) == 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000      # kilobytes; the net alone has 1,750,000
    said = capsys.readouterr().out
    assert "3xwrn-28-20" in said and "437,469,738 weights" in said and "145,815,514" in said
    row = next(line for line in said.splitlines() if line.startswith("stage 2"))
    assert "61,626" in row and "437,408,112" in row


# -- what is refused -------------------------------------------------------------------------------

@pytest.mark.parametrize(("given", "message"), [
    (["--subset", "0"], "--subset is above 0 and at most 1, found 0"),
    (["--subset", "1.5"], "--subset is above 0 and at most 1, found 1.5"),
    (["--subset", "0.1"], "batch larger than the data: 16 images per batch"),
    (["--images", "101"], "--images 101 are more than the 100 training images"),
    (["--head-drops", "3,2"], "--head-drops takes epochs in ascending order"),
    (["--whole-drops", "x"], "--whole-drops takes epochs in ascending order, as in 60,120,160, "
                             "found 'x'"),
    (["--depth", "12"], "the depth of a wide residual net is 6n + 4"),
    (["--only", "trunk3"], "unknown trunk 'trunk3'; did you mean trunk"),
])
def test_a_wrong_wish_is_one_sentence_and_leaves_no_folder(tmp_path, capsys, given, message):
    assert main(words(tmp_path / "run", *EPOCHS, *given)) in (2, 65)
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_only_the_first_images_count_and_a_later_test_knows_it(tmp_path, capsys):
    run = train(tmp_path / "run", *EPOCHS, "--images", 40, "--trunk-batch", 8)
    # 32 of 40 images in batches of 8: 4 iterations; 2 an epoch of 20: 4 and round(0.8 * 2) = 2
    assert run.summary()["iterations_stages"] == {"trunk": 4, "head": 4, "whole": 2}
    assert main(["eval", str(run.folder), "--device", "cpu"]) == 0
    assert f"{100 * run.summary()['test_accuracy']:.2f} %" in capsys.readouterr().out


def test_a_run_of_other_settings_is_refused(undisturbed, tmp_path, capsys):
    assert main(words(undisturbed.folder, *EPOCHS)) == 2
    assert "holds a finished run" in capsys.readouterr().err
    train(tmp_path / "run", *EPOCHS, "--only", "trunk1")
    assert main(words(tmp_path / "run", *EPOCHS, "--subset", 0.9)) == 2
    assert "belongs to a run with subset = 0.8, not 0.9" in capsys.readouterr().err
    with pytest.raises(UserError, match="--trunks must be at least 1"):
        MonolithConfig(trunks=0)
