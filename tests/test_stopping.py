"""Stopping and going on with real processes: signals, pauses, failures, damaged checkpoints."""

import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from official_files import write_cifar10
from pairs import DEADLINE_S, ITERATIONS, ROLES, SETTINGS, is_alive, launch, undisturbed, wait_for

from dualnet.run import Run
from dualnet.stopping import StopRequest

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The weights of an undisturbed run, by role."""
    return undisturbed(tmp_path_factory.mktemp("calm"))


def check_weights(run, calm):
    for role in ROLES:
        found = run.load_checkpoint(role, ITERATIONS)["part"]
        assert all(torch.equal(found[name], calm[role][name]) for name in calm[role])
        steps = [line["step"] for line in run.metrics(role) if line["split"] == "train"]
        assert steps == list(range(1, ITERATIONS + 1))


# -- two terminals ---------------------------------------------------------------------------------

@pytest.mark.fault(13, "SIGTERM, SIGINT and SIGUSR1 from os.kill in the middle of the training")
@pytest.mark.fault(12, "one role stopped and started again, the other left alone")
@pytest.mark.parametrize(("victim", "number"), [
    ("net2", signal.SIGTERM), pytest.param("net1", signal.SIGUSR1, marks=pytest.mark.slow),
    pytest.param("net2", signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_a_role_that_is_stopped_and_started_again_goes_on_where_it_was(pair, calm, victim, number):
    two = pair("two")
    other = ROLES[1 - ROLES.index(victim)]
    two.await_lines(victim, 12)
    two.processes[victim].send_signal(number)
    assert two.processes[victim].wait(60) == CODES[number], two.log(victim)
    name = signal.Signals(number).name
    generation, step = two.held(victim)[-1]
    assert f"stopped by {name}; run the same command again to resume from iteration {step}" in (
        two.log(victim))
    # The other one saves the same iteration, says that it waits, and goes on in the same process.
    wait_for(lambda: "stopped; waiting up to 120 s" in two.log(other), "a word of the other")
    assert (generation, step) in two.held(other) and two.processes[other].poll() is None
    two.start(victim)
    two.finish()
    assert f"{victim} began anew: rolling back to iteration {step}" in two.log(other)
    assert two.starts("net1") == two.starts("net2") == [(generation + 1, generation, step)]
    check_weights(two.run, calm)


@pytest.mark.slow
def test_a_role_whose_peer_stays_away_ends_and_both_resume(pair, calm):
    two = pair("two", "--peer-timeout", "1")
    two.await_lines("net1", 8)
    two.processes["net2"].terminate()
    assert two.processes["net2"].wait(60) == 143
    assert two.processes["net1"].wait(60) == 75
    assert "was not started again within 1 s" in two.log("net1")
    assert two.held("net1")[-1] == two.held("net2")[-1]
    for role in ROLES:
        two.start(role)
    two.finish()
    check_weights(two.run, calm)


@pytest.mark.slow
@pytest.mark.fault(13, "a second SIGTERM while the first one waits for a stopped peer")
def test_a_second_signal_ends_at_once(pair):
    two = pair("two")
    two.await_lines("net1", 3)
    two.processes["net2"].send_signal(signal.SIGSTOP)
    # What was sent before still lets it finish an iteration; then it stands.
    wait_for(lambda: "; it has to " in two.log("net1"), "word on what net1 waits for")
    two.processes["net1"].terminate()
    # It cannot finish its iteration, as its peer is alive and may yet answer.
    with pytest.raises(subprocess.TimeoutExpired):
        two.processes["net1"].wait(1.5)
    two.processes["net1"].terminate()
    assert two.processes["net1"].wait(30) == 143
    assert "run the same command again" not in two.log("net1")


@pytest.mark.fault(13, "SIGUSR1 and SIGTERM at once, as Slurm sends them")
def test_signals_at_once_are_one_request_whichever_is_first(pair, calm):
    two = pair("two")
    two.await_lines("net1", 8)
    burst = (signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT, signal.SIGTERM)
    for process, numbers in zip(two.processes.values(), (burst, burst[::-1]), strict=True):
        for number in numbers:
            process.send_signal(number)
    for role, process in two.processes.items():
        assert process.wait(60) == 75, two.log(role)
        assert "stopped by SIGUSR1; run the same command again" in two.log(role)
        assert "Traceback" not in two.log(role)
    steps = [line["step"] for line in two.run.metrics("net1") if line["split"] == "train"]
    assert {two.held(role)[-1][1] for role in ROLES} == {steps[-1]}
    for role in ROLES:
        two.start(role)
    two.finish()
    check_weights(two.run, calm)


def test_of_a_burst_sigusr1_counts_and_else_the_first():
    request = StopRequest()
    for number, counts in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM),
                           (signal.SIGUSR1, signal.SIGUSR1), (signal.SIGTERM, signal.SIGUSR1)):
        request.take(number, None)
        assert request.number == counts


def test_before_the_training_a_signal_ends_at_once_and_leaves_no_run(pair):
    one = pair("one", roles=["net1"])
    wait_for((one.folder / "meeting" / "hello" / "net1.json").exists, "hello of net1")
    one.processes["net1"].terminate()
    assert one.processes["net1"].wait(30) == 143
    assert not one.run.folder.exists()


@pytest.mark.fault(14, "SIGSTOP for 5 s, then SIGCONT")
@pytest.mark.fault(64, "stage.json replaced by garbage, then removed, while the roles train")
@pytest.mark.slow
def test_a_pause_is_no_failure_and_the_stage_is_only_for_people(pair, calm):
    two = pair("two")
    two.await_lines("net1", 5)
    two.processes["net2"].send_signal(signal.SIGSTOP)
    stage = two.folder / "meeting" / "stage.json"
    stage.write_text("{")
    until = time.monotonic() + 5
    wait_for(lambda: time.monotonic() > until, "end of the pause")
    stage.unlink(missing_ok=True)
    two.processes["net2"].send_signal(signal.SIGCONT)
    two.finish()
    assert two.starts("net1") == two.starts("net2") == []
    check_weights(two.run, calm)


@pytest.mark.slow
@pytest.mark.fault(11, "kill -9 of one role in the final barrier or the last test, then a restart")
@pytest.mark.parametrize("victim", ROLES)
def test_a_kill_at_the_end_trains_no_further(pair, calm, victim):
    two = pair("two")
    two.await_lines("net1", 3)
    # The kill falls between its last checkpoint and its end, as far as it can be aimed.
    last = (two.run.folder / victim / "checkpoints" / f"gen00000001-step{ITERATIONS:08d}.json")
    wait_for(last.exists, "last checkpoint")
    two.kill([victim])
    finished = two.run.summary_path.exists()
    two.start(victim)
    if finished:        # it was killed after all was over
        assert two.processes[victim].wait(60) == 2
        assert "holds a finished run" in two.log(victim)
        del two.processes[victim]
    two.finish()
    assert finished or two.starts(victim)[0][2] in (ITERATIONS, ITERATIONS - 5)
    check_weights(two.run, calm)


@pytest.mark.slow
def test_a_role_with_a_run_folder_of_its_own_is_told_when_all_is_over(tmp_path):
    # as on two hosts: net1 does not see the summary that net2 has written
    write_cifar10(tmp_path)

    def start(role):
        return launch(tmp_path, "-m", "dualnet", role, *SETTINGS, "--exchange-dir", "meeting",
                      "--out", f"run-{role}", "--quiet", stderr=subprocess.PIPE)

    for process in [start(role) for role in ROLES]:
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
    metrics = Run(tmp_path / "run-net1").metrics_path("net1").read_text()
    again = start("net1")
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0 and "this run is over; net2 has left it" in err, err
    assert Run(tmp_path / "run-net1").metrics_path("net1").read_text() == metrics


FAILING = """
import sys
from dualnet.cli import main
from dualnet.methods.dual.role import Role

whole = Role._iteration

def failing(self, turn):
    if turn.step == 22:
        raise RuntimeError("CUDA error: out of memory")
    return whole(self, turn)

Role._iteration = failing
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.fault(60, "RuntimeError in an iteration of net2")
def test_an_exception_on_one_side_ends_the_other_at_once_with_its_text(pair, calm):
    two = pair("two", roles=["net1"])
    two.start("net2", "-c", FAILING)
    assert two.processes["net2"].wait(DEADLINE_S) == 1
    ended = time.monotonic()
    assert two.processes["net1"].wait(60) == 75
    assert time.monotonic() - ended < 5
    assert "net2 (pid" in two.log("net1") and "CUDA error: out of memory" in two.log("net1")
    for role in ROLES:
        two.start(role)
    two.finish()
    assert two.starts("net2") == [(2, 1, 20)]
    check_weights(two.run, calm)


# -- one command -----------------------------------------------------------------------------------

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
