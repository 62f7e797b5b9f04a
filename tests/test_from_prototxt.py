"""Runs from Caffe's files: the same numbers as from flags, and one sentence where files differ."""

import json
import os
import subprocess
import sys

import pytest
import torch
from official_files import write_cifar10
from prototxts import LEGACY, NET1, NET2, ROOT, SINGLE, solver

from dualnet import nets, session
from dualnet.config import TrainConfig, from_dict
from dualnet.errors import UserError
from dualnet.from_prototxt import build_net, notes, settings_from
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import DualConfig
from dualnet.optimizer import Optimizer
from dualnet.run import Run

COLOUR = (3, 32, 32)
DEADLINE_S = 250
# What the files say, as flags.
FLAGS = {"batch_size": 20, "iterations": 3, "lr_schedule": "step", "lr_step": 1, "lr_factor": 0.5,
         "weight_decay": 0.01, "solver": "caffe", "bias_lr": 2.0, "bias_decay": 0.0}
CHANGES = {"net1": NET1, "net2": NET2, "single": SINGLE}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


def write(folder, solvers=("", ""), **texts):
    """The files of both nets and of the single net, some with another text; their folder."""
    for name, text in (CHANGES | texts).items():
        (folder / f"{name}.prototxt").write_text(text)
    for name, rate in (("net1", 1e-5), ("net2", 0.05), ("single", 0.05)):
        words = solvers[name == "net2"]
        (folder / f"{name}_solver.prototxt").write_text(solver(f"{name}.prototxt", rate, words))
    return folder


def both(folder, ending="_solver"):
    return ",".join(f"{folder}/{name}{ending}.prototxt" for name in ("net1", "net2"))


def single_settings(folder, images, **values):
    values = {"data": "cifar10", "data_dir": str(images), "threads": 1, **values}
    return from_dict(TrainConfig, settings_from(values, "single"), "flags")


def dual_settings(folder, **values):
    found = settings_from({"solver_prototxt": both(folder), **values}, "dual")
    return from_dict(DualConfig, found, "flags").resolved()


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_single_net_from_files_trains_as_from_flags(files, images, tmp_path):
    runs = {}
    for name, words in (("files", {"solver_prototxt": f"{files}/single_solver.prototxt"}),
                        ("flags", {"net": "caffenet-small", "lr": 0.05, **FLAGS})):
        settings = single_settings(files, images, **words)
        run = Run(tmp_path / name)
        run.start("single", settings, overwrite=False)
        list(session.single(settings, run))
        runs[name] = run
    weights = {name: run.load_checkpoint("single", 3)["net"] for name, run in runs.items()}
    assert same(weights["files"], weights["flags"])
    first = nets.build("caffenet-small", COLOUR, 10).state_dict()
    assert not same(weights["files"], first)
    assert session.evaluate(runs["files"], {}) == session.evaluate(runs["flags"], {})


def train(*words, folder, images):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DUALNET_DATA": str(images)}
    return subprocess.run([sys.executable, "-m", "dualnet", *map(str, words)], cwd=folder,
                          env=environment, capture_output=True, text=True, timeout=DEADLINE_S)


def test_two_processes_train_from_files_as_from_flags(files, images, tmp_path):
    common = ["--data", "cifar10", "--threads", "1", "--quiet"]
    done = train("train", "dual", "--solver-prototxt", "net1_solver.prototxt,net2_solver.prototxt",
                 "--out", "files", *common, folder=tmp_path, images=images)
    assert done.returncode == 0, done.stderr
    flags = [word for key, value in FLAGS.items()
             for word in ("--" + key.replace("_", "-"), str(value))]
    done = train("train", "dual", "--loss", "euclidean", "--lr", "0.05", "--lr-net1", "1e-5",
                 "--out", "flags", *flags, *common, folder=tmp_path, images=images)
    assert done.returncode == 0, done.stderr
    for role in ("net1", "net2"):
        from_files, from_flags = (Run(tmp_path / name).load_checkpoint(role, 3)["part"]
                                  for name in ("files", "flags"))
        assert same(from_files, from_flags)
    config = json.loads((tmp_path / "files" / "config.json").read_text())
    assert config["net"] == "front+back" and config["loss"] == "euclidean"
    assert config["prototxt"] == both(files, "") and len(config["prototxt_sha256"]) == 64
    # The settings of the run, as a file, say the same as the files.
    again = settings_from({k: v for k, v in config.items() if k != "method"}, "dual")
    assert again == {k: v for k, v in config.items() if k != "method"}


