"""Faults of the folder: removed, full, slow, failing; the run ends in order or goes on."""

import errno
import shutil
import threading
import time

import numpy as np
import pytest
from test_shared_fs_processes import Role

from shared_fs import Exchange, StorageError, status

CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}


def exchange(folder, role, **options):
    return Exchange(folder, role, channels=CHANNELS, **{"handshake_timeout_s": 60, **options})


def ping(say, folder, count, storage=None, **options):
    """As net1: send and receive `count` arrays that name their sequence, and check them."""
    made = {} if storage is None else {"storage": storage[0](folder, *storage[1:])}
    out = np.empty(256, np.float32)
    with exchange(folder, "net1", **made, **options) as mine:
        say("open")
        for sequence in range(count):
            mine.send("x", sequence, np.full(256, sequence, np.float32))
            mine.recv("back", sequence, out)
            assert (out == sequence).all()
    return made["storage"].seen if made else None


def pong(say, folder, count, storage=None, **options):
    """As net2: the other end of `ping`."""
    made = {} if storage is None else {"storage": storage[0](folder, *storage[1:])}
    out = np.empty(256, np.float32)
    with exchange(folder, "net2", **made, **options) as mine:
        say("open")
        for sequence in range(count):
            mine.recv("x", sequence, out)
            assert (out == sequence).all()
            mine.send("back", sequence, out)
    return made["storage"].seen if made else None


def both(folder, count, storage1=None, storage2=None, **options):
    """Run `ping` and `pong` to the end; what their storages have seen."""
    with (
        Role(_with, ping, folder, count, storage1, options) as first,
        Role(_with, pong, folder, count, storage2, options) as second,
    ):
        assert [first.hear(60), second.hear(60)] == ["open"] * 2
        return first.result(60), second.result(60)


def _with(say, function, folder, count, storage, options):
    return function(say, folder, count, storage, **options)


def wait_in(say, folder, role, doing):
    """Open, or begin to, and wait for what will not come."""
    status.BEAT_S = 0.1
    if doing == "handshake":
        say("open")
        exchange(folder, role).open()
    with exchange(folder, role) as mine:
        say("open")
        if doing == "nothing":
            threading.Event().wait(60)
        if doing == "recv":
            mine.recv("x" if role == "net2" else "back", 0, np.empty(5))
        if doing == "send":
            for sequence in range(9):
                mine.send("x" if role == "net1" else "back", sequence, np.empty(5))


@pytest.mark.parametrize("doing", ["recv", "send", "barrier"])
@pytest.mark.fault(36, "rmtree while both roles wait in recv, send or the final barrier")
def test_a_removed_folder_ends_every_role_and_is_not_made_again(tmp_path, doing):
    folder = tmp_path / "exchange"
    other = "nothing" if doing == "barrier" else doing
    with (
        Role(wait_in, folder, "net1", doing) as first,
        Role(wait_in, folder, "net2", other) as second,
    ):
        assert [first.hear(60), second.hear(60)] == ["open"] * 2
        shutil.rmtree(folder)
        for role in (first, second) if doing == other else (first,):
            error = role.error(30)
            assert isinstance(error, StorageError)
            assert error.errno == errno.ENOENT
            assert "check that nobody removed or renamed the exchange folder" in str(error)
    assert not folder.exists()


@pytest.mark.fault(36, "rmtree while a role waits for the other to join")
def test_a_folder_removed_in_the_handshake_is_noticed(tmp_path):
    folder = tmp_path / "exchange"
    with Role(wait_in, folder, "net1", "handshake") as role:
        assert role.hear(60) == "open"
        deadline = time.monotonic() + 60
        while not (folder / "hello" / "net1.json").exists():
            assert time.monotonic() < deadline
        shutil.rmtree(folder)
        assert isinstance(role.error(30), StorageError)
    assert not folder.exists()
