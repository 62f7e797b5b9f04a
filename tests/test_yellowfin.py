"""YellowFin against numpy, scipy and the theory it is made of (arXiv:1706.03471)."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import nn

from dualnet.errors import UserError
from dualnet.optim.yellowfin import YellowFin, cubic_root, single_step

positive = st.floats(-6, 6).map(lambda exponent: 10 ** exponent)
middling = st.floats(-1, 2).map(lambda exponent: 10 ** exponent)    # far above the epsilons


@given(st.floats(-7, 7).map(lambda exponent: 10 ** exponent))
def test_the_cubic_root_is_the_one_real_root_that_numpy_finds(p):
    roots = np.roots([1, 0, p, p])
    real, = roots[np.abs(roots.imag) < 1e-9 * np.abs(roots).max()].real
    assert cubic_root(p) == pytest.approx(real, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("p", [0.0, 1e-300, 1e-30, 1e30, 1e300, math.inf])
def test_the_cubic_root_survives_extreme_coefficients(p):
    # y ~ -p^(1/3) for small p; y ~ -1 + 1/p for large p
    assert cubic_root(p) == pytest.approx(-min(p ** (1 / 3), 1) if p < math.inf else -1, rel=1e-9)


@given(middling, middling, middling)
def test_the_single_step_minimises_the_expected_distance(variance, distance, curvature):
    # h_min = h_max: mu is free, and x = sqrt(mu) minimises x^2 D^2 + (1-x)^4 C / h^2
    def expected(x):
        return x ** 2 * distance ** 2 + (1 - x) ** 4 * variance / curvature ** 2

    lr, mu = single_step(variance, distance, curvature, curvature)
    best = minimize_scalar(expected, bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
    assert expected(math.sqrt(mu)) <= best.fun * (1 + 1e-3)
    assert lr == pytest.approx((1 - math.sqrt(mu)) ** 2 / curvature, rel=1e-3, abs=1e-9)


@given(positive, positive, st.floats(-3, 3).map(lambda e: 10 ** e), st.floats(1, 1e4),
       st.floats(0, 1))
@example(0.001, 100.0, 0.001, 2.0, 0.0)
def test_every_curvature_in_the_range_converges_at_the_rate_of_the_momentum(
        variance, distance, h_min, ratio, where):
    # the operator of momentum on a quadratic of curvature h; its spectral radius is sqrt(mu)
    lr, mu = single_step(variance, distance, h_min, h_min * ratio)
    h = h_min * (1 + where * (ratio - 1))
    operator = np.array([[1 - lr * h + mu, -mu], [1, 0]])
    radius = np.abs(np.linalg.eigvals(operator)).max()
    assert radius == pytest.approx(math.sqrt(mu), rel=1e-2, abs=2e-2)
    # 1e-6 is added to both curvatures, of at least 1e-3: at most 2e-3 less of mu
    assert mu >= ((math.sqrt(ratio) - 1) / (math.sqrt(ratio) + 1)) ** 2 * (1 - 3e-3) - 1e-6


# -- a plain numpy implementation, from the formulas -----------------------------------------------

def reference(start, gradient_of, steps, beta, window, clip, decay, factor):
    """Weights after `steps` steps, and (lr, mu, h_min, h_max, C, D) of each."""
    w, v, eps = np.array(start), np.zeros(len(start)), 1e-6
    low = high = square = norm = distance = 0.0
    mean, seen, tuned = np.zeros(len(start)), [], []
    for t in range(steps):
        g = gradient_of(w, t) + decay * w
        if clip and t > 0:
            limit = math.sqrt(100 * math.exp(high / (1 - beta ** t)))
            g = g * min(1, limit / max(np.linalg.norm(g), eps))
        n2, d = g @ g, 1 - beta ** (t + 1)
        seen.append(n2)
        low = beta * low + (1 - beta) * math.log(min(seen[-window:]) + eps)
        high = beta * high + (1 - beta) * math.log(max(seen[-window:]) + eps)
        square = beta * square + (1 - beta) * n2
        norm = beta * norm + (1 - beta) * math.sqrt(n2)
        mean = beta * mean + (1 - beta) * g
        distance = beta * distance + (1 - beta) * (norm / d) / (square / d + eps)
        h_min, h_max, reach = math.exp(low / d), math.exp(high / d), distance / d
        c = max(square / d - (mean / d) @ (mean / d), eps)
        p = (reach + eps) ** 2 * (h_min + eps) ** 2 / (2 * (c + eps))
        roots = np.roots([1, 0, p, p])
        x = 1 + roots[np.abs(roots.imag).argmin()].real
        k = math.sqrt((h_max + eps) / (h_min + eps))
        root_mu = max(x, (k - 1) / (k + 1))
        lr = (1 - root_mu) ** 2 / (h_min + eps) * min(1, (t + 1) / (10 * window))
        if clip:
            if n2 >= h_max:
                g = g * math.sqrt(h_max / n2)
            lr = min(lr, 100 / max(np.linalg.norm(g), eps))
        v = root_mu ** 2 * v - factor * lr * g
        w = w + v
        tuned.append((lr, root_mu ** 2, h_min, h_max, c, reach))
    return w, np.array(tuned)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_every_step_is_that_of_the_formulas(clip, decay):
    generator = np.random.default_rng(0)
    curvature, noise = np.array([1.0, 3.0, 10.0, 30.0]), generator.normal(size=(150, 4))
    noise[60] *= 1e6                        # what the clipping is there for
    start = [1.0, -2.0, 0.5, 3.0]

    def gradient_of(w, t):
        return curvature * w + noise[t]

    expected, tuned = reference(start, gradient_of, 150, 0.9, 7, clip, decay, 0.5)
    first, second = (nn.Parameter(torch.tensor(part, dtype=torch.float64))
                     for part in (start[:1], start[1:]))    # the statistics are of both together
    optimizer = YellowFin([first, second], beta=0.9, window=7, clip=clip, weight_decay=decay,
                          lr_factor=0.5)
    found = []
    for step in range(150):
        gradient = torch.tensor(gradient_of(torch.cat([first, second]).detach().numpy(), step))
        first.grad, second.grad = gradient[:1], gradient[1:]
        optimizer.step()
        found.append(optimizer.tuning)
    np.testing.assert_allclose([[t.lr, t.momentum, t.h_min, t.h_max, t.variance, t.distance]
                                for t in found], tuned, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(torch.cat([first, second]).detach(), expected, rtol=1e-8)
    assert optimizer.param_groups[0]["lr"] == found[-1].lr * 0.5
    assert optimizer.param_groups[0]["momentum"] == found[-1].momentum


# -- the theory ------------------------------------------------------------------------------------

def test_on_a_noisy_quadratic_the_tuned_values_converge_to_those_of_the_theory():
    # f = E |w - c|^2 / 2, c ~ N(0, I) in 50 dimensions.  About the optimum C is the variance of g,
    # D = E|g| / E|g|^2, and rate and momentum are what scipy finds best for them, or what the range
    # of |g|^2 over the window demands.
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.full((50,), 5.0, dtype=torch.float64))
    optimizer, gradients, values = YellowFin([w], beta=0.99), [], []
    for _ in range(3000):
        w.grad = w.detach() - torch.randn(50, generator=generator, dtype=torch.float64)
        gradients.append(w.grad.numpy().copy())
        optimizer.step()
        values.append(optimizer.tuning)
    g = np.array(gradients[-1000:])
    n2 = (g ** 2).sum(1)
    c, d = n2.mean() - (g.mean(0) ** 2).sum(), np.sqrt(n2).mean() / n2.mean()
    blocks = n2[:1000].reshape(50, 20)
    h_min, h_max = (np.exp(np.log(extreme(1)).mean()) for extreme in (blocks.min, blocks.max))
    best = minimize_scalar(lambda x: x ** 2 * d ** 2 + (1 - x) ** 4 * c / h_min ** 2,
                           bounds=(0, 1), method="bounded").x
    k = math.sqrt(h_max / h_min)
    mu = max(best, (k - 1) / (k + 1)) ** 2
    found = {name: np.mean([getattr(value, name) for value in values[-500:]])
             for name in values[0]._fields}
    assert found["variance"] == pytest.approx(c, rel=0.1)
    assert found["distance"] == pytest.approx(d, rel=0.05)
    assert found["h_min"] == pytest.approx(h_min, rel=0.1)
    assert found["h_max"] == pytest.approx(h_max, rel=0.1)
    assert found["momentum"] == pytest.approx(mu, rel=0.1)
    assert found["lr"] == pytest.approx((1 - math.sqrt(mu)) ** 2 / h_min, rel=0.15)
    assert w.detach().norm() < 5 < 5 * math.sqrt(50)        # from |w| = 35


def test_it_finds_the_optimum_of_a_quadratic_without_noise():
    curvature = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64))
    optimizer = YellowFin([w])
    for _ in range(1500):
        optimizer.zero_grad()
        (curvature * w.square()).sum().div(2).backward()
        optimizer.step()
    assert w.detach().norm() < 1e-2


def test_the_rate_starts_small_and_one_huge_gradient_does_no_harm():
    w = nn.Parameter(torch.ones(10, dtype=torch.float64))
    optimizer = YellowFin([w], window=20)
    for step in range(120):
        w.grad = torch.ones(10, dtype=torch.float64) * (1e12 if step == 100 else 1)
        before = w.detach().clone()
        optimizer.step()
        if step == 0:           # |g|^2 = h = 10, mu ~ 0: lr = 1/10 * 1/200
            assert optimizer.tuning.lr == pytest.approx(1 / 2000, rel=1e-3)
        if step == 100:         # the statistics see no more than 100 h_max, the step sqrt(h_max)
            shared = optimizer.state["yellowfin"]
            assert max(shared["curvatures"]) == pytest.approx(1000, rel=1e-3)
            assert (w.detach() - before).norm() < 1


# -- an optimiser of torch -------------------------------------------------------------------------

def small_net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)


def train(net, optimizer, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 8, generator=generator, dtype=next(net.parameters()).dtype)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_resumed_training_is_the_undisturbed_one_bit_for_bit(dtype):
    net = small_net(dtype)
    optimizer = YellowFin(net.parameters(), weight_decay=1e-3)
    train(net, optimizer, 0, 30)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(net, optimizer, 30, 60)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = small_net(dtype)
    other = YellowFin(again.parameters())       # its settings come with the state
    again.load_state_dict(saved["net"])
    other.load_state_dict(saved["optimizer"])
    train(again, other, 30, 60)
    assert all(map(torch.equal, net.parameters(), again.parameters()))
    assert other.tuning == optimizer.tuning


def test_a_state_that_was_taken_does_not_change_with_the_training():
    net = small_net()
    optimizer = YellowFin(net.parameters())
    train(net, optimizer, 0, 5)
    state = optimizer.state_dict()
    taken = copy.deepcopy(state["state"]["yellowfin"])
    other = YellowFin(small_net().parameters())
    other.load_state_dict(state)
    train(net, optimizer, 5, 10)
    assert state["state"]["yellowfin"] == taken == other.state["yellowfin"]


def test_groups_share_the_tuning_and_differ_in_factor_and_decay():
    still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = YellowFin([{"params": [still], "lr_factor": 0.0},
                           {"params": [moving], "weight_decay": 1.0}])
    for _ in range(3):
        still.grad, moving.grad = torch.ones(2), torch.zeros(2)
        optimizer.step()
    assert torch.equal(still.detach(), torch.ones(2))
    assert (moving < 1).all()                   # by its decay alone
    assert optimizer.tuning.h_max == pytest.approx(4, rel=0.05)     # (1,1) and the decay (1,1)


def test_parameters_without_gradient_stay_and_count_as_gradient_zero():
    present, absent = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    zero = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with_none, with_zero = YellowFin([present, absent]), YellowFin(zero)
    for step in range(6):
        present.grad = zero[0].grad = torch.tensor([1.0, 2.0]) + step
        gone = step % 2 == 1
        absent.grad = None if gone else torch.ones(2)
        zero[1].grad = torch.zeros(2) if gone else torch.ones(2)
        before = absent.detach().clone()
        with_none.step()
        with_zero.step()
        assert torch.equal(absent.detach(), before) == gone
        assert with_none.tuning == with_zero.tuning


def test_a_closure_is_evaluated_with_gradients_and_its_loss_given_back():
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = YellowFin([w])

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert w.item() < 2
    assert YellowFin([nn.Parameter(torch.ones(1))]).step() is None     # no gradient, nothing to do


def test_values_out_of_range_and_sparse_gradients_are_refused():
    w = nn.Parameter(torch.ones(2))
    for words, message in (({"beta": 1.0}, r"beta of YellowFin must be in \[0, 1\), found 1"),
                           ({"window": 0}, "at least 1 step, found 0"),
                           ({"lr_factor": -1.0}, "at least 0, found -1 and 0")):
        with pytest.raises(UserError, match=message):
            YellowFin([w], **words)
    w.grad = torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)
    with pytest.raises(RuntimeError, match="dense"):
        YellowFin([w]).step()
