"""Faults of the folder: removed, full, exchanged; the run goes on, or ends in order."""

import errno
import os
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
from ping_pong import both, exchange, pong
from test_shared_fs_processes import Role

from shared_fs import InvalidMessage, Storage, StorageError, status


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


def ping_on_a_full_disk(say, folder):
    out = np.empty(256, np.float32)
    with exchange(folder, "net1") as mine:
        for sequence in range(200):
            mine.send("x", sequence, out)
            mine.recv("back", sequence, out)
            if sequence == 10:
                say(fill(folder / "filler"))
            mine.report(step=sequence)


def pong_quietly(say, folder):
    out = np.empty(256, np.float32)
    with exchange(folder, "net2") as mine:
        for sequence in range(200):
            mine.recv("x", sequence, out)
            mine.send("back", sequence, out)
        return mine._part.poll("net1").status.step


def fill(path):
    """Write until nothing more fits; the errno that said so."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            return error.errno


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.fault(30, "a tmpfs of 512 kB is filled while the run goes on")
def test_a_full_disk_does_not_stop_the_status(small_disk):
    with (
        Role(ping_on_a_full_disk, small_disk) as first,
        Role(pong_quietly, small_disk) as second,
    ):
        assert first.hear(60) == errno.ENOSPC
        assert second.result(60) >= 198
        assert first.result(60) is None


def ping_in_phases(say, folder):
    out = np.empty(256, np.float32)
    with exchange(folder, "net1") as mine:
        for sequence in range(20):
            mine.report(step=sequence, phase=f"phase {sequence}")
            mine.send("x", sequence, np.full(256, sequence, np.float32))
            mine.recv("back", sequence, out)
            if sequence == 5:
                folder.rename(folder.with_name("moved"))
                folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.fault(52, "the folder is renamed and a symbolic link put in its place")
def test_a_run_stays_in_the_folder_that_it_opened(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "exchange"
    with Role(ping_in_phases, folder) as first, Role(pong, folder, 20) as second:
        assert second.hear(60) == "open"
        assert [first.result(60), second.result(60)] == [None, None]
    assert os.listdir(tmp_path / "elsewhere") == []
    assert "stage.json" in os.listdir(tmp_path / "moved")


@pytest.mark.fault(25, "garbage in g00000001 before any run")
def test_files_in_the_place_of_a_generation_are_never_read(tmp_path):
    folder = tmp_path / "exchange"
    for role, channel in (("net1", "x"), ("net2", "back")):
        (folder / "g00000001" / role).mkdir(parents=True, mode=0o700)
        for sequence in range(3):
            path = folder / "g00000001" / role / f"{channel}-{sequence:012d}.npy"
            path.write_bytes(b"garbage")
    both(folder, 6)


@pytest.mark.fault(51, "a hard link to a foreign file in place of my status block")
def test_a_block_with_another_name_is_not_rewritten(tmp_path):
    foreign = tmp_path / "diary.txt"
    foreign.write_text("dear diary")
    (tmp_path / "exchange" / "status").mkdir(parents=True, mode=0o700)
    os.link(foreign, tmp_path / "exchange" / "status" / "net1.block")
    with pytest.raises(InvalidMessage, match="a second name"):
        exchange(tmp_path / "exchange", "net1").open()
    assert foreign.read_text() == "dear diary"


@pytest.mark.fault(51, "a hard link to a message that is about to be recycled")
def test_a_message_with_another_name_is_not_rewritten(tmp_path):
    storage = Storage(tmp_path)
    storage.publish("one", [b"first"], fsync=False)
    os.link(tmp_path / "one", tmp_path / "copy")
    storage.publish("two", [b"second"], fsync=False, recycle="one")
    assert (tmp_path / "copy").read_bytes() == b"first"
    assert (tmp_path / "two").read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["copy", "two"]
    storage.publish("three", [b"3"], fsync=False, recycle="two")  # no other name: the same file
    assert (tmp_path / "three").read_bytes() == b"3"
