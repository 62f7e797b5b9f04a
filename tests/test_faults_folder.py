"""Faults of the folder: removed, full, slow, failing; the run goes on, or ends in order."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from test_shared_fs_processes import Role

from shared_fs import Exchange, InvalidMessage, Storage, StorageError, status, traffic
from shared_fs.status import from_block

CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}


def exchange(folder, role, **options):
    """With messages in files, unless told otherwise: those are what the disk can fail."""
    options = {"handshake_timeout_s": 60, "transport": "rename", **options}
    return Exchange(folder, role, channels=CHANNELS, **options)


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


class NamingStorage(Storage):
    """Knows which name each descriptor was opened with."""

    def __init__(self, folder):
        super().__init__(folder)
        self._names = {}
        self.seen = []

    def open(self, name, flags, mode=0o600):
        fd = super().open(name, flags, mode)
        self._names[fd] = name
        return fd


class LosingStorage(NamingStorage):
    """Fails some times to bring message 3 to the disk, and says so only in fsync or close."""

    def __init__(self, folder, call, number, times):
        super().__init__(folder)
        self._call, self._number, self._times = call, number, times
        self._written, self._announced = {}, False

    def _maybe(self, call, fd):
        if call == self._call and "x-000000000003" in self._names[fd] and self._times > 0:
            self._times -= 1
            raise OSError(self._number, os.strerror(self._number))

    def write(self, fd, data):
        count = super().write(fd, data)
        self._written[self._names[fd]] = self._written.get(self._names[fd], 0) + count
        return count

    def fsync(self, fd):
        self._maybe("fsync", fd)
        super().fsync(fd)

    def close(self, fd):
        super().close(fd)
        self._maybe("close", fd)

    def pwrite(self, fd, data, offset):
        if from_block(data)[1].published.get("x") == 3:
            self._announced = True
        return super().pwrite(fd, data, offset)

    def replace(self, source, target):
        super().replace(source, target)
        if target.endswith("x-000000000003.npy"):
            written = {n: c for n, c in self._written.items() if "x-000000000003" in n}
            self.seen = [self._announced, written]


@pytest.mark.parametrize("call", ["fsync", "close"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.fault(32, "Storage.fsync or close raises ENOSPC, EDQUOT, EIO, twice")
@pytest.mark.fault(33, "Storage.fsync raises EIO, twice")
def test_a_message_that_did_not_reach_the_disk_is_written_anew_from_memory(tmp_path, call, number):
    losing = (LosingStorage, call, number, 2)
    (announced, written), _ = both(tmp_path / "exchange", 6, losing, fsync="always")
    assert not announced
    # Three files, each written as a whole: 128 bytes of header, 256 float32, the trailer.
    assert list(written.values()) == [128 + 1024 + 104] * 3


@pytest.mark.fault(33, "Storage.fsync raises EIO for good")
def test_a_disk_that_does_not_recover_ends_both_roles(tmp_path):
    losing = (LosingStorage, "fsync", errno.EIO, 10**9)
    options = {"fsync": "always", "storage_timeout_s": 0.3}
    with (
        Role(_with, ping, tmp_path, 6, losing, options) as first,
        Role(_with, pong, tmp_path, 6, None, options) as second,
    ):
        assert [first.hear(60), second.hear(60)] == ["open"] * 2
        error = first.error(60)
        assert isinstance(error, StorageError)
        assert error.errno == errno.EIO
        assert "x-000000000003.npy: cannot publish" in str(second.error(60))


class DribblingStorage(Storage):
    """Writes and reads a few bytes at a time, while a timer interrupts its process."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = 0
        signal.signal(signal.SIGALRM, self._count)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def _count(self, *_):
        self.seen += 1

    def write(self, fd, data):
        return super().write(fd, data[:100])

    def pwrite(self, fd, data, offset):
        return super().pwrite(fd, data[:1000], offset)

    def read_into(self, fd, buffer):
        return super().read_into(fd, buffer[:100])


@pytest.mark.fault(37, "SIGALRM each ms; Storage writes and reads 100 bytes at a time")
def test_interrupts_and_short_writes_and_reads_change_nothing(tmp_path):
    storage = (DribblingStorage,)
    interrupts = both(tmp_path / "exchange", 50, storage, storage, fsync="always")
    assert min(interrupts) > 10


