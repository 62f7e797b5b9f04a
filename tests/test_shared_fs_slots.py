"""Mapped slots: what is particular to them; the rest is in the tests of the mailbox."""

import os
from functools import partial

import numpy as np
import pytest
from test_shared_fs_mailbox import ARRAY, exchange, flipped, net1_with, send_range
from test_shared_fs_processes import Role

from shared_fs import HandshakeMismatch, InvalidMessage, StorageError, membership
from shared_fs.counters import PAGE_SIZE
from shared_fs.profile import LOCAL, NETWORK

start = partial(net1_with, transport="mapped")


def joined(folder, sender):
    mine = exchange(folder, "net2", transport="mapped").open()
    assert sender.hear() == "did"
    return mine


def send_growing(mine, sizes):
    for sequence, size in enumerate(sizes):
        mine.send("x", sequence, np.full(size, sequence, np.float32))


def test_a_slot_grows_for_a_larger_message_and_carries_smaller_ones_after(tmp_path):
    sizes = [10, 10, 5000, 3, 0, 5000, 20_000, 10]
    with Role(start, tmp_path, send_growing, sizes) as sender:
        mine = exchange(tmp_path, "net2", transport="mapped").open()
        for sequence, size in enumerate(sizes):
            out = np.empty(size, np.float32)
            mine.recv("x", sequence, out)
            np.testing.assert_array_equal(out, np.full(size, sequence))
        assert sender.hear() == "did"
        names = sorted(path.name for path in tmp_path.glob("g*/net1/*"))
        assert names == ["counters", "x-slot0.npy", "x-slot1.npy"]  # window 2
        mine.close(RuntimeError("end of the test"))


def send_strided(mine):
    mine.send("x", 0, np.arange(24.0).reshape(4, 6)[:, ::2])
    mine.send("x", 1, np.arange(3, dtype=">i4"))


def test_an_array_in_any_order_crosses_as_what_it_means(tmp_path):
    with Role(start, tmp_path, send_strided) as sender:
        mine = joined(tmp_path, sender)
        out = mine.recv("x", 0, np.empty((4, 3)))
        np.testing.assert_array_equal(out, np.arange(24.0).reshape(4, 6)[:, ::2])
        np.testing.assert_array_equal(mine.recv("x", 1, np.empty(3, np.int32)), [0, 1, 2])
        mine.close(RuntimeError("end of the test"))


def cut(path):
    os.truncate(path, 100)


def change(position):
    def spoil(path):
        path.write_bytes(flipped(path.read_bytes(), position))
    return spoil


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (cut, "expected 272 bytes, found 100|expected 272 bytes for"),
        (change(30), "the header of <f8 .5."),
        (change(-100), "trailer"),
        (change(-50), "trailer"),
    ],
    ids=["cut", "header", "magic", "identity"],
)
@pytest.mark.fault(44, "a mapped slot cut short")
@pytest.mark.fault(50, "a byte of the identity in a mapped slot changed")
def test_a_slot_that_something_else_changed_is_refused(tmp_path, spoil, expected):
    with Role(start, tmp_path, send_range, 0, 1) as sender:
        mine = joined(tmp_path, sender)
        (path,) = tmp_path.glob("g*/net1/x-slot0.npy")
        spoil(path)
        with pytest.raises(InvalidMessage, match=expected):
            mine.recv("x", 0, np.empty(5))
        mine.close(RuntimeError("end of the test"))


@pytest.mark.fault(44, "a mapped slot is cut while the receiver holds it")
@pytest.mark.security(5, "a mapped file is cut: its size is checked before each copy")
def test_a_slot_that_is_cut_after_it_was_mapped_is_not_touched(tmp_path):
    with Role(start, tmp_path, send_range, 0, 3) as sender:
        mine = exchange(tmp_path, "net2", transport="mapped").open()
        mine.recv("x", 0, np.empty(5))
        assert sender.hear() == "did"  # message 2 is in the slot of message 0
        mine.recv("x", 1, np.empty(5))
        cut(next(tmp_path.glob("g*/net1/x-slot0.npy")))
        with pytest.raises(InvalidMessage, match="something has cut it"):
            mine.recv("x", 2, np.empty(5))
        mine.close(RuntimeError("end of the test"))


def send_with_checksum(say, folder, checksum):
    with exchange(folder, "net1", transport="mapped", checksum=checksum) as mine:
        mine.send("x", 0, ARRAY)
        say("did")
        mine.recv("back", 0, np.empty(1))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.fault(45, "a bit flipped in a mapped slot")
def test_a_flipped_payload_bit_is_found_only_with_the_checksum(tmp_path, checksum):
    with Role(send_with_checksum, tmp_path, checksum) as sender:
        mine = joined(tmp_path, sender)
        (path,) = tmp_path.glob("g*/net1/x-slot0.npy")
        change(128)(path)  # the first payload byte
        if checksum:
            with pytest.raises(InvalidMessage, match="payload crc32"):
                mine.recv("x", 0, np.empty(5))
        else:
            assert mine.recv("x", 0, np.empty(5))[0] != ARRAY[0]
        mine.close(RuntimeError("end of the test"))

def join(say, folder, role, profiles, transport):
    membership.detect = lambda path, name: profiles[role]
    with exchange(folder, role, transport=transport) as mine:
        out = np.empty(5)
        mine.send("x", 0, ARRAY) if role == "net1" else mine.recv("x", 0, out)
        return sorted(mine._part.mailbox.mapped)


@pytest.mark.parametrize(
    ("second", "transport", "mapped"),
    [(LOCAL, "auto", True), (NETWORK, "auto", False), (LOCAL, "rename", False)],
)
def test_auto_maps_where_both_sides_are_near_and_says_the_same_on_both(
    tmp_path, second, transport, mapped
):
    profiles = {"net1": LOCAL, "net2": second}
    roles = [Role(join, tmp_path, role, profiles, transport) for role in profiles]
    assert [role.result() for role in roles] == ([["net2"], ["net1"]] if mapped else [[], []])


def test_mapping_that_is_demanded_and_impossible_is_refused(tmp_path):
    profiles = {"net1": LOCAL, "net2": NETWORK}
    for role in [Role(join, tmp_path, role, profiles, "mapped") for role in profiles]:
        error = role.error()
        assert isinstance(error, StorageError)
        assert "needs one host and a local file system" in str(error)


def test_two_sides_that_want_different_transports_disagree(tmp_path):
    profiles = {"net1": LOCAL, "net2": LOCAL}
    roles = [
        Role(join, tmp_path, role, profiles, transport)
        for role, transport in (("net1", "auto"), ("net2", "rename"))
    ]
    for role in roles:
        error = role.error()
        assert isinstance(error, HandshakeMismatch)
        assert "transport: net" in str(error)


class Full(membership.Storage):
    """A disk on which nothing but the counters finds room."""

    def allocate(self, fd, size):
        if size != PAGE_SIZE:
            raise OSError(28, "No space left on device")
        super().allocate(fd, size)


def test_a_disk_without_room_for_a_slot_is_an_error_and_not_a_crash(tmp_path):
    with Role(start, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(
            tmp_path, "net2", transport="mapped", storage=Full(tmp_path), storage_timeout_s=0.3
        ).open()
        assert sender.hear() == "did"
        with pytest.raises(StorageError, match=r"back-slot0.npy: cannot create: No space left"):
            mine.send("back", 0, ARRAY)
        assert list(tmp_path.rglob("*.part")) == []
        mine.close(RuntimeError("end of the test"))
