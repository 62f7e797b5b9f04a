"""A status block is 4096 readable bytes; a torn, stale or foreign one is no news."""

import os
import random
import threading
import zlib

import pytest

from shared_fs import ExchangeError, Storage
from shared_fs import status as module
from shared_fs.status import Status, StatusReader, StatusWriter, from_block, to_block

INCARNATION = "ab" * 16


@pytest.fixture
def storage(tmp_path):
    storage = Storage(tmp_path)
    storage.make_folder("status")
    yield storage
    storage.shut()


@pytest.fixture
def writer(storage):
    writer = StatusWriter(storage, "net1", INCARNATION, fsync=False)
    yield writer
    writer.close(state="done")


def reader_of(storage, incarnation=INCARNATION):
    return StatusReader(storage, "net1", incarnation, direct=False)


def test_a_block_is_one_page_of_readable_text():
    status = Status(INCARNATION, step=7, published={"pool2": 412}, info={"loss": 0.5})
    block = to_block(status, 12)
    assert len(block) == 4096
    assert block.startswith(b"DNXSTAT1 crc32=")
    assert block.split(b"\n")[0].endswith(b" counter=0000000000000012")
    assert block.decode("ascii").count("\n") == 2
    assert from_block(block) == (12, status)


@pytest.mark.parametrize("direct", [False, True])
def test_a_reader_gets_each_update_once(storage, writer, direct):
    reader = StatusReader(storage, "net1", INCARNATION, direct=direct)
    assert reader.poll().state == "starting"
    assert reader.poll() is None
    writer.update(state="running", published={"a": 1})
    writer.update(published={"b": 5}, consumed={"c": 2}, info={"x": 1})
    news = reader.poll()
    assert (news.state, news.published, news.consumed) == ("running", {"a": 1, "b": 5}, {"c": 2})
    assert reader.poll() is None
    reader.close()


@pytest.mark.fault(53, "two blocks spliced at each byte")
def test_torn_blocks_are_no_news(storage, writer, tmp_path):
    old = to_block(Status(INCARNATION, step=1), 50)
    new = to_block(Status(INCARNATION, step=2, error="e" * 900, info={"x": "y" * 900}), 51)
    for cut in range(1, 4096):
        torn = new[:cut] + old[cut:]
        assert torn in (old, new) or from_block(torn) is None


@pytest.mark.fault(53, "garbage written over the block")
def test_garbage_is_no_news_and_the_next_good_block_is_read(storage, writer, tmp_path):
    reader = reader_of(storage)
    reader.poll()
    path = tmp_path / "status" / "net1.block"
    body = b'{"incarnation": [' + b"[" * 3000
    for garbage in (b"", b"x" * 10, os.urandom(4096), b"\0" * 4096, body, b" " * 9000):
        path.write_bytes(garbage)
        assert reader.poll() is None
    writer.update(step=3)
    os.truncate(path, 4096)
    assert reader.poll().step == 3


def signed(text):
    """A block with a sound crc around any text."""
    rest = b"counter=%016d\n" % 99 + text.ljust(4096 - 24 - 25, b" ")
    block = b"DNXSTAT1 crc32=%08x " % zlib.crc32(rest) + rest
    assert len(block) == 4096
    return block


GOOD = to_block(Status(INCARNATION), 1).split(b"\n")[1].strip()


def test_the_signing_of_this_test_is_right():
    assert from_block(signed(GOOD)) == (99, Status(INCARNATION))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 3000,
        GOOD[:-1],
        GOOD + b"{}",
        GOOD.replace(b'"beat": 0', b'"beat": NaN'),
        GOOD.replace(b'"beat": 0', b'"beat": true'),
        GOOD.replace(b'"beat": 0', b'"beat": "0"'),
        GOOD.replace(b'"starting"', b'"flying"'),
        GOOD.replace(b'"published": {}', b'"published": {"a": "1"}'),
        GOOD.replace(b'"published": {}', b'"published": []'),
        GOOD.replace(b'"held": []', b'"held": [[1]]'),
        GOOD.replace(b'"info": {}', b'"info": 5'),
        GOOD.replace(b'"beat": 0, ', b""),
    ],
)
@pytest.mark.security(2, "signed blocks with NaN, nesting, wrong kinds")
def test_a_sound_block_with_unsound_content_is_no_news(text):
    parsed = from_block(signed(text))
    # A field that is absent takes its default: an older writer.
    assert parsed is None or text == GOOD.replace(b'"beat": 0, ', b"")


def test_a_stale_block_is_no_news(storage, writer, tmp_path):
    path = tmp_path / "status" / "net1.block"
    reader = reader_of(storage)
    reader.poll()
    stale = path.read_bytes()
    writer.update(step=1)
    assert reader.poll().step == 1
    path.write_bytes(stale)
    assert reader.poll() is None


def test_the_block_of_another_incarnation_is_no_news(storage, writer):
    assert reader_of(storage, "cd" * 16).poll() is None


def test_updates_from_many_threads_are_all_there(storage, writer):
    def count(channel):
        for i in range(100):
            writer.update(published={channel: i})

    threads = [threading.Thread(target=count, args=(f"c{i}",)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    assert reader_of(storage).poll().published == {f"c{i}": 99 for i in range(4)}


def wait_until(condition):
    deadline = threading.Event()
    for _ in range(1000):
        if condition():
            return True
        deadline.wait(0.01)
    return False


def test_the_heart_beats_without_updates(storage, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    writer = StatusWriter(storage, "net1", INCARNATION, fsync=False)
    reader = reader_of(storage)
    beats = set()
    assert wait_until(lambda: beats.add(getattr(reader.poll(), "beat", 0)) or len(beats) > 4)
    writer.close(state="done")
    last = reader.poll() or reader.poll()
    assert last.state == "done"


@pytest.mark.fault(18, "pwrite raises in the thread")
def test_after_the_heart_stopped_the_next_update_says_why(tmp_path, monkeypatch):
    class Failing(Storage):
        broken = False

        def pwrite(self, fd, data, offset):
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().pwrite(fd, data, offset)

    monkeypatch.setattr(module, "BEAT_S", 0.01)
    storage = Failing(tmp_path)
    storage.make_folder("status")
    writer = StatusWriter(storage, "net1", INCARNATION, fsync=False)
    storage.broken = True
    assert wait_until(lambda: not writer._thread.is_alive())
    with pytest.raises(ExchangeError, match=r"heartbeat.*stopped.*Input/output error"):
        writer.update(step=1)
    storage.broken = False
    writer.close(state="failed")


def test_too_much_info_is_refused_and_the_block_stays(storage, writer):
    with pytest.raises(ValueError, match="report less info"):
        writer.update(info={"x": "y" * 5000})
    assert reader_of(storage).poll().info == {}


@pytest.mark.security(14, "5000 characters of control codes as an error")
def test_a_long_and_dirty_error_always_fits(storage):
    writer = StatusWriter(storage, "net1", INCARNATION, fsync=False)
    generator = random.Random(0)
    text = "".join(chr(generator.choice([7, 10, 27, 34, 92, 233, 0x1F600])) for _ in range(5000))
    writer.update(info={"x": "y" * 3000})
    writer.close(state="failed", error="boom" + text)
    last = reader_of(storage).poll()
    assert last.error.startswith("boom")
    assert len(last.error) == 1000
    assert all(" " <= c <= "~" for c in last.error)
