"""Stopping and going on with real processes: signals, pauses, failures, damaged checkpoints."""

import signal
import subprocess
import time

import pytest
from official_files import write_cifar10
from pairs import (
    DEADLINE_S,
    ITERATIONS,
    ROLES,
    SETTINGS,
    check_weights,
    launch,
    wait_for,
)

from dualnet.run import Run
from dualnet.stopping import StopRequest

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}


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
