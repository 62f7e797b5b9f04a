"""Every registered net."""

import pytest
import torch

from dualnet import nets
from dualnet.cut import compared_layer, cut
from dualnet.errors import UserError
from dualnet.nets.dropout import Dropout, set_iteration
from dualnet.nets.initial import draw_weights


def num_weights(name):
    return sum(p.numel() for p in nets.build(name, (3, 32, 32), 10).parameters())


def test_caffenet_small_has_the_size_of_the_caffe_runs():
    # conv 2,432 + 25,632 + 18,496 + 36,928, fc 65,600 + 650
    assert num_weights("caffenet-small") == 149_738


def test_caffenet_has_the_size_of_the_thesis():
    # conv1 96*(75+1), conv2 256*(2400+1), conv3 384*(2304+1), conv4 256*(3456+1),
    # fc5 4096*(256*4*4+1), fc6 10*(4096+1)
    expected = 96 * 76 + 256 * 2401 + 384 * 2305 + 256 * 3457 + 4096 * 4097 + 10 * 4097
    assert num_weights("caffenet") == expected


def test_lenet_has_the_size_of_caffes_example():
    # conv1 20*(25+1), conv2 50*(500+1), fc3 500*(50*4*4+1), fc4 10*(500+1)
    assert 20 * 26 + 50 * 501 + 500 * 801 + 10 * 501 == 431_080
    net = nets.build("lenet", (1, 28, 28), 10)
    assert sum(p.numel() for p in net.parameters()) == 431_080


def test_lenet_halves_a_digit_twice_without_padding():
    # 28 -5+1-> 24 /2-> 12 -5+1-> 8 /2-> 4
    x, sides = torch.zeros(1, 1, 28, 28), {}
    for name, layer in nets.build("lenet", (1, 28, 28), 10).named_children():
        x = layer(x)
        sides[name] = x.shape[-1]
    assert list(sides) == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc3", "relu3",
                           "fc4"]
    assert [sides[name] for name in ("conv1", "pool1", "conv2", "pool2")] == [24, 12, 8, 4]
    assert (sides["fc3"], sides["fc4"]) == (500, 10)


@pytest.mark.parametrize(("boundary", "shared"), [("pool1", "conv2"), ("pool2", "fc3")])
def test_lenet_can_be_cut_at_either_pooling(boundary, shared):
    net = nets.build("lenet", (1, 28, 28), 10)
    draw_weights(net, 0)
    x = torch.randn(2, 1, 28, 28)
    expected = net(x)
    front, back = cut(net, [boundary])
    assert compared_layer(front) == shared
    assert torch.equal(back(front(x)), expected)


@pytest.mark.parametrize("name", nets.NETS)
@pytest.mark.parametrize(("shape", "classes"), [((3, 32, 32), 10), ((1, 28, 28), 7)])
def test_every_net_takes_other_images_and_classes(name, shape, classes):
    net = nets.build(name, shape, classes)
    draw_weights(net, 0)
    assert net(torch.randn(2, *shape)).shape == (2, classes)


def test_an_unknown_net_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown network 'cafenet-small'; did you mean "
                                        "caffenet-small"):
        nets.build("cafenet-small", (3, 32, 32), 10)


def test_dropout_depends_on_seed_step_and_name_and_on_nothing_else():
    x = torch.ones(8, 1000)
    layer, other = Dropout("drop5", 0.5), Dropout("drop6", 0.5)
    for module in (layer, other):
        set_iteration(module, seed=1, step=7)
    first = layer(x)
    torch.manual_seed(99)
    assert torch.equal(layer(x), first)                  # not history
    assert not torch.equal(other(x), first)              # the name
    set_iteration(layer, seed=1, step=8)
    assert not torch.equal(layer(x), first)              # the step
    assert sorted(first.unique().tolist()) == [0.0, 2.0]  # kept units are doubled
    assert first.mean().item() == pytest.approx(1.0, abs=0.05)
    layer.eval()
    assert torch.equal(layer(x), x)
