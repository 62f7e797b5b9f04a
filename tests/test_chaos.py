"""Real processes killed at random moments: the net that comes out is the undisturbed one."""

import random
import time

import pytest
import torch
from pairs import ITERATIONS, ROLES

from dualnet.metrics import MetricsReader

EXHAUSTIVE = [pytest.mark.exhaustive, pytest.mark.timeout(900)]


def wait_a_little(rng):
    """A moment of up to 30 ms that falls anywhere in an iteration, a test or a checkpoint."""
    until = time.monotonic() + rng.uniform(0, 0.03)
    while time.monotonic() < until:
        pass


def torment(pair, kills, seed):
    """Kill one role or both, `kills` times in all, and start them again."""
    rng, killed = random.Random(seed), 0
    while killed < kills:
        victims = rng.choice([("net1",), ("net2",), ROLES])[:kills - killed]
        # Up to two checkpoints apart; 1 is the line that says where a generation resumes.
        if not pair.await_lines(rng.choice(ROLES), rng.randint(1, 9)):
            break
        wait_a_little(rng)
        victims = [role for role in victims if pair.processes[role].poll() is None]
        pair.kill(victims)
        for role in victims:
            pair.start(role)
        killed += len(victims)
    return killed


def check(pair, calm):
    """The disturbed pair ended as the calm one did, and left nothing behind."""
    for role in ROLES:
        ours, theirs = pair.weights(role), calm.weights(role)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        lines, expected = ([(line["split"], line["step"], line["epoch"], line["loss"])
                            for line in each.run.metrics(role)] for each in (pair, calm))
        assert lines == expected
        assert [step for split, step, *_ in lines if split == "train"] == list(
            range(1, ITERATIONS + 1))
    one, other = pair.run.summary(), calm.run.summary()
    assert all(one[key] == other[key] for key in (
        "test_accuracy", "test_accuracy_merged", "bytes_exchanged", "rho", "collapsed"))
    left = [path.name for pattern in ("*.part", "*.npy") for path in pair.folder.rglob(pattern)]
    assert not left and not list(pair.folder.glob("meeting/g0*"))


@pytest.mark.slow
@pytest.mark.fault(9, "seeded SIGKILLs of net1, net2 or both, some iterations and ms apart")
@pytest.mark.parametrize(("kills", "words"), [
    (6, ["--loss", "admm"]),
    pytest.param(30, ["--loss", "admm"], marks=EXHAUSTIVE),
    pytest.param(6, ["--loss", "euclidean"], marks=EXHAUSTIVE),
    pytest.param(6, ["--loss", "admm", "--schedule", "alternating", "--net1-steps", "7",
                     "--net2-steps", "4"], marks=EXHAUSTIVE),
    (6, ["--loss", "admm", "--schedule", "async"]),
], ids=["admm lockstep", "admm lockstep often", "euclidean lockstep", "admm alternating",
        "admm async"])
def test_random_kills_do_not_show_in_the_net(pair, kills, words):
    calm = pair("calm", *words)
    calm.finish()
    wild = pair("wild", *words)
    assert torment(wild, kills, seed=kills) == kills
    wild.finish()
    check(wild, calm)
    generations = {line["generation"] for role in ROLES
                   for line in MetricsReader(wild.run.metrics_path(role)).new()}
    assert len(generations) > kills / 4     # the kills did undo something, though not all
    assert any(step > 0 for _, _, step in wild.starts("net1"))
