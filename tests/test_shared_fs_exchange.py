"""The front door: what one role reports reaches the others, and an end of one is told to all."""

import json
import os
import signal
import time

import numpy as np
import pytest
from test_shared_fs_processes import Role

from shared_fs import Exchange, PeerFailed, PeerLost

CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}


def exchange(folder, role, **options):
    return Exchange(folder, role, channels=CHANNELS, **{"handshake_timeout_s": 30, **options})


def fail(say, folder, error):
    with exchange(folder, "net1"):
        raise error


def test_an_error_of_one_role_ends_the_wait_of_the_other_with_its_text(tmp_path):
    with Role(fail, tmp_path, ValueError("loss is nan\x1b[2J at step 7")) as peer:
        told = r"net1 .*: ValueError: loss is nan\?\[2J at step 7"
        with pytest.raises(PeerFailed, match=told), exchange(tmp_path, "net2") as mine:
            mine.recv("x", 0, np.empty(5))
        assert "step 7" in str(peer.error())


def interrupt(say, folder):
    try:
        with exchange(folder, "net1"):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return "interrupted"


def test_an_interrupted_role_is_stopping_not_failed(tmp_path):
    with Role(interrupt, tmp_path) as peer:
        with (
            pytest.raises(PeerLost, match=r"net1 .* stopped while I waited for x 0"),
            exchange(tmp_path, "net2") as mine,
        ):
            mine.recv("x", 0, np.empty(5))
        assert peer.result() == "interrupted"


def leave_early(say, folder):
    with exchange(folder, "net1", final_barrier=False) as mine:
        mine.send("x", 0, np.zeros(5))


def test_a_peer_that_is_done_without_the_awaited_message_is_lost(tmp_path):
    with Role(leave_early, tmp_path) as peer, exchange(tmp_path, "net2") as mine:
        assert peer.result() is None
        mine.recv("x", 0, np.empty(5))  # sent before it left, and still there
        with pytest.raises(PeerLost, match="is done, but I still waited for x 1"):
            mine.recv("x", 1, np.empty(5))
    assert sorted(path.name for path in tmp_path.glob("g*/net1/*")) == ["counters", "x-slot0.npy"]


def report_and_end(say, folder):
    with exchange(folder, "net1") as mine:
        for step in range(3):
            mine.report(step=step, phase="train", epoch=step // 2, loss=0.5 * step)
        mine.report(phase="evaluate", accuracy=0.75)
        return mine.bytes_sent


def test_what_a_role_reports_is_seen_by_its_peer_even_after_the_barrier(tmp_path):
    with Role(report_and_end, tmp_path) as peer:
        with exchange(tmp_path, "net2") as mine:
            pass
        assert peer.result() == 0
    assert mine.peer_info("net1") == {"phase": "evaluate", "epoch": 1, "loss": 1, "accuracy": 0.75}
    stage = json.loads((tmp_path / "stage.json").read_text())
    assert stage["version"] == 2  # only a change of the phase is written there
    assert (stage["phase"], stage["step"], stage["roles"]["net1"]["epoch"]) == ("evaluate", 2, 1)


def linger(say, folder):
    with exchange(folder, "net1") as mine:
        mine.send("x", 0, np.arange(4))
        say("sent")
        mine.recv("back", 0, np.empty(2))
        return mine.bytes_sent, mine.bytes_received


def test_close_waits_for_the_peer_then_leaves_no_message(tmp_path):
    with Role(linger, tmp_path) as peer:
        with exchange(tmp_path, "net2") as mine:
            assert peer.hear() == "sent"
            mine.recv("x", 0, np.empty(4, int))
            mine.send("back", 0, np.zeros(2))
            assert (mine.bytes_sent, mine.bytes_received) == (16, 32)
        assert peer.result() == (32, 16)
    assert list(tmp_path.glob("g0*")) == []
    assert mine.wait_s > 0
    mine.close()  # idempotent
    with pytest.raises(ValueError, match="is not open"):
        mine.send("back", 1, np.zeros(2))
    with pytest.raises(ValueError, match="opened before"):
        mine.open()


def hang_before_the_end(say, folder):
    with exchange(folder, "net1"):
        say("open")
        time.sleep(60)


def test_a_peer_killed_before_the_barrier_is_lost_not_awaited(tmp_path):
    with Role(hang_before_the_end, tmp_path) as peer:
        mine = exchange(tmp_path, "net2").open()
        assert peer.hear() == "open"
        peer.kill()
        with pytest.raises(PeerLost, match=f"pid {peer.pid} .* exited while I waited for it to be"):
            mine.close()


def test_silence_is_a_lost_peer_after_the_timeout_given(tmp_path):
    with Role(hang_before_the_end, tmp_path) as peer:
        mine = exchange(tmp_path, "net2", peer_timeout_s=4).open()
        assert peer.hear() == "open"
        os.kill(peer.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(PeerLost, match="no sign of life for 4 s while I waited for x 0"):
            mine.recv("x", 0, np.empty(5))
        assert 3 < time.monotonic() - start < 10
        os.kill(peer.pid, signal.SIGCONT)
        mine.close(RuntimeError("end of the test"))


def pause(say, folder):
    with exchange(folder, "net1") as mine:
        say("open")
        mine.recv("back", 0, np.empty(2))


def test_a_short_pause_of_the_peer_is_no_error(tmp_path):
    with Role(pause, tmp_path) as peer:
        with exchange(tmp_path, "net2", peer_timeout_s=30) as mine:
            assert peer.hear() == "open"
            os.kill(peer.pid, signal.SIGSTOP)
            mine.send("back", 0, np.zeros(2))
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                mine._part.poll("net1")
                mine._part.peer("net1").judge("the end of its pause")
            os.kill(peer.pid, signal.SIGCONT)
        assert peer.result() is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channels": {"X": ("net1", "net2")}}, "names match"),
        ({"channels": {"x": ("net1", "../net2")}}, "names match"),
        ({"channels": {"x": ("net1", "net1")}}, "at least two different roles"),
        ({"channels": {"x": ("net2", "net3")}}, "'net1' is none of the roles"),
        ({"roles": ("net1", "net3")}, "channel 'x' must lead from one of"),
        ({"roles": ("net1", "net2", "net2")}, "different roles"),
        ({"channels": {f"c{i}": ("net1", "net2") for i in range(17)}}, "at most 16 channels"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"fsync": "sometimes"}, "fsync must be one of auto, never, always, got 'sometimes'"),
        ({"nonfinite": "ignore"}, "nonfinite must be one of error, warn, allow"),
        ({"transport": "pigeon"}, "transport must be one of auto, rename, mapped"),
        ({"agreement": {"roles": 1}}, "must not name .'roles'."),
        ({"agreement": {"a": float("nan")}}, "agreement must be JSON-able"),
        ({"agreement": {"a": object()}}, "agreement must be JSON-able"),
        ({"agreement": {"a": "x" * 40_000}}, "agreement of 40"),
    ],
)
def test_arguments_that_cannot_work_are_refused_before_any_file_is_touched(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        Exchange(tmp_path / "exchange", "net1", **{"channels": CHANNELS, **options})
    assert list(tmp_path.iterdir()) == []


def test_too_much_info_is_refused_and_the_exchange_goes_on(tmp_path):
    with Role(linger, tmp_path) as peer:
        with exchange(tmp_path, "net2") as mine:
            with pytest.raises(ValueError, match="report less info"):
                mine.report(text="x" * 5000)
            mine.recv("x", 0, np.empty(4, int))
            mine.send("back", 0, np.zeros(2))
        assert peer.hear() == "sent"
        assert peer.result() == (32, 16)
