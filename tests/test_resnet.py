"""train resnet: each switch, against the plain training, numbers by hand, or what it must spare."""

import itertools
from functools import partial

import pytest
import torch
from test_dual import CPU, RandomBatches
from test_resume import differing, through_the_disk
from torch import nn
from torch.amp.grad_scaler import GradScaler

from dualnet.config import TrainConfig, field_names
from dualnet.errors import UserError
from dualnet.export import _folded
from dualnet.methods.resnet.settings import OPTIMIZERS, ResnetConfig
from dualnet.methods.resnet.training import Resnet
from dualnet.methods.single import Single
from dualnet.nets.dropout import set_iteration
from dualnet.nets.preact_resnet import preact
from dualnet.nets.residual import blocks_of, survivals
from dualnet.nets.resnet import resnet
from dualnet.optimizer import OPTIMIZERS as MADE
from dualnet.precision import autocast

SHAPE = (3, 16, 16)
tiny = partial(resnet, SHAPE, 10, blocks=2)


def settings_for(**changes):
    return ResnetConfig(**{"iterations": 6, "batch_size": 8, "log_every": 1, "mirror": False,
                           "crop": 0, **changes}).resolved()


def method_of(net=None, **changes):
    return Resnet(settings_for(**changes), net or tiny(), RandomBatches(shape=SHAPE), CPU)


def losses(method, count=6):
    return [record["loss"] for record in itertools.islice(method.steps(), count)]


def largest(one, other):
    return max((a - b).abs().max().item() for a, b in
               zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True))


# -- without switches, and with switches that change nothing ---------------------------------------

@pytest.mark.parametrize("changes", [
    {}, {"stochastic_depth": "uniform", "survival": 1.0},
    {"stochastic_depth": "linear", "survival": 1.0}, {"base_batch": 8, "warmup_epochs": 1.0},
    {"norm_decay": 1.0, "weight_decay": 1e-2}], ids=str)
def test_is_the_training_of_the_single_net_bit_for_bit(changes):
    method = method_of(**changes)
    plain = TrainConfig(**{name: getattr(method.settings, name)
                           for name in field_names(TrainConfig)})
    single = Single(plain, tiny(), RandomBatches(shape=SHAPE), CPU)
    assert losses(method) == losses(single)
    assert largest(method, single) == 0
    assert method.evaluate() == single.evaluate()


# -- stochastic depth ------------------------------------------------------------------------------

def test_survivals_by_hand():
    assert survivals("linear", 0.5, 4) == [0.875, 0.75, 0.625, 0.5]     # 1 - l/4 * 0.5
    assert survivals("linear", 0.2, 2) == pytest.approx([0.6, 0.2])
    assert survivals("uniform", 0.3, 3) == [0.3] * 3
    # Huang et al. 2016, section 3: a net of L blocks keeps (3L - 1) / 4 of them with p_L = 0.5
    assert sum(survivals("linear", 0.5, 54)) == pytest.approx((3 * 54 - 1) / 4)


@pytest.mark.parametrize("rule", ["linear", "uniform"])
def test_each_block_is_kept_as_often_as_its_survival_says(rule):
    method = method_of(stochastic_depth=rule, survival=0.5)
    blocks, count = dict(blocks_of(method.net)), 1500
    kept = dict.fromkeys(blocks, 0)
    for step in range(count):
        set_iteration(method.net, 4, step)
        for name, block in blocks.items():
            kept[name] += not block.is_skipped
    expected = survivals(rule, 0.5, len(blocks))
    for (name, hits), survival in zip(kept.items(), expected, strict=True):
        deviation = (survival * (1 - survival) / count) ** 0.5
        assert hits / count == pytest.approx(survival, abs=4 * deviation), name
    # blocks are drawn apart: the depth has the variance of a sum of independent draws
    assert sum(kept.values()) / count == pytest.approx(method.facts()["expected_blocks"], abs=0.1)


