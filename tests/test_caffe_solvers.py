"""Caffe's solvers and learning-rate policies, by hand.

test_caffe_golden.py compares with what Caffe itself wrote.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dualnet import caffe
from dualnet.config import TrainConfig
from dualnet.optimizer import Optimizer

GOLDEN = Path(__file__).parent / "golden" / "caffe"


def weight(*values, grad=None):
    parameter = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    if grad is not None:
        parameter.grad = torch.tensor(grad, dtype=torch.float64)
    return parameter


# -- the order of Caffe's steps --------------------------------------------------------------------

def test_gradients_are_clipped_before_they_are_divided_by_iter_size():
    # |(3, 4)| = 5, clipped to 1: (0.6, 0.8), halved: (0.3, 0.4); the other order gives (0.6, 0.8)
    w = weight(0.0, 0.0, grad=[3.0, 4.0])
    caffe.SGD([w], 1.0, clip_gradients=1.0, iter_size=2).step()
    assert w.tolist() == pytest.approx([-0.3, -0.4])


def test_gradients_are_clipped_before_the_decay_is_added():
    # (3, 4) -> (0.6, 0.8), then 0.1 * 10 is added to each
    w = weight(10.0, 10.0, grad=[3.0, 4.0])
    caffe.SGD([w], 1.0, weight_decay=0.1, clip_gradients=1.0).step()
    assert w.tolist() == pytest.approx([10 - 1.6, 10 - 1.8])


def test_the_decay_is_not_divided_by_iter_size():
    w = weight(10.0, grad=[4.0])
    caffe.SGD([w], 1.0, weight_decay=0.1, iter_size=2).step()
    assert w.tolist() == pytest.approx([10 - (2 + 1)])


def test_the_norm_that_is_clipped_is_that_of_all_weights_together():
    first, second = weight(0.0, grad=[3.0]), weight(0.0, grad=[4.0])
    caffe.SGD([{"params": [first]}, {"params": [second], "lr_mult": 2.0}], 1.0,
              clip_gradients=2.5).step()
    assert (first.item(), second.item()) == pytest.approx((-1.5, -2 * 2.0))


@pytest.mark.parametrize("limit", [-1.0, 5.0, 100.0])
def test_a_norm_within_the_limit_or_without_one_is_left_alone(limit):
    w = weight(0.0, 0.0, grad=[3.0, 4.0])
    caffe.SGD([w], 1.0, clip_gradients=limit).step()
    assert w.tolist() == [-3.0, -4.0]


def test_l1_decay_pulls_by_the_sign_and_leaves_zero_alone():
    w = weight(5.0, -5.0, 0.0, grad=[0.0, 0.0, 0.0])
    caffe.SGD([w], 1.0, weight_decay=0.1, regularization_type="L1").step()
    assert w.tolist() == pytest.approx([4.9, -4.9, 0.0])


def test_the_multipliers_of_a_group_scale_its_rate_and_its_decay():
    # r = 0.1 * 2, d = 0.01 * 3, g = 1: 0.2 * (1 + 0.03 * 10)
    w = weight(10.0, grad=[1.0])
    caffe.SGD([{"params": [w], "lr_mult": 2.0, "decay_mult": 3.0}], 0.1, weight_decay=0.01).step()
    assert w.item() == pytest.approx(10 - 0.2 * 1.3)


def test_a_weight_without_gradient_is_left_as_it_is_and_gradients_are_not_changed():
    idle, w = weight(1.0), weight(1.0, grad=[2.0])
    caffe.SGD([idle, w], 0.1, weight_decay=0.5, clip_gradients=1.0, iter_size=2).step()
    assert idle.item() == 1.0
    assert w.grad.item() == 2.0


# -- each solver against its equation, while the rate changes --------------------------------------

RATES = (0.1, 0.1, 0.02, 0.3)
GRADIENTS = (1.0, -0.5, 2.0, 0.25)


def by_hand(name):
    """The weight after each step, from 1.0; the equations of the solvers on plain numbers."""
    w, values, v, s, u, m = 1.0, [], 0.0, 0.0, 0.0, 0.0
    for t, (r, g) in enumerate(zip(RATES, GRADIENTS, strict=True), start=1):
        if name == "SGD":
            v = 0.9 * v + r * g
            w -= v
        elif name == "Nesterov":
            old, v = v, 0.9 * v + r * g
            w -= 1.9 * v - 0.9 * old
        elif name == "AdaGrad":
            s += g * g
            w -= r * g / (math.sqrt(s) + 0.01)
        elif name == "RMSProp":
            s = 0.8 * s + 0.2 * g * g
            w -= r * g / (math.sqrt(s) + 0.01)
        elif name == "AdaDelta":
            s = 0.9 * s + 0.1 * g * g
            v = g * math.sqrt((u + 0.01) / (s + 0.01))
            u = 0.9 * u + 0.1 * v * v
            w -= r * v
        else:
            m, s = 0.9 * m + 0.1 * g, 0.7 * s + 0.3 * g * g
            w -= r * math.sqrt(1 - 0.7 ** t) / (1 - 0.9 ** t) * m / (math.sqrt(s) + 0.01)
        values.append(w)
    return values


def solver_of(name, w):
    momentum = 0.0 if name in ("AdaGrad", "RMSProp") else 0.9
    return caffe.solver(name, [w], 0.0, momentum=momentum, momentum2=0.7, rms_decay=0.8, delta=0.01)


def run(solver, w, steps):
    values = []
    for t in steps:
        w.grad = torch.tensor([GRADIENTS[t]], dtype=torch.float64)
        solver.param_groups[0]["lr"] = RATES[t]
        solver.step()
        values.append(w.item())
    return values


@pytest.mark.parametrize("name", caffe.SOLVERS)
def test_each_solver_follows_its_equation_while_the_rate_changes(name):
    w = weight(1.0)
    assert run(solver_of(name, w), w, range(4)) == pytest.approx(by_hand(name), rel=1e-12)


@pytest.mark.parametrize("name", caffe.SOLVERS)
def test_a_solver_goes_on_from_its_state_as_if_it_had_not_stopped(name):
    w = weight(1.0)
    first = solver_of(name, w)
    run(first, w, range(2))
    again = weight(w.item())
    second = solver_of(name, again)
    second.load_state_dict(first.state_dict())
    assert run(second, again, range(2, 4)) == pytest.approx(by_hand(name)[2:], rel=1e-12)


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("AdaGrad", {"momentum": 0.9}, "AdaGrad takes no momentum"),
    ("RMSProp", {"momentum": 0.9}, "RMSProp takes no momentum"),
    ("RMSProp", {"rms_decay": 1.0}, "less than 1, found 1.0"),
    ("SGD", {"regularization_type": "L3"}, "L1 or L2, found L3"),
    ("SGD", {"iter_size": 0}, "at least 1, found 0"), ("Lion", {}, "unknown solver type 'Lion'")])
def test_a_solver_refuses_what_caffe_refuses(name, fields, message):
    with pytest.raises(ValueError, match=message):
        caffe.solver(name, [weight(1.0)], 0.1, **fields)


def test_the_optimizer_of_training_follows_caffes_solver():
    # Settings of the golden case "step": biases at twice the rate and twice the decay.
    arrays = np.load(GOLDEN / "solver.npz")
    net = nn.Sequential(caffe.InnerProduct(5, 6), nn.ReLU(), caffe.InnerProduct(6, 4))
    with torch.no_grad():
        for layer, number in ((net[0], 1), (net[2], 2)):
            layer.weight.copy_(torch.tensor(arrays[f"step__w{number}"][0]))
            layer.bias.copy_(torch.tensor(arrays[f"step__b{number}"][0]))
    optimizer = Optimizer(net, TrainConfig(
        solver="caffe", momentum=0.9, weight_decay=0.004, bias_lr=2.0, bias_decay=2.0,
        lr_schedule="step", lr_factor=0.1, lr_step=4), lr=0.1)
    for step in range(12):
        optimizer.zero_grad()
        caffe.SoftmaxWithLoss()(net(torch.tensor(arrays["inputs__x"][step % 4])),
                                torch.tensor(arrays["inputs__label"][step % 4])).backward()
        optimizer.step(step)
    for layer, number in ((net[0], 1), (net[2], 2)):
        assert np.allclose(layer.weight.detach(), arrays[f"step__w{number}"][12], atol=2e-5)
        assert np.allclose(layer.bias.detach(), arrays[f"step__b{number}"][12], atol=2e-5)


# -- learning rates --------------------------------------------------------------------------------

@pytest.mark.parametrize(("policy", "fields", "expected"), [
    ("fixed", {}, [2, 2, 2, 2, 2]),
    ("step", {"gamma": 0.5, "stepsize": 2}, [2, 2, 1, 1, 0.5]),
    ("exp", {"gamma": 0.5}, [2, 1, 0.5, 0.25, 0.125]),
    ("inv", {"gamma": 1.0, "power": 2}, [2, 1 / 2, 2 / 9, 1 / 8, 2 / 25]),
    ("multistep", {"gamma": 0.5, "stepvalue": [1, 3]}, [2, 1, 1, 0.5, 0.5]),
    ("multistep", {"gamma": 0.5, "stepvalue": [2, 2]}, [2, 2, 1, 0.5, 0.5]),    # one an iteration
    ("multistep", {"gamma": 0.5, "stepvalue": [3, 1]}, [2, 2, 2, 1, 0.5]),      # in their order
    ("multistep", {"gamma": 0.5, "stepvalue": []}, [2, 2, 2, 2, 2]),
    ("poly", {"power": 2, "max_iter": 4}, [2, 9 / 8, 1 / 2, 1 / 8, 0]),
    ("sigmoid", {"gamma": math.log(3), "stepsize": 2}, [0.2, 0.5, 1, 1.5, 1.8])])
def test_each_policy_by_hand(policy, fields, expected):
    rate = caffe.rate(policy, 2.0, **fields)
    assert [rate(step) for step in range(5)] == pytest.approx(expected)


def test_a_policy_ignores_what_it_does_not_read():
    fields = {"gamma": 0.5, "power": 1.0, "stepsize": 1, "stepvalue": [1], "max_iter": 10}
    assert caffe.rate("fixed", 0.3, **fields)(7) == 0.3


def test_the_sigmoid_does_not_overflow_far_from_its_middle():
    rate = caffe.rate("sigmoid", 1.0, gamma=5.0, stepsize=100_000)
    assert (rate(0), rate(200_000)) == (0.0, 1.0)


@pytest.mark.parametrize(("policy", "fields", "message"), [
    ("cosine", {}, "unknown lr_policy 'cosine'"), ("step", {"gamma": 0.1}, "needs stepsize"),
    ("step", {"gamma": 0.1, "stepsize": 0}, "stepsize must be positive"),
    ("exp", {"gamma": -0.1}, "gamma must not be negative"),
    ("poly", {"power": 1, "max_iter": 0}, "positive max_iter")])
def test_a_policy_refuses_what_caffe_refuses(policy, fields, message):
    with pytest.raises(ValueError, match=message):
        caffe.rate(policy, 0.1, **fields)


def test_poly_ends_where_caffe_stops():
    rate = caffe.rate("poly", 0.1, power=0.5, max_iter=4)
    assert rate(4) == 0
    with pytest.raises(ValueError, match="ends at iteration 4, found 5"):
        rate(5)
