"""Cutting a net and joining it again."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from dualnet import nets
from dualnet.cut import compared_layer, cut, join
from dualnet.errors import UserError
from dualnet.nets.initial import draw_weights


def small_net() -> nn.Sequential:
    net = nets.build("caffenet-small", (3, 32, 32), 10)
    draw_weights(net, seed=3)
    return net.eval()


def names(group: nn.Sequential) -> list[str]:
    return [name for name, _ in group.named_children()]


def test_a_cut_at_pool2_gives_the_parts_of_the_thesis():
    front, back = cut(small_net(), ["pool2"])
    assert names(front.head) == []
    assert names(front.body) == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]
    assert names(front.tail) == names(back.head) == ["conv3", "relu3"]
    assert names(back.body) == ["conv4", "relu4", "pool4", "fc5", "relu5", "fc6"]
    assert names(back.tail) == []
    assert compared_layer(front) == "conv3"


def test_the_activation_can_stay_behind():
    front, back = cut(small_net(), ["pool2"], before_activation=True)
    assert names(front.tail) == names(back.head) == ["conv3"]
    assert names(back.body)[0] == "relu3"


BOUNDARIES = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3", "conv4",
              "relu4", "pool4", "fc5", "relu5"]


@pytest.mark.parametrize("before_activation", [False, True])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_cut_and_joined_net_is_the_uncut_net(boundary, before_activation):
    net = small_net()
    images = torch.randn(4, 3, 32, 32)
    expected = net(images)
    parts = cut(net, [boundary], before_activation=before_activation)
    for joined in (join(parts), join(parts, merged=True)):
        assert names(joined) == names(net)
        assert torch.equal(joined(images), expected)
    chained = images
    for part in parts:
        chained = part(chained)
    assert torch.equal(chained, expected)


def test_a_chain_of_four_parts_joins_again():
    net = small_net()
    images = torch.randn(2, 3, 32, 32)
    parts = cut(net, ["pool1", "pool2", "pool4"])
    assert len(parts) == 4
    assert names(parts[1].head) == ["conv2", "relu2"] and names(parts[1].body) == ["pool2"]
    assert torch.equal(join(parts)(images), net(images))
    assert torch.equal(join(parts, merged=True)(images), net(images))


def test_the_two_copies_of_the_shared_layer_are_independent():
    net = small_net()
    images = torch.randn(2, 3, 32, 32)
    expected = net(images)
    parts = cut(net, ["pool2"])
    nn.init.zeros_(parts[0].tail.conv3.weight)
    assert torch.equal(join(parts)(images), expected)
    assert not torch.equal(join(parts, merged=True)(images), expected)


def test_normalisation_between_layer_and_activation_belongs_to_the_head():
    net = nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(3, 4, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(4, 4, 3),
        norm2=nn.BatchNorm2d(4), relu2=nn.ReLU(), conv3=nn.Conv2d(4, 4, 3)))
    assert names(cut(net, ["relu1"])[1].head) == ["conv2", "norm2", "relu2"]
    assert names(cut(net, ["relu1"], before_activation=True)[1].head) == ["conv2", "norm2"]


@pytest.mark.parametrize(("boundaries", "sentence"), [
    (["pool3"], "no layer 'pool3' to cut behind; did you mean pool"),
    (["fc6"], "the cut behind 'fc6' has no layer with weights behind it"),
    (["pool2", "pool1"], "cuts must be in the order of the layers, each once, found pool2, pool1 "
                         ".layers: conv1, relu1"),
    (["pool2", "pool2"], "cuts must be in the order of the layers"),
    (["conv3", "relu3"], "the cut behind 'conv3' has no layer with weights between it and the "
                          "next, behind 'relu3'"),
])
def test_a_cut_that_cannot_be_made_is_refused(boundaries, sentence):
    with pytest.raises(UserError, match=sentence):
        cut(small_net(), boundaries)


def test_weights_depend_on_seed_and_layer_name_alone():
    whole = small_net()
    again = nets.build("caffenet-small", (3, 32, 32), 10)
    draw_weights(again[6:], seed=3)     # conv3.. drawn without conv1 and conv2 before them
    assert torch.equal(again.conv3.weight, whole.conv3.weight)
    assert torch.equal(again.fc6.weight, whole.fc6.weight)
    draw_weights(again, seed=3, suffix="/net1")
    assert not torch.equal(again.conv3.weight, whole.conv3.weight)
