"""Nets cut into sub-models and merged again (Miranda and Von Zuben 2016)."""

import itertools

import pytest
import torch
from torch import nn

from dualnet import nets
from dualnet.caffe import LRN, Convolution, InnerProduct, max_pool
from dualnet.errors import UserError
from dualnet.methods.partition.split import merge, merged_tensors, split
from dualnet.nets.dropout import Dropout, set_iteration
from dualnet.nets.local import GroupedLRN, LocallyConnected
from dualnet.widths import read


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def drawn(net, seed=0):
    """Every parameter and statistic at random, so that no bias is 0 by chance."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return net


def everything(width=30):
    """Each kind of layer that can be cut, 1x8x8 images, 4 classes."""
    layers = [
        ("conv1", Convolution(1, width, 3)), ("bn1", nn.BatchNorm2d(width)), ("relu1", nn.ReLU()),
        ("pool1", max_pool(3, 2)), ("norm1", LRN(3, alpha=0.5)),
        ("conv2", nn.Conv2d(width, 2 * width, 3, bias=False)), ("drop2", Dropout("drop2", 0.3)),
        ("local3", LocallyConnected(2 * width, width, 2, (2, 2), pad=1)), ("tanh3", nn.Tanh()),
        ("flat", nn.Flatten()), ("fc4", nn.Linear(width * 9, width)),
        ("bn4", nn.BatchNorm1d(width)),
        ("relu4", nn.ReLU()), ("fc5", InnerProduct(width, width, transpose=True)),
        ("fc6", InnerProduct(width, 4))]
    net = nn.Sequential()
    for name, layer in layers:
        net.add_module(name, layer)
    return net.double()


def fresh_subs(num_subs, net=None, **sizes):
    """Sub-models with weights of their own."""
    return [drawn(sub, seed).eval() for seed, sub in
            enumerate(split(net or everything(), num_subs, **sizes))]


# Miranda and Von Zuben 2016, table 1; and 11pct at 24x24.
@pytest.mark.parametrize(("name", "shape", "num_subs", "expected"), [
    ("lenet", (1, 28, 28), 1, 431_080), ("lenet", (1, 28, 28), 2, 109_295),
    ("lenet", (1, 28, 28), 5, 18_224), ("lenet", (1, 28, 28), 10, 4_867),
    ("lenet-dropout", (1, 28, 28), 2, 109_295),
    ("cuda-convnet", (3, 24, 24), 2, 533_226), ("cuda-convnet-duplicated", (3, 24, 24), 2, 533_226),
])
def test_sub_models_have_the_published_numbers_of_parameters(name, shape, num_subs, expected):
    subs = split(nets.build(name, shape, 10), num_subs)
    assert [count(sub) for sub in subs] == [expected] * num_subs
    assert count(merge(subs)) == count(nets.build(name, shape, 10))


@pytest.mark.parametrize("output", ["mean", "scaled"])
@pytest.mark.parametrize("num_subs", [1, 2, 3, 5])
def test_the_logits_of_the_merged_net_are_the_mean_of_those_of_the_sub_models(num_subs, output):
    subs = fresh_subs(num_subs)
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    logits = torch.stack([sub(x) for sub in subs])
    merged = merge(subs, output).eval()
    torch.testing.assert_close(merged(x), logits.mean(0), rtol=0, atol=1e-12)
    assert num_subs == 1 or (logits[0] - logits[1]).abs().max() > 1e-3


def test_sub_models_of_given_sizes_merge_to_their_mean_too():
    sizes = {"conv1": (7, 23), "local3": (10, 20), "fc5": (29, 1)}
    subs = fresh_subs(2, sizes=sizes)
    assert [tuple(read(sub).hidden.values()) for sub in subs] == [
        (7, 30, 10, 15, 29), (23, 30, 20, 15, 1)]
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    merged = merge(subs).eval()
    torch.testing.assert_close(merged(x), torch.stack([sub(x) for sub in subs]).mean(0),
                               rtol=0, atol=1e-12)
    assert tuple(read(merged).hidden.values()) == (30, 60, 30, 30, 30)
    assert merged.norm1.sizes == (7, 23)


@pytest.mark.parametrize("num_subs", [1, 2, 3, 5])
def test_merging_the_cut_of_a_block_diagonal_net_changes_nothing(num_subs):
    block_diagonal = merge(fresh_subs(num_subs))
    again = merge(split(block_diagonal, num_subs))
    for (name, one), other in zip(block_diagonal.state_dict().items(),
                                  again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-15, atol=0, msg=name)


def test_only_weights_between_sub_models_become_zero():
    net = drawn(nets.build("lenet", (1, 28, 28), 10).double())
    merged = merge(split(net, 2)).state_dict()
    for name, tensor in net.state_dict().items():
        zero = torch.zeros_like(tensor, dtype=torch.bool)
        if name in ("conv2.weight", "fc3.weight"):      # 16 features per map: 400 + 400
            out, into = tensor.shape[0] // 2, tensor.shape[1] // 2
            zero[:out, into:] = zero[out:, :into] = True
        torch.testing.assert_close(merged[name], tensor.masked_fill(zero, 0), rtol=1e-14, atol=0)


def test_the_merge_of_two_linear_sub_models_by_hand():
    # sub 1: h = 2x + 1, y = 3h + 4;  sub 2: h = 5x + 6, y = 7h + 8
    subs = []
    for a, b, c, d in ((2, 1, 3, 4), (5, 6, 7, 8)):
        sub = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        for tensor, value in zip(sub.parameters(), (a, b, c, d), strict=True):
            nn.init.constant_(tensor, value)
        subs.append(sub)
    states = [sub.state_dict() for sub in subs]
    mean, scaled = (merged_tensors(subs, states, output) for output in ("mean", "scaled"))
    assert [tensor.tolist() for tensor in mean.values()] == [
        [[2], [5]], [1, 6], [[1.5, 3.5]], [6]]
    assert [tensor.tolist() for tensor in scaled.values()] == [
        [[2], [5]], [1, 6], [[3, 7]], [12]]
    assert merge(subs, "scaled")(torch.ones(1, 1)).item() == (3 * 3 + 4 + 7 * 11 + 8) / 2


def test_the_gradient_behind_a_merge_reaches_the_zero_weights():
    subs = fresh_subs(2, nets.build("lenet", (1, 28, 28), 10).double())
    merged = merge(subs)
    merged(torch.randn(2, 1, 28, 28, dtype=torch.float64)).square().sum().backward()
    assert (merged.conv2.weight[:25, 10:] == 0).all()
    assert (merged.conv2.weight.grad[:25, 10:] != 0).any()


def test_masks_of_sub_models_differ_and_the_merged_net_has_those_of_the_whole():
    net = nets.build("lenet-dropout", (1, 28, 28), 10)
    subs = split(net, 2)
    assert [sub.drop3.name for sub in subs] == ["drop3/sub1", "drop3/sub2"]
    assert merge(subs).drop3.name == net.drop3.name == "drop3"
    masks = []
    for sub in subs:
        set_iteration(sub, seed=0, step=0)
        masks.append(sub.drop3(torch.ones(2, 250)))
    assert not torch.equal(*masks)


def test_normalisation_of_the_merged_net_keeps_the_sub_models_apart():
    subs = split(nets.build("cuda-convnet", (3, 24, 24), 10), 2)
    assert all(isinstance(sub.norm1, LRN) for sub in subs)
    merged, duplicated = merge(subs), nets.build("cuda-convnet-duplicated", (3, 24, 24), 10)
    for net in (merged, duplicated):
        assert isinstance(net.norm1, GroupedLRN) and net.norm1.sizes == (32, 32)
    assert repr(merged) == repr(duplicated)


def test_a_merge_of_merges_is_the_merge_of_all_in_equal_numbers():
    subs = fresh_subs(4, everything(width=20), sizes=None)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    nested = merge([merge(subs[:2]), merge(subs[2:])]).eval()
    torch.testing.assert_close(nested(x), merge(subs).eval()(x), rtol=0, atol=1e-12)
    assert nested.norm1.sizes == (5, 5, 5, 5)


# -- what is refused ---------------------------------------------------------------------------

LENET = nets.build("lenet", (1, 28, 28), 10)


@pytest.mark.parametrize(("num_subs", "sizes", "message"), [
    (3, None, r"the 20 units of layer 'conv1' cannot be shared equally by 3 sub-models; take "
              r"another number, or give sizes such as conv1=7\+7\+6"),
    (21, None, "layer 'conv1' has 20 units, too few for 21 sub-models; take at most 20"),
    (0, None, "1 sub-model or more, found 0"),
    (2, {"conv1": (10, 11)}, r"'conv1' must be 2 numbers of at least 1 that add up to 20, found "
                             r"10\+11"),
    (2, {"conv1": (20, 0)}, "at least 1"), (2, {"conv1": (5, 5, 10)}, "must be 2 numbers"),
    (2, {"cnov1": (10, 10)}, "no hidden layer 'cnov1' to share; did you mean conv1"),
    (2, {"fc4": (5, 5)}, "no hidden layer 'fc4'"),
])
def test_sizes_that_do_not_fit_are_refused(num_subs, sizes, message):
    with pytest.raises(UserError, match=message):
        split(LENET, num_subs, sizes)


def altered(change):
    net = split(nets.build("lenet", (1, 28, 28), 10), 2)[1]
    change(net)
    return net


@pytest.mark.parametrize(("stranger", "message"), [
    (lambda: split(nets.build("caffenet-small", (1, 28, 28), 10), 2)[0], "its layers are conv1"),
    (lambda: split(nets.build("lenet", (1, 28, 28), 7), 2)[0],
     r"'fc4' is InnerProduct\(weight float32 \[7, \*\], bias float32 \[7\]\), not "),
    (lambda: split(nets.build("lenet", (3, 28, 28), 10), 2)[0], "layer 'conv1' is"),
    (lambda: split(nets.build("lenet", (1, 28, 28), 10).double(), 2)[0], "float64"),
    (lambda: altered(lambda net: setattr(net, "pool1", max_pool(2, 1))), "'pool1' is"),
    (lambda: altered(lambda net: setattr(net.conv2, "padding", (2, 2))), "'conv2' is"),
    (lambda: altered(lambda net: setattr(net, "relu3", nn.Tanh())), r"is Tanh\(\), not ReLU\(\)"),
], ids=itertools.count())
def test_a_merge_of_strangers_is_refused(stranger, message):
    with pytest.raises(UserError, match=message):
        merge([split(LENET, 2)[0], stranger()])


@pytest.mark.parametrize(("layer", "message"), [
    (nn.Conv2d(4, 4, 1, groups=2), "a convolution in 2 groups"),
    (nn.LayerNorm(4), r"'1' \(LayerNorm\) cannot be chosen"),
    (InnerProduct(4, 4, axis=2), "flattens from axis 2"),
])
def test_layers_that_mix_units_are_refused(layer, message):
    with pytest.raises(UserError, match=message):
        split(nn.Sequential(nn.Conv2d(1, 4, 1), layer, nn.Conv2d(4, 4, 1)), 2)


def test_a_net_without_a_hidden_layer_and_a_merge_of_nothing_are_refused():
    with pytest.raises(UserError, match="at least one hidden layer"):
        split(nn.Sequential(nn.Linear(4, 4)), 2)
    with pytest.raises(UserError, match="no sub-model to merge"):
        merge([])
    with pytest.raises(UserError, match="merged as mean or scaled, found 'sum'"):
        merge([LENET], "sum")


def test_groups_of_maps_other_than_the_sub_models_are_refused():
    net = nets.build("cuda-convnet-duplicated", (3, 24, 24), 10)
    with pytest.raises(UserError, match=r"'norm1' normalises groups of 32\+32 maps, but the "
                                        r"sub-models share them as 16\+16\+16\+16"):
        split(net, 4)
