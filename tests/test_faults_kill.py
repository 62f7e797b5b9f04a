"""A role killed at any moment of an exchange: started again, it ends as if nothing had happened."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import test_shared_fs_restart as restart
from test_shared_fs_processes import Role
from test_shared_fs_restart import STEPS, train

from shared_fs import PeerLost, RoleTaken, Storage
from shared_fs.counters import CELL, WORD

CHANNELS = ("down", "up")  # in the order of their names, as the counters are


class DyingStorage(Storage):
    """Ends its process with a signal before, within or after one system call.

    call   name of the call; pattern: of the file name, or of what is written (pwrite, store)
    """

    def __init__(self, folder, call, pattern, when, signal_number=signal.SIGKILL):
        super().__init__(folder)
        self._moment, self._pattern, self._signal = (call, when), re.compile(pattern), signal_number
        self._names = {}

    def _maybe(self, call, when, name):
        if self._moment == (call, when) and self._pattern.search(name):
            self._moment = ()
            os.kill(os.getpid(), self._signal)

    def open(self, name, flags, mode=0o600):
        self._maybe("open", "before", name)
        fd = super().open(name, flags, mode)
        self._names[fd] = name
        return fd

    def close(self, fd):
        super().close(fd)
        self._maybe("close", "after", self._names.pop(fd))

    def write(self, fd, data):
        if self._moment == ("write", "within") and self._pattern.search(self._names[fd]):
            super().write(fd, data[: len(data) // 2])
            self._maybe("write", "within", self._names[fd])
        return super().write(fd, data)

    def pwrite(self, fd, data, offset):
        self._maybe("pwrite", "before", data.decode("ascii"))
        count = super().pwrite(fd, data, offset)
        self._maybe("pwrite", "after", data.decode("ascii"))
        return count

    def store(self, words, at, number):
        told = f"{CHANNELS[at * WORD // CELL]} {number}"
        self._maybe("store", "before", told)
        super().store(words, at, number)
        self._maybe("store", "after", told)

    def replace(self, source, target):
        self._maybe("replace", "before", target)
        super().replace(source, target)
        self._maybe("replace", "after", target)

    def link(self, source, target):
        super().link(source, target)
        self._maybe("link", "after", target)


def train_and_die(say, folder, role, transport, *moment):
    storage = DyingStorage(folder, *moment)
    return train(say, folder, role, storage=storage, transport=transport)


def train_and_die_before_the_checkpoint(say, folder, role, step):
    class DyingHome(restart.Home):
        def save(self, checkpoint, state):
            if checkpoint.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            super().save(checkpoint, state)

    restart.Home = DyingHome
    return train(say, folder, role)


def train_by(say, folder, role, transport):
    return train(say, folder, role, transport=transport)


def final_states():
    """What an undisturbed run ends with, by the arithmetic of `mixed` in one process."""
    first, second = [4, 0], [4, 0]
    for step in range(STEPS):
        first, second = (
            [(3 * mine[0] + other[0] + step) % 1_000_003, mine[1] + 1]
            for mine, other in ((first, second), (second, first))
        )
    return {"net1": first, "net2": second}


def starts_and_result(role):
    """The (generation, base, step) that a role began from, and what it ended with."""
    starts = []
    while not isinstance(said := role.hear(60), list | str):
        if isinstance(said, tuple):
            starts.append(said[1:])
    return starts, said


def died(role, signal_number=signal.SIGKILL):
    role.process.join(60)
    return role.process.exitcode == -signal_number


def outlive(folder, victim, dying, transport="auto"):
    """Start the victim's replacement after its death; the starts of all, once all have ended."""
    other = {"net1": "net2", "net2": "net1"}[victim]
    with Role(train_by, folder, other, transport) as survivor, dying:
        assert died(dying)
        with Role(train_by, folder, victim, transport) as again:
            ends = {victim: starts_and_result(again), other: starts_and_result(survivor)}
    assert {role: end for role, (_, end) in ends.items()} == final_states()
    assert list(folder.glob("g0*")) == []
    assert list(folder.rglob("*.part")) == []
    return ends[victim][0], ends[other][0]


def moments(victim):
    """Transport and system call of each moment at which a role is killed."""
    sent, got = {"net1": ("down", "up"), "net2": ("up", "down")}[victim]
    message, read = rf"{sent}-0{{10}}12\.npy", rf"{got}-0{{10}}12\.npy$"
    announce, acknowledge = rf'"published": {{"{sent}": 12}}', rf'"consumed": {{"{got}": 12}}'
    return {
        "writing": ("rename", "write", message, "within"),
        "before the rename": ("rename", "replace", message, "before"),
        "after the rename": ("rename", "replace", message + "$", "after"),
        "after the announcement": ("rename", "pwrite", announce, "after"),
        "after reading": ("rename", "close", read, "after"),
        "after the acknowledgement": ("rename", "pwrite", acknowledge, "after"),
        "mapped, before the announcement": ("mapped", "store", f"{sent} 12", "before"),
        "mapped, after the announcement": ("mapped", "store", f"{sent} 12", "after"),
        "mapped, after reading": ("mapped", "store", f"{got} 12", "before"),
        "mapped, after the acknowledgement": ("mapped", "store", f"{got} 12", "after"),
    }


@pytest.mark.parametrize("victim", ["net1", "net2"])
@pytest.mark.parametrize("moment", moments("net1"))
@pytest.mark.fault(1, "Storage.write kills its process half-way")
@pytest.mark.fault(2, "Storage.replace kills its process before the rename")
@pytest.mark.fault(3, "Storage.replace kills its process after the rename; store, before the "
                      "announcement of a mapped message")
