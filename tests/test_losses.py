"""Boundary losses: values and gradients by hand."""

import pytest
import torch

from dualnet import losses
from dualnet.errors import UserError

# One sample: x = (3, 4), y = (0, 0); |x| = 5, |y| = 0, |x - y|^2 = 25.
X, Y = [[3.0, 4.0]], [[0.0, 0.0]]


def value_and_gradient(loss, x, y, *words):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = loss(x, torch.tensor(y, dtype=torch.float64), *words)
    value.backward()
    return value.item(), x.grad.tolist()


def test_euclidean_by_hand():
    # E = 25 / 2; dE/dx = x - y
    assert value_and_gradient(losses.euclidean, X, Y) == (12.5, [[3.0, 4.0]])


def test_euclidean_divides_by_the_batch_and_not_by_the_features():
    # two samples, squared distances 1 and 4: E = 5 / (2 * 2); dE/dx_n = (x_n - y_n) / 2
    value, gradient = value_and_gradient(losses.euclidean, [[1.0, 0.0], [0.0, 2.0]],
                                         [[0.0, 0.0], [0.0, 0.0]])
    assert value == 1.25
    assert gradient == [[0.5, 0.0], [0.0, 1.0]]


def test_normalized_with_a_constant_denominator_by_hand():
    # E = 25 / (2 * 5) = 2.5; the root is a number: dE/dx = x / 5
    value, gradient = value_and_gradient(losses.normalized, X, Y, "constant")
    assert value == 2.5
    assert gradient == [pytest.approx([0.6, 0.8])]


def test_normalized_differentiated_exactly_by_hand():
    # with y = 0, E = |x|^2 / (2 |x|) = |x| / 2; dE/dx = x / (2 |x|)
    value, gradient = value_and_gradient(losses.normalized, X, Y, "exact")
    assert value == 2.5
    assert gradient == [pytest.approx([0.3, 0.4])]


def test_normalized_by_the_target_by_hand():
    # x = (3, 4), y = (0, 2): |x - y|^2 = 13, |y| = 2; E = 13/4; dE/dx = (3, 2) / 2
    value, gradient = value_and_gradient(losses.normalized, X, [[0.0, 2.0]], "target")
    assert value == 3.25
    assert gradient == [pytest.approx([1.5, 1.0])]


def test_normalized_both_by_hand():
    # x = (3, 0), y = (0, 4): |x - y|^2 = 25, root of 9 + 16 = 5; E = 2.5
    # constant: dE/dx = (3, -4) / 5
    # exact: dE/dx = (x - y) / s - |x - y|^2 x / (2 s^3) = (0.6, -0.8) - 25 * (3, 0) / 250
    value, gradient = value_and_gradient(losses.normalized_both, [[3.0, 0.0]], [[0.0, 4.0]])
    assert value == 2.5
    assert gradient == [pytest.approx([0.6, -0.8])]
    value, gradient = value_and_gradient(losses.normalized_both, [[3.0, 0.0]], [[0.0, 4.0]],
                                         "exact")
    assert value == 2.5
    assert gradient == [pytest.approx([0.3, -0.8])]


def test_normalized_both_has_no_target_denominator():
    with pytest.raises(UserError, match="take constant or exact"):
        losses.normalized_both(torch.ones(1, 2), torch.ones(1, 2), "target")


@pytest.mark.parametrize("name", losses.BOUNDARY_LOSSES)
class TestEveryBoundaryLoss:
    def test_is_zero_with_zero_gradient_where_both_agree(self, name):
        x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
        value, gradient = value_and_gradient(losses.BOUNDARY_LOSSES[name], x.tolist(), x.tolist(),
                                             "constant")
        assert value == 0 and torch.tensor(gradient).abs().max() == 0

    def test_refuses_to_broadcast(self, name):
        with pytest.raises(ValueError, match=r"x \[3, 4\], y \[1, 4\]"):
            losses.BOUNDARY_LOSSES[name](torch.ones(3, 4), torch.ones(1, 4), "constant")

    @pytest.mark.parametrize("denominator", ["constant", "exact"])
    def test_does_not_depend_on_the_axes_of_a_sample(self, name, denominator):
        x, y = torch.randn(5, 12), torch.randn(5, 12)
        flat = losses.BOUNDARY_LOSSES[name](x, y, denominator)
        maps = losses.BOUNDARY_LOSSES[name](x.view(5, 3, 2, 2), y.view(5, 3, 2, 2), denominator)
        assert maps.item() == pytest.approx(flat.item(), rel=1e-6)


def test_exact_gradients_agree_with_finite_differences():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 5, dtype=torch.float64)
    for loss in (losses.normalized, losses.normalized_both):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, y, "exact"), (x,))


def test_residual_and_norm_by_hand():
    x, y = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    # |x - y|^2 = 16 + 9 = 25, |y|^2 = 9 + 16 = 25; mean of 5 and 1
    assert losses.relative_residual(x, y) == 1.0
    assert losses.mean_norm(x) == 3.0


def test_a_unit_is_dead_if_no_sample_of_the_batch_wakes_it():
    # two samples of four units: the first is 0 in both, the third in one, the others never
    x = torch.tensor([[[0.0, 1.0], [0.0, 2.0]], [[0.0, 1.0], [3.0, 2.0]]])
    assert losses.dead_share(x) == 0.25