def test_the_two_files_are_the_cut_net(files):
    settings = dual_settings(files, data="shapes")
    assert (settings.cut, settings.loss, settings.before_activation) == ("pool2", "euclidean",
                                                                         False)
    assert (settings.lr, settings.lr_net1, settings.iterations) == (0.05, 1e-5, 3)
    plain = DualConfig(loss="euclidean").resolved()
    ours = build_parts(plain, nets.build("caffenet-small", COLOUR, 10))
    theirs = build_parts(settings, build_net(settings, COLOUR, 10))
    for one, other in zip(ours, theirs, strict=True):
        assert same(one.state_dict(), other.state_dict())
    x = torch.randn(2, *COLOUR)
    assert torch.equal(ours[1](ours[0](x)), theirs[1](theirs[0](x)))


@pytest.mark.parametrize("place", [0, 1])
def test_each_role_has_the_rates_of_its_own_solver(files, place):
    settings = dual_settings(files)
    part = build_parts(settings, build_net(settings, COLOUR, 10))[place]
    optimizer = Optimizer(part, settings, 123.0, place)
    assert [optimizer.lr(step) for step in range(3)] == pytest.approx(
        [base * [1e-5, 0.05][place] for base in (1, 0.5, 0.25)])
    weights = [name for name, _ in part.named_parameters()]
    groups = optimizer.state_dict()["param_groups"]
    assert sorted(len(group["params"]) for group in groups) == [len(weights) // 2] * 2
    assert {(group["lr_mult"], group["decay_mult"]) for group in groups} == {(1, 1), (2, 0)}


def test_a_net_from_a_file_may_be_trained_by_flags(files, images):
    settings = single_settings(files, images, prototxt=f"{files}/single.prototxt", lr=0.3)
    assert (settings.lr, settings.lr_schedule, settings.batch_size) == (0.3, "tail", 20)
    net = build_net(settings, COLOUR, 10)
    optimizer = Optimizer(net, settings, 0.3)
    assert {group["multiple"] for group in optimizer._sgd.param_groups} == {1.0, 2.0}


def test_iterations_seed_tests_and_loss_may_be_chosen_beside_the_files(files):
    settings = dual_settings(files, iterations=7, seed=3, loss="admm", eval_every=2)
    assert (settings.iterations, settings.seed, settings.loss, settings.eval_every) == (
        7, 3, "admm", 2)
    assert settings.agreed()["prototxt_sha256"] == dual_settings(files).prototxt_sha256


@pytest.mark.parametrize(("name", "value", "said"), [
    ("lr", 0.1, "0.05"), ("batch_size", 30, "20"), ("momentum", 0.5, "0.9"),
    ("net", "lenet", "front.back"), ("cut", "pool1", "pool2"), ("lr_schedule", "tail", "solver"),
    ("prototxt_sha256", "0", "[0-9a-f]{64}"), ("layer_lr", "conv1=2", "nothing of it"),
    ("layer_decay", "conv1=0", "nothing of it")])
def test_a_flag_that_contradicts_the_files_is_refused(files, name, value, said):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} {value} contradicts the files.* {said}; leave"):
        dual_settings(files, **{name: value})


def test_comments_and_places_do_not_change_what_is_agreed_but_values_do(tmp_path):
    shas = []
    for name, net1, words in (("a", NET1, ""), ("b", "# words\n" + NET1.replace("  ", " "), ""),
                              ("c", NET1.replace("pad: 2", "pad: 2 stride: 1", 1), ""),
                              ("d", NET1, "clip_gradients: 5"), ("e", NET1, "display: 9")):
        (tmp_path / name).mkdir()
        shas.append(dual_settings(write(tmp_path / name, (words, words), net1=net1)
                                  ).prototxt_sha256)
    assert shas[0] == shas[1] == shas[4] and len(set(shas)) == 3


def test_a_file_that_changed_is_refused(files):
    settings = dual_settings(files)
    write(files, net2=NET2.replace("num_output: 10", "num_output: 11"))
    with pytest.raises(UserError, match="has changed since this run began"):
        build_net(settings, COLOUR, 10)


def test_batches_that_are_summed_up_are_one_batch(tmp_path):
    settings = dual_settings(write(tmp_path, ("iter_size: 3", "iter_size: 3")))
    assert settings.batch_size == 60


def test_a_python_loss_without_weight_is_the_control_that_never_trains_net1(tmp_path):
    assert dual_settings(write(tmp_path, net1=NET1.replace("loss_weight: 1", ""))
                         ).loss == "no_loss_weight"
    text = NET1.replace('"EuclideanLossLayer"',
                        '"NormalizedLossLayer" param_str: \'{"denominator": "exact"}\'')
    settings = dual_settings(write(tmp_path, net1=text))
    assert (settings.loss, settings.denominator) == ("normalized", "exact")


