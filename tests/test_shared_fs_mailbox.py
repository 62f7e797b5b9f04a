"""Every message crosses once and in order, at most window + 1 files exist, and bad ones stop."""

import os
import pickle
import time
import uuid
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_shared_fs_processes import Role

from shared_fs import Exchange, InvalidMessage, NonFinite, PeerLost, StorageError, membership
from shared_fs.message import Identity, encode
from shared_fs.profile import LOCAL, NETWORK

TRANSPORTS = pytest.mark.parametrize("transport", ["rename", "mapped"])
CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}
DTYPES = (np.float32, np.float16, np.int64, np.uint8)


def exchange(folder, role, **options):
    options = {"handshake_timeout_s": 30, "transport": "rename", **options}
    return Exchange(folder, role, channels=CHANNELS, **options)


def drawn(seed, count):
    """The same arrays on both sides; 0-d and empty ones among them."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(generator.integers(0, 7, size=generator.integers(0, 4)))
        dtype = DTYPES[generator.integers(len(DTYPES))]
        yield (generator.standard_normal(shape) * 100).astype(dtype)


def send_drawn(say, folder, count, profile, transport):
    membership.detect = lambda path, name: profile
    with exchange(folder, "net1", transport=transport) as mine:
        for sequence, array in enumerate(drawn(1, count)):
            mine.send("x", sequence, array)


def receive_drawn(say, folder, count, profile, transport):
    membership.detect = lambda path, name: profile
    own = f"g00000001{os.sep}net1"
    most = 0
    with exchange(folder, "net2", transport=transport) as mine:
        for sequence, expected in enumerate(drawn(1, count)):
            out = np.full_like(expected, 77)
            mine.recv("x", sequence, out)
            np.testing.assert_array_equal(out, expected)
            files = [name for name in os.listdir(folder / own) if not name.startswith(".")]
            most = max(most, len(files))
    return most


@pytest.mark.parametrize(
    ("profile", "transport"), [(LOCAL, "rename"), (NETWORK, "rename"), (LOCAL, "mapped")]
)
def test_a_thousand_messages_cross_once_and_in_order_in_at_most_window_plus_one_files(
    tmp_path, profile, transport
):
    arguments = (tmp_path, 1000, profile, transport)
    with Role(send_drawn, *arguments) as sender, Role(receive_drawn, *arguments) as receiver:
        most = receiver.result(100)
        sender.result(100)
    assert 1 <= most <= 3
    assert list(tmp_path.glob("g0*")) == []


def send_without_reader(say, folder, count, transport):
    with exchange(folder, "net1", window=3, transport=transport) as mine:
        for sequence in range(count):
            mine.send("x", sequence, np.arange(5))
            say(sequence)


@TRANSPORTS
@pytest.mark.fault(58, "the receiver does not read")
def test_a_sender_waits_when_the_window_is_full(tmp_path, transport):
    with Role(send_without_reader, tmp_path, 10, transport) as sender:
        with exchange(tmp_path, "net2", window=3, transport=transport) as mine:
            assert [sender.hear() for _ in range(3)] == [0, 1, 2]
            assert not sender._mine.poll(0.5)  # the fourth is not sent
            for sequence in range(10):
                mine.recv("x", sequence, np.empty(5, int))
                assert len(list(tmp_path.glob("g*/net1/[!.]*"))) <= 4
        sender.process.join(20)
        assert sender.process.exitcode == 0


def net1_with(say, folder, action, *arguments, transport="rename"):
    """Open as net1, run `action`, and keep the connection until killed."""
    with exchange(folder, "net1", final_barrier=False, transport=transport) as mine:
        action(mine, *arguments)
        say("did")
        time.sleep(60)


net1_with_slots = partial(net1_with, transport="mapped")


def send_range(mine, first, count):
    for sequence in range(first, first + count):
        mine.send("x", sequence, np.arange(5.0))


@pytest.mark.parametrize(("first", "then"), [(0, 2), (0, 0), (5, 4)])
@pytest.mark.fault(42, "a sequence is asked for, and sent, twice")
def test_a_gap_or_a_repeat_is_refused_on_both_sides(tmp_path, first, then):
    with Role(net1_with, tmp_path, send_range, first, 2) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        out = np.empty(5)
        mine.recv("x", first, out)
        with pytest.raises(ValueError, match=f"x: expected sequence {first + 1} next, got {then}"):
            mine.recv("x", then, out)
        mine.send("back", first, out)
        with pytest.raises(ValueError, match=f"expected sequence {first + 1} next, got {then}"):
            mine.send("back", then, out)
        mine.close(RuntimeError("end of the test"))


def test_two_sides_that_start_at_different_numbers_are_told_so(tmp_path):
    with Role(net1_with, tmp_path, send_range, 5, 1) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        with pytest.raises(InvalidMessage, match="expected net1 at sequence 0 of x, found it at 5"):
            mine.recv("x", 0, np.empty(5))
        mine.close(RuntimeError("end of the test"))


def test_a_wrong_channel_or_end_is_refused(tmp_path):
    with Role(net1_with, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        for call in (mine.send, mine.recv):
            with pytest.raises(ValueError, match=r"net2 cannot .* 'z'"):
                call("z", 0, np.empty(5))
        with pytest.raises(ValueError, match="net2 cannot send on 'x'"):
            mine.send("x", 0, np.empty(5))
        mine.close(RuntimeError("end of the test"))


def test_a_killed_sender_ends_the_wait_within_five_seconds_and_is_named(tmp_path):
    with Role(net1_with, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        mine.recv("x", 0, np.empty(5))
        sender.kill()
        start = time.monotonic()
        with pytest.raises(PeerLost, match=rf"net1 \(pid {sender.pid} on .* exited"):
            mine.recv("x", 1, np.empty(5))
        assert time.monotonic() - start < 5
        mine.close(RuntimeError("end of the test"))


def test_a_killed_receiver_ends_the_wait_for_room(tmp_path):
    with Role(net1_with, tmp_path, send_range, 0, 1) as receiver:
        mine = exchange(tmp_path, "net2").open()
        receiver.hear()
        receiver.kill()
        with pytest.raises(PeerLost, match=rf"pid {receiver.pid} .*exited.*room for back 2"):
            for sequence in range(3):
                mine.send("back", sequence, np.empty(5))
        mine.close(RuntimeError("end of the test"))


def send_for_ever(mine):
    for sequence in range(10**9):
        mine.send("x", sequence, np.full(500_000, sequence, np.float32))


@TRANSPORTS
def test_what_a_sender_killed_in_the_middle_announced_is_whole(tmp_path, transport):
    start = {"rename": net1_with, "mapped": net1_with_slots}[transport]
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        with Role(start, folder, send_for_ever) as sender:
            mine = exchange(folder, "net2", transport=transport).open()
            out = np.empty(500_000, np.float32)
            with pytest.raises(PeerLost):
                for sequence in range(10**9):
                    mine.recv("x", sequence, out)
                    np.testing.assert_array_equal(out, np.full_like(out, sequence))
                    if sequence == 5 + attempt:
                        sender.kill()
            mine.close(RuntimeError("end of the test"))


ARRAY = np.arange(5.0)


def message_of(mine, array=ARRAY, **change):
    """The bytes of the message that net2 expects, or of one with another identity."""
    incarnation = mine.peers["net1"]["incarnation"]
    return b"".join(encode(array, replace(Identity(mine.run, 1, "x", 0, incarnation), **change)))


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def npz(path):
    np.savez(path.with_suffix(".npz"), a=ARRAY)
    path.with_suffix(".npz").rename(path)


SPOILERS = {
    "truncated": lambda path, mine: path.write_bytes(message_of(mine)[:-1]),
    "empty": lambda path, mine: path.write_bytes(b""),
    "longer": lambda path, mine: path.write_bytes(message_of(mine) + b"x"),
    "payload bit": lambda path, mine: path.write_bytes(flipped(message_of(mine), 140)),
    "trailer bit": lambda path, mine: path.write_bytes(flipped(message_of(mine), -40)),
    "sequence": lambda path, mine: path.write_bytes(message_of(mine, sequence=1)),
    "run": lambda path, mine: path.write_bytes(message_of(mine, run=uuid.uuid4().hex)),
    "sender": lambda path, mine: path.write_bytes(message_of(mine, incarnation="0" * 32)),
    "shape": lambda path, mine: path.write_bytes(message_of(mine, ARRAY.reshape(1, 5))),
    "dtype": lambda path, mine: path.write_bytes(message_of(mine, ARRAY.astype(np.int64))),
    "huge": lambda path, mine: np.save(path, np.zeros(10**6)),
    "no trailer": lambda path, mine: np.save(path, ARRAY),
    "pickle": lambda path, mine: path.write_bytes(pickle.dumps(ARRAY).ljust(272)),
    "objects": lambda path, mine: np.save(path, np.array([{}], object), allow_pickle=True),
    "npz": lambda path, mine: npz(path),
    "symlink": lambda path, mine: path.symlink_to("/etc/hostname"),
    "fifo": lambda path, mine: os.mkfifo(path),
    "folder": lambda path, mine: path.mkdir(),
}


@pytest.mark.fault(44, "the file of a live sender cut short, empty or longer")
@pytest.mark.fault(45, "a bit flipped in payload and trailer")
@pytest.mark.fault(46, "pickle, objects, .npz in place of the file")
@pytest.mark.fault(48, "another shape and dtype in the file")
@pytest.mark.fault(50, "an intact message of another identity in its place")
@pytest.mark.fault(51, "symlink, pipe, folder in place of a message")
@pytest.mark.security(3, "18 kinds of damage to a message file")
def test_a_message_that_is_not_the_expected_one_is_refused_and_the_right_one_is_read(tmp_path):
    with Role(net1_with, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        (path,) = tmp_path.glob("g*/net1/x-000000000000.npy")
        good, out = path.read_bytes(), np.empty(5)
        assert good == message_of(mine)
        for name, spoil in SPOILERS.items():
            path.unlink()
            spoil(path, mine)
            with pytest.raises(InvalidMessage, match=r"x-000000000000.npy: expected"):
                mine.recv("x", 0, out)
                pytest.fail(f"accepted: {name}")
            path.rmdir() if path.is_dir() else None
            path.unlink(missing_ok=True)
            path.write_bytes(good)
        np.testing.assert_array_equal(mine.recv("x", 0, out), ARRAY)
        mine.close(RuntimeError("end of the test"))


def test_an_announced_file_that_is_gone_is_an_error_that_names_it(tmp_path):
    with Role(net1_with, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        (path,) = tmp_path.glob("g*/net1/x-000000000000.npy")
        path.unlink()
        mine._part.mailbox.profile = replace(mine._part.mailbox.profile, latency_wait_s=0.2)
        with pytest.raises(Exception, match=r"x-0{12}.npy, which is announced") as caught:
            mine.recv("x", 0, np.empty(5))
        assert not isinstance(caught.value, StorageError)
        mine.close(RuntimeError("end of the test"))


@pytest.mark.fault(38, "the file is renamed away and comes back")
def test_an_announced_file_may_appear_late(tmp_path):
    with Role(net1_with, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(tmp_path, "net2").open()
        sender.hear()
        (path,) = tmp_path.glob("g*/net1/x-000000000000.npy")
        hidden = path.rename(path.with_name("hidden"))
        listing, calls = mine._part.mailbox.storage.listing, []

        def listing_that_brings_it_back(name):
            calls.append(name)
            if len(calls) == 3:
                hidden.rename(path)
            return listing(name)

        mine._part.mailbox.storage.listing = listing_that_brings_it_back
        np.testing.assert_array_equal(mine.recv("x", 0, np.empty(5)), np.arange(5.0))
        mine.close(RuntimeError("end of the test"))


def send_array(mine, array):
    mine.send("x", 0, array)


@TRANSPORTS
@pytest.mark.parametrize("policy", ["error", "warn", "allow"])
@pytest.mark.fault(49, "NaN and infinity are sent")
def test_values_that_are_not_finite_follow_the_policy(tmp_path, policy, caplog, transport):
    array = np.zeros((3, 4), np.float32)
    array[1, 2], array[2, 0] = np.nan, np.inf
    start = {"rename": net1_with, "mapped": net1_with_slots}[transport]
    with Role(start, tmp_path, send_array, array) as sender:
        mine = exchange(tmp_path, "net2", nonfinite=policy, transport=transport).open()
        sender.hear()
        out = np.empty_like(array)
        text = "2 of 12 values are not finite, first at (1, 2)"
        if policy == "error":
            with pytest.raises(NonFinite) as caught:
                mine.recv("x", 0, out)
            assert text in str(caught.value)
        else:
            np.testing.assert_array_equal(mine.recv("x", 0, out), array)
            assert (text in caplog.text) == (policy == "warn")
        mine.close(RuntimeError("end of the test"))


@TRANSPORTS
def test_numpy_opens_a_message_file(tmp_path, transport):
    start = {"rename": net1_with, "mapped": net1_with_slots}[transport]
    with Role(start, tmp_path, send_range, 0, 1) as sender:
        mine = exchange(tmp_path, "net2", transport=transport).open()
        sender.hear()
        (path,) = tmp_path.glob("g*/net1/*.npy")
        np.testing.assert_array_equal(np.load(path, allow_pickle=False), np.arange(5.0))
        mine.close(RuntimeError("end of the test"))


def soak(say, folder, role, count, transport):
    """Send and receive; the most files that were seen in the folder, and resident kilobytes and
    open descriptors after a tenth and at the end."""
    out, seen, most = np.zeros(256, np.float32), [], 0
    with exchange(folder, role, transport=transport) as mine:
        for sequence in range(count):
            first, second = ("x", "back") if role == "net1" else ("back", "x")
            mine.send(first, sequence, out)
            mine.recv(second, sequence, out)
            if sequence in (count // 10, count - 1):
                with open("/proc/self/statm") as file:
                    pages = int(file.read().split()[1])
                seen.append((pages * 4, len(os.listdir("/proc/self/fd"))))
            if sequence % 100 == 0:
                names = [name for _, _, names in os.walk(folder) for name in names]
                most = max(most, sum(not name.startswith(".") for name in names))
    return most, *seen


@pytest.mark.slow
@TRANSPORTS
@pytest.mark.fault(57, "10,000 messages of 1 kB each way")
def test_memory_descriptors_and_files_stay_flat_over_ten_thousand_messages(tmp_path, transport):
    roles = [Role(soak, tmp_path, role, 10_000, transport) for role in ("net1", "net2")]
    for role in roles:
        most_files, (early_kb, early_fds), (late_kb, late_fds) = role.result(120)
        # RUN.json, a generation; per role lock, hello, status and at most 3 messages.
        assert 8 < most_files <= 14
        assert late_kb - early_kb < 2000
        assert late_fds == early_fds
