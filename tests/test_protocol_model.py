"""The model of the protocol: nothing goes wrong in any order of events, and each rule is needed."""

import pytest
from protocol_model import Case, Rules, search

# With three roles the handshake alone has some 20,000 states; steps that only this role's own
# next step depends on are taken in one go.
WHOLE = ("renew", "greet", "answer", "open", "ack", "tell", "begin", "declare", "trim")
THREE = Case(roles=3, iterations=1, every=1, kills=1, whole=WHOLE)


@pytest.mark.parametrize(
    "case",
    [
        Case(kills=0),
        Case(kills=1, iterations=5),
        Case(kills=2, iterations=3),
        Case(kills=1, stops=1),
        pytest.param(Case(kills=2, iterations=5), marks=pytest.mark.slow),
        pytest.param(Case(stops=2), marks=pytest.mark.slow),
        pytest.param(THREE, marks=pytest.mark.slow),
    ],
    ids=["no fault", "one kill", "two kills", "a kill and a stop", "two kills, 5 iterations",
         "two stops and a kill", "three roles, one kill"],
)
def test_every_order_of_events_ends_with_each_iteration_applied_once(case):
    found = search(case)
    assert found.wrong == {}
    assert found.stuck == 0
    assert found.ends > 0
    assert found.states > 200  # it did search


@pytest.mark.parametrize(
    ("taken_away", "wrong"),
    [
        ("answers", "the start is not the newest checkpoint that all hold"),
        ("folders", "a role applied a message that the other did not send"),
        ("keep_common", "the newest checkpoint that all hold was removed"),
        ("identity", "a role applied a message that the other did not send"),
    ],
)
def test_without_any_one_rule_a_single_kill_can_do_harm(taken_away, wrong):
    found = search(Case(kills=1, rules=Rules(**{taken_away: False})))
    assert found.wrong.get(wrong, 0) > 0


