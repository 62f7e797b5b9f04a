"""Faults of the file system: writes that are lost, cut short, stale or damaged; slow ones."""

import errno
import logging
import os
import signal
import time

import numpy as np
import pytest
from ping_pong import both, exchange, ping, pong, with_storage
from test_shared_fs_processes import Role

from shared_fs import InvalidMessage, Storage, StorageError, traffic
from shared_fs.status import from_block


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
        Role(with_storage, ping, tmp_path, 6, losing, options) as first,
        Role(with_storage, pong, tmp_path, 6, None, options) as second,
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
