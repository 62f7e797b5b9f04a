"""K roles agree before anything is exchanged, or all of them raise and say what differs."""

import json
import time

import pytest
from test_shared_fs_processes import Role

from shared_fs import Exchange, HandshakeMismatch, RoleTaken, WaitTimeout
from shared_fs import records as records_module
from shared_fs.handshake import differences

PAIR = {"x": ("net1", "net2"), "y": ("net2", "net1")}
CHAIN = {"x": ("net1", "net2"), "y": ("net2", "net3"), "z": ("net3", "net1")}


def join(say, folder, role, options):
    """Join and leave; returns what the roles must have in common, and the peers."""
    with Exchange(folder, role, **{"channels": PAIR, "handshake_timeout_s": 20, **options}) as mine:
        say("open")
        return mine.run, mine.generation, {name: peer["pid"] for name, peer in mine.peers.items()}


def join_all(folder, **options):
    """Start a process per role; `options` maps a role to its own options."""
    return {role: Role(join, folder, role, own) for role, own in options.items()}


def test_two_roles_agree_on_one_run_and_know_each_others_pid(tmp_path):
    roles = join_all(tmp_path, net1={}, net2={})
    assert [role.hear() for role in roles.values()] == ["open", "open"]
    (run1, generation1, peers1), (run2, generation2, peers2) = [r.result() for r in roles.values()]
    assert run1 == run2
    assert (generation1, generation2) == (1, 1)
    assert peers1 == {"net2": roles["net2"].pid}
    assert peers2 == {"net1": roles["net1"].pid}
    record = json.loads((tmp_path / "gen" / "00000001.json").read_text())
    assert (record["run"], record["base"], record["start_step"]) == (run1, 0, 0)
    assert sorted(record["incarnations"]) == ["net1", "net2"]
    run = json.loads((tmp_path / "RUN.json").read_text())
    assert (run["run"], run["roles"], run["protocol"]) == (run1, ["net1", "net2"], 3)


def test_three_roles_agree(tmp_path):
    options = {"channels": CHAIN}
    roles = join_all(tmp_path, net1=options, net2=options, net3=options)
    assert [role.hear() for role in roles.values()] == ["open"] * 3
    results = [role.result() for role in roles.values()]
    assert len({run for run, _, _ in results}) == 1
    assert sorted(results[1][2]) == ["net1", "net3"]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"agreement": {"lr": 0.1}}, {"agreement": {"lr": 0.2}}, ["lr", "0.1", "0.2"]),
        ({"agreement": {"a": {"b": 1}}}, {"agreement": {"a": {}}}, ["a.b", "1", "nothing"]),
        ({"window": 2}, {"window": 3}, ["window", "2", "3"]),
        ({}, {"channels": {"x": ("net1", "net2")}}, ["channels.y", "net2", "nothing"]),
    ],
    ids=["value", "nested and absent", "window", "channels"],
)
@pytest.mark.fault(27, "two real roles with other settings")
def test_a_disagreement_is_raised_on_both_sides_with_the_key_and_both_values(
    tmp_path, first, second, named
):
    for role in join_all(tmp_path, net1=first, net2=second).values():
        error = role.error()
        assert isinstance(error, HandshakeMismatch)
        for word in named:
            assert word in str(error)
    assert not (tmp_path / "RUN.json").exists()
    assert list((tmp_path / "gen").iterdir()) == []


def test_optional_settings_count_between_roles_that_both_have_them(tmp_path):
    mine = {"agreement": {"seed": 1, "optional": {"lr": 0.1, "solver": "torch"}}}
    fresh = (tmp_path / name for name in "abc")
    for other in ({"seed": 1}, {"seed": 1, "optional": {"lr": 0.1, "threads": 4}}):
        roles = join_all(next(fresh), net1=mine, net2={"agreement": other})
        assert [role.hear() for role in roles.values()] == ["open", "open"]
    other = {"agreement": {"seed": 1, "optional": {"lr": 0.2, "threads": 4}}}
    for role in join_all(next(fresh), net1=mine, net2=other).values():
        text = str(role.error())
        assert ": lr: " in text and "0.1" in text and "0.2" in text
        assert "solver" not in text and "threads" not in text


@pytest.mark.parametrize("agreement", [{"optional": 3}, {"lr": 1, "optional": {"lr": 1}},
                                       {"optional": {"window": 1}}],
                         ids=["no mapping", "named twice", "taken"])
def test_optional_settings_must_be_settings_of_their_own(tmp_path, agreement):
    with pytest.raises(ValueError, match="agreement"):
        Exchange(tmp_path, "net1", channels=PAIR, agreement=agreement)


