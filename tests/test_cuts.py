"""What each cut costs, against numbers by hand."""

import pytest
from torch import nn

from dualnet import nets
from dualnet.cut import cut
from dualnet.cuts import best, list_cuts
from dualnet.errors import UserError

# LeNet, 28x28x1.  Multiply-adds of one image, outputs x (inputs of each):
CONV1 = 20 * 24 * 24 * (1 * 25)     # 288,000
CONV2 = 50 * 8 * 8 * (20 * 25)      # 1,600,000
FC3 = 500 * 800                     # 400,000
FC4 = 10 * 500                      # 5,000
TOTAL = CONV1 + CONV2 + FC3 + FC4
# Weights and biases.
W1, W2, W3, W4 = 20 * 26, 50 * 501, 500 * 801, 10 * 501


def lenet_cuts(**options):
    cuts = list_cuts(nets.build("lenet", (1, 28, 28), 10), (1, 28, 28), batch_size=100, **options)
    return {each.boundary: each for each in cuts}


def test_the_cuts_of_lenet_by_hand():
    cuts = lenet_cuts()
    assert list(cuts) == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc3", "relu3"]
    pool1 = cuts["pool1"]
    assert pool1.compared == "conv2"
    assert pool1.z_bytes == 100 * 20 * 12 * 12 * 4
    assert pool1.y_bytes == 100 * 50 * 8 * 8 * 4
    assert pool1.multiply_adds == (CONV1 + CONV2, CONV2 + FC3 + FC4)
    assert pool1.weights == (W1 + W2, W2 + W3 + W4)
    assert pool1.bound == TOTAL / (CONV2 + FC3 + FC4)
    pool2 = cuts["pool2"]
    assert pool2.multiply_adds == (CONV1 + CONV2 + FC3, FC3 + FC4)
    assert (pool2.z_bytes, pool2.y_bytes) == (100 * 800 * 4, 100 * 500 * 4)
    assert pool2.bound == pytest.approx(TOTAL / (CONV1 + CONV2 + FC3))
    assert cuts["relu3"].multiply_adds == (TOTAL, FC4) and cuts["relu3"].bound == 1


def test_the_number_format_sets_the_size_of_the_messages():
    assert lenet_cuts(message_dtype="float16")["pool2"].z_bytes == 100 * 800 * 2
    assert lenet_cuts(message_dtype="int8")["pool2"].z_bytes == 100 * (800 + 4)


def test_caffenet_small_is_best_cut_at_pool2_or_before():
    """Multiply-adds by hand: 32x32, 16x16, 8x8, 8x8 maps; fc5 and fc6."""
    convs = [32 * 32 * 32 * 75, 32 * 16 * 16 * 800, 64 * 8 * 8 * 288, 64 * 8 * 8 * 576]
    fcs = [64 * 1024, 640]
    cuts = list_cuts(nets.build("caffenet-small", (3, 32, 32), 10), (3, 32, 32), batch_size=100)
    for each in cuts:
        if each.boundary == "pool2":
            assert each.multiply_adds == (sum(convs[:3]), sum(convs[2:]) + sum(fcs))
        if each.boundary == "pool1":
            assert each.multiply_adds == (sum(convs[:2]), sum(convs[1:]) + sum(fcs))
    bounds = {each.boundary: each.bound for each in cuts}
    # cut at pool1: the slower side has conv2..fc6; at pool2 conv1..conv3
    total = sum(convs) + sum(fcs)
    assert bounds["pool1"] == total / (sum(convs[1:]) + sum(fcs))
    assert bounds["pool2"] == total / sum(convs[:3])
    assert bounds["pool1"] > bounds["pool2"]
    assert best(cuts).boundary == "pool1"   # relu1 and conv1 have its bound and larger messages


def test_every_boundary_of_every_net_that_can_be_cut_is_listed_and_no_other():
    for name in nets.NETS:
        net = nets.build(name, (3, 32, 32), 10)
        listed = [each.boundary for each in list_cuts(net, (3, 32, 32), batch_size=2)]
        possible = []
        for boundary, _ in net.named_children():
            try:
                cut(net, [boundary])
                possible.append(boundary)
            except UserError:
                continue
        assert listed == possible


def test_a_net_without_a_place_to_cut_is_refused():
    net = nn.Sequential()
    net.add_module("fc", nn.Linear(3, 2))
    with pytest.raises(UserError, match="no layer of this net can be cut behind"):
        best(list_cuts(net, (3,), batch_size=1))
