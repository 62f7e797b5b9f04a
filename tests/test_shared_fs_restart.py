"""Any role may die at any time and be started again: the run goes on as if nothing had happened."""

import json
import os
import signal
import uuid
from pathlib import Path

import numpy as np
import pytest
from test_shared_fs_processes import Role

from shared_fs import (
    Checkpoint,
    Exchange,
    HandshakeMismatch,
    PeerLost,
    PeerRestarted,
    PeerStopped,
    RunOver,
)
from shared_fs.lineage import newest_common

CHANNELS = {"down": ("net1", "net2"), "up": ("net2", "net1")}
CHAIN = {"a": ("net1", "net2"), "b": ("net2", "net3"), "c": ("net3", "net1")}
STEPS, EVERY = 40, 5


class Home:
    """Where a role of these tests keeps its checkpoints: one small JSON file each."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        path = folder / "home"
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        self.name = path.read_text()

    def held(self):
        paths = self.folder.glob("*.json")
        return [Checkpoint(**json.loads(path.read_text())["checkpoint"]) for path in paths]

    def save(self, checkpoint, state):
        path = self._path(checkpoint)
        hidden = path.with_suffix(".part")
        hidden.write_text(json.dumps({"checkpoint": vars(checkpoint), "state": state}))
        os.replace(hidden, path)

    def load(self, checkpoint):
        return json.loads(self._path(checkpoint).read_text())["state"]

    def remove_older(self, common):
        for checkpoint in self.held():
            if (checkpoint.generation, checkpoint.step) < (common.generation, common.step):
                self._path(checkpoint).unlink()

    def _path(self, checkpoint):
        return self.folder / f"{checkpoint.generation}-{checkpoint.step}.json"


def train(say, folder, role, channels=CHANNELS, steps=STEPS, fatal=None, **options):
    """A toy: each step sends its state around and mixes in what it gets, which differs per role.

    fatal  the step after which the process kills itself
    """
    home = Home(Path(folder).parent / f"home-{role}")
    exchange = Exchange(
        folder, role, channels=channels, home=home.name, held=home.held,
        handshake_timeout_s=60, **{"peer_timeout_s": 30, **options},
    )
    say(os.getpid())
    try:
        with exchange:
            while True:
                try:
                    return finish(say, exchange, home, steps, fatal)
                except PeerRestarted:
                    exchange.rejoin()
    except RunOver:
        return "over"


def finish(say, exchange, home, steps, fatal=None):
    start = exchange.start
    say(("start", start.generation, start.base, start.step))
    state = home.load(start.checkpoint) if start.checkpoint else [len(exchange.role), 0]
    for step in range(start.step, steps):
        state = mixed(exchange, step, state)
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if (step + 1) % EVERY == 0:
            home.save(Checkpoint(start.run, start.generation, step + 1), state)
            exchange.announce_held(home.held())
            if (common := exchange.common(home.held())) is not None:
                home.remove_older(common)
    exchange.finish()
    return state


def mixed(exchange, step, state):
    """One step: every message counts once, or the final state differs."""
    exchange.report(step=step)
    mine = [name for name, ends in exchange.channels.items() if ends[0] == exchange.role]
    theirs = [name for name, ends in exchange.channels.items() if ends[1] == exchange.role]
    for name in mine:
        exchange.send(name, step, np.array(state, np.int64))
    out = np.empty(2, np.int64)
    for name in theirs:
        exchange.recv(name, step, out)
        state = [(3 * state[0] + int(out[0]) + step) % 1_000_003, state[1] + 1]
    return state


def hear_start(role):
    """What a role said of its next start: (generation, base, step)."""
    while not isinstance(said := role.hear(60), tuple):
        pass
    return said[1:]


def result(role):
    """What `train` returned, whatever it said before."""
    while not isinstance(said := role.hear(60), list | str):
        pass
    return said


def wait_until_killed(role):
    role.process.join(60)
    assert role.process.exitcode == -signal.SIGKILL


def undisturbed(folder, channels, roles):
    running = [Role(train, folder / "reference" / "exchange", role, channels) for role in roles]
    return [result(role) for role in running]


@pytest.mark.parametrize("victim", ["net1", "net2"])
def test_a_killed_role_that_is_started_again_ends_in_the_same_state(tmp_path, victim):
    expected = undisturbed(tmp_path, CHANNELS, ("net1", "net2"))
    folder = tmp_path / "run" / "exchange"
    roles = {name: Role(train, folder, name, CHANNELS, STEPS, 12 if name == victim else None)
             for name in ("net1", "net2")}
    assert [hear_start(role) for role in roles.values()] == [(1, 0, 0)] * 2
    wait_until_killed(roles[victim])
    survivor = roles["net1" if victim == "net2" else "net2"]
    roles[victim] = Role(train, folder, victim)
    # Killed after step 12: both hold the checkpoint of step 10 of generation 1.
    assert hear_start(roles[victim]) == (2, 1, 10)
    assert hear_start(survivor) == (2, 1, 10)
    assert [result(role) for role in roles.values()] == expected
    assert list(folder.glob("g0*")) == []
    assert list(folder.rglob("*.part")) == []


def test_both_killed_and_started_again_go_on_too(tmp_path):
    expected = undisturbed(tmp_path, CHANNELS, ("net1", "net2"))
    folder = tmp_path / "run" / "exchange"
    for stop in (7, 18, 31):
        roles = [Role(train, folder, "net1", CHANNELS, STEPS, stop), Role(train, folder, "net2")]
        wait_until_killed(roles[0])
        roles[1].kill()
        roles[1].process.join(30)
    roles = [Role(train, folder, name) for name in ("net1", "net2")]
    assert [hear_start(role)[0] for role in roles] == [4, 4]
    assert [result(role) for role in roles] == expected
    assert [len(list((tmp_path / "run" / f"home-{r}").glob("*.json"))) <= 2 for r in
            ("net1", "net2")] == [True, True]


def test_three_roles_survive_a_kill_of_each(tmp_path):
    names = ("net1", "net2", "net3")
    expected = undisturbed(tmp_path, CHAIN, names)
    folder = tmp_path / "run" / "exchange"
    fatal = {"net2": 8, "net1": 17, "net3": 29}
    roles = {name: Role(train, folder, name, CHAIN, STEPS, fatal[name]) for name in names}
    for victim in fatal:
        wait_until_killed(roles[victim])
        roles[victim] = Role(train, folder, victim, CHAIN)
    assert [result(role) for role in roles.values()] == expected


def end_in_the_barrier(say, folder):
    """net1 trains to the end and is killed where it says that it is done."""
    home = Home(Path(folder).parent / "home-net1")
    with Exchange(folder, "net1", channels=CHANNELS, home=home.name, held=home.held) as exchange:
        exchange._part.wait_until_done = lambda: os.kill(os.getpid(), signal.SIGKILL)
        finish(say, exchange, home, STEPS)


def test_a_role_killed_in_the_final_barrier_does_not_train_further(tmp_path):
    expected = undisturbed(tmp_path, CHANNELS, ("net1", "net2"))
    folder = tmp_path / "run" / "exchange"
    with Role(end_in_the_barrier, folder) as first, Role(train, folder, "net2") as other:
        first.process.join(60)
        # net2 has seen net1 done and may have left, or not, when net1 comes back.
        again = Role(train, folder, "net1")
        ends = [result(again), result(other)]
    assert ends[1] == expected[1]
    assert ends[0] in ("over", expected[0])


def test_a_run_that_is_over_is_told_to_a_role_that_comes_back(tmp_path):
    folder = tmp_path / "exchange"
    roles = [Role(train, folder, name) for name in ("net1", "net2")]
    [result(role) for role in roles]
    for name in ("net1", "net2"):
        assert result(Role(train, folder, name)) == "over"


@pytest.mark.fault(24, "a run of another home in the folder")
def test_a_folder_of_another_home_or_of_other_settings_is_refused(tmp_path):
    folder = tmp_path / "exchange"
    roles = [Role(train, folder, name) for name in ("net1", "net2")]
    [result(role) for role in roles]
    home = Home(tmp_path / "home-net1").name
    with pytest.raises(HandshakeMismatch, match="of another run; give a fresh folder, or clean"):
        Exchange(folder, "net1", channels=CHANNELS, home="0" * 32).open()
    with pytest.raises(HandshakeMismatch, match="window: this command has 3, the run here has 2"):
        Exchange(folder, "net1", channels=CHANNELS, window=3, home=home).open()


def test_checkpoints_go_on_in_a_fresh_folder_under_the_same_run(tmp_path):
    first, second = tmp_path / "exchange", tmp_path / "elsewhere"
    roles = [Role(train, first, name, CHANNELS, 20) for name in ("net1", "net2")]
    [result(role) for role in roles]
    roles = [Role(train, second, name, CHANNELS, STEPS) for name in ("net1", "net2")]
    assert [hear_start(role) for role in roles] == [(2, 1, 20)] * 2
    assert [result(role) for role in roles] == undisturbed(tmp_path, CHANNELS, ("net1", "net2"))
    runs = [json.loads((folder / "RUN.json").read_text())["run"] for folder in (first, second)]
    assert runs[0] == runs[1]


def stop_in_good_order(say, folder):
    home = Home(Path(folder).parent / "home-net1")
    exchange = Exchange(folder, "net1", channels=CHANNELS, home=home.name, held=home.held)
    try:
        with exchange:
            mixed(exchange, 0, [1, 0])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return "stopped"


def test_a_peer_that_stopped_or_died_is_awaited_for_peer_timeout_and_no_longer(tmp_path):
    for function, error in ((stop_in_good_order, PeerStopped), (die, PeerLost)):
        folder = tmp_path / function.__name__ / "exchange"
        with Role(function, folder), pytest.raises(error, match="not started again within 1 s"):
            train(lambda said: None, folder, "net2", peer_timeout_s=1)


def die(say, folder):
    home = Home(Path(folder).parent / "home-net1")
    exchange = Exchange(folder, "net1", channels=CHANNELS, home=home.name, held=home.held).open()
    mixed(exchange, 0, [1, 0])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.fault(25, "a killed role, and parts of both roles in the folder")
@pytest.mark.security(16, "hidden files of another role beside mine")
def test_leftovers_of_a_dead_process_are_removed_by_its_successor_and_nothing_else(tmp_path):
    folder = tmp_path / "exchange"
    with Role(die, folder), pytest.raises(PeerLost):
        train(lambda said: None, folder, "net2", peer_timeout_s=0.5)
    mine = ["g00000001/net1/.down-000000000001.npy.ab.part", "hello/.net1.json.ab.part",
            "gen/.00000002.json.ab.part", ".RUN.json.ab.part"]
    foreign = ["hello/.net2.json.cd.part", "g00000001/notes.txt", "hello/.net1.json.keep"]
    for name in mine + foreign:
        (folder / name).write_bytes(b"half")
    roles = [Role(train, folder, name) for name in ("net1", "net2")]
    [result(role) for role in roles]
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not left & set(mine)
    assert left >= {"g00000001/notes.txt", "hello/.net1.json.keep"}
    assert "hello/.net2.json.cd.part" not in left  # net2 swept its own


def test_newest_common_by_hand():
    run = "ab" * 16
    old, new, mine = (Checkpoint(run, *pair) for pair in ((1, 400), (2, 200), (2, 300)))
    assert newest_common([[old, new, mine], [new, old]]) == new  # (2, 200) is newer than (1, 400)
    assert newest_common([[old, mine], [new]]) is None
    assert newest_common([[old], [old]], run="cd" * 16) is None
