"""A wait polls, backs off up to its cap, says what it waits for and ends at its deadline."""

import itertools
import logging

import pytest

from shared_fs import WaitTimeout
from shared_fs.waiting import wait_for


class HandClock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now, self.sleeps = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


def test_what_the_condition_returns_is_returned_even_if_it_is_false():
    clock = HandClock()
    answers = iter([None, None, 0])
    waited = wait_for(
        lambda: next(answers), lambda: "x", timeout_s=1, longest_sleep_s=1, clock=clock
    )
    assert waited == 0
    assert len(clock.sleeps) == 2


def test_no_single_sleep_is_longer_than_the_cap_and_early_ones_are_short():
    clock = HandClock()
    with pytest.raises(WaitTimeout):
        wait_for(lambda: None, lambda: "x", timeout_s=3, longest_sleep_s=0.005, clock=clock)
    # The first 2 ms in steps of 50 us: 40 of them.
    assert clock.sleeps[:40] == [50e-6] * 40
    assert max(clock.sleeps) <= 0.005
    assert clock.now - 1000 == pytest.approx(3)


def test_the_timeout_names_what_was_awaited():
    with pytest.raises(WaitTimeout, match=r"waited 2 s for net2 to join"):
        wait_for(
            lambda: None, lambda: "net2 to join", timeout_s=2, longest_sleep_s=1, clock=HandClock()
        )


def test_a_condition_that_holds_at_once_neither_sleeps_nor_needs_a_deadline():
    clock = HandClock()
    assert wait_for(lambda: 5, lambda: "x", timeout_s=0, longest_sleep_s=1, clock=clock) == 5
    assert clock.sleeps == []


def test_every_ten_seconds_one_line_says_what_is_awaited(caplog):
    count = itertools.count()
    with caplog.at_level(logging.INFO, "shared_fs"), pytest.raises(WaitTimeout):
        wait_for(
            lambda: None,
            lambda: f"net2, line {next(count)}",
            timeout_s=35,
            longest_sleep_s=0.05,
            clock=HandClock(),
        )
    # At 10, 20 and 30 s.
    assert [r.message for r in caplog.records] == [f"waiting for net2, line {i}" for i in range(3)]
