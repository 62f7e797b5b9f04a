"""`train dual` is stopped and goes on: signals, kills, damaged checkpoints, a full disk."""

import os
import shutil
import signal
import subprocess

import pytest
from official_files import write_cifar10
from pairs import (
    DEADLINE_S,
    ROLES,
    SETTINGS,
    check_weights,
    is_alive,
    launch,
    wait_for,
)

from dualnet.run import Run

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}


class Dual:
    """The command `train dual`, run again and again in one folder."""

    def __init__(self, folder, *words):
        self.folder, self.run, self.words = folder, Run(folder / "run"), words
        self.started = []

    def start(self, *words):
        self.started.append(launch(
            self.folder, "-m", "dualnet", "train", "dual", *SETTINGS, *self.words, *words, "--out",
            "run", stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return self.started[-1]

    def finish(self, *words):
        process = self.start(*words)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def await_checkpoint(self, step):
        path = self.run.folder / "net1" / "checkpoints" / f"gen00000001-step{step:08d}.json"
        wait_for(path.exists, f"checkpoint of iteration {step}")

    def pids(self):
        return [self.run.environment(role)["pid"] for role in ROLES]

    def clear(self):
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def dual(tmp_path):
    dual = Dual(write_cifar10(tmp_path))
    yield dual
    dual.clear()


def interrupt(dual):
    """Stop the run with two checkpoints behind it."""
    process = dual.start()
    dual.await_checkpoint(10)
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """The folder of a run that was stopped with two checkpoints behind it."""
    dual = Dual(write_cifar10(tmp_path_factory.mktemp("halfway")))
    interrupt(dual)
    dual.clear()
    return dual.folder


@pytest.fixture
def interrupted(halfway, tmp_path):
    """A copy of the stopped run."""
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    dual = Dual(tmp_path)
    yield dual
    dual.clear()


@pytest.mark.fault(13, "SIGTERM, SIGINT and SIGUSR1 to train dual")
@pytest.mark.parametrize("number", [
    pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive), signal.SIGINT,
    pytest.param(signal.SIGUSR1, marks=pytest.mark.exhaustive)])
def test_a_signal_to_the_command_saves_both_roles_and_the_same_command_resumes(dual, calm, number):
    process = dual.start()
    dual.await_checkpoint(10)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number], err
    step = dual.run.resumes_from(ROLES)
    assert step >= 10 and {dual.run.checkpoints(role).newest().step for role in ROLES} == {step}
    assert (f"stopped by {signal.Signals(number).name}; run the same command again to resume from "
            f"iteration {step}") in err
    assert not any(is_alive(pid) for pid in dual.pids())
    told = launch(dual.folder, "-m", "dualnet", "status", "run", stdout=subprocess.PIPE)
    assert f"resume from iteration {step}" in told.communicate(timeout=60)[0]
    code, _, err = dual.finish()
    assert code == 0 and f"resuming run from iteration {step}" in err, err
    check_weights(dual.run, calm)


@pytest.mark.slow
@pytest.mark.fault(13, "a second SIGTERM to train dual while both roles stand still")
def test_a_second_signal_to_the_command_ends_roles_that_do_not_answer(dual):
    process = dual.start()
    dual.await_checkpoint(5)
    pids = dual.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)     # it gives the roles time to write a checkpoint
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    wait_for(lambda: not any(map(is_alive, pids)), "end of the roles")


@pytest.mark.slow
@pytest.mark.fault(61, "kill -9 of the launcher")
def test_the_same_command_resumes_after_the_launcher_was_killed(dual, calm):
    process = dual.start()
    dual.await_checkpoint(10)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(is_alive(pid) for pid in dual.pids()), "end of the roles")
    assert {dual.run.checkpoints(role).newest().step for role in ROLES} == {
        dual.run.resumes_from(ROLES)}
    code, _, err = dual.finish()
    assert code == 0 and "resuming run from iteration" in err, err
    check_weights(dual.run, calm)
    code, _, err = dual.finish()
    assert code == 2 and "holds a finished run" in err


