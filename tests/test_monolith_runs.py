"""train monolith: real runs, with kills in each stage, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from monoliths import TINY, is_same, settings_of

from dualnet import feature_file, nets
from dualnet.cli import main
from dualnet.errors import UserError
from dualnet.methods.monolith.settings import MonolithConfig
from dualnet.monolith_session import Monolith
from dualnet.panels import with_mean_of_subs
from dualnet.run import Run
from shared_fs import StorageError

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
SMALL = ["--data", "cifar10", "--data-dir", TINY, "--depth", 10, "--width", 1, "--trunks", 2,
         "--trunk-batch", 16, "--head-batch", 20, "--whole-batch", 20, "--threads", 1,
         "--log-every", 1, "--precision", "float64", "--quiet", "--device", "cpu"]
# of 80 images 5 iterations an epoch in stage 1, of 100 images 5 in the others
EPOCHS = ["--trunk-epochs", 1, "--head-epochs", 2, "--whole-epochs", 0.8]     # 5, 10 and 4


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


def last_test(run, role):
    return [line for line in run.metrics(role) if line["split"] == "test"][-1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run", *EPOCHS, "--no-augment-head")


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
