"""Faults of the other role and of the clocks: a hang, garbage, other versions, time that jumps."""

import itertools
import json
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from ping_pong import both, exchange, ping, pong
from test_faults_kill import wait_until_stopped
from test_shared_fs_processes import Role
from test_shared_fs_restart import CHANNELS, Home, train

from dualnet.methods.dual.settings import DualConfig
from shared_fs import (
    Exchange,
    HandshakeMismatch,
    InvalidMessage,
    PeerLost,
    RunOver,
    Storage,
    locks,
    membership,
    peer,
    records,
    status,
)
from shared_fs.profile import LOCAL, NETWORK


def hang(say, folder):
    """Compute for ever, while the heart beats."""
    status.BEAT_S = 0.1
    with exchange(folder, "net1") as mine:
        mine.report(step=7)
        say("open")
        threading.Event().wait(60)


@pytest.mark.fault(17, "a process that computes for ever while its heart beats")
def test_a_hanging_peer_is_lost_for_lack_of_progress_not_of_life(tmp_path):
    with Role(hang, tmp_path) as stuck:
        mine = exchange(tmp_path, "net2", peer_timeout_s=60, progress_timeout_s=1.5).open()
        assert stuck.hear(60) == "open"
        with pytest.raises(PeerLost, match=r"net1 .*: heartbeats only for 1\.5 s .* x 0"):
            mine.recv("x", 0, np.empty(5))
        assert stuck.process.is_alive()
        mine.close(RuntimeError("end of the test"))


@pytest.mark.parametrize("garbage", [b"", os.urandom(4096), b"\0" * 9000, b'{"a":' * 900])
@pytest.mark.fault(53, "SIGSTOP, and garbage written over the block of the stopped process")
def test_a_block_of_garbage_is_warned_of_and_then_an_error(tmp_path, garbage, monkeypatch, caplog):
    monkeypatch.setattr(peer, "DAMAGED_WARNING_S", 0.3)
    with Role(hang, tmp_path) as stuck:
        mine = exchange(tmp_path, "net2", peer_timeout_s=1.5).open()
        assert stuck.hear(60) == "open"
        os.kill(stuck.pid, signal.SIGSTOP)
        wait_until_stopped(stuck)  # a write of its own may be under way
        (tmp_path / "status" / "net1.block").write_bytes(garbage)
        with pytest.raises(InvalidMessage, match=r"status block of net1 .* garbage for [12] s"):
            mine.recv("x", 0, np.empty(5))
        assert caplog.text.count("is garbage; waiting for a whole one") == 1
        mine.close(RuntimeError("end of the test"))


def with_jumping_clock(say, function, folder, count, profile):
    """`time.time` a day early, then a day late, at each call; a lease that is refreshed often."""
    real, jumps = time.time, itertools.cycle((86400.0, -86400.0))
    time.time = lambda: real() + next(jumps)
    membership.detect = lambda path, name: profile
    locks.LEASE_S = 0.6
    return function(say, folder, count)


@pytest.mark.parametrize("profile", [LOCAL, NETWORK], ids=lambda profile: profile.name)
@pytest.mark.fault(54, "time.time jumps by a day, back and forth, in both processes")
def test_a_wall_clock_that_jumps_by_a_day_has_no_effect(tmp_path, profile):
    with (
        Role(with_jumping_clock, ping, tmp_path, 300, profile) as first,
        Role(with_jumping_clock, pong, tmp_path, 300, profile) as second,
    ):
        assert [first.hear(60), second.hear(60)] == ["open"] * 2
        assert [first.result(60), second.result(60)] == [None, None]


class JumpingStorage(Storage):
    """Its monotonic clock jumps by an hour, a few times in its life."""

    JUMPS = (30, 300, 3000)

    def __init__(self, folder):
        super().__init__(folder)
        self._calls, self._ahead, self.seen = 0, 0.0, 0

    def monotonic(self):
        self._calls += 1
        if self._calls in self.JUMPS:
            self._ahead += 3600.0
            self.seen += 1
        return super().monotonic() + self._ahead


