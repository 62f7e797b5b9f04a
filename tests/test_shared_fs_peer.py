"""A peer is judged on my own clock, by changes of what it says, and never for my own pauses."""

from dataclasses import replace

import pytest

from shared_fs import InvalidMessage, PeerFailed, PeerLost, PeerRestarted, PeerStopped
from shared_fs.peer import Peer
from shared_fs.process import this_process
from shared_fs.status import Status


class HandClock:
    now = 0.0

    def monotonic(self):
        return self.now


class Script:
    """A status reader that says what the test puts in."""

    damaged = False

    def __init__(self):
        self.news = None

    def poll(self):
        news, self.news = self.news, None
        return news


RUNNING = Status("ab" * 16, state="running", step=5)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def script():
    return Script()


def watch(clock, script, process, **options):
    """A view of net2, which is `process`; no role has begun anew."""
    options = {"began_anew": lambda: None, **options}
    return Peer(
        clock,
        "net2",
        process,
        script,
        me=this_process(),
        peer_timeout_s=120,
        progress_timeout_s=600,
        **options,
    )


@pytest.fixture
def elsewhere():
    """A process of another host, which only its status tells about."""
    return replace(this_process(), pid=4711, host="far\x1b[31m", boot_id="another")


@pytest.fixture
def peer(clock, script, elsewhere):
    return watch(clock, script, elsewhere)


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


@pytest.mark.fault(17, "beats without progress, clock by hand")
def test_beats_without_progress_are_a_lost_peer_after_progress_timeout(peer, clock, script):
    beat = live(peer, clock, script, 599, RUNNING)
    with pytest.raises(PeerLost, match="heartbeats only for 600 s"):
        live(peer, clock, script, 6, beat)


@pytest.mark.parametrize("change", [{"step": 6}, {"published": {"x": 1}}, {"info": {"phase": "y"}}])
def test_any_progress_starts_the_time_anew(peer, clock, script, change):
    live(peer, clock, script, 500, RUNNING)
    live(peer, clock, script, 500, replace(RUNNING, beat=999, **change))


@pytest.mark.fault(55, "the clock of a peer's view jumps by a day")
def test_my_own_pause_is_not_held_against_the_peer(peer, clock, script):
    live(peer, clock, script, 10, RUNNING)
    clock.now += 86400.0  # stopped for a day, or a suspended machine
    peer.poll()
    peer.judge("x 7")


@pytest.mark.security(14, "escape sequences as host and error")
def test_an_error_of_the_peer_is_told_without_control_characters(peer, clock, script):
    script.news = replace(RUNNING, state="failed", error="out of\x1b[2J memory")
    peer.poll()
    with pytest.raises(PeerFailed, match=r"net2 .*failed.*x 7: out of\?\[2J memory"):
        peer.judge("x 7")


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ("done", PeerLost, "is done, but I still waited for x 7"),
        ("over", PeerLost, "is done, but I still waited for x 7"),
        ("stopping", PeerStopped, "stopped while I waited for x 7"),
    ],
)
def test_a_peer_that_ended_sends_nothing_more(peer, script, state, error, text):
    script.news = replace(RUNNING, state=state)
    peer.poll()
    with pytest.raises(error, match=text):
        peer.judge("x 7")


def test_a_gone_process_is_lost_at_once_but_its_last_words_count(clock, script):
    gone = replace(this_process(), start_token="1")
    peer = watch(clock, script, gone)
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


def test_a_peer_that_can_return_has_peer_timeout_to_do_so(clock, script, elsewhere):
    peer = watch(clock, script, elsewhere, may_return=True)
    script.news = replace(RUNNING, state="stopping")
    live(peer, clock, script, 119)
    assert peer.describe() == "net2: last step 5 (118.5 s ago), stopped"
    with pytest.raises(PeerStopped, match="was not started again within 120 s"):
        live(peer, clock, script, 3)


def test_a_role_that_was_told_to_stop_does_not_wait_for_a_peer_that_is_gone(
    clock, script, elsewhere
):
    told = []
    peer = watch(clock, script, elsewhere, may_return=True, stop_waiting=lambda: bool(told))
    script.news = replace(RUNNING, state="stopping")
    live(peer, clock, script, 30)
    told.append("SIGTERM")
    with pytest.raises(PeerStopped, match=r"stopped while I waited for x 7$"):
        live(peer, clock, script, 1)


@pytest.mark.parametrize("role", ["net2", "net1"])
def test_that_any_role_began_anew_ends_the_wait(clock, script, elsewhere, role):
    peer = watch(clock, script, elsewhere, began_anew=lambda: role)
    script.news = RUNNING
    with pytest.raises(PeerRestarted, match=f"{role} began anew"):
        live(peer, clock, script, 2)


def test_a_status_block_of_garbage_is_warned_of_and_then_an_error(
    clock, script, elsewhere, caplog
):
    peer = watch(clock, script, elsewhere)
    script.damaged = True
    live(peer, clock, script, 9)
    assert caplog.text == ""
    live(peer, clock, script, 2)
    assert caplog.text.count("is garbage") == 1
    with pytest.raises(InvalidMessage, match="has been garbage for 120 s while I waited for x 7"):
        live(peer, clock, script, 120)
