"""Caffe's semantics, against arrays that Caffe wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dualnet import caffe, schedules

GOLDEN = Path(__file__).parent / "golden"


def close(found, expected, tolerance):
    """Largest difference relative to the largest value, as golden/README.md states it."""
    found, expected = np.asarray(found), np.asarray(expected)
    return np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", ["max_k3s2p0_32x32", "max_k3s2p0_16x16"])
def test_pooling_rounds_up_and_ties_go_to_the_first_maximum(case):
    arrays = np.load(GOLDEN / "pool.npz")
    x = torch.tensor(arrays[f"{case}__x"], requires_grad=True)
    y = caffe.max_pool(3, 2)(x)
    y.backward(torch.tensor(arrays[f"{case}__dy"]))
    assert np.array_equal(y.detach().numpy(), arrays[f"{case}__y"])
    assert close(x.grad, arrays[f"{case}__dx"], 1e-6)


def tiny_net(arrays, case):
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        for layer, number in ((net[0], 1), (net[2], 2)):
            layer.weight.copy_(torch.tensor(arrays[f"{case}__w{number}"][0]))
            layer.bias.copy_(torch.tensor(arrays[f"{case}__b{number}"][0]))
    return net


@pytest.mark.parametrize(("case", "bias_decay", "momentum", "decay", "rate"), [
    ("fixed", 2, 0.9, 0.004, schedules.constant(0.1)),
    ("fixed_nomomentum", 0, 0.0, 0.0, schedules.constant(0.1)),
    ("decay_mult0_bias", 0, 0.9, 0.004, schedules.constant(0.1)),
    ("step", 2, 0.9, 0.004, schedules.step_decay(0.1, factor=0.1, every=4)),
])
def test_the_solver_follows_caffe_for_twelve_steps(case, bias_decay, momentum, decay, rate):
    arrays = np.load(GOLDEN / "solver.npz")
    net = tiny_net(arrays, case)
    weights = [p for name, p in net.named_parameters() if "weight" in name]
    biases = [p for name, p in net.named_parameters() if "bias" in name]
    solver = caffe.SGD([{"params": weights, "weight_decay": decay},
                        {"params": biases, "weight_decay": decay * bias_decay}],
                       lr=0.1, momentum=momentum)
    inputs, labels = arrays["inputs__x"], arrays["inputs__label"]
    for step in range(12):
        solver.zero_grad()
        labels_now = torch.tensor(labels[step % 4].reshape(-1)).long()
        functional.cross_entropy(net(torch.tensor(inputs[step % 4])), labels_now).backward()
        solver.param_groups[0]["lr"], solver.param_groups[1]["lr"] = rate(step), 2 * rate(step)
        solver.step()
        for layer, number in ((net[0], 1), (net[2], 2)):
            assert close(layer.weight.detach(), arrays[f"{case}__w{number}"][step + 1], 2e-5)
            assert close(layer.bias.detach(), arrays[f"{case}__b{number}"][step + 1], 2e-5)


def test_fillers_have_caffes_spread():
    layer = caffe.Convolution(32, 96, 5, weight_filler=caffe.xavier)
    bound = (3 / (32 * 25)) ** 0.5
    values = layer.weight.detach()
    assert values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert layer.bias.abs().max() == 0
    layer = caffe.InnerProduct(300, 200, weight_filler=caffe.gaussian(0.005),
                               bias_filler=caffe.constant(1.0))
    assert layer.weight.detach().std().item() == pytest.approx(0.005, rel=0.02)
    assert layer.bias.detach().unique().tolist() == [1.0]


def test_inner_product_flattens_channels_rows_and_columns():
    layer = caffe.InnerProduct(12, 2)
    x = torch.randn(5, 3, 2, 2)
    assert torch.equal(layer(x), layer(x.reshape(5, 12)))
