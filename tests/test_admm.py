"""The equations of the ADMM step."""

import pytest
import torch

from dualnet.methods.dual import admm


def test_the_y_update_by_hand():
    y, gradient = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]])
    # 1 - 0.5 / 0.25 = -1;  2 + 1 / 0.25 = 6
    assert admm.y_update(y, gradient, rho=0.25).tolist() == [[-1.0, 6.0]]


def test_the_penalty_pulls_with_g_over_n_where_the_copies_agree():
    # x = y: dE/dx_n = rho/N (x_n - y_n + g_n / rho) = g_n / N, whatever rho is
    y, gradient = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    for rho in (1e-3, 0.7):
        x = y.clone().requires_grad_()
        admm.penalty(x, admm.y_update(y, gradient, rho), rho).backward()
        torch.testing.assert_close(x.grad, gradient / 4, rtol=1e-9, atol=1e-12)


def test_the_penalty_by_hand():
    # rho/(2N) sum |x - t|^2 = 0.5/2 * (1 + 4) = 1.25
    value = admm.penalty(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), rho=0.5)
    assert value.item() == 1.25


def test_the_dual_variable_gathers_the_residual():
    u = torch.tensor([[1.0, 1.0]])
    assert admm.dual_update(u, torch.tensor([[3.0, 0.0]]),
                            torch.tensor([[1.0, 2.0]])).tolist() == [[3.0, -1.0]]


def test_the_measured_penalty_is_the_ratio_of_mean_norms():
    y = torch.tensor([[3.0, 4.0], [0.0, 1.0]])              # norms 5 and 1, mean 3
    gradient = torch.tensor([[0.0, 0.3], [0.4, 0.5]])
    gradient[1] = torch.tensor([0.0, 0.3])                  # norms 0.3 and 0.3
    assert admm.measured_rho(y, gradient) == pytest.approx(0.1)


def test_the_limit_of_stability_by_hand():
    z = torch.tensor([[3.0, 4.0], [0.0, 1.0]])              # squared norms 25 and 1, mean 13
    # 1 / (0.1 * 9 * 13)
    assert admm.stability_limit(z, lr=0.1, kernel_area=9) == pytest.approx(1 / 11.7)
    assert admm.stability_limit(torch.zeros(2, 3), lr=0.1, kernel_area=9) == float("inf")


def test_the_penalty_grows_up_to_the_limit_and_never_falls():
    assert admm.grown_rho(0.1, 10.0, limit=5.0) == 1.0
    assert admm.grown_rho(1.0, 10.0, limit=5.0) == 5.0
    assert admm.grown_rho(7.0, 10.0, limit=5.0) == 7.0
