"""The commands as a user runs them: real processes, a real folder, real kills."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from official_files import write_cifar10

from dualnet.cli import main
from dualnet.run import Run

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--data", "cifar10", "--batch-size", "20", "--iterations", "5", "--threads", "1",
         "--log-every", "2"]
DEADLINE_S = 250
TINY = Path(tempfile.mkdtemp(prefix="dualnet-tests-"))     # 100 training images, 20 test images


@pytest.fixture(scope="module", autouse=True)
def tiny_data_set():
    write_cifar10(TINY)
    yield
    shutil.rmtree(TINY)


def start(*words, folder, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DUALNET_DATA": str(TINY)}
    # A test run in the background of a script would hand its ignored SIGINT down.
    return subprocess.Popen(
        [sys.executable, "-m", "dualnet", *map(str, words)], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


def run(*words, folder):
    process = start(*words, folder=folder)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def weights(run_folder, role, step=5):
    state = Run(Path(run_folder)).load_checkpoint(role, step)
    return state["net" if role == "single" else "part"]


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {DEADLINE_S} s"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def dual_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual")
    code, out, err = run("train", "dual", *SMALL, "--out", "run", folder=folder)
    assert code == 0, err
    return folder / "run", out, err


def test_train_dual_leaves_a_summary_curves_and_an_empty_exchange(dual_run):
    folder, out, err = dual_run
    summary = json.loads((folder / "summary.json").read_text())
    assert {"method", "net", "data", "loss", "schedule", "seed", "iterations", "test_accuracy",
            "test_accuracy_merged", "wall_s", "images_per_s", "wait_share", "pids",
            "bytes_exchanged", "collapsed"} <= set(summary)
    assert (summary["data"], summary["loss"], summary["iterations"]) == ("cifar10", "admm", 5)
    assert len(set(summary["pids"].values())) == 2
    assert summary["test_accuracy"] == summary["test_accuracy_merged"]
    assert f"{100 * summary['test_accuracy']:.2f} % through conv3' of net2" in out
    assert "net1 on cpu (" in err and "net2 on cpu (" in err
    assert "step 4/5  loss1 " in err and "ETA" in err
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list((folder / "exchange").rglob("*.npy"))


def test_the_bytes_that_crossed_are_those_of_the_messages(dual_run):
    # per iteration 20 maps pool2 32x8x8 and conv3' 64x8x8, y itself on the logged steps 2, 4, 5,
    # rho once as one float64; at the end 20 test images of both maps; float32
    z, y = 32 * 8 * 8 * 4, 64 * 8 * 8 * 4
    expected = 5 * 20 * (z + y) + 3 * 20 * y + 8 + 20 * (z + y)
    assert json.loads((dual_run[0] / "summary.json").read_text())["bytes_exchanged"] == expected


def test_two_terminals_give_the_weights_of_train_dual_bit_for_bit(dual_run, tmp_path):
    roles = [start(role, *SMALL, "--exchange-dir", "meeting", "--out", "run", folder=tmp_path)
             for role in ("net2", "net1")]
    for process in roles:
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
    for role in ("net1", "net2"):
        ours, theirs = weights(tmp_path / "run", role), weights(dual_run[0], role)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_eval_finds_the_accuracies_of_the_run_again(dual_run):
    code, out, err = run("eval", dual_run[0], "--device", "cpu", folder=dual_run[0])
    accuracy = json.loads((dual_run[0] / "summary.json").read_text())["test_accuracy"]
    assert code == 0, err
    assert out.count(f": {100 * accuracy:.2f} %") == 2


def test_two_processes_in_float64_equal_the_single_net(tmp_path):
    exact = [*SMALL, "--precision", "float64"]
    for method, words in (("dual", ["--message-dtype", "float64"]), ("single", [])):
        code, _, err = run("train", method, *exact, *words, "--out", method, folder=tmp_path)
        assert code == 0, err
    single = weights(tmp_path / "single", "single")
    for role in ("net1", "net2"):
        for name, value in weights(tmp_path / "dual", role).items():
            expected = single[name.split(".", 1)[1]]     # "tail.conv3.weight" -> "conv3.weight"
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_a_finished_run_is_not_replaced(dual_run):
    code, _, err = run("train", "dual", *SMALL, "--out", dual_run[0], folder=dual_run[0])
    assert code == 2
    assert "holds a finished run; choose another folder with --out" in err


# -- endings ---------------------------------------------------------------------------------------

@pytest.fixture
def long_run(tmp_path):
    """A run of `train dual` in the middle of training, and the pids of its roles."""
    process = start("train", "dual", *SMALL[:-4], "--iterations", "100000", "--threads", "1",
                    "--log-every", "1", "--out", "run", folder=tmp_path)
    roles = {role: tmp_path / "run" / role for role in ("net1", "net2")}
    wait_for(lambda: all((path / "metrics.jsonl").exists() and
                         (path / "metrics.jsonl").stat().st_size for path in roles.values()),
             "metrics of both roles")
    pids = {role: json.loads((path / "env.json").read_text())["pid"]
            for role, path in roles.items()}
    yield process, pids
    for pid in (process.pid, *pids.values()):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def all_gone(pids):
    return lambda: not any(is_alive(pid) for pid in pids.values())


@pytest.mark.parametrize(("number", "code"), [
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.exhaustive), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_three_processes(long_run, number, code):
    process, pids = long_run
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert all_gone(pids)()


@pytest.mark.fault(61, "kill -9 of a role under train dual")
@pytest.mark.parametrize("victim", [
    "net1", pytest.param("net2", marks=pytest.mark.exhaustive)])
def test_the_death_of_a_role_ends_the_run_which_can_be_resumed(long_run, victim):
    process, pids = long_run
    os.kill(pids[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert f"dualnet: {victim} was ended by SIGKILL" in err
    assert "run the same command again to resume from iteration 0" in err
    assert all_gone(pids)()


def test_no_role_outlives_the_command_that_started_it(long_run):
    process, pids = long_run
    process.kill()
    process.communicate()
    wait_for(all_gone(pids), "end of the roles")


def test_a_diverging_run_ends_with_76_after_a_line_that_shows_it(tmp_path):
    code, _, err = run("train", "dual", *SMALL, "--iterations", "60", "--lr", "1e6", "--out", "run",
                       folder=tmp_path)
    assert code == 76, err
    assert "loss of iteration" in err or "not finite" in err
    lines = [path.read_text().splitlines()[-1] for path in tmp_path.glob("run/*/metrics.jsonl")]
    assert None in [json.loads(line)["loss"] for line in lines]
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["diverged"] is True and 1 <= failure["step"] <= 60
    assert failure["step"] == max(json.loads(line)["step"] for line in lines)
    assert failure["reason"] in err and not (tmp_path / "run" / "summary.json").exists()


# -- bad input -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("words", "code", "sentence"), [
    (["trian"], 2, "unknown command 'trian'; did you mean train?"),
    (["train", "dual", "--iteratons", "3"], 2, "unknown argument '--iteratons'; did you mean "
                                               "--iterations?"),
    (["train", "dual", "--loss", "admn"], 2, "did you mean admm?"),
    (["train", "dual", "--data", "shape"], 2, "did you mean shapes?"),
    (["train", "dual", "--cut", "pool3", *SMALL], 2, "no layer 'pool3' to cut behind"),
    (["train", "dual", "--cut", "pool2,pool1", *SMALL], 2, "cuts must be in the order of the"),
    (["train", "dual", "--data", "cifar10", "--data-dir", "."], 65,
     "cifar-10-batches-py: no such folder"),
    (["train", "dual", *SMALL, "--batch-size", "101"], 65, "batch larger than the data"),
    (["train", "single", *SMALL, "--net", "lenett"], 2, "unknown network 'lenett'"),
    (["train", "dual", *SMALL, "--exchange-dir", "link"], 74, "is a symbolic link"),
    (["train", "dual", *SMALL, "--exchange-dir", "/proc/exchange"], 74, "/proc/exchange"),
    (["train", "dual", *SMALL, "--out", "/proc/run"], 74, "cannot write the run folder /proc/run"),
    (["net1", *SMALL, "--exchange-dir", "meeting", "--handshake-timeout", "0.2"], 75,
     "for net2 to join"),
    (["net1"], 2, "the following arguments are required: --exchange-dir"),
    (["train", "dual", "--device", "cuda:7", *SMALL], 2, "usable GPUs"),
    (["plot", "nothing"], 2, "nothing to draw in nothing"),
    (["eval", "nothing"], 2, "this is no run"),
], ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "")
def test_bad_input_gets_one_sentence_and_its_code(tmp_path, monkeypatch, capfd, words, code,
                                                  sentence):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALNET_DATA", str(TINY))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))     # for the roles that `train dual` starts
    try:
        found = main(words)
    except SystemExit as ended:     # of argparse
        found = ended.code
    err = capfd.readouterr().err
    assert found == code, err
    complaints = [line for line in err.splitlines() if line.startswith("dualnet")]
    assert len(complaints) == 1 and sentence in complaints[0], err
    assert "Traceback" not in err
    left = {path.name for path in tmp_path.iterdir()} - {"target", "link", "runs", "meeting"}
    assert not left and not list((tmp_path / "target").iterdir())
    assert not list((tmp_path / "runs").glob("*"))


def test_roles_that_disagree_both_say_so(tmp_path):
    roles = [start(role, *SMALL, "--lr", lr, "--exchange-dir", "meeting", folder=tmp_path)
             for role, lr in (("net1", "0.01"), ("net2", "0.02"))]
    for process in roles:
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 78
        assert "lr: net" in err and "0.01" in err and "0.02" in err
    assert not any(tmp_path.glob("runs/*"))


def test_a_second_net1_is_refused_and_the_first_goes_on(tmp_path):
    words = [*SMALL, "--exchange-dir", "meeting", "--out", "run"]
    first = start("net1", *words, folder=tmp_path)
    wait_for((tmp_path / "meeting" / "hello" / "net1.json").exists, "hello of net1")
    code, _, err = run("net1", *words, folder=tmp_path)
    assert code == 69 and f"pid {first.pid}" in err
    assert run("net2", *words, folder=tmp_path)[0] == 0
    _, err = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 0, err
    code, _, err = run("net1", *SMALL, "--exchange-dir", "meeting", "--out", "other",
                       folder=tmp_path)
    assert code == 78 and "another run" in err and not (tmp_path / "other").exists()


# -- the front door --------------------------------------------------------------------------------

@pytest.mark.slow
def test_the_front_door_reaches_80_percent_without_any_data(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "DUALNET_DATA": ""}
    found = subprocess.run(
        [ROOT / "run_two_gpu.sh", "--iterations", "300", "--out", "a run with spaces"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, found.stderr
    assert "taking the built-in set 'shapes'" in found.stderr
    summary = json.loads((tmp_path / "a run with spaces" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.8 and summary["test_accuracy_merged"] > 0.8
    assert not summary["collapsed"]


@pytest.mark.slow
def test_the_euclidean_loss_collapses_and_the_run_says_so(tmp_path):
    code, out, err = run("train", "dual", "--data", "shapes", "--iterations", "150", "--loss",
                         "euclidean", "--threads", "1", "--out", "run", folder=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert code == 0
    assert summary["collapsed"] is True and "fell from" in summary["collapse_reason"]
    assert "warning: the net collapsed" in out and "the net collapses" in err


def test_the_front_door_explains_itself():
    found = subprocess.run([ROOT / "run_two_gpu.sh", "-h"], capture_output=True, text=True,
                           timeout=10)
    assert found.returncode == 0 and "usage: ./run_two_gpu.sh [FLAGS]" in found.stdout


@pytest.mark.slow
def test_memory_and_files_stay_flat_over_thousands_of_iterations(tmp_path):
    process = start("train", "dual", "--data", "cifar10", "--batch-size", "2", "--iterations",
                    "2000", "--log-every", "100", "--lr", "1e-4", "--threads", "1", "--out", "run",
                    folder=tmp_path)
    folders = {role: tmp_path / "run" / role for role in ("net1", "net2")}
    resident = {role: {} for role in folders}           # step -> kB
    while process.poll() is None:
        assert len(list((tmp_path / "run" / "exchange").rglob("pool2-*.npy"))) <= 3
        for role, folder in folders.items():
            lines = (folder / "metrics.jsonl").read_text().splitlines() if (
                folder / "metrics.jsonl").exists() else []
            pid = json.loads((folder / "env.json").read_text())["pid"] if lines else 0
            if lines and is_alive(pid):
                status = Path(f"/proc/{pid}/status").read_text()
                step = json.loads(lines[-1])["step"]
                resident[role][step] = int(status.split("VmRSS:")[1].split()[0])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    assert process.returncode == 0, process.stderr.read()
    for found in resident.values():
        early = min(size for step, size in found.items() if 300 <= step <= 800)
        late = max(size for step, size in found.items() if 1500 <= step < 2000)
        # kB; a leaked message has 16 kB, 700 of them 11,200
        assert late - early < 5_000