def test_after_a_disagreement_the_same_folder_can_be_used(tmp_path):
    for role in join_all(tmp_path, net1={"window": 2}, net2={"window": 3}).values():
        role.error()
    roles = join_all(tmp_path, net1={}, net2={})
    assert [role.hear() for role in roles.values()] == ["open", "open"]


def join_with_protocol(say, folder, role, protocol):
    records_module.Hello.__init__.__defaults__  # noqa: B018  the default is bound in __init__
    defaults = list(records_module.Hello.__init__.__defaults__)
    position = [i for i, value in enumerate(defaults) if value == records_module.PROTOCOL]
    defaults[position[-1]] = protocol
    records_module.Hello.__init__.__defaults__ = tuple(defaults)
    return join(say, folder, role, {})


@pytest.mark.fault(26, "one role runs with another protocol number")
def test_another_protocol_version_is_refused_on_both_sides(tmp_path):
    roles = [Role(join, tmp_path, "net1", {}), Role(join_with_protocol, tmp_path, "net2", 7)]
    for role in roles:
        error = role.error()
        assert isinstance(error, HandshakeMismatch)
        assert "protocol: net" in str(error)
        assert "has 7" in str(error)


def test_the_hello_a_dead_process_left_is_not_judged(tmp_path):
    # net2 of an earlier attempt, with other settings, is killed while it waits.
    with Role(join, tmp_path, "net2", {"agreement": {"lr": 9}}) as dead:
        deadline = time.monotonic() + 20
        while not (tmp_path / "hello" / "net2.json").exists():
            assert time.monotonic() < deadline
        dead.kill()
    with pytest.raises(WaitTimeout, match=rf"net2 to answer .* pid {dead.pid} on "):
        Exchange(tmp_path, "net1", channels=PAIR, handshake_timeout_s=0.5).open()
    roles = join_all(tmp_path, net1={}, net2={})
    assert [role.hear() for role in roles.values()] == ["open", "open"]


@pytest.mark.parametrize("role", ["net1", "net2"])
@pytest.mark.fault(16, "one role is started alone")
def test_a_role_that_does_not_join_is_named_with_the_folder(tmp_path, role):
    missing = {"net1": "net2", "net2": "net1"}[role]
    with pytest.raises(WaitTimeout, match=f"waited 0.2 s for {missing} to join {tmp_path}"):
        Exchange(tmp_path, role, channels=PAIR, handshake_timeout_s=0.2).open()


@pytest.mark.fault(24, "a finished run in the folder")
def test_the_folder_of_an_earlier_run_is_refused(tmp_path):
    roles = join_all(tmp_path, net1={}, net2={})
    assert [role.hear() for role in roles.values()] == ["open", "open"]
    [role.result() for role in roles.values()]
    for role in ("net1", "net2"):
        with pytest.raises(HandshakeMismatch, match=r"00000001.json of another run; give a fresh"):
            Exchange(tmp_path, role, channels=PAIR).open()


@pytest.mark.fault(19, "the same role is started twice")
def test_a_second_process_of_a_role_is_refused_and_the_first_unharmed(tmp_path):
    with Role(join, tmp_path, "net1", {}) as first:
        deadline = time.monotonic() + 20
        while not (tmp_path / "hello" / "net1.json").exists():
            assert time.monotonic() < deadline
        start = time.monotonic()
        with pytest.raises(RoleTaken, match=f"net1 is already running .pid {first.pid} on "):
            Exchange(tmp_path, "net1", channels=PAIR).open()
        assert time.monotonic() - start < 1
        with Role(join, tmp_path, "net2", {}) as second:
            assert first.hear() == second.hear() == "open"
            assert first.result()[0] == second.result()[0]


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"role": "net2"}', b"[" * 60000])
@pytest.mark.security(2, "garbage and 60,000 brackets as a hello")
def test_a_damaged_hello_counts_as_absent(tmp_path, garbage):
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "net2.json").write_bytes(garbage)
    with pytest.raises(WaitTimeout, match="net2 to join"):
        Exchange(tmp_path, "net1", channels=PAIR, handshake_timeout_s=0.1).open()


def test_differences_lists_the_leaves_by_hand():
    mine = {"a": 1, "b": {"c": [1], "d": 2}, "e": None}
    peer = {"a": 1, "b": {"c": [2], "d": 2}, "f": 0}
    assert differences(mine, peer) == [
        ("b.c", [1], [2]),
        ("e", None, "nothing"),
        ("f", "nothing", 0),
    ]
