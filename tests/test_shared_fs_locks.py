"""One live process per role; a dead one frees it; the stage lock never holds the run up."""

import os
import re
import sys
import time

import pytest
from test_shared_fs_processes import Role

from shared_fs import RoleTaken, Storage, locks
from shared_fs.locks import RoleLock, stage_lock
from shared_fs.profile import LOCAL, NETWORK

BOTH = pytest.mark.parametrize("profile", [LOCAL, NETWORK], ids=lambda profile: profile.name)


def folder_with_roles(path):
    storage = Storage(path)
    storage.make_folder("roles")
    return storage


def hold(say, folder, profile):
    lock = RoleLock(folder_with_roles(folder), "net1", profile)
    lock.acquire(lambda: "nobody")
    say("held")
    time.sleep(60)


@BOTH
def test_a_taken_role_is_refused_in_under_a_second_and_the_holder_is_named(tmp_path, profile):
    with Role(hold, tmp_path, profile) as first:
        assert first.hear() == "held"
        start = time.monotonic()
        with pytest.raises(RoleTaken, match=r"net1 is already running \(pid 4711 on a\)"):
            RoleLock(Storage(tmp_path), "net1", profile).acquire(lambda: "pid 4711 on a")
        assert time.monotonic() - start < 1
        assert first.process.is_alive()


@BOTH
def test_another_role_is_free(tmp_path, profile):
    with Role(hold, tmp_path, profile) as first:
        assert first.hear() == "held"
        lock = RoleLock(Storage(tmp_path), "net2", profile)
        lock.acquire(lambda: "nobody")
        lock.release()


@BOTH
@pytest.mark.fault(21, "SIGKILL of the process that holds the role")
def test_a_killed_process_frees_its_role_at_once(tmp_path, profile):
    with Role(hold, tmp_path, profile) as first:
        assert first.hear() == "held"
        first.kill()
        first.process.join(10)
        lock = RoleLock(Storage(tmp_path), "net1", profile)
        lock.acquire(lambda: "the dead one")
        lock.release()


@pytest.mark.fault(23, "the marker of a killed holder gets the pid of a live process")
def test_a_lease_whose_pid_belongs_to_another_process_now_is_free(tmp_path):
    with Role(hold, tmp_path, NETWORK) as dead:
        assert dead.hear() == "held"
        dead.kill()
        dead.process.join(10)
    marker = tmp_path / "roles" / "net1.lock"
    text, count = re.subn(rf"\bpid={dead.pid}\b", f"pid={os.getpid()}", marker.read_text())
    assert count == 1
    marker.write_text(text)
    lock = RoleLock(Storage(tmp_path), "net1", NETWORK)
    lock.acquire(lambda: "a process that has the pid of mine")
    lock.release()


@BOTH
def test_a_released_role_can_be_taken_again(tmp_path, profile):
    storage = folder_with_roles(tmp_path)
    for _ in range(3):
        lock = RoleLock(storage, "net1", profile)
        lock.acquire(lambda: "nobody")
        lock.check()
        lock.release()
        lock.release()


def test_a_lost_lease_is_said_at_the_next_check(tmp_path):
    lock = RoleLock(folder_with_roles(tmp_path), "net1", NETWORK)
    lock.acquire(lambda: "nobody")
    lock._note_compromise("replaced by another owner")
    with pytest.raises(RoleTaken, match="lost the lease of net1"):
        lock.check()
    lock.release()


@BOTH
def test_a_stage_lock_that_is_not_free_is_given_up_with_a_warning(tmp_path, profile, caplog):
    storage = Storage(tmp_path)
    with stage_lock(storage, profile) as held, stage_lock(storage, profile, 0.05) as second:
        assert (held, second) == (True, False)
    assert "stage.lock: not free after 0.05 s" in caplog.text
    with stage_lock(storage, profile) as again:
        assert again


def leave_a_lease_of_another_host(folder, monkeypatch):
    """The marker of a holder that this host cannot look up, refreshed no more."""
    monkeypatch.setattr("shared_fs.locks.LEASE_S", 1.5)
    with Role(hold_for, folder, 1.5) as first:
        assert first.hear() == "held"
        first.kill()
        first.process.join(10)
    marker = folder / "roles" / "net1.lock"
    marker.write_text(re.sub("host=.*", "host=far-away", marker.read_text()))


def hold_for(say, folder, lease_s):
    locks.LEASE_S = lease_s
    hold(say, folder, NETWORK)


@pytest.mark.fault(22, "a lease whose host is edited")
def test_the_lease_of_a_dead_process_of_another_host_runs_out(tmp_path, monkeypatch, caplog):
    leave_a_lease_of_another_host(tmp_path, monkeypatch)
    lock = RoleLock(Storage(tmp_path), "net1", NETWORK)
    with pytest.raises(RoleTaken):  # not known to be gone: refused at once
        lock.acquire(lambda: "pid 1 on far-away")
    lock.acquire(lambda: "pid 1 on far-away", lambda pid: None)
    assert "leased to pid 1 on far-away; if that one is dead the lease runs out" in caplog.text
    lock.release()


def test_a_lease_that_is_refreshed_is_not_taken_from_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr("shared_fs.locks.LEASE_S", 1.5)
    monkeypatch.setattr("shared_fs.locks.LEASE_GRACE_S", 0.5)
    with Role(hold_for, tmp_path, 1.5) as first:
        assert first.hear() == "held"
        marker = (tmp_path / "roles" / "net1.lock").read_text()
        with pytest.raises(RoleTaken):
            RoleLock(Storage(tmp_path), "net1", NETWORK).acquire(lambda: "it", lambda pid: None)
        assert (tmp_path / "roles" / "net1.lock").read_text() == marker
        assert first.process.is_alive()


def test_where_names_cannot_be_exchanged_a_dead_holder_is_replaced_all_the_same(
    tmp_path, monkeypatch
):
    """What network file systems refuse filelock; the real ones are in test_rig.py."""
    users = [module for name, module in sys.modules.items()
             if name.startswith("filelock") and hasattr(module, "exchange_names")]
    assert users
    for module in users:
        monkeypatch.setattr(module, "exchange_names", lambda *_: False)
    with Role(hold, tmp_path, NETWORK) as first:
        assert first.hear() == "held"
        first.kill()
        first.process.join(10)
        lock = RoleLock(Storage(tmp_path), "net1", NETWORK)
        with pytest.raises(RoleTaken):
            lock.acquire(lambda: "it")
        lock.acquire(lambda: "it", lambda pid: pid == first.pid)
        lock.check()
        lock.release()