def test_a_net1_that_ends_before_its_activation_is_compared_there(tmp_path):
    relu3 = 'layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3"\n   }\n'
    assert relu3 in NET1
    net1 = NET1.replace(relu3, "")
    net2 = NET2.replace('name: "relu3p" type: "ReLU" bottom: "conv3p" top: "conv3p"',
                        'name: "relu3" type: "ReLU" bottom: "conv3p" top: "r"').replace(
        'type: "Convolution" bottom: "conv3p"', 'type: "Convolution" bottom: "r"')
    settings = dual_settings(write(tmp_path, net1=net1, net2=net2))
    assert settings.before_activation
    parts = build_parts(settings, build_net(settings, COLOUR, 10))
    assert list(dict(parts[0].tail.named_children())) == ["conv3"]


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"net2": NET2.replace("pool2", "pool7")}, "'pool7', which no layer of net1 .* gives"),
    ({"net2": NET2.replace("channels: 32", "channels: 31")},
     r"\[20, 31, 8, 8\], but in net1 .* it is \[20, 32, 8, 8\]"),
    ({"net2": NET2.replace("num_output: 64 kernel_size: 3", "num_output: 60 kernel_size: 3", 1)},
     r"'conv3p' .* should be the copy of layer 'conv3' .* and has other settings"),
    ({"net2": NET2.replace("lr_mult: 2", "lr_mult: 3", 1)}, "has other settings"),
    ({"net2": NET2.replace("conv3p", "conv3q")}, "net1 .* expects 'conv3p'"),
    ({"net2": NET2.replace('"SoftmaxWithLoss"', '"EuclideanLoss"')}, "needs as many samples"),
    ({"net2": NET2.replace('top: "loss" }', 'loss_weight: 2 top: "loss" }')},
     "one SoftmaxWithLoss with weight 1"),
    ({"net2": NET2.split('layer { name: "loss"')[0]}, "has no loss to train"),
    ({"net1": NET1.split('layer { name: "loss"')[0]}, "needs one loss, found 0"),
    ({"net1": NET1.replace("loss_weight: 1", "loss_weight: 2")}, "loss_weight of 1, found 2"),
    ({"net1": NET1.replace("EuclideanLossLayer", "EuclidLossLayer")}, "did you mean EuclideanLoss"),
    ({"net1": NET1.replace('"EuclideanLossLayer"', '"NormalizedLossLayer" param_str: "{"')},
     "param_str should be empty or like"),
    ({"net1": NET1.replace("batch_size: 20", "batch_size: 10")}, r"\[10, 32, 8, 8\]"),
    ({"net2": NET2.replace('"fc6"', '"relu1"').replace("fc6", "relu1")}, "have the same name"),
    ({"solvers": ("", "random_seed: 1")}, "'random_seed' must be the same in both"),
    ({"solvers": ("iter_size: 2", "")}, "'iter_size' must be the same in both")])
def test_two_files_that_do_not_fit_are_refused_in_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        dual_settings(write(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_how_many_files_a_method_takes(files):
    one = f"{files}/net1.prototxt"
    with pytest.raises(UserError, match="dual takes two nets, NET1,NET2, found 1"):
        settings_from({"prototxt": one}, "dual")
    with pytest.raises(UserError, match="a solver for each of 1 nets, found 2"):
        settings_from({"prototxt": one, "solver_prototxt": both(files)}, "single")
    with pytest.raises(UserError, match="found 3"):
        settings_from({"prototxt": ",".join([one] * 3)}, "single")


def test_a_net_that_does_not_fit_the_images_is_refused(files, images):
    settings = single_settings(files, images, prototxt=f"{files}/single.prototxt")
    with pytest.raises(UserError, match="images of 3x32x32, but those of --data cifar10 are 1x28x"):
        build_net(settings, (1, 28, 28), 10)
    with pytest.raises(UserError, match="gives 10 scores, but --data cifar10 has 100 classes"):
        build_net(settings, COLOUR, 100)


def test_what_the_solver_asks_for_in_vain_is_said(tmp_path):
    settings = dual_settings(write(tmp_path, ("", 'snapshot: 5')))
    assert notes(settings) == [f"{tmp_path}/net2_solver.prototxt:9:1: 'snapshot' has no effect "
                               "here: checkpoints are those of the run folder"]


@pytest.mark.parametrize("folder", ["small", "thesis"])
def test_the_files_of_the_thesis_are_nets_of_dualnet(folder, monkeypatch):
    monkeypatch.chdir(LEGACY.parent)
    settings = dual_settings(LEGACY / folder)
    assert settings.cut == "pool2" and settings.loss == "euclidean"
    ours = nets.build({"small": "caffenet-small", "thesis": "caffenet"}[folder], COLOUR, 10)
    theirs = build_net(settings, COLOUR, 10)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert str(ours) == str(theirs)
