"""Values over steps, and whose turn it is."""

import pytest

from dualnet import schedules
from dualnet.methods.dual.settings import SCHEDULE_NAMES


def test_the_tail_is_constant_and_then_falls_linearly_over_the_last_30_percent():
    rate = schedules.tail(0.5, iterations=20)
    # 0.3 * 20 = 6 iterations: 20 - t of 6 left from t = 14 on
    assert [rate(step) for step in (0, 10, 14)] == [0.5, 0.5, 0.5]
    assert [rate(step) for step in (15, 17, 19)] == pytest.approx([0.5 * 5 / 6, 0.25, 0.5 / 6])


def test_step_decay_divides_at_each_multiple():
    rate = schedules.step_decay(1.0, factor=0.1, every=3)
    assert [rate(step) for step in range(7)] == pytest.approx([1, 1, 1, .1, .1, .1, .01])


def test_in_lockstep_both_roles_move_in_every_iteration():
    # step  moves
    assert list(schedules.lockstep(4, start=2)) == [
        (2, ("net1", "net2")),
        (3, ("net1", "net2"))]


def test_in_turns_one_role_moves_while_the_other_rests():
    turns = schedules.alternating(9, net1_steps=1, net2_steps=3, start=2)
    assert [(step, *updates) for step, updates in turns] == [
        # 0 net1, 1 net2 before the start
        (2, "net2"),
        (3, "net2"),
        (4, "net1"),
        (5, "net2"),
        (6, "net2"),
        (7, "net2"),
        (8, "net1")]


def test_in_a_chain_each_role_but_the_last_has_a_turn_of_net1():
    turns = schedules.alternating(9, net1_steps=1, net2_steps=3, roles=("net1", "net2", "net3"))
    assert [role for _, (role,) in turns] == [
        "net1", "net2", "net3", "net3", "net3", "net1", "net2", "net3", "net3"]


def test_the_flag_offers_exactly_the_schedules_there_are():
    assert set(SCHEDULE_NAMES) == set(schedules.SCHEDULES)


def test_milestones_drop_where_they_stand():
    rate = schedules.milestones(1.0, factor=0.2, at=(2, 5))
    assert [rate(step) for step in range(7)] == pytest.approx([1, 1, .2, .2, .2, .04, .04])
    assert schedules.milestones(1.0, factor=0.2, at=())(9) == 1.0
