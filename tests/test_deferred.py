"""Deferred weight gradients are the ones that autograd forms at once, only later."""

import pytest
import torch
from torch import nn

from dualnet import nets
from dualnet.deferred import DeferredGradients
from dualnet.nets.dropout import set_iteration

NETS = {
    "mlp": lambda: nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5, bias=False)),
    "strides": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, dilation=2, groups=2, bias=False), nn.Flatten(), nn.LazyLinear(5)),
    "norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
                                  nn.LazyLinear(5)),
    "lenet": lambda: nets.build("lenet", (1, 28, 28), 5),
}
SHAPES = {"mlp": (8, 12), "strides": (8, 3, 12, 12), "norm": (8, 3, 12, 12),
          "lenet": (8, 1, 28, 28)}


def case(name):
    torch.manual_seed(0)
    net, images = NETS[name]().double(), torch.randn(SHAPES[name], dtype=torch.float64)
    net(images)                     # gives lazy layers their shape
    net.zero_grad()
    set_iteration(net, 0, 0)
    return net, images


def gradients(net):
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("name", NETS)
def test_one_batch_gives_autograds_gradients_and_the_inputs_at_once(name):
    net, images = case(name)
    images.requires_grad_()
    net(images).square().sum().backward()
    expected, of_images = gradients(net), images.grad.clone()
    net.zero_grad()
    images.grad = None
    later = DeferredGradients(net.parameters())
    with later:
        net(images).square().sum().backward()
    torch.testing.assert_close(images.grad, of_images, rtol=1e-12, atol=1e-12)
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert all(layer.weight.grad is None for layer in layers)
    later.form()
    torch.testing.assert_close(gradients(net), expected, rtol=1e-12, atol=1e-12)


def test_micro_batches_add_up_to_the_batch_and_each_form_starts_afresh():
    net, images = case("strides")
    net(images).square().sum().backward()
    expected = gradients(net)
    later = DeferredGradients(net.parameters())
    for _ in range(2):
        net.zero_grad()
        with later:
            for micro in images.split([3, 3, 2]):
                net(micro).square().sum().backward()
        later.form()
        torch.testing.assert_close(gradients(net), expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_added_to_those_that_are_there_and_frozen_weights_get_none():
    net, images = case("mlp")
    net(images).square().sum().backward()
    once = gradients(net)
    net[0].bias.requires_grad_(False)
    later = DeferredGradients(net.parameters())
    with later:
        net(images).square().sum().backward()
    later.form()
    torch.testing.assert_close(net[0].weight.grad, 2 * once["0.weight"])
    torch.testing.assert_close(net[0].bias.grad, once["0.bias"])


def test_layers_of_other_nets_are_left_alone():
    net, images = case("mlp")
    other = nn.Linear(5, 2).double()
    with DeferredGradients(net.parameters()):
        other(net(images)).sum().backward()
    assert other.weight.grad is not None
    assert net[0].weight.grad is None
