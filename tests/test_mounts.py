"""Disks that are full, read-only, foreign or in pieces: real ones, mounted by root for the test."""

import errno
import logging
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from mounts import bound, ext4, require, tmpfs
from test_shared_fs_processes import Role

from shared_fs import Exchange, PeerFailed, PeerLost, StorageError

CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}
NOBODY = 65534
FULL = pytest.mark.parametrize(("options", "fill"), [
    pytest.param("size=1m", "bytes", marks=pytest.mark.fault(29, "tmpfs of 1 MB, filled up")),
    pytest.param("nr_inodes=40", "names", marks=pytest.mark.fault(31, "tmpfs of 40 inodes, all "
                                                                      "of them taken"))])


def fill_up(folder, what):
    """Take every byte or every inode that is left."""
    ballast = folder / "ballast"
    ballast.mkdir()
    with pytest.raises(OSError) as caught:
        if what == "bytes":
            with open(ballast / "file", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        for number in range(1000):
            (ballast / str(number)).touch()
    assert caught.value.errno == errno.ENOSPC
    return ballast


def send_when_told(say, folder, told, patience_s):
    """Meet net2, wait for the file `told`, then send a message; warnings are said too."""
    handler = logging.Handler()
    handler.emit = lambda record: say(record.getMessage())
    logging.getLogger("shared_fs").addHandler(handler)
    with Exchange(folder, "net1", channels=CHANNELS, handshake_timeout_s=60,
                  storage_timeout_s=patience_s) as mine:
        say("open")
        while not told.exists():
            time.sleep(0.01)
        mine.send("x", 0, np.arange(20000.0))
    return "sent"


def receive(say, folder):
    with Exchange(folder, "net2", channels=CHANNELS, handshake_timeout_s=60) as mine:
        say("open")
        return float(mine.recv("x", 0, np.empty(20000)).sum())


def parts(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


@FULL
def test_a_message_waits_for_space_on_a_full_disk(options, fill, tmp_path):
    with tmpfs(tmp_path, options) as point:
        arguments = (point / "exchange", tmp_path / "told", 60)
        with Role(send_when_told, *arguments) as first, Role(receive, point / "exchange") as second:
            assert (first.hear(60), second.hear(60)) == ("open", "open")
            ballast = fill_up(point, fill)
            (tmp_path / "told").touch()
            said = first.hear(60)
            assert "No space left on device; free space there" in said
            assert "trying again for up to 60 s" in said
            assert parts(point) == []
            shutil.rmtree(ballast)
            assert first.result(60) == "sent"
            assert second.result(60) == sum(range(20000))
        assert parts(point) == []


@FULL
def test_a_disk_that_stays_full_ends_both_roles_with_the_reason(options, fill, tmp_path):
    with tmpfs(tmp_path, options) as point:
        arguments = (point / "exchange", tmp_path / "told", 0.5)
        with Role(send_when_told, *arguments) as first, Role(receive, point / "exchange") as second:
            assert (first.hear(60), second.hear(60)) == ("open", "open")
            fill_up(point, fill)
            (tmp_path / "told").touch()
            assert "trying again" in first.hear(60)
            error = first.error(60)
            assert isinstance(error, StorageError) and error.errno == errno.ENOSPC
            # net2 learns it from the status block of net1, which a full disk does not stop.
            told = second.error(60)
            assert isinstance(told, PeerFailed) and "No space left on device" in str(told)
        assert parts(point) == []


@pytest.mark.fault(73, "messages of 1 MB on a tmpfs of 1 MB")
def test_messages_that_cannot_fit_are_refused_before_anything_is_exchanged(tmp_path):
    with tmpfs(tmp_path, "size=1m") as point:
        exchange = Exchange(point / "exchange", "net1", channels=CHANNELS,
                            message_bytes={"x": 10**6, "back": 10**6}, handshake_timeout_s=5)
        # 2 channels, 2 + 1 messages each, half as much again.
        with pytest.raises(StorageError, match=r"expected 9\.0 MB of free space .* found 1\.0 MB"):
            exchange.open()


@pytest.mark.fault(34, "ext4 with errors=remount-ro, and an error triggered in it")
def test_a_disk_that_turns_read_only_ends_both_roles_at_once(tmp_path):
    with ext4(tmp_path, "errors=remount-ro") as point:
        device = os.stat(point).st_dev
        block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
        trigger = Path(f"/sys/fs/ext4/{block.name}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip(f"there is no {trigger}")
        arguments = (point / "exchange", tmp_path / "told", 60)
        with Role(send_when_told, *arguments) as first, Role(receive, point / "exchange") as second:
            assert (first.hear(60), second.hear(60)) == ("open", "open")
            trigger.write_text("1")
            (tmp_path / "told").touch()
            error = hear_error(first)
            assert isinstance(error, StorageError) and error.errno == errno.EROFS
            assert f"{point / 'exchange'}" in str(error)
            assert "mount it writable or choose another folder" in str(error)
            # net1 could tell nobody; net2 sees it end, or cannot write itself.
            told = hear_error(second)
            assert isinstance(told, PeerLost) or told.errno == errno.EROFS


def hear_error(role):
    """What the role raised, whatever warnings it said before."""
    while True:
        try:
            role.hear(60)
        except Exception as error:
            return error


def open_as_nobody(say, folder):
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setgroups([])
    os.setresuid(NOBODY, NOBODY, NOBODY)
    Exchange(folder, "net2", channels=CHANNELS, handshake_timeout_s=5).open()


@pytest.mark.fault(35, "net2 as user 65534, in a folder of root, and among folders of root")
@pytest.mark.parametrize(("mode", "entry", "said"), [
    (0o755, None, r"not writable for user 65534 \(drwxr-xr-x\)"),
    (0o1777, "hello", "hello: cannot .*Permission denied; give this user read and write"),
], ids=["folder", "among folders"])
def test_another_user_is_refused_by_name(mode, entry, said):
    require("mount")  # only root can become another user
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        folder = Path(top) / "exchange"
        folder.mkdir()
        folder.chmod(mode)
        if entry:
            (folder / entry).mkdir(mode=0o700)
        with Role(open_as_nobody, folder) as second:
            error = second.error(60)
        assert isinstance(error, StorageError) and error.errno == errno.EACCES
        assert re.search(said, str(error)), error


def send_all(say, folder, count):
    with Exchange(folder, "net1", channels=CHANNELS, handshake_timeout_s=60) as mine:
        for sequence in range(count):
            mine.send("x", sequence, np.full(1000, sequence))


def receive_all(say, folder, count):
    with Exchange(folder, "net2", channels=CHANNELS, handshake_timeout_s=60) as mine:
        out = np.empty(1000, int)
        return [int(mine.recv("x", sequence, out).sum()) // 1000 for sequence in range(count)]


@pytest.mark.fault(43, "another mount on the folder of the messages of generation 1")
def test_a_mount_inside_the_exchange_folder_does_no_harm(tmp_path):
    folder = tmp_path / "exchange"
    folder.mkdir(mode=0o700)
    with bound(tmp_path / "elsewhere", folder / "g00000001") as inner:
        (folder / "probe").touch()
        with pytest.raises(OSError) as caught:
            os.rename(folder / "probe", inner / "probe")
        assert caught.value.errno == errno.EXDEV
        with Role(send_all, folder, 50) as first, Role(receive_all, folder, 50) as second:
            assert second.result(60) == list(range(50))
            first.result(60)
        assert [path.name for path in inner.rglob("*")] == []
