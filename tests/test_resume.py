"""A training that is stopped, saved, loaded and continued equals one that never stopped."""

import itertools
import threading

import numpy as np
import pytest
import torch
from test_dual import CPU, RandomBatches

from dualnet import nets
from dualnet.channel import QueueChannel
from dualnet.checkpoints import Checkpoints, Spent
from dualnet.config import TrainConfig
from dualnet.data.batches import Batches, Preprocessing
from dualnet.data.dataset import Dataset
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import all_channels
from dualnet.methods.single import Single
from shared_fs import Checkpoint, WaitTimeout

SHAPE = (3, 16, 16)
RUN = "0" * 32


def settings_for(**changes):
    return DualConfig(**{"iterations": 9, "batch_size": 8, "log_every": 2, **changes}).resolved()


def build(settings, batches, timeout_s=30):
    parts = build_parts(settings, nets.build(settings.net, SHAPE, 10))
    wires = describe_wires(parts, SHAPE)
    channels = QueueChannel.ends(all_channels(wires), timeout_s=timeout_s)
    return {name: build_role(name, settings, parts, wires, batches, channels[name], CPU)
            for name in settings.roles}


def together(roles, work):
    """`work(role)` of each role in a thread of its own; what they gave, by name."""
    results, errors = {}, []

    def call(name, role):
        try:
            results[name] = work(role)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=item) for item in roles.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors
    return results


def through_the_disk(folder, done, state):
    """What a checkpoint makes of a state."""
    checkpoint = Checkpoint(RUN, 1, done)
    Checkpoints(folder).save(checkpoint, state, Spent())
    return Checkpoints(folder).load(checkpoint)[0]