@pytest.mark.slow
@pytest.mark.fault(62, "a flipped byte in the newest checkpoint of one role")
def test_a_damaged_checkpoint_costs_some_iterations_and_no_more(interrupted, calm):
    dual, step = interrupted, interrupted.run.resumes_from(ROLES)
    checkpoints = dual.run.checkpoints("net2")
    path = next(checkpoints.folder.glob(f"*-step{step:08d}.pt"))
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    older = dual.run.resumes_from(ROLES)
    assert 5 <= older < step
    code, _, err = dual.finish()
    assert code == 0 and f"resuming run from iteration {older}" in err, err
    assert f"{path.name} is damaged" in dual.run.log_path("net2").read_text()
    check_weights(dual.run, calm)


@pytest.mark.slow
@pytest.mark.fault(63, "checkpoints of a run with another learning rate, copied over")
def test_checkpoints_of_another_run_are_refused(interrupted, tmp_path):
    dual = interrupted
    (tmp_path / "other").mkdir()
    other = Dual(write_cifar10(tmp_path / "other"), "--lr", "0.02")
    try:
        interrupt(other)
        for path in other.run.checkpoints("net1").folder.iterdir():
            os.replace(path, dual.run.checkpoints("net1").folder / path.name)
        code, _, err = dual.finish()
        assert code == 78 and "was written with settings or data" in err, err
    finally:
        other.clear()


@pytest.mark.slow
def test_a_run_without_its_exchange_folder_goes_on_in_a_fresh_one(interrupted, calm):
    dual, step = interrupted, interrupted.run.resumes_from(ROLES)
    os.rename(dual.run.exchange, dual.folder / "used")
    code, _, err = dual.finish("--exchange-dir", "fresh")
    assert code == 0 and f"resuming run from iteration {step}" in err, err
    check_weights(dual.run, calm)
    (dual.folder / "run").rename(dual.folder / "first")
    code, _, err = dual.finish("--exchange-dir", "fresh")
    assert code == 78 and "found gen/" in err and "of another run" in err, err
    assert not dual.run.folder.exists()


@pytest.mark.slow
def test_overwrite_begins_from_the_seed(interrupted, calm):
    dual = interrupted
    code, _, err = dual.finish("--overwrite")
    assert code == 0 and "resuming" not in err, err
    assert {checkpoint.generation for checkpoint in dual.run.checkpoints("net1").held()} == {1}
    check_weights(dual.run, calm)


# -- a full disk -----------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
@pytest.mark.fault(69, "a tmpfs under --out that is filled while the net trains, then emptied")
def test_a_full_disk_costs_lines_of_metrics_and_the_checkpoint_waits_for_room(tmp_path):
    write_cifar10(tmp_path)
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", run.folder],
                      capture_output=True).returncode != 0:
        pytest.skip("no right to mount a tmpfs here")
    log = tmp_path / "log"
    try:
        with open(log, "w") as file:
            process = launch(tmp_path, "-m", "dualnet", "train", "single", *SETTINGS,
                             "--iterations", "200", "--checkpoint-every", "0", "--out", "run",
                             stdout=file, stderr=file)
        wait_for(lambda: run.metrics("single"), "first line of metrics")
        with pytest.raises(OSError), open(run.folder / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        wait_for(lambda: "trying again for up to 60 s" in log.read_text(), "last checkpoint")
        (run.folder / "ballast").unlink()
        assert process.wait(DEADLINE_S) == 0, log.read_text()
        assert log.read_text().count("training goes on without these lines") == 1
        steps = [line["step"] for line in run.metrics("single") if line["split"] == "train"]
        assert len(steps) < 200 and steps == sorted(steps)
        assert run.summary()["iterations"] == 200
        assert run.checkpoints("single").newest().step == 200
    finally:
        process.kill()
        process.wait()
        subprocess.run(["umount", run.folder], check=True)
