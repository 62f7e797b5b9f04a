"""Chains as a user runs them: a process for each part, real kills, the same command again."""

import json
import os
import signal

import pytest
import torch
from official_files import write_cifar10
from pairs import DEADLINE_S, launch, wait_for

from dualnet.cli import main
from dualnet.config import from_dict
from dualnet.methods.dual.settings import DualConfig
from dualnet.reproduce.runner import Job, train_net
from dualnet.run import Run

SMALL = ["--data", "cifar10", "--batch-size", "20", "--iterations", "6", "--log-every", "2",
         "--threads", "1", "--quiet"]
THREE = ["--cut", "pool1,pool2"]
FOUR = ["--cut", "pool1,pool2,pool4", "--schedule", "pipelined", "--micro-batches", "3"]


def train(folder, *words):
    """`train dual` to its end; what it printed."""
    process = launch(folder, "-m", "dualnet", "train", "dual", *SMALL, *words, stdout=-1, stderr=-1)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name])
                                                for name in ours)


def in_threads(run, data_dir, folder):
    """The settings of a run, and what threads of this process make of them."""
    values = {**run.config(), "data_dir": str(data_dir)}
    del values["method"]
    settings = from_dict(DualConfig, values, "test")
    return settings, train_net(Job(settings, folder, None))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A finished chain of three whose copies differ: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("three")
    write_cifar10(folder)
    return folder, train(folder, *THREE, "--no-tie", "--rho", "0.01", "--out", "run")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A finished chain of four, in a pipeline."""
    folder = tmp_path_factory.mktemp("four")
    write_cifar10(folder)
    return folder, train(folder, *FOUR, "--out", "run")


@pytest.mark.parametrize("chain", ["three", pytest.param("four", marks=pytest.mark.slow)])
def test_a_chain_of_processes_gives_the_weights_of_threads_bit_for_bit(request, tmp_path, chain):
    folder, out = request.getfixturevalue(chain)
    run = Run(folder / "run")
    settings, trained = in_threads(run, folder, tmp_path / "threads")
    assert run.roles == list(settings.roles) and len(trained.nets) == len(settings.roles)
    for role, part in zip(settings.roles, trained.nets, strict=True):
        assert same(part.state_dict(), run.load_checkpoint(role, 6)["part"])
    ours, theirs = Run(tmp_path / "threads").summary(), run.summary()
    for key in ("test_accuracy", "test_accuracy_merged", "bytes_exchanged", "rho", "collapsed"):
        assert ours[key] == theirs[key]
    assert list(theirs["wait_share"]) == list(theirs["pids"]) == list(settings.roles)
    assert len(set(theirs["pids"].values())) == len(settings.roles)
    assert f"% through conv3' of {', '.join(settings.roles[1:])}, " in out
    assert (run.folder / "loss.png").exists()


def test_a_finished_chain_is_scored_exported_and_told_of(three, tmp_path, capsys):
    run = Run(three[0] / "run")
    summary = run.summary()
    assert main(["eval", str(run.folder), "--device", "cpu", "--data-dir", str(three[0])]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"test accuracy through conv3' of net2, net3: {100 * summary['test_accuracy']:.2f} %",
        f"test accuracy through conv3 of net1, net2: {100 * summary['test_accuracy_merged']:.2f} %"]
    assert main(["export", str(run.folder), str(tmp_path / "net.pt")]) == 0
    assert main(["export", str(run.folder), str(tmp_path / "merged.pt"), "--merged"]) == 0
    net, merged = (torch.load(tmp_path / name) for name in ("net.pt", "merged.pt"))
    parts = [run.load_checkpoint(role, 6)["part"] for role in ("net1", "net2", "net3")]
    expected = {"conv1": (0, 0), "conv2": (1, 0), "conv3": (2, 1), "conv4": (2, 2), "fc6": (2, 2)}
    groups = {"conv1": ("body", "body"), "conv2": ("head", "tail"), "conv3": ("head", "tail"),
              "conv4": ("body", "body"), "fc6": ("body", "body")}
    for layer, places in expected.items():
        for state, place, group in zip((net, merged), places, groups[layer], strict=True):
            assert torch.equal(state[f"{layer}.weight"], parts[place][f"{group}.{layer}.weight"])
    assert net.keys() == merged.keys() and not torch.equal(net["conv2.weight"],
                                                           merged["conv2.weight"])
    capsys.readouterr()
    assert main(["status", str(run.folder)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "net1", "net2", "net3"]


# -- kills -----------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.fault(9, "SIGKILL of each role of a chain of three, once each")
@pytest.mark.parametrize("words", [
    [], pytest.param(["--schedule", "pipelined", "--micro-batches", "2"],
                     marks=pytest.mark.exhaustive),
    ["--schedule", "async"]], ids=["lockstep", "pipelined", "async"])
def test_the_kill_of_any_role_does_not_show_in_the_net(pair, tmp_path, words):
    roles = ("net1", "net2", "net3")
    wild = pair("wild", *THREE, *words, roles=roles)
    for number, victim in enumerate(roles):
        assert wild.await_lines("net2", 9 + number)
        wild.kill([victim])
        wild.start(victim)
    wild.finish()
    _, trained = in_threads(wild.run, wild.folder, tmp_path / "threads")
    for role, part in zip(roles, trained.nets, strict=True):
        assert same(part.state_dict(), wild.weights(role))
        assert [line["loss"] for line in wild.run.metrics(role)
                if line["split"] == "train"] == [
            line["loss"] for line in trained.lines[role] if line["split"] == "train"]
    # All three go back to the same checkpoint each time, also the one that is no neighbour.
    starts = [wild.starts(role) for role in roles]
    assert starts[0] == starts[1] == starts[2] and len(starts[0]) >= 3
    assert not list(wild.folder.glob("meeting/g0*"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [
    pytest.param("net1", marks=pytest.mark.exhaustive), "net2",
    pytest.param("net3", marks=pytest.mark.exhaustive)])
def test_the_same_command_goes_on_after_the_kill_of_a_role(tmp_path, victim):
    write_cifar10(tmp_path)
    words = [*THREE, "--iterations", "40", "--checkpoint-every", "5", "--log-every", "1"]
    process = launch(tmp_path, "-m", "dualnet", "train", "dual", *SMALL, *words, "--out", "run",
                     stdout=-1, stderr=-1)
    run = Run(tmp_path / "run")
    wait_for(lambda: process.poll() is not None or any(
        (run.folder / victim / "checkpoints").glob("*step00000010.json")), "checkpoint")
    os.kill(json.loads((run.folder / victim / "env.json").read_text())["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 75 and f"dualnet: {victim} was ended by SIGKILL" in err
    assert "run the same command again to resume from iteration" in err
    train(tmp_path, *words, "--out", "run")
    settings, trained = in_threads(run, tmp_path, tmp_path / "threads")
    for role, part in zip(settings.roles, trained.nets, strict=True):
        assert same(part.state_dict(), run.load_checkpoint(role, 40)["part"])


@pytest.mark.slow
def test_a_stop_ends_all_roles_with_checkpoints_from_which_the_same_command_goes_on(tmp_path):
    write_cifar10(tmp_path)
    words = [*THREE, "--iterations", "40", "--checkpoint-every", "0", "--log-every", "1"]
    process = launch(tmp_path, "-m", "dualnet", "train", "dual", *SMALL, *words, "--out", "run",
                     stdout=-1, stderr=-1)
    run = Run(tmp_path / "run")
    wait_for(lambda: run.metrics_path("net1").exists()
             and len(run.metrics("net1")) > 5, "lines of metrics")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143
    assert run.resumes_from(("net1", "net2", "net3")) > 5
    train(tmp_path, *words, "--out", "run")
    settings, trained = in_threads(run, tmp_path, tmp_path / "threads")
    for role, part in zip(settings.roles, trained.nets, strict=True):
        assert same(part.state_dict(), run.load_checkpoint(role, 40)["part"])


# -- what is refused -------------------------------------------------------------------------------

@pytest.mark.parametrize(("words", "sentence"), [
    (["--cut", "pool1,pool3"], "no layer 'pool3' to cut behind; did you mean pool"),
    (["--cut", "pool2,pool1"], "each once, found pool2, pool1 (layers: conv1, "),
    (["--cut", "pool1,pool1"], "each once, found pool1, pool1 (layers: conv1, "),
    (["--cut", "pool2,fc6"], "the cut behind 'fc6' has no layer with weights"),
    (["--cut", "conv3,relu3"], "between it and the next, behind 'relu3', so there is nothing"),
    (["--cut", "pool2"], "makes 2 parts (net1, net2), so there is no net3"),
    (["--parts", "9"], "at most 8 parts, found 9"),
    (["--parts", "7"], "cannot be cut into 7 parts"),
    (["--net", "nets.py:no_sequence", "--cut", "a,b"],
     "should return an nn.Sequential of named layers, found Linear"),
    (["--net", "nets.py:misfit", "--cut", "fc1,fc2"],
     "failed in its layer 'fc3' on an input of shape"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_chain_that_cannot_be_gets_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys,
                                                                   words, sentence):
    write_cifar10(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from collections import OrderedDict\nfrom torch import nn\n"
        "def no_sequence():\n    return nn.Linear(2, 2)\n"
        "def misfit():\n    return nn.Sequential(OrderedDict(flat=nn.Flatten(), "
        "fc1=nn.Linear(3072, 8), fc2=nn.Linear(8, 7), fc3=nn.Linear(8, 10)))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALNET_DATA", str(tmp_path))
    assert main(["net3", *words, *SMALL, "--exchange-dir", "meeting"]) == 2
    err = capsys.readouterr().err
    complaints = [line for line in err.splitlines() if line.startswith("dualnet")]
    assert len(complaints) == 1 and sentence in complaints[0], err
    assert {path.name for path in tmp_path.iterdir()} <= {"nets.py", "cifar-10-batches-py"}