def test_which_blocks_are_skipped_is_a_function_of_seed_step_and_name():
    def pattern(net, seed, step):
        set_iteration(net, seed, step)
        return tuple(block.is_skipped for _, block in blocks_of(net))

    one, two = (method_of(stochastic_depth="uniform").net for _ in range(2))
    first = [pattern(one, 0, step) for step in range(40)]
    assert [pattern(two, 0, step) for step in reversed(range(40))] == first[::-1]
    assert len(set(first)) > 15                         # of 2^6
    assert [pattern(one, 1, step) for step in range(40)] != first


def test_a_skipped_block_keeps_weights_momentum_and_statistics_and_calls_no_convolution():
    method = method_of(stochastic_depth="uniform", survival=0.4, iterations=30)
    called = set()
    for name, module in method.net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    steps, seen = method.steps(), set()
    next(steps)
    for _ in range(20):
        before = {name: (p.clone(), method.optimizer._sgd.state[p].get("momentum_buffer", p)
                         .clone()) for name, p in method.net.named_parameters()}
        statistics = {name: b.clone() for name, b in method.net.named_buffers()}
        called.clear()
        record = next(steps)
        skipped = {name for name, block in blocks_of(method.net) if block.is_skipped}
        assert record["resnet/blocks"] == 6 - len(skipped)
        assert called == {f"{name}.conv{i}" for name, _ in blocks_of(method.net)
                          if name not in skipped for i in (1, 2)} | {"stem.conv"}
        for name, p in method.net.named_parameters():
            rests = name.rpartition(".")[0].rpartition(".")[0] in skipped
            assert torch.equal(p, before[name][0]) == rests
            if rests:
                momentum = method.optimizer._sgd.state[p].get("momentum_buffer", before[name][1])
                assert torch.equal(momentum, before[name][1])
        for name, buffer in method.net.named_buffers():
            if name.partition(".")[0] in skipped:
                assert torch.equal(buffer, statistics[name])
        seen |= skipped
    assert len(seen) == 6


def test_stochastic_depth_is_resumed_bit_for_bit(tmp_path):
    changes = {"stochastic_depth": "linear", "iterations": 7, "base_batch": 4,
               "warmup_epochs": 1.0}
    whole, first, second = (method_of(**changes) for _ in range(3))
    expected = losses(whole, 7)
    begun = losses(first, 3)
    second.load_state_dict(through_the_disk(tmp_path, 3, first.state_dict()))
    assert begun + [record["loss"] for record in second.steps(3)] == expected
    assert differing(second.state_dict(), whole.state_dict()) == []


@pytest.mark.parametrize("make", [tiny, partial(preact, SHAPE, 10, blocks=2)])
def test_what_is_exported_gives_the_answers_of_the_as_tested_in_a_plain_one(make):
    method = method_of(make(), stochastic_depth="linear")
    losses(method)
    state, x = method.state_dict(), torch.randn(4, *SHAPE)
    plain = make()
    plain.load_state_dict(_folded(state["net"], state["survival"]))
    expected = method.net.eval()(x)
    assert torch.allclose(plain.eval()(x), expected, atol=1e-4 * expected.abs().max().item())
    plain.load_state_dict(state["net"])
    assert not torch.allclose(plain.eval()(x), expected, rtol=1e-2)


# -- precision -------------------------------------------------------------------------------------

def test_bfloat16_computes_in_bfloat16_and_stays_within_two_percent_of_the_losses():
    half, full = method_of(precision="bfloat16", lr=0.01), method_of(lr=0.01)
    types = []
    half.net.block1_0.conv1.register_forward_hook(lambda *call: types.append(call[2].dtype))
    found, expected = losses(half), losses(full)
    assert set(types) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in half.net.parameters())
    assert found == pytest.approx(expected, rel=0.02)
    assert found != expected


@pytest.mark.parametrize(("capability", "warns"), [("AVX2", True), ("AVX512", False)])
def test_a_cpu_that_computes_bfloat16_in_software_is_warned_of(monkeypatch, caplog, capability,
                                                              warns):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    autocast("float32", CPU)
    assert caplog.text == ""
    autocast("bfloat16", CPU)
    assert ("more slowly than float32" in caplog.text) == warns


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(UserError, match="float16 needs a GPU; on a CPU take bfloat16"):
        autocast("float16", CPU)


