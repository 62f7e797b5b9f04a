"""The view from outside: running, finished, killed, failed and foreign folders."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dualnet.cli import main
from dualnet.methods.dual.settings import DualConfig
from dualnet.run import Run
from shared_fs import StorageError, observe

ROLE = """
import sys, time
from shared_fs import Exchange
channels = {"a": ("net1", "net2"), "b": ("net2", "net1")}
with Exchange(sys.argv[1], sys.argv[2], channels=channels) as exchange:
    exchange.report(step=41, iterations=100, loss=1.5, images_per_s=200.0, wait_share=0.25)
    print("ready", flush=True)
    word = sys.stdin.readline().strip()
    if word == "fail":
        raise ValueError("the reason")
"""


@pytest.fixture
def roles(tmp_path):
    """Two real roles in the middle of a run."""
    processes = {name: subprocess.Popen([sys.executable, "-c", ROLE, tmp_path / "exchange", name],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True,
                                        cwd=Path(__file__).parent.parent)
                 for name in ("net1", "net2")}
    for process in processes.values():
        assert process.stdout.readline() == "ready\n"
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


def told(folder, capsys):
    assert main(["status", str(folder)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_running_role_tells_where_it_is(roles, tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "exchange"):        # a run folder, an exchange folder
        lines = told(folder, capsys)
        for line, (name, process) in zip(lines, roles.items(), strict=True):
            assert line.startswith(f"{name} (pid {process.pid} on ")
            assert "is running; iteration 42 of 100, loss 1.5" in line


def test_finished_roles_have_finished(roles, tmp_path, capsys):
    for process in roles.values():
        process.stdin.write("end\n")
        process.stdin.flush()
    assert [process.wait(30) for process in roles.values()] == [0, 0]
    assert all("has finished" in line for line in told(tmp_path / "exchange", capsys))


def test_a_killed_role_is_told_from_one_that_failed(roles, tmp_path, capsys):
    os.kill(roles["net1"].pid, signal.SIGKILL)
    roles["net1"].wait(30)
    roles["net2"].stdin.write("fail\n")
    roles["net2"].stdin.flush()
    roles["net2"].wait(30)
    first, second = told(tmp_path / "exchange", capsys)
    assert "was killed: its process is gone" in first and "iteration 42 of 100" in first
    assert "net2" in second and "failed: ValueError: the reason" in second


def test_a_role_without_its_peer_waits_for_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ROLE, tmp_path, "net2"],
                               stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    try:
        while not (tmp_path / "hello" / "net2.json").exists():
            assert process.poll() is None
        assert [(o.role, o.state) for o in observe(tmp_path)] == [("net1", "absent"),
                                                                  ("net2", "starting")]
    finally:
        process.kill()
        process.communicate()


def test_looking_changes_nothing_and_a_foreign_folder_is_said_to_be_one(tmp_path, capsys):
    with pytest.raises(StorageError, match="no role has ever said hello here"):
        observe(tmp_path)
    assert main(["status", str(tmp_path)]) == 2
    assert "neither a run nor an exchange folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_an_exchange_shows_its_metrics(tmp_path, capsys):
    run = Run(tmp_path)
    run.start("single", DualConfig())
    metrics = run.open_metrics("single", {})
    metrics.write({"step": 10, "split": "train", "generation": 1, "loss": 2.0, "accuracy": 0.25,
                   "images_per_s": 50.0, "wait_share": 0.0})
    assert told(tmp_path, capsys) == [
        "single: logged iteration 10, loss 2  accuracy 0.250  50 images/s"]
    run.write_summary(json.loads("{}"))
    assert told(tmp_path, capsys)[0].endswith("; the run has finished")
