"""A peer is judged on my own clock, by changes of what it says, and never for my own pauses."""

from dataclasses import replace

import pytest

from shared_fs import PeerFailed, PeerLost
from shared_fs.peer import Peer
from shared_fs.process import this_process
from shared_fs.status import Status


class HandClock:
    now = 0.0

    def monotonic(self):
        return self.now


class Script:
    """A status reader that says what the test puts in."""

    def __init__(self):
        self.news = None

    def poll(self):
        news, self.news = self.news, None
        return news


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def peer(clock, script):
    elsewhere = replace(this_process(), pid=4711, host="far\x1b[31m", boot_id="another")
    return Peer(
        clock,
        "net2",
        elsewhere,
        script,
        me=this_process(),
        peer_timeout_s=120,
        progress_timeout_s=600,
    )


RUNNING = Status("ab" * 16, state="running", step=5)


def live(peer, clock, script, seconds, beat=None):
    """Poll every half second; every 2 s the peer beats, if it does."""
    for i in range(int(seconds * 2)):
        clock.now += 0.5
        if beat is not None and i % 4 == 0:
            beat = replace(beat, beat=beat.beat + 1)
            script.news = beat
        peer.poll()
        peer.judge("x 7")
    return beat


def test_silence_of_peer_timeout_is_a_lost_peer_and_less_is_not(peer, clock, script):
    live(peer, clock, script, 119)
    with pytest.raises(PeerLost, match=r"net2 \(pid 4711 on .*no sign of life for 120 s.*x 7"):
        live(peer, clock, script, 2)


def test_beats_without_progress_are_a_lost_peer_after_progress_timeout(peer, clock, script):
    beat = live(peer, clock, script, 599, RUNNING)
    with pytest.raises(PeerLost, match="heartbeats only for 600 s"):
        live(peer, clock, script, 6, beat)


@pytest.mark.parametrize("change", [{"step": 6}, {"published": {"x": 1}}, {"info": {"phase": "y"}}])
def test_any_progress_starts_the_time_anew(peer, clock, script, change):
    live(peer, clock, script, 500, RUNNING)
    live(peer, clock, script, 500, replace(RUNNING, beat=999, **change))


def test_my_own_pause_is_not_held_against_the_peer(peer, clock, script):
    live(peer, clock, script, 10, RUNNING)
    clock.now += 86400.0  # stopped for a day, or a suspended machine
    peer.poll()
    peer.judge("x 7")


def test_an_error_of_the_peer_is_told_without_control_characters(peer, clock, script):
    script.news = replace(RUNNING, state="failed", error="out of\x1b[2J memory")
    peer.poll()
    with pytest.raises(PeerFailed, match=r"net2 .*failed.*x 7: out of\?\[2J memory"):
        peer.judge("x 7")


@pytest.mark.parametrize("state", ["done", "stopping"])
def test_a_peer_that_ended_sends_nothing_more(peer, script, state):
    script.news = replace(RUNNING, state=state)
    peer.poll()
    with pytest.raises(PeerLost, match=f"is {state}, but I still waited for x 7"):
        peer.judge("x 7")


def test_a_gone_process_is_lost_at_once_but_its_last_words_count(clock, script):
    gone = replace(this_process(), start_token="1")
    peer = Peer(
        clock, "net2", gone, script, me=this_process(), peer_timeout_s=120, progress_timeout_s=600
    )
    peer.poll()
    script.news = replace(RUNNING, published={"x": 7})  # announced just before it died
    peer.judge("x 7")
    assert peer.status.published == {"x": 7}
    clock.now += 0.3
    peer.poll()
    with pytest.raises(PeerLost, match="exited while I waited for x 8"):
        peer.judge("x 8")


def test_a_peer_describes_itself_in_one_phrase(peer, clock, script):
    assert peer.describe() == "net2: no step yet, beats arriving"
    script.news = RUNNING
    peer.poll()
    for _ in range(12):
        clock.now += 1.0
        peer.poll()
    assert peer.describe() == "net2: last step 5 (12.0 s ago), silent for 12 s"
