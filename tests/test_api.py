"""The package from Python, and what it gives back: one module, one state dict."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dual import largest_difference

from dualnet import api
from dualnet.cli import main
from dualnet.data import arrays
from dualnet.errors import UserError
from dualnet.run import Run

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
SCRIPT = '''
from collections import OrderedDict
import numpy as np
from torch import nn
from dualnet.api import save_arrays, train

def points_net(input_shape, num_classes):
    return nn.Sequential(OrderedDict([
        ("fc1", nn.Linear(*input_shape, 9)), ("norm1", nn.BatchNorm1d(9)), ("tanh1", nn.Tanh()),
        ("fc2", nn.Linear(9, 8)), ("tanh2", nn.Tanh()), ("fc3", nn.Linear(8, num_classes))]))

GUARD
    x = np.random.default_rng(0).standard_normal((60, 4))
    y = (x.sum(1) > 0).astype(int) + (x[:, 0] > 1)
    save_arrays("points", train=(x[:40], y[:40]), test=(x[40:], y[40:]))
    trained = train(points_net, "points", cut="tanh1", out="run", quiet=True, iterations=6,
                    batch_size=10, threads=1, tie=False, log_every=2)
    print(trained.summary["test_accuracy"], trained.folder)
'''


def write_script(folder, guard='if __name__ == "__main__":'):
    (folder / "own_script.py").write_text(SCRIPT.replace("GUARD", guard))


def run(folder, *words, path=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *map(str, words)], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a net and of data that the package has never seen, in two processes."""
    folder = tmp_path_factory.mktemp("own")
    write_script(folder)
    found = run(folder, "own_script.py")
    assert found.returncode == 0, found.stderr
    return folder, found


def net_of(folder):
    namespace = {"__name__": "own"}
    exec((folder / "own_script.py").read_text(), namespace)
    return namespace["points_net"]((4,), 3)


def accuracy(net, folder):
    content = np.load(folder / "points" / "test.npz")
    with torch.no_grad():
        scores = net.eval()(torch.tensor(content["x"]).float())
    return (scores.argmax(1).numpy() == content["y"]).mean()


def test_an_own_net_on_own_data_is_trained_in_two_processes(trained):
    folder, found = trained
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert found.stdout.split() == [str(summary["test_accuracy"]), "run"]
    assert summary["net"] == "points_net" and summary["iterations"] == 6
    assert len(set(summary["pids"].values())) == 2
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["net_source"] == f"{folder / 'own_script.py'}:points_net"
    assert (config["scale"], config["mean"]) == (1.0, "none")   # floating samples as they are


