"""The optimiser as the settings ask for it: decay per layer, momentum by name."""

import pytest
import torch
from torch import nn

from dualnet import nets
from dualnet.config import TrainConfig
from dualnet.cut import cut
from dualnet.errors import UserError
from dualnet.optimizer import Optimizer


def net_of_ones():
    net = nn.Sequential()
    for name in ("one", "two"):
        net.add_module(name, nn.Linear(1, 1).double())
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    return net


def updated(net, **settings):
    """The parameters after one step of rate 0.1 whose gradients are all 2."""
    optimizer = Optimizer(net, TrainConfig(**settings), 0.1)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step(0)
    return {name: parameter.item() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("solver", ["torch", "caffe"])
def test_layers_have_a_decay_of_their_own_and_biases_a_share_of_it(solver):
    # w - 0.1 (2 + decay w);  biases at twice the rate with half the decay
    found = updated(net_of_ones(), solver=solver, weight_decay=1.0, layer_decay="two=3",
                    bias_lr=2.0, bias_decay=0.5)
    assert found == pytest.approx({
        "one.weight": 1 - 0.1 * 3, "one.bias": 1 - 0.2 * 2.5,
        "two.weight": 1 - 0.1 * 5, "two.bias": 1 - 0.2 * 3.5}, abs=1e-15)


@pytest.mark.parametrize("solver", ["torch", "caffe"])
def test_layers_have_a_rate_of_their_own_and_biases_a_multiple_of_it(solver):
    # w - 0.1 rate (2 + w);  biases at three times the rate of their layer
    found = updated(net_of_ones(), solver=solver, weight_decay=1.0, layer_lr="two=0.5",
                    bias_lr=3.0)
    assert found == pytest.approx({
        "one.weight": 1 - 0.1 * 3, "one.bias": 1 - 0.3 * 3,
        "two.weight": 1 - 0.05 * 3, "two.bias": 1 - 0.15 * 3}, abs=1e-15)
    assert updated(net_of_ones(), solver=solver, layer_lr="two=0")["two.weight"] == 1


def test_layers_of_a_part_of_a_net_are_found_by_their_own_name():
    net = nets.build("lenet", (1, 28, 28), 10)
    front, _ = cut(net, ["pool1"])
    optimizer = Optimizer(front, TrainConfig(layer_decay="conv2=0.5,fc4=1"), 0.1)
    decays = {id(parameter): group["weight_decay"] for group in optimizer._sgd.param_groups
              for parameter in group["params"]}
    assert decays[id(front.tail.conv2.weight)] == 0.5
    assert decays[id(front.body.conv1.weight)] == 0.0


@pytest.mark.parametrize(("text", "message"), [
    ("tow=1", "unknown layer in --layer-decay 'tow'; did you mean two"),
    ("two", "LAYER=NUMBER,... with numbers of at least 0, found 'two'"),
    ("two=x", "found 'two=x'"), ("two=-1", "found 'two=-1'"), ("=1", "found '=1'"),
    ("two=nan", "found 'two=nan'"),
])
def test_a_decay_or_rate_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        updated(net_of_ones(), layer_decay=text)
    with pytest.raises(UserError, match=message.replace("--layer-decay", "--layer-lr")):
        updated(net_of_ones(), layer_lr=text)


@pytest.mark.parametrize("solver", ["torch", "caffe"])
def test_momentum_moves_from_one_optimizer_to_another(solver):
    settings = TrainConfig(solver=solver, momentum=0.5, lr_schedule="constant")
    whole, first, second = (net_of_ones() for _ in range(3))

    def step(optimizer, net):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, 2.0)
        optimizer.step(0)

    expected = Optimizer(whole, settings, 0.1)
    before = Optimizer(first, settings, 0.1)
    assert before.momentum(first) == {}
    for optimizer, net in ((expected, whole), (expected, whole), (before, first)):
        step(optimizer, net)
    second.load_state_dict(first.state_dict())
    after = Optimizer(second, settings, 0.1)
    after.set_momentum(second, before.momentum(first))
    step(after, second)
    # 1 - 0.2 - (0.5 * 0.2 + 0.2)
    assert [parameter.item() for parameter in second.parameters()] == pytest.approx([0.5] * 4)
    assert all(torch.equal(one, other) for one, other in
               zip(whole.parameters(), second.parameters(), strict=True))


def test_the_recipe_has_the_rates_and_decays_of_the_configuration():
    settings = TrainConfig(**TrainConfig.recipes["cuda-convnet"])
    net = nets.build(settings.net, (3, settings.input_side, settings.input_side), 10)
    optimizer = Optimizer(net, settings, settings.lr)
    found = {id(parameter): (settings.lr * group["multiple"], group["weight_decay"])
             for group in optimizer._sgd.param_groups for parameter in group["params"]}
    # layer-params-cifar10-11pct.cfg: epsW 0.001, epsB 0.002, wc as here, no decay of biases
    expected = {"conv1": 0, "conv2": 0, "local3": 0.004, "local4": 0.004, "fc5": 0.01}
    for layer, decay in expected.items():
        module = net.get_submodule(layer)
        assert found[id(module.weight)] == (0.001, decay)
        assert found[id(module.bias)] == (0.002, 0)
