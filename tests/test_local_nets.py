"""Locally connected layers, normalisation in groups, and the nets that have them."""

import pytest
import torch
from torch import nn

from dualnet import nets
from dualnet.caffe import LRN
from dualnet.nets.initial import draw_weights
from dualnet.nets.local import GroupedLRN, LocallyConnected


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def by_position(layer, x):
    """The layer as a loop over positions, each a linear map of its own window."""
    padded = nn.functional.pad(x, [layer.pad] * 4)
    k, (height, width) = layer.kernel_size, layer.out_side
    rows = []
    for i in range(height):
        for j in range(width):
            window = padded[:, :, i:i + k, j:j + k].reshape(len(x), -1)
            weight = layer.weight[..., i * width + j].reshape(layer.weight.shape[0], -1)
            rows.append(window @ weight.t() + layer.bias[:, i * width + j])
    return torch.stack(rows, dim=2).reshape(len(x), -1, height, width)


@pytest.mark.parametrize("pad", [0, 1])
def test_a_locally_connected_layer_is_a_linear_map_per_position_in_value_and_gradient(pad):
    torch.manual_seed(0)
    layer = LocallyConnected(3, 4, 3, (5, 6), pad=pad).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    leaves = [x, layer.weight, layer.bias]
    y, expected = layer(x), by_position(layer, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    upstream = torch.randn_like(y)
    for found, wanted in zip(torch.autograd.grad(y, leaves, upstream),
                             torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_locally_connected_layer_with_equal_weights_is_a_convolution():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    layer = LocallyConnected(2, 3, 3, (4, 4), pad=1)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.reshape(3, 2, 9, 1).expand(-1, -1, -1, 16))
        layer.bias.copy_(conv.bias[:, None].expand(-1, 16))
    x = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(layer(x), conv(x))


def test_xavier_of_a_locally_connected_layer_goes_by_the_fan_in_of_one_position():
    # fan-in 8 * 9 = 72, uniform in +-sqrt(3 / 72) = +-0.2041
    layer = LocallyConnected(8, 16, 3, (10, 10), pad=1)
    assert layer.weight.abs().max().item() == pytest.approx((3 / 72) ** 0.5, rel=1e-3)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="window of 5 does not fit"):
        LocallyConnected(1, 1, 5, (3, 3))
    with pytest.raises(ValueError, match=r"images of \(4, 4\), found \(5, 5\)"):
        LocallyConnected(1, 1, 3, (4, 4))(torch.zeros(1, 1, 5, 5))


def test_each_group_of_maps_is_normalised_as_if_alone():
    lrn = LRN(9, alpha=0.5)
    x = torch.randn(2, 7, 3, 3)
    expected = torch.cat([lrn(x[:, :3]), lrn(x[:, 3:])], dim=1)
    assert torch.equal(GroupedLRN(lrn, (3, 4))(x), expected)
    assert not torch.allclose(lrn(x), expected)


@pytest.mark.parametrize("name", ["cuda-convnet", "cuda-convnet-duplicated"])
def test_cuda_convnet_has_the_size_of_the_11_percent_configuration(name):
    # 24 -> 12 -> 6: conv1 64*(75+1), conv2 64*(1600+1), local3 36*64*(576+1),
    # local4 36*32*(576+1), fc5 10*(36*32+1)
    assert 64 * 76 + 64 * 1601 + 36 * 64 * 577 + 36 * 32 * 577 + 10 * 1153 == 2_112_970
    assert count(nets.build(name, (3, 24, 24), 10)) == 2_112_970


def test_cuda_convnet_normalises_behind_the_pooling_first_and_before_it_then():
    layers = [name for name, _ in nets.build("cuda-convnet", (3, 24, 24), 10).named_children()]
    assert layers == ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "norm2", "pool2",
                      "local3", "relu3", "local4", "relu4", "fc5"]


def test_the_duplicated_net_differs_in_nothing_but_the_reach_of_the_normalisation():
    whole, duplicated = (nets.build(f"cuda-convnet{suffix}", (3, 24, 24), 10)
                         for suffix in ("", "-duplicated"))
    for net in (whole, duplicated):
        draw_weights(net, 3)
    x = 1e4 * torch.randn(2, 3, 24, 24)
    assert not torch.allclose(whole(x), duplicated(x))
    for net in (whole, duplicated):
        net.norm1 = net.norm2 = nn.Identity()
    assert torch.equal(whole(x), duplicated(x))


def test_lenet_with_dropout_is_lenet_when_tested():
    plain, dropped = (nets.build(name, (1, 28, 28), 10) for name in ("lenet", "lenet-dropout"))
    for net in (plain, dropped):
        draw_weights(net, 0)
        net.eval()
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(plain(x), dropped(x)) and count(dropped) == 431_080
    assert dropped.drop3.ratio == 0.5