@pytest.mark.fault(55, "Storage.monotonic jumps by an hour, three times in each process")
def test_a_machine_that_slept_gives_nobody_up(tmp_path):
    storage = (JumpingStorage,)
    assert min(both(tmp_path, 400, storage, storage, peer_timeout_s=30)) >= 2


class LaterStorage(Storage):
    """Of a later program: its hello has another protocol, and fields that this one does not know.
    """

    def publish(self, name, data, **options):
        if name == "hello/net2.json":
            hello = {**json.loads(data[0]), "protocol": 99, "rank": 5}
            data = [json.dumps(hello).encode()]
        super().publish(name, data, **options)


def join_later(say, folder):
    exchange(folder, "net2", storage=LaterStorage(folder)).open()


@pytest.mark.fault(26, "a hello with another protocol and unknown fields")
def test_a_later_protocol_is_refused_by_its_number_whatever_else_it_says(tmp_path):
    with (
        Role(join_later, tmp_path),
        pytest.raises(HandshakeMismatch) as refused,
    ):
        exchange(tmp_path, "net1").open()
    assert f"protocol: net1 has {records.PROTOCOL}, net2 has 99" in str(refused.value)


def finished_run(folder):
    roles = [Role(train, folder, name, CHANNELS, 5) for name in ("net1", "net2")]
    for role in roles:
        with role:
            role.process.join(60)
            assert role.process.exitcode == 0


def come_back(folder):
    home = Home(folder.parent / "home-net1")
    return Exchange(folder, "net1", channels=CHANNELS, home=home.name, held=home.held).open()


def edit_run(folder, **changes):
    path = folder / "RUN.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, **changes}))
    return run


@pytest.mark.fault(72, "RUN.json says another protocol; then another version of numpy")
def test_an_upgrade_between_crash_and_restart_is_refused_or_warned_of(tmp_path, caplog):
    folder = tmp_path / "exchange"
    finished_run(folder)
    with pytest.raises(RunOver):
        come_back(folder)
    assert "other versions" not in caplog.text
    run = edit_run(folder, protocol=1)
    with pytest.raises(HandshakeMismatch, match="begun with protocol 1, this program has"):
        come_back(folder)
    edit_run(folder, protocol=run["protocol"], versions={**run["versions"], "numpy": "1.0"})
    with pytest.raises(RunOver):
        come_back(folder)
    assert re.search(r"other versions: numpy: net1 has \S+, the run here has 1\.0", caplog.text)


def join_with_another_numpy(say, folder):
    np.__version__ = "1.0"
    return ping(say, folder, 3)


@pytest.mark.fault(72, "a peer with another version of numpy")
def test_a_peer_with_other_libraries_is_warned_of_and_joined(tmp_path, caplog):
    with Role(join_with_another_numpy, tmp_path) as other:
        pong(lambda said: None, tmp_path, 3)
        assert other.hear(60) == "open"
        assert other.result(60) is None
    assert "other versions: numpy: net2 has" in caplog.text


def join_with(say, folder, role, settings):
    with exchange(folder, role, agreement=DualConfig(**settings).agreed()):
        return "joined"


@pytest.mark.fault(28, "two real roles with the settings of the dual net")
def test_the_checkpoint_interval_must_agree_and_the_device_need_not(tmp_path):
    roles = [Role(join_with, tmp_path / "a", name, {"checkpoint_every": every})
             for name, every in (("net1", 5), ("net2", 6))]
    for role in roles:
        with role:
            assert "checkpoint_every: net" in str(role.error(60))
    roles = [Role(join_with, tmp_path / "b", name, {"device": device, "threads": threads})
             for name, device, threads in (("net1", "cpu", 1), ("net2", "cuda:1", 2))]
    assert [role.result(60) for role in roles] == ["joined"] * 2