def test_a_scaled_loss_gives_the_same_update_and_one_that_overflows_gives_none():
    """With float32 in place of float16, whose scaling is the same."""
    plain, scaled = method_of(), method_of()
    scaled._scaler = GradScaler("cpu", init_scale=2.0 ** 10, growth_interval=3)
    expected, found = list(plain.steps()), list(scaled.steps())
    assert [record["loss"] for record in found] == [record["loss"] for record in expected]
    assert found[0]["resnet/grad_norm"] == expected[0]["resnet/grad_norm"]     # unscaled
    assert largest(scaled, plain) == 0
    assert [record["resnet/loss_scale"] for record in found] == [2.0 ** 10] * 3 + [2.0 ** 11] * 3
    over = method_of()
    over._scaler = GradScaler("cpu", init_scale=2.0 ** 10)
    over.net.fc.bias.register_hook(lambda gradient: gradient * float("inf"))
    before = [p.clone() for p in over.net.parameters()]
    next(over.steps())
    assert all(torch.equal(p, old) for p, old in zip(over.net.parameters(), before, strict=True))
    assert over.state_dict()["scaler"]["scale"] == 2.0 ** 9


# -- rate, decay, start ----------------------------------------------------------------------------

def test_the_rate_rises_to_what_the_batch_asks_for():
    """A batch of 8 for a rate meant for 2: from 0.1 to 0.4 in one epoch of four iterations."""
    method = method_of(base_batch=2, warmup_epochs=1.0, lr_schedule="constant")
    rates = [record["lr"] for record in method.steps()]
    assert rates == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4, 0.4])
    assert method.optimizer._sgd.param_groups[0]["lr"] == pytest.approx(0.4)


def test_normalisation_has_a_decay_of_its_own():
    method = method_of(weight_decay=0.1, norm_decay=0.0)
    decays = {id(p): group["weight_decay"] for group in method.optimizer._sgd.param_groups
              for p in group["params"]}
    for name, module in method.net.named_modules():
        for p in module.parameters(recurse=False):
            assert decays[id(p)] == (0 if isinstance(module, nn.BatchNorm2d) else 0.1), name


def test_a_block_can_have_a_rate_and_a_decay_of_its_own():
    method = method_of(weight_decay=0.1, layer_decay="block2_0=0.5", layer_lr="block2_0=3")
    found = {id(p): (group["multiple"], group["weight_decay"])
             for group in method.optimizer._sgd.param_groups for p in group["params"]}
    for name, p in method.net.named_parameters():
        assert found[id(p)] == ((3, 0.5) if name.startswith("block2_0.") else (1, 0.1)), name


def test_nesterov_takes_the_gradient_at_the_point_ahead():
    """v = m v + g, w = w - lr (g + m v), by hand for one weight."""
    method = method_of(optimizer="nesterov", lr_schedule="constant", weight_decay=0.0)
    p, v = method.net.fc.bias, 0.0
    update = method.update
    expected = []

    def by_hand(step):
        nonlocal v
        v = 0.9 * v + p.grad.clone()
        expected.append(p.detach() - 0.1 * (p.grad + 0.9 * v))
        update(step)
        assert torch.allclose(p, expected[-1], atol=1e-6)

    method.update = by_hand
    losses(method)
    assert len(expected) == 6


def test_zero_gamma_starts_each_block_as_its_shortcut():
    net = method_of(zero_gamma=True).net.train()
    x = torch.rand(4, 16, 8, 8)
    assert torch.equal(net.block1_0(x), x)
    assert net.block1_0.bn1.weight.min() == 1
    assert not torch.equal(method_of().net.train().block1_0(x), x)


# -- the optimiser that tunes itself, and the sparse backward pass ---------------------------------

def test_of_yellowfins_schedule_only_the_change_over_time_counts():
    """step: 0.3, 0.3, 0.3 and a tenth of it, so the tuned rate times 1 and then 0.1."""
    method = method_of(optimizer="yellowfin", lr=0.3, lr_schedule="step", lr_step=3,
                       stochastic_depth="uniform")
    for record in method.steps():
        factor = 1.0 if record["step"] < 3 else 0.1
        for group in method.optimizer._sgd.param_groups:
            assert group["lr"] == pytest.approx(factor * record["resnet/tuned_lr"])
            assert group["momentum"] == record["resnet/tuned_momentum"]


