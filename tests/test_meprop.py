"""meProp against dense backward passes whose output gradients autograd masks."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dualnet import nets
from dualnet.errors import UserError
from dualnet.optim.meprop import MeProp, sparse_conv2d, sparse_linear

GEOMETRIES = {
    "plain": {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    "strided": {"stride": 2, "padding": 1, "dilation": 1, "groups": 1},
    "uneven": {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1), "groups": 1},
}


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
            for shape in shapes]


def mask_of(gradient, k, unified):
    """Ones where an output is kept, by sorting in plain Python; [N, out] or [N, out, 1, 1]."""
    sizes = gradient.abs().reshape(*gradient.shape[:2], -1).sum(2)
    if unified:
        sizes = sizes.sum(0, keepdim=True).expand_as(sizes)
    mask = torch.zeros_like(sizes)
    for sample, row in enumerate(sizes.tolist()):
        for output in sorted(range(len(row)), key=lambda index: -row[index])[:k]:
            mask[sample, output] = 1
    return mask.reshape(*mask.shape, *[1] * (gradient.dim() - 2))


def check(function, sparse, shapes, k, unified):
    """The gradients are those of a dense backward pass with a mask; the bias has all."""
    x, weight, bias = tensors(*shapes)
    dense = function(x, weight, bias)
    gradient, = tensors(dense.shape)
    mask = mask_of(gradient.detach(), k, unified)
    expected = torch.autograd.grad(dense, (x, weight), gradient.detach() * mask,
                                   retain_graph=True)
    of_bias, = torch.autograd.grad(dense, bias, gradient.detach())
    found = sparse(x, weight, bias, k, unified)
    assert torch.equal(found, dense)
    torch.testing.assert_close(torch.autograd.grad(found, (x, weight, bias), gradient.detach()),
                               (*expected, of_bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("k", [1, 3, 7])        # 7 is all of them: the dense gradients
def test_a_linear_layer_has_the_gradients_of_a_masked_dense_one(k, unified):
    check(functional.linear, sparse_linear, [(5, 4), (7, 4), (7,)], k, unified)


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_has_the_gradients_of_a_masked_dense_one(name, k, unified):
    geometry = GEOMETRIES[name]
    check(lambda *its: functional.conv2d(*its, **geometry),
          lambda *its: sparse_conv2d(*its, geometry), [(3, 2, 8, 9), (6, 2, 3, 3), (6,)], k,
          unified)


@pytest.mark.parametrize("unified", [True, False])
def test_k_of_1_keeps_exactly_one_column_even_among_equals(unified):
    x, weight, bias = tensors((5, 4), (7, 4), (7,))
    out = sparse_linear(x, weight, bias, 1, unified)
    of_x, of_weight = torch.autograd.grad(out.sum(), (x, weight))   # all gradients are 1
    rows = {tuple(row) for row in weight.tolist()}
    assert all(tuple(row) in rows for row in of_x.tolist())
    assert (of_weight != 0).any(1).sum() == 1


def test_rows_of_a_sequence_count_as_samples():
    x, weight, bias = tensors((2, 3, 4), (7, 4), (7,))
    gradient, = tensors((2, 3, 7))
    for unified in (True, False):
        found = torch.autograd.grad(sparse_linear(x, weight, bias, 2, unified), (x, weight),
                                    gradient)
        flat = torch.autograd.grad(sparse_linear(x.flatten(0, 1), weight, bias, 2, unified),
                                   (x, weight), gradient.flatten(0, 1))
        torch.testing.assert_close(found, flat)


# -- nets ------------------------------------------------------------------------------------------

def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding="same"),
                         nn.Flatten(), nn.Linear(6 * 36, 20), nn.ReLU(), nn.Linear(20, 5)).double()


def gradients(net, k, **options):
    x, = tensors((4, 3, 8, 8))
    net.zero_grad()
    with MeProp(net, k, **options):
        loss = net(x).square().sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("unified", [True, False])
def test_all_outputs_are_the_dense_backward_pass(unified):
    net = small_net()
    x, = tensors((4, 3, 8, 8))
    net(x).square().sum().backward()
    dense = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    for k in (20, 1000):
        torch.testing.assert_close(gradients(net, k, unified=unified), dense)


def test_each_layer_but_the_last_keeps_k_outputs_or_a_share_of_them():
    def rows(found):
        return [int((found[name].flatten(1) != 0).any(1).sum())
                for name in ("0.weight", "4.weight", "6.weight")]

    assert rows(gradients(small_net(), 2)) == [2, 2, 5]
    assert rows(gradients(small_net(), 0.3)) == [3, 6, 5]       # of 8 and 20, rounded up
    assert rows(gradients(small_net(), 0.01)) == [1, 1, 5]


def test_a_padding_by_name_and_groups_stay_dense():
    net = small_net()
    found = gradients(net, 1)["2.weight"]       # its padding is named "same"
    assert (found.flatten(1) != 0).any(1).all()
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(2, 4, 5, 5)
    grouped(x).sum().backward()
    dense = grouped[0].weight.grad.clone()
    grouped.zero_grad()
    with MeProp(grouped, 1):
        grouped(x).sum().backward()
    assert torch.equal(grouped[0].weight.grad, dense)


def test_a_residual_net_learns_with_a_quarter_of_its_maps():
    torch.manual_seed(0)
    net = nets.build("resnet20", (3, 8, 8), 4)
    labels = torch.arange(32) % 4
    images = torch.randn(4, 3, 8, 8)[labels] + 0.3 * torch.randn(32, 3, 8, 8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        with MeProp(net, 0.25):
            loss = functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def backward_flops(function, *arguments):
    out = function(*arguments)
    gradient = torch.randn_like(out)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(out, arguments[:2], gradient)
    return counter.get_total_flops()


def test_the_backward_pass_of_unified_meprop_has_k_nths_of_the_work():
    x, weight, bias = tensors((16, 64), (128, 64), (128,))
    dense = backward_flops(functional.linear, x, weight, bias)
    assert dense == 2 * 2 * 16 * 64 * 128
    assert backward_flops(sparse_linear, x, weight, bias, 8, True) == dense * 8 // 128
    x, weight, bias = tensors((4, 3, 8, 8), (16, 3, 3, 3), (16,))
    geometry = GEOMETRIES["strided"]
    dense = backward_flops(lambda *its: functional.conv2d(*its, **geometry), x, weight, bias)
    assert backward_flops(sparse_conv2d, x, weight, bias, 2, True, geometry) == dense * 2 // 16


def test_the_backward_pass_of_meprop_by_sample_has_k_nths_of_the_work():
    # torch counts no work of bags of embeddings: here k rows of the other matrix per output row
    looked_up = []

    def count(table_shape, indices_shape, *rest, out_shape=None, **options):
        looked_up.append(2 * indices_shape.numel() * table_shape[1])
        return looked_up[-1]

    x, weight, bias = tensors((16, 64), (128, 64), (128,))
    out = sparse_linear(x, weight, bias, 8, False)
    counting = {torch.ops.aten._embedding_bag: count}
    with FlopCounterMode(display=False, custom_mapping=counting) as counter:
        torch.autograd.grad(out, (x, weight), torch.randn_like(out))
    assert counter.get_total_flops() == 2 * 2 * 16 * 64 * 8
    assert len(looked_up) == 2
    # of a convolution, the gradient of its input: 2 of 16 maps
    x, weight = tensors((4, 3, 8, 8), (16, 3, 3, 3))
    geometry = GEOMETRIES["plain"]
    out = [function(x, weight.detach(), None, *rest) for function, rest in (
        (lambda *its: functional.conv2d(*its, **geometry), ()),
        (sparse_conv2d, (2, False, geometry)))]
    flops = []
    for each in out:
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(each, x, torch.randn_like(each))
        flops.append(counter.get_total_flops())
    assert flops[1] == flops[0] * 2 // 16


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_a_k_that_means_nothing_is_refused(k):
    with pytest.raises(UserError, match=f"between 0 and 1, found {k}"):
        MeProp(small_net(), k)
