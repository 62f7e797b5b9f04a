"""Numbers told through memory: never half of one, and a peer that is awaited is still judged."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from test_shared_fs_mailbox import exchange, send_range
from test_shared_fs_peer import RUNNING, HandClock, Script, watch
from test_shared_fs_processes import Role

from shared_fs import InvalidMessage, PeerLost, Storage, counters
from shared_fs.attention import await_peer
from shared_fs.counters import CELL, PAGE_SIZE, WORD, Counters, OwnPage, PeerPage
from shared_fs.process import this_process

NAME = "g00000001/net2/counters"
LONGEST = 10**12 - 1


@pytest.fixture
def storage(tmp_path):
    storage = Storage(tmp_path / "exchange")
    for folder in ("g00000001", "g00000001/net1", "g00000001/net2"):
        storage.make_folder(folder)
    yield storage
    storage.shut()


@pytest.fixture
def page(storage):
    """The page that net2 writes."""
    page = OwnPage(storage, NAME, 0.0)
    yield page
    page.close()


def said(generation):
    """What a role looks like that says it is in this generation."""
    return SimpleNamespace(status=SimpleNamespace(generation=generation))


def view(storage, generation=1):
    return PeerPage(storage, NAME, said(generation), 1)


@pytest.mark.parametrize("number", [0, 1, 255, 256, 2**32, LONGEST])
def test_a_number_is_told_in_its_own_cell_and_not_before_it_is_stored(storage, page, number):
    theirs = view(storage)
    assert [theirs.load(place) for place in (0, 1, 15)] == [None] * 3
    page.store(1, number)
    assert [theirs.load(place) for place in (0, 1, 15)] == [None, number, None]
    # As the README has it, for whoever reads the file without this package.
    data = (storage.root / NAME).read_bytes()
    assert len(data) == PAGE_SIZE
    assert np.frombuffer(data, "<i8")[8:10].tolist() == [number, -1 - number]
    theirs.close()


def test_half_of_a_store_is_no_news(storage, page):
    theirs = view(storage)
    with open(storage.root / NAME, "r+b") as file:
        for before, number in ((None, 411), (411, 412)):
            words = memoryview(bytearray(2 * WORD)).cast("q")
            storage.store(words, 0, number)
            os.pwrite(file.fileno(), words.tobytes()[:WORD], 0)     # without its complement
            assert theirs.load(0) == before
            os.pwrite(file.fileno(), words.tobytes(), 0)
            assert theirs.load(0) == number
    theirs.close()


def test_a_page_is_looked_for_only_when_its_owner_is_in_the_generation(storage):
    theirs = view(storage)
    assert not theirs.is_open()     # it has left, and taken its page along
    page = OwnPage(storage, NAME, 0.0)
    assert not view(storage, generation=0).is_open()
    assert theirs.is_open()
    theirs.close()
    page.close()


@pytest.mark.security(5, "a page of counters is cut: its size is checked before it is mapped, and "
                         "in every look of a wait")
def test_a_page_that_was_cut_is_refused(storage, page):
    theirs = view(storage)
    assert theirs.load(0) is None
    os.truncate(storage.root / NAME, CELL)
    with pytest.raises(InvalidMessage, match=r"net2/counters: expected 4096 bytes, found 64"):
        theirs.has_moved()
    with pytest.raises(InvalidMessage, match=r"net2/counters: expected 4096 bytes, found 64"):
        view(storage).load(0)
    theirs.close()


class Elsewhere(HandClock):
    """Half a second passes in each sleep; `each` is called then."""

    def __init__(self, each):
        self.each = each

    def sleep(self, seconds):
        self.now += 0.5
        self.each(self.now)


def awaited_after(storage, each):
    """The seconds until message 5 of `back`, from net2, is there."""
    clock, script = Elsewhere(each), Script()
    script.news = RUNNING.__class__("ab" * 16, state="running", generation=1)
    peer = watch(clock, script, this_process())
    peer.poll()
    mine = Counters(storage, None, "g00000001/net1", 1, ("back", "other"), {"net2"}, 0.0)
    counter = mine.of("back", peer, sends=False)

    def beating():
        script.news = script.news or RUNNING.__class__(
            "ab" * 16, state="running", generation=1, beat=int(clock.now))

    try:
        await_peer(lambda: counter.told() == 5, peer, counter, awaited="back 5",
                   what="has to send back 5", check=beating, longest_sleep_s=1.0, clock=clock)
    finally:
        mine.close()
    return clock.now


def test_what_a_peer_tells_on_any_channel_counts_as_its_progress(storage, page):
    """The limit is 600 s without progress; a number every 500 s holds it off, silence does not."""
    def busy(now):
        if now % 500 == 0:
            page.store(1, int(now))
        if now == 2000:
            page.store(0, 5)

    assert awaited_after(storage, busy) == 2000


def test_heartbeats_alone_are_no_progress(storage, page):
    with pytest.raises(PeerLost, match="heartbeats only for 600 s while I waited for back 5"):
        awaited_after(storage, lambda now: page.store(0, 4) if now == 100 else None)


def say_it_and_die(say, folder):
    mine = exchange(folder, "net1", transport="mapped").open()
    mine.recv("back", 0, np.empty(1))   # the other waits by now
    send_range(mine, 0, 1)
    os._exit(9)


def test_the_last_message_of_a_role_that_dies_is_read(tmp_path):
    with Role(say_it_and_die, tmp_path):
        mine = exchange(tmp_path, "net2", transport="mapped").open()
        mine.send("back", 0, np.zeros(1))
        np.testing.assert_array_equal(mine.recv("x", 0, np.empty(5)), np.arange(5.0))
        with pytest.raises(PeerLost, match="exited while I waited for x 1"):
            mine.recv("x", 1, np.empty(5))
        mine.close(RuntimeError("end of the test"))


def send_without_order(say, folder, count):
    counters.ORDERED = False
    with exchange(folder, "net1", transport="mapped") as mine:
        send_range(mine, 0, count)


def test_a_processor_that_reorders_stores_is_told_by_the_status_block(tmp_path, monkeypatch):
    monkeypatch.setattr(counters, "ORDERED", False)
    with (
        Role(send_without_order, tmp_path, 20),
        exchange(tmp_path, "net2", transport="mapped") as mine,
    ):
        for sequence in range(20):
            out = mine.recv("x", sequence, np.empty(5))
            np.testing.assert_array_equal(out, np.arange(5.0))
        names = {path.name for path in tmp_path.glob("g*/net1/*")}
        assert names <= {"x-slot0.npy", "x-slot1.npy"}
        assert mine._part.mailbox.status.status.consumed == {"x": 19}