@pytest.mark.fault(4, "Storage.pwrite and store kill their process after the announcement")
@pytest.mark.fault(5, "Storage.close kills its process after reading; pwrite and store after "
                      "acknowledging")
def test_a_role_killed_in_the_exchange_of_a_message_changes_nothing(tmp_path, victim, moment):
    folder = tmp_path / "exchange"
    transport, *call = moments(victim)[moment]
    dying = Role(train_and_die, folder, victim, transport, *call)
    mine, theirs = outlive(folder, victim, dying, transport)
    # Killed in step 12: both go on from the checkpoint after 10 steps, of generation 1.
    assert mine == [(2, 1, 10)]
    assert theirs == [(1, 0, 0), (2, 1, 10)]


@pytest.mark.fault(6, "SIGKILL as the role begins to write its checkpoint")
def test_a_step_without_its_checkpoint_is_done_again_once(tmp_path):
    folder = tmp_path / "exchange"
    dying = Role(train_and_die_before_the_checkpoint, folder, "net2", 15)
    assert outlive(folder, "net2", dying) == ([(2, 1, 10)], [(1, 0, 0), (2, 1, 10)])


@pytest.mark.fault(8, "Storage.pwrite kills its process before it says which checkpoints it holds")
def test_a_checkpoint_that_was_not_announced_yet_is_offered_from_the_disk(tmp_path):
    folder = tmp_path / "exchange"
    moment = ("pwrite", r'"held": \[.*\[1, 15\]\]', "before")
    dying = Role(train_and_die, folder, "net1", "auto", *moment)
    assert outlive(folder, "net1", dying) == ([(2, 1, 15)], [(1, 0, 0), (2, 1, 15)])


@pytest.mark.parametrize(
    ("victim", "moment"),
    [("net1", ("link", r"gen/00000001\.json", "after")),
     ("net2", ("open", r"gen/00000001\.json", "before"))],
    ids=["leader", "follower"],
)
@pytest.mark.fault(10, "Storage.link kills the leader after it, open the follower before it")
def test_a_generation_that_not_all_adopted_is_never_begun(tmp_path, victim, moment):
    folder = tmp_path / "exchange"
    mine, theirs = outlive(folder, victim, Role(train_and_die, folder, victim, "auto", *moment))
    assert mine == [(2, 0, 0)]
    # The leader may have begun generation 1 before it saw that the follower was gone.
    assert theirs in ([(2, 0, 0)], [(1, 0, 0), (2, 0, 0)])
    assert sorted(path.name for path in (folder / "gen").iterdir()) == [
        "00000001.json", "00000002.json"]


@pytest.mark.fault(10, "Storage.link kills the leader in the restart after another kill")
def test_a_leader_killed_again_as_it_commits_the_restart(tmp_path):
    folder = tmp_path / "exchange"
    with Role(train, folder, "net2") as survivor:
        for moment in (("store", "down 12", "after"),
                       ("link", r"gen/00000002\.json", "after")):
            with Role(train_and_die, folder, "net1", "auto", *moment) as dying:
                assert died(dying)
        with Role(train, folder, "net1") as again:
            ends = [starts_and_result(again), starts_and_result(survivor)]
    assert [end for _, end in ends] == list(final_states().values())
    assert [starts for starts, _ in ends] == [[(3, 1, 10)], [(1, 0, 0), (3, 1, 10)]]


def is_stopped(role):
    state = Path(f"/proc/{role.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state not in "ZX", "it ended instead"
    return state == "T"


def wait_until_stopped(role):
    deadline = time.monotonic() + 60
    while not is_stopped(role):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("transport", "moment"),
    [("rename", ("replace", r"down-0{10}12\.npy$", "before")),
     ("mapped", ("store", "down 12", "before"))],
    ids=["before a rename", "mapped, before an announcement"],
)
@pytest.mark.fault(15, "Storage stops its process; lock file removed, replacement, SIGCONT")
def test_a_role_stopped_for_too_long_finds_its_successor_and_changes_nothing(
    tmp_path, transport, moment
):
    folder = tmp_path / "exchange"
    with Role(train_and_die, folder, "net1", transport, *moment, signal.SIGSTOP) as zombie:
        with Role(train_impatiently, folder, "net2", transport) as survivor:
            wait_until_stopped(zombie)
            survivor.hear()  # its pid
            assert survivor.hear() == ("start", 1, 0, 0)
            assert "no sign of life for 4 s" in str(survivor.error(60))
        (folder / "roles" / "net1.lock").unlink()  # or another process of the role is refused
        announce = {"rename": ("pwrite", r'"published": {"down": 20}'),
                    "mapped": ("store", "down 20")}
        halt = (transport, *announce[transport], "before", signal.SIGSTOP)
        with (
            Role(train_and_die, folder, "net1", *halt) as mine,
            Role(train_by, folder, "net2", transport) as peer,
        ):
            wait_until_stopped(mine)  # in the middle of generation 2
            os.kill(zombie.pid, signal.SIGCONT)
            [zombie.hear() for _ in range(2)]  # its pid and its start
            assert isinstance(zombie.error(60), RoleTaken)
            assert list(folder.glob("g00000001")) == []
            os.kill(mine.pid, signal.SIGCONT)
            ends = [starts_and_result(role) for role in (mine, peer)]
    assert [end for _, end in ends] == list(final_states().values())
    assert [starts for starts, _ in ends] == [[(2, 1, 10)]] * 2


def train_impatiently(say, folder, role, transport):
    try:
        return train(say, folder, role, transport=transport, peer_timeout_s=4)
    except PeerLost as lost:
        raise RuntimeError(str(lost)) from lost
