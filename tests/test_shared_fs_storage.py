"""A file is complete or absent, put-if-absent has one winner, and a bad folder is refused."""

import errno
import os
import stat
import subprocess
import sys

import pytest
from test_shared_fs_processes import Role

from shared_fs import InvalidMessage, Storage, StorageError


class StumblingStorage(Storage):
    """Fails, or cuts short, one kind of system call."""

    failing, error, longest_write = "", 0, 1 << 30

    def _maybe(self, call):
        if call == self.failing:
            raise OSError(self.error, os.strerror(self.error))

    def write(self, fd, data):
        self._maybe("write")
        return super().write(fd, data[: self.longest_write])

    def fsync(self, fd):
        self._maybe("fsync")
        super().fsync(fd)

    def close(self, fd):
        super().close(fd)
        self._maybe("close")

    def replace(self, source, target):
        self._maybe("replace")
        super().replace(source, target)

    def link(self, source, target):
        self._maybe("link")
        super().link(source, target)


@pytest.mark.fault(37, "Storage.write writes 3 bytes at a time")
def test_short_writes_are_continued(tmp_path):
    storage = StumblingStorage(tmp_path)
    storage.longest_write = 3
    storage.publish("a", [b"0123456789", memoryview(b"abcde")], fsync=True)
    assert (tmp_path / "a").read_bytes() == b"0123456789abcde"


@pytest.mark.parametrize("call", ["write", "fsync", "close", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.fault(32, "Storage.fsync or close raises ENOSPC or EIO")
def test_a_failed_publish_leaves_the_old_file_and_nothing_else(tmp_path, call, number):
    storage = StumblingStorage(tmp_path)
    storage.publish("a", [b"old"], fsync=False)
    storage.failing, storage.error = call, number
    with pytest.raises(StorageError, match=f"{tmp_path}/a: cannot publish: .*; ") as caught:
        storage.publish("a", [b"new"], fsync=True)
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def publish_for_ever(say, folder):
    storage = Storage(folder)
    say("ready")
    for i in range(10**9):
        storage.publish("message", [bytes([i % 256]) * 3_000_000], fsync=False)


@pytest.mark.fault(1, "SIGKILL of a process that publishes without end")
def test_a_killed_writer_never_leaves_a_visible_part(tmp_path):
    for _ in range(5):
        with Role(publish_for_ever, tmp_path) as writer:
            writer.hear()
            storage = Storage(tmp_path)
            while storage.read_small("message", 4_000_000) is None:
                assert writer.process.is_alive()
            writer.kill()
        content = (tmp_path / "message").read_bytes()
        assert content == content[:1] * 3_000_000
        visible = [name for name in os.listdir(tmp_path) if not name.startswith(".")]
        assert visible == ["message"]


def create(say, folder, number):
    say("ready")
    return Storage(folder).create_once("record", b"%d" % number)


@pytest.mark.parametrize("link_error", [0, errno.EPERM])
def test_put_if_absent_is_true_once(tmp_path, link_error):
    storage = StumblingStorage(tmp_path)
    if link_error:  # a file system without hard links
        storage.failing, storage.error = "link", link_error
    assert [storage.create_once("record", b"%d" % i) for i in range(3)] == [True, False, False]
    assert (tmp_path / "record").read_bytes() == b"0"
    assert os.listdir(tmp_path) == ["record"]


def test_put_if_absent_has_one_winner_among_processes(tmp_path):
    roles = [Role(create, tmp_path, number) for number in range(4)]
    assert [role.hear() for role in roles] == ["ready"] * 4
    won = [role.result() for role in roles]
    assert won.count(True) == 1
    assert (tmp_path / "record").read_bytes() == b"%d" % won.index(True)


def test_a_link_that_was_retransmitted_still_counts_as_won(tmp_path):
    class Retransmitting(Storage):
        def link(self, source, target):
            super().link(source, target)
            super().link(source, target)  # raises EEXIST although the first one worked

    assert Retransmitting(tmp_path).create_once("record", b"x")


@pytest.mark.security(6, "umask 0")
def test_files_and_folders_are_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        storage = Storage(tmp_path / "deep" / "exchange")
        storage.make_folder("sub")
        storage.publish("sub/a", [b"x"], fsync=False)
    finally:
        os.umask(old)
    root = tmp_path / "deep" / "exchange"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "sub").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "sub" / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "device"])
@pytest.mark.fault(51, "symlink, mkfifo, mkdir, mknod")
@pytest.mark.security(4, "symlink, mkfifo, mkdir, mknod")
def test_only_a_regular_file_is_read_and_a_pipe_does_not_hang(tmp_path, kind):
    target = tmp_path / "a"
    if kind == "symlink":
        (tmp_path / "real").write_bytes(b"x")
        target.symlink_to("real")
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif os.geteuid() == 0:
        os.mknod(target, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        pytest.skip("only root can make a device")
    with pytest.raises(InvalidMessage, match="expected a regular file"):
        Storage(tmp_path).open_checked("a")


@pytest.mark.security(17, "a file one byte too long")
def test_a_small_file_is_read_up_to_its_limit(tmp_path):
    storage = Storage(tmp_path)
    assert storage.read_small("a", 3) is None
    storage.publish("a", [b"abc"], fsync=False)
    assert storage.read_small("a", 3) == b"abc"
    with pytest.raises(InvalidMessage, match="at most 2 bytes, found 3"):
        storage.read_small("a", 2)


def test_a_folder_that_is_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "exchange").symlink_to("real")
    with pytest.raises(StorageError, match="exchange folder is a symbolic link"):
        Storage(tmp_path / "exchange")


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "exchange").write_text("")
    with pytest.raises(StorageError, match="exchange folder is not a folder"):
        Storage(tmp_path / "exchange")


@pytest.mark.security(6, "chmod 777")
def test_a_folder_that_everybody_can_write_is_refused_unless_sticky(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match="writable by everybody"):
        Storage(tmp_path)
    tmp_path.chmod(0o1777)
    Storage(tmp_path).shut()


def open_as(user, folder):
    """Open a storage as another user; as root, every folder is writable."""
    code = (
        "import os, sys; from shared_fs import Storage\n"  # imported while still allowed to
        "user = int(sys.argv[2]); os.setgroups([]); os.setgid(user); os.setuid(user)\n"
        "Storage(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(folder), str(user)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_a_folder_that_is_not_writable_is_refused():
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user to whom a folder is not writable")
    # Not tmp_path, whose parents only root may enter.
    finished = open_as(65534, "/usr")
    assert finished.returncode == 1
    assert "/usr: the exchange folder is not writable for user 65534" in finished.stderr


@pytest.mark.fault(52, "rename and symlink between two writes")
def test_a_folder_replaced_by_a_link_does_not_redirect_writes(tmp_path):
    root, elsewhere = tmp_path / "exchange", tmp_path / "elsewhere"
    elsewhere.mkdir()
    storage = Storage(root)
    root.rename(tmp_path / "moved")
    root.symlink_to(elsewhere)
    storage.publish("a", [b"x"], fsync=False)
    assert os.listdir(elsewhere) == []
    assert os.listdir(tmp_path / "moved") == ["a"]


def test_a_link_in_place_of_a_layout_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "hello").symlink_to("elsewhere")
    with pytest.raises(StorageError, match="cannot create the folder"):
        Storage(tmp_path).make_folder("hello")