def test_the_joined_net_and_its_state_dict_come_back(trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    back = api.load("run")
    net = back.net()
    assert list(dict(net.named_children())) == ["fc1", "norm1", "tanh1", "fc2", "tanh2", "fc3"]
    assert int(net.norm1.num_batches_tracked) == 6
    # both accuracies of the run were measured by the roles themselves
    assert accuracy(net, folder) == pytest.approx(back.summary["test_accuracy"])
    merged = back.net(merged=True)
    assert accuracy(merged, folder) == pytest.approx(back.summary["test_accuracy_merged"])
    assert not torch.equal(net.fc2.weight, merged.fc2.weight)       # untied: two copies
    assert torch.equal(net.fc1.weight, merged.fc1.weight)
    assert back.state_dict().keys() == net_of(folder).state_dict().keys()


def test_an_export_loads_into_the_users_own_class(trained, monkeypatch, capsys):
    folder, _ = trained
    monkeypatch.chdir(folder)
    for words, merged in ((["net.pt"], False), (["merged.pth", "--merged"], True)):
        assert main(["export", "run", *words]) == 0
        net = net_of(folder)
        net.load_state_dict(torch.load(words[0], weights_only=True))
        assert largest_difference(net, api.load("run").net(merged=merged)) == 0
        assert capsys.readouterr().out.startswith(f"{words[0]}: 11 tensors, ")


@pytest.mark.parametrize(("words", "sentence"), [
    (["run", "net.txt"], "should end in .pt, .pth, .safetensors, found 'net.txt'"),
    (["run", "there.pt"], "there.pt is there already; name another file, or replace it"),
    (["run", "no/folder/net.pt"], "cannot write no/folder/net.pt"),
    (["points", "net.pt"], "there is no config.json in points: this is no run")])
def test_an_export_that_cannot_be_made_is_refused(trained, monkeypatch, capsys, words, sentence):
    folder, _ = trained
    monkeypatch.chdir(folder)
    Path("there.pt").write_text("mine")
    assert main(["export", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert Path("there.pt").read_text() == "mine"
    assert not list(folder.glob(".*.pt.*"))


def test_safetensors_are_written_where_they_are_installed(trained, monkeypatch, capsys):
    folder, _ = trained
    monkeypatch.chdir(folder)
    try:
        from safetensors.torch import load_file
    except ImportError:
        assert main(["export", "run", "net.safetensors"]) == 2
        assert "takes the package safetensors, which is not installed" in capsys.readouterr().err
    else:
        assert main(["export", "run", "net.safetensors"]) == 0
        net_of(folder).load_state_dict(load_file("net.safetensors"))


def test_a_single_net_has_nothing_to_merge_and_is_exported_too(trained, monkeypatch, capsys):
    folder, _ = trained
    monkeypatch.chdir(folder)
    assert main(["train", "single", "--net", "own_script.py:points_net", "--data", "arrays",
                 "--data-dir", "points", "--iterations", "2", "--batch-size", "10", "--threads",
                 "1", "--out", "single", "--quiet"]) == 0
    assert main(["export", "single", "single.pt"]) == 0
    net_of(folder).load_state_dict(torch.load("single.pt", weights_only=True))
    assert main(["export", "single", "other.pt", "--merged"]) == 2
    assert "is not of a dual net" in capsys.readouterr().err


def test_a_file_that_trains_when_it_is_read_is_told_so(tmp_path):
    write_script(tmp_path, guard="if True:")
    found = run(tmp_path, "own_script.py")
    assert found.returncode == 1
    assert 'put the call under if __name__ == "__main__":' in found.stderr
    assert "TrainingFailed" in found.stderr


def test_a_net_that_changes_while_its_run_is_unfinished_is_noticed(trained, tmp_path):
    folder, _ = trained
    changed = tmp_path / "own_script.py"
    changed.write_text((folder / "own_script.py").read_text() + "\n# changed\n")
    found = run(folder, "-m", "dualnet", "train", "dual", "--config", "run/config.json", "--quiet",
                "--net-source", f"{changed}:points_net", "--out", tmp_path / "again")
    assert found.returncode == 2 and "has changed since this run began" in found.stderr
    assert not Run(tmp_path / "again").config_path.exists()


def module_level(num_classes):
    """Stands in for a net."""


def test_only_functions_that_another_process_finds_are_nets():
    assert api.source_of(module_level) == f"{Path(__file__).resolve()}:module_level"
    assert api.source_of(arrays.load) == "dualnet.data.arrays:load"
    assert api.source_of("lenet") == "lenet"
    for net in (lambda: None, torch.nn.Sequential(), len, api.Trained):
        with pytest.raises(UserError, match="net should be a function at the top of a file"):
            api.source_of(net)


def test_data_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="data should be the name of a data set"):
        api.train(module_level, tmp_path)


@pytest.mark.slow
def test_the_example_works_where_the_package_is_installed_by_pip(tmp_path):
    """pip copies the package into a folder of its own; nothing of this repository is in use."""
    source = tmp_path / "source"
    for name in ("dualnet", "shared_fs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
                    "--no-build-isolation", "--target", tmp_path / "installed", source],
                   check=True, capture_output=True, timeout=DEADLINE_S)
    (tmp_path / "work").mkdir()
    example = tmp_path / "work" / "own_network.py"
    example.write_text((ROOT / "examples" / "own_network.py").read_text())
    where = "import dualnet; print(dualnet.__file__)"
    place = run(tmp_path / "work", "-c", where, path=tmp_path / "installed").stdout
    assert place.startswith(str(tmp_path / "installed"))
    found = run(tmp_path / "work", example, path=tmp_path / "installed")
    assert found.returncode == 0, found.stderr
    points, centre, pictures = found.stdout.splitlines()
    assert float(points.split()[1]) > 90 and float(pictures.split()[1]) > 90
    assert centre == "[1, 0] should be [1, 0]"
    assert (tmp_path / "work" / "points.pt").exists()