def flat(value, key=""):
    """All leaves of a state, by their path."""
    if isinstance(value, dict):
        return {path: leaf for name, inner in value.items()
                for path, leaf in flat(inner, f"{key}/{name}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), key)
    return {key: value}


def differing(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    return [key for key, value in one.items()
            if not (torch.equal(value, other[key]) if torch.is_tensor(value)
                    else value == other[key])]


def check_roles(settings, stop, folder):
    batches = RandomBatches(shape=SHAPE)
    whole = build(settings, batches)
    expected = together(whole, lambda role: [*role.steps(), role.evaluate()])

    first = build(settings, batches)
    before = together(first, lambda role: list(itertools.islice(role.steps(), stop)))
    second = build(settings, batches)
    for name, role in second.items():
        role.load_state_dict(through_the_disk(folder / name, stop, first[name].state_dict()))
    after = together(second, lambda role: [*role.steps(stop), role.evaluate()])

    for name in settings.roles:
        assert before[name] + after[name] == expected[name]
        assert not differing(second[name].state_dict(), whole[name].state_dict())
        assert second[name].facts() == whole[name].facts()


@pytest.mark.parametrize("schedule", ["lockstep", "alternating"])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_goes_on_bit_for_bit(tmp_path, loss, schedule):
    # turns of 3 and 2 iterations: iteration 4 is in the middle of net2's turn
    check_roles(settings_for(loss=loss, schedule=schedule, net1_steps=3, net2_steps=2), 4, tmp_path)


@pytest.mark.parametrize(("stop", "changes"), [
    (5, {"net": "caffenet"}),                                           # dropout
    (5, {"dual": "sample", "tie": False, "rho": 1e-3}),                 # epochs of 4 iterations
    (4, {"rho_growth": 3.0, "rho": 1e-4}), (6, {"rho_growth": 3.0, "rho": 1e-4}),
    (1, {"rho_growth": 3.0}), (3, {"solver": "caffe", "lr_schedule": "step", "lr_step": 2}),
    (5, {"message_dtype": "float16", "tie": False}), (9, {}),
    (5, {"schedule": "pipelined", "micro_batches": 3, "rho_growth": 3.0}),
    (4, {"schedule": "async", "checkpoint_every": 4}),
], ids=str)
def test_each_kind_of_history_is_in_the_checkpoint(tmp_path, stop, changes):
    check_roles(settings_for(loss="admm", **changes), stop, tmp_path)


def test_a_batch_that_is_under_way_keeps_net1_from_being_saved():
    # net1 runs one batch ahead, but not across the checkpoint after iteration 4
    settings = settings_for(loss="admm", schedule="async", checkpoint_every=4)
    roles = build(settings, RandomBatches(shape=SHAPE))
    whole = together(roles, lambda role: [role.is_whole for _ in role.steps()])
    assert whole["net1"] == [False, False, False, True, False, False, False, True, True]
    assert all(whole["net2"])


def test_a_growing_penalty_does_grow_here():
    settings = settings_for(loss="admm", rho=1e-4, rho_growth=3.0)
    roles = build(settings, RandomBatches(shape=SHAPE))
    records = together(roles, lambda role: list(role.steps()))["net2"]
    assert len({record["dual/rho"] for record in records if "dual/rho" in record}) > 1


@pytest.mark.parametrize("changes", [
    {}, {"net": "caffenet"}, {"solver": "caffe", "lr_schedule": "step", "lr_step": 2}], ids=str)
def test_the_single_net_goes_on_bit_for_bit(tmp_path, changes):
    settings = TrainConfig(iterations=7, batch_size=8, log_every=2, **changes)

    def fresh():
        return Single(settings, nets.build(settings.net, SHAPE, 10), RandomBatches(shape=SHAPE),
                      CPU)

    whole, first, second = fresh(), fresh(), fresh()
    expected = [*whole.steps(), whole.evaluate()]
    before = list(itertools.islice(first.steps(), 3))
    assert differing(first.state_dict()["net"], second.state_dict()["net"])     # it did train
    second.load_state_dict(through_the_disk(tmp_path, 3, first.state_dict()))
    assert [*before, *second.steps(3), second.evaluate()] == expected
    assert not differing(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("changes", [
    {"loss": "admm", "rho_growth": 3.0, "rho": 1e-4}, {"loss": "misaligned"},
    {"loss": "admm", "dual": "sample", "tie": False, "rho": 1e-3}], ids=str)
def test_an_iteration_that_a_peer_left_changes_nothing(changes):
    # Iteration 4 starts an epoch, so rho would grow in it.  net1 misses the answer, and net2
    # cannot send it.
    roles = build(settings_for(**changes), RandomBatches(shape=SHAPE))
    steps = {name: role.steps() for name, role in roles.items()}
    together(roles, lambda role: list(itertools.islice(steps[role.name], 4)))
    before = {name: {key: value.clone() if torch.is_tensor(value) else value
                     for key, value in flat(role.state_dict()).items()}
              for name, role in roles.items()}
    roles["net1"].channel._timeout_s = 2
    messages = roles["net2"].messages
    messages.channel = Mute(messages.channel, roles["net2"].answering.wire.answer)

    def fail(role):
        with pytest.raises(WaitTimeout):
            next(steps[role.name])

    together(roles, fail)
    for name, role in roles.items():
        assert not differing(before[name], flat(role.state_dict()))


class Mute:
    """A channel on which nobody makes room for one kind of message."""

    def __init__(self, channel, name):
        self.recv, self.report, self._send, self._mute = (channel.recv, channel.report,
                                                          channel.send, name)

    def send(self, name, sequence, tensor):
        if name == self._mute:
            raise WaitTimeout("no room")
        self._send(name, sequence, tensor)


@pytest.mark.fault(70, "the batches of a fresh process, asked for from the middle of an epoch")
def test_the_batches_after_a_restart_are_those_of_the_undisturbed_run():
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (55, 3, 8, 8), dtype=np.uint8)
    dataset = Dataset("some", tuple("0123456789"), images[:50], np.arange(50) % 10, images[50:],
                      np.arange(5))

    def fresh():
        return Batches(dataset, 8, 3, Preprocessing(mirror=True, crop=2))

    undisturbed, resumed = fresh(), fresh()
    ids = [undisturbed.sample_ids(step) for step in range(20)]      # epochs of 6 iterations
    images = [undisturbed.images(step) for step in range(20)]
    for step in (9, 10, 11, 12, 13, 19):
        assert np.array_equal(resumed.sample_ids(step), ids[step])
        assert np.array_equal(resumed.images(step), images[step])
    assert not np.array_equal(ids[9], ids[3])       # the next epoch has another order
