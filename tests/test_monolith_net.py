"""MonolithNet as a net: counts, concatenation, and the head that averages the trunks."""

import pytest
import torch

from dualnet import nets
from dualnet.errors import UserError
from dualnet.nets.initial import draw_weights
from dualnet.nets.monolith import average_proxies, head_of, joined, proxy_of

SHAPE = (3, 32, 32)


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def on_meta(name, classes=10):
    with torch.device("meta"):
        return nets.build(name, SHAPE, classes)


def test_the_published_net_has_the_published_number_of_weights_and_takes_no_memory():
    # a trunk: convolutions 144,737,712, shortcuts 1,029,120, normalisation 35,872, proxy 12,810
    trunk = on_meta("wrn-28-20")
    assert count(trunk) == 144_737_712 + 1_029_120 + 35_872 + 12_810 == 145_815_514
    # three of them without the proxy, 3840 features to 16 neurons, those to ten classes
    whole = on_meta("3xwrn-28-20")
    assert count(whole) == 3 * 145_802_704 + (3840 * 16 + 16) + (16 * 10 + 10) == 437_469_738
    assert all(parameter.is_meta for parameter in whole.parameters())
    assert list(dict(whole.named_children())) == ["trunks", "fc1", "relu1", "fc2"]


@pytest.mark.parametrize(("name", "expected"), [
    ("wrn-28-10", 36_479_194), ("wrn-28-2", 1_467_610), ("wrn-10-1", 77_850)])
def test_wide_nets_of_any_depth_and_width_have_names(name, expected):
    # wrn-10-1 by hand: stem 432; blocks 4,608 + 64, 13,824 + 512 + 96, 55,296 + 2,048 + 192;
    # last normalisation 128; proxy 650
    assert count(on_meta(name)) == expected
    assert 432 + 4_608 + 64 + 13_824 + 512 + 96 + 55_296 + 2_048 + 192 + 128 + 650 == 77_850


@pytest.mark.parametrize("name", ["wrn-20-1", "3xwrn-9-2"])
def test_an_impossible_depth_is_refused(name):
    with pytest.raises(UserError, match=r"is 6n \+ 4, such as 16 or 28, not (20|9)"):
        on_meta(name)


@pytest.mark.parametrize("name", ["wrn-10", "0xwrn-10-1", "wrn-10-0", "xwrn-10-1"])
def test_a_name_that_is_no_wide_net_is_unknown(name):
    with pytest.raises(UserError, match=f"unknown network '{name}'"):
        on_meta(name)


def test_the_whole_net_reads_the_features_of_each_trunk_in_their_order():
    net = nets.build("2xwrn-10-1", SHAPE, 7)
    draw_weights(net, 3)
    net.eval()
    x = torch.randn(4, *SHAPE)
    features = torch.cat([net.trunks.trunk1(x), net.trunks.trunk2(x)], 1)
    assert features.shape == (4, 128)
    hidden = (features @ net.fc1.weight.T + net.fc1.bias).clamp_min(0)
    torch.testing.assert_close(net(x), hidden @ net.fc2.weight.T + net.fc2.bias)
    assert not torch.equal(*(net.trunks.get_parameter(f"trunk{n}.stem.weight") for n in (1, 2)))


@pytest.mark.parametrize("trunks", [1, 2, 3])
def test_a_linear_head_that_averages_the_proxies_gives_the_mean_of_the_logits(trunks):
    alone = [nets.build("wrn-10-1", SHAPE, 10).double() for _ in range(trunks)]
    for number, trunk in enumerate(alone):
        draw_weights(trunk, 0, f"/{number}")
        torch.nn.init.normal_(proxy_of(trunk).bias)
        trunk.train()(torch.randn(8, *SHAPE).double())      # statistics that differ
        trunk.eval()
    head = head_of(64 * trunks, 10, neurons=0).double()
    average_proxies(head, alone)
    net = joined(alone, head).eval()
    x = torch.randn(5, *SHAPE).double()
    mean = sum(trunk(x) for trunk in alone) / trunks
    torch.testing.assert_close(net(x), mean, rtol=1e-12, atol=1e-12)
    assert count(head) == (64 * trunks + 1) * 10
