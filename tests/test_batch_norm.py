"""Batch normalisation in a cut net: its statistics are part of the state, and so of a resume."""

import pytest
import torch
from test_dual import CPU, RandomBatches, largest_difference, settings_for
from test_own_nets import SHAPE, build, file, train_both  # noqa: F401 (a fixture)

from dualnet.channel import QueueChannel
from dualnet.cut import join
from dualnet.methods.dual.build import build_parts, build_role, describe_wires


class Left(Exception):
    """The other role is gone."""


def roles_of(path, **changes):
    """net1 and net2, whose channels leave when `left` names the message that is next."""
    settings = settings_for("admm", cut="relu", iterations=4, **changes).resolved()
    parts = build_parts(settings, build(path, "residual"))
    wire, = describe_wires(parts, SHAPE)
    channels = QueueChannel.ends(wire.channels(), timeout_s=30)
    return wire, [build_role(name, settings, parts, [wire], RandomBatches(), channel, CPU)
                  for name, channel in channels.items()]


def copied(state):
    return {name: value.clone() for name, value in state["part"].items()}


def leaving(function, name):
    def leave(channel, *arguments):
        if channel == name:
            raise Left
        return function(channel, *arguments)
    return leave


def test_an_iteration_left_half_done_leaves_the_state_of_the_iteration_before(file):  # noqa: F811
    """net1 has run its layers forward and waits; net2 has run its own and cannot answer."""
    wire, (net1, net2) = roles_of(file)
    before = [copied(role.state_dict()) for role in (net1, net2)]
    net1.channel.recv = leaving(net1.channel.recv, wire.penalty)
    with pytest.raises(Left):
        next(net1.steps())
    net2.channel.send = leaving(net2.channel.send, wire.answer)
    with pytest.raises(Left):
        next(net2.steps())
    for role, old, key in zip((net1, net2), before,
                              ("body.norm.running_mean", "body.block2.norm.running_mean"),
                              strict=True):
        assert not torch.equal(role.part.get_buffer(key), old[key])     # it was changed already
        state = role.state_dict()["part"]
        assert state.keys() == old.keys()
        assert all(torch.equal(state[name], value) for name, value in old.items())


def test_after_an_iteration_the_state_has_its_statistics(file):  # noqa: F811
    parts, single = train_both(file, "residual", "relu")
    assert int(single.norm.num_batches_tracked) == 10
    assert largest_difference(join(parts), single) < 1e-12      # running statistics included


def test_in_a_pipeline_each_micro_batch_has_statistics_of_its_own(file):  # noqa: F811
    parts, single = train_both(file, "residual", "relu", schedule="pipelined", micro_batches=4)
    assert int(join(parts).norm.num_batches_tracked) == 4 * int(single.norm.num_batches_tracked)
    assert largest_difference(join(parts), single) > 1e-3