class StaleStorage(Storage):
    """Does not find an announced message at first."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = [errno.ESTALE] * 3 + [errno.ENOENT] * 3

    def open(self, name, flags, mode=0o600):
        if name.endswith("x-000000000003.npy") and self.seen:
            number = self.seen.pop()
            raise OSError(number, os.strerror(number))
        return super().open(name, flags, mode)


@pytest.mark.fault(38, "Storage.open raises ENOENT and ESTALE, three times each")
def test_an_announced_file_is_looked_for_again(tmp_path):
    assert both(tmp_path / "exchange", 6, None, (StaleStorage,)) == (None, [])


class AmbiguousStorage(Storage):
    """Renames, and says that it did not."""

    def __init__(self, folder, number):
        super().__init__(folder)
        self._number, self.seen = number, 0

    def replace(self, source, target):
        super().replace(source, target)
        if not target.endswith(".part"):
            self.seen += 1
            raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO])
@pytest.mark.fault(41, "Storage.replace renames and then raises")
def test_a_rename_that_was_done_counts_whatever_was_answered(tmp_path, number):
    storage = (AmbiguousStorage, number)
    renamed = both(tmp_path / "exchange", 6, storage, storage)
    assert min(renamed) > 6  # the messages and the hellos


class ReplayingStorage(Storage):
    """A file that it renames away appears again under its old name."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = []

    def replace(self, source, target):
        content = self.path(source).read_bytes() if source.endswith(".npy") else None
        super().replace(source, target)
        if content is not None:
            self.path(source).write_bytes(content)
            self.seen.append(source)


@pytest.mark.fault(42, "each message appears again after it was read and removed")
def test_messages_that_appear_again_are_ignored(tmp_path):
    folder = tmp_path / "exchange"
    replayed = both(folder, 8, (ReplayingStorage,), (ReplayingStorage,))
    assert min(len(names) for names in replayed) >= 5
    left = {str(path.relative_to(folder)) for path in folder.glob("g*/*/*")}
    assert left <= {*replayed[0], *replayed[1]}


class CorruptingStorage(NamingStorage):
    """Reads message 3 with a flipped bit, some times; counts how often it opens it."""

    def __init__(self, folder, times):
        super().__init__(folder)
        self._times, self.seen = times, 0

    def open(self, name, flags, mode=0o600):
        self.seen += name.endswith("x-000000000003.npy")
        return super().open(name, flags, mode)

    def read_into(self, fd, buffer):
        count = super().read_into(fd, buffer)
        if self._names[fd].endswith("x-000000000003.npy") and count == 1024 and self._times > 0:
            self._times -= 1
            buffer[500] ^= 4
        return count


@pytest.mark.fault(45, "Storage.read_into flips a bit of the payload once")
def test_a_message_that_is_damaged_in_a_cache_only_is_read_once_more(tmp_path):
    assert both(tmp_path / "exchange", 6, None, (CorruptingStorage, 1)) == (None, 2)


def pong_until_refused(say, folder):
    storage = CorruptingStorage(folder, 10**9)
    try:
        with exchange(folder, "net2", storage=storage) as mine:
            for sequence in range(6):
                mine.recv("x", sequence, np.empty(256, np.float32))
                mine.send("back", sequence, np.full(256, sequence, np.float32))
    except InvalidMessage as error:
        return storage.seen, str(error)


@pytest.mark.fault(44, "Storage.read_into flips a bit each time")
@pytest.mark.fault(45, "Storage.read_into flips a bit each time")
def test_a_damaged_message_is_read_twice_then_refused_and_stays_to_be_looked_at(tmp_path):
    with Role(ping, tmp_path, 6) as sender, Role(pong_until_refused, tmp_path) as receiver:
        opened, text = receiver.result(60)
        assert opened == 2
        assert "x-000000000003.npy: expected payload crc32" in text
        assert sender.hear(60) == "open"
        assert text[:200] in str(sender.error(60))
    assert (tmp_path / "g00000001" / "net1" / "x-000000000003.npy").exists()


class SlowStorage(Storage):
    """Takes 10 ms for each system call; collects the warnings of its process."""

    def __init__(self, folder):
        super().__init__(folder)
        traffic.SLOW_AFTER_S = 0.2
        self.seen = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.seen.append(record.getMessage())
        logging.getLogger("shared_fs").addHandler(handler)

    def __getattribute__(self, name):
        if name in ("open", "write", "read_into", "pwrite", "pread_into", "replace", "unlink",
                    "fsync", "link", "mkdir", "listdir", "rmdir"):
            time.sleep(0.01)
        return super().__getattribute__(name)


@pytest.mark.fault(59, "10 ms of sleep in each system call of Storage")
def test_a_slow_file_system_is_warned_of_and_nothing_else_happens(tmp_path):
    for warnings in both(tmp_path / "exchange", 4, (SlowStorage,), (SlowStorage,)):
        slow = [text for text in warnings if "reading and writing files takes" in text]
        assert len(slow) == 1
        assert "an exchange folder on a local disk or in memory is faster" in slow[0]


def test_time_in_files_is_warned_of_once_and_only_if_it_is_most_of_it(tmp_path, caplog):
    fast, slow = traffic.Traffic(), traffic.Traffic()
    for second in range(100):
        fast.note_storage(second, second + 0.4, tmp_path)
        slow.note_storage(second, second + 0.6, tmp_path)
    assert fast.storage_s == pytest.approx(40)
    assert [record.getMessage()[:60] for record in caplog.records] == [
        f"{tmp_path}: reading and writing files takes 60 % of the time"[:60]]


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