def test_yellowfin_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path):
    whole, first, second = (method_of(optimizer="yellowfin") for _ in range(3))
    expected = losses(whole)
    assert losses(first, 3) == expected[:3]
    second.load_state_dict(through_the_disk(tmp_path, 3, first.state_dict()))
    assert [record["loss"] for record in second.steps(3)] == expected[3:]
    assert not differing(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("by_sample", [False, True])
def test_meprop_gives_a_share_of_the_maps_a_gradient(by_sample):
    assert losses(method_of(meprop=64.0)) == losses(method_of())       # no layer has more outputs
    method = method_of(meprop=0.25, meprop_by_sample=by_sample)
    losses(method, 1)
    for name, module in method.net.named_modules():
        if isinstance(module, nn.Conv2d):
            moved = int((module.weight.grad.flatten(1) != 0).any(1).sum())
            assert (moved == len(module.weight) // 4) is not by_sample, name
    assert (method.net.fc.weight.grad != 0).any(1).all()


# -- where and how it is computed ------------------------------------------------------------------

@pytest.mark.parametrize("changes", [
    {"channels_last": True}, pytest.param({"compile": True}, marks=pytest.mark.exhaustive),
    pytest.param({"compile": True, "stochastic_depth": "uniform"}, marks=pytest.mark.slow)],
    ids=str)
def test_layout_and_compilation_change_rounding_only(changes):
    net = partial(resnet, SHAPE, 10, blocks=1)
    plain = {key: value for key, value in changes.items() if key == "stochastic_depth"}
    found = losses(method_of(net(), lr=0.01, **changes), 4)
    assert found == pytest.approx(losses(method_of(net(), lr=0.01, **plain), 4), rel=1e-4)


# -- settings --------------------------------------------------------------------------------------

def test_preact_names_the_network():
    assert settings_for(net="resnet56", preact=True).net == "preact-resnet56"
    assert settings_for(net="wrn-28-2", preact=True).net == "wrn-28-2"
    again = settings_for(net="preact-resnet20", preact=True)
    assert again.resolved() == again


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"preact": True, "net": "lenet"}, "unknown pre-activated network 'preact-lenet'"),
    ({"preact": True, "net": "tiny", "net_source": "a.py:tiny"}, "not for a.py:tiny"),
    ({"survival": 0.0}, "--survival is above 0 and at most 1, found 0"),
    ({"warmup_epochs": 5.0}, "give both or neither"),
    ({"optimizer": "nesterov", "momentum": 0.0}, "a --momentum above 0"),
    ({"optimizer": "nesterov", "solver": "caffe"}, "needs --solver torch"),
    ({"optimizer": "yellowfin", "solver": "caffe"}, "is no form of SGD"),
    ({"meprop": 4.0, "compile": True}, "neither --compile nor autocast knows"),
    ({"meprop": 4.0, "precision": "bfloat16"}, "leave out .* --precision bfloat16"),
    ({"prototxt": "net.prototxt"}, "Caffe's files are for"),
])
def test_switches_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        settings_for(**changes)


def test_switches_of_blocks_are_refused_for_a_net_without_them():
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    with pytest.raises(UserError, match="has no residual blocks"):
        method_of(net, stochastic_depth="linear")
    with pytest.raises(UserError, match="--zero-gamma: the branch of 'block1_0' ends with no"):
        method_of(preact(SHAPE, 10, blocks=1), zero_gamma=True)


@pytest.mark.parametrize("name", ResnetConfig.recipes)
def test_recipes_are_settings(name):
    settings = ResnetConfig(**ResnetConfig.recipes[name]).resolved()
    epochs = settings.iterations // (50_000 // settings.batch_size)
    assert epochs == 200 and settings.lr_step * 5 == settings.iterations * 2    # drops at 80, 160
    assert settings.scaled_lr == pytest.approx(0.1 * settings.batch_size / 128)


def test_every_optimiser_that_can_be_asked_for_exists():
    assert tuple(MADE) == OPTIMIZERS
