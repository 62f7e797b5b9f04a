"""The Python loss layers of legacy_caffe, on plain objects, against what real Caffe computed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from legacy_caffe import losses

GOLDEN = Path(__file__).parent / "golden" / "caffe"
# Euclidean: what Caffe's own layer wrote.  End to end: conv3 and conv3p of five iterations, and the
# loss that a Python layer of the same formula wrote in Caffe.
EUCLIDEAN_CASES = ("conv_like", "flat", "weight_quarter")
NORMALIZED = {
    "euclid": ("EuclideanLossLayer", "constant"),
    "py_euclid": ("EuclideanLossLayer", "constant"),
    "norm93_const": ("NormalizedBothLossLayer", "constant"),
    "norm93_exact": ("NormalizedBothLossLayer", "exact"),
    "norm94_conv3_const": ("NormalizedLossLayer", "constant"),
    "norm94_conv3_exact": ("NormalizedLossLayer", "exact"),
    "norm94_conv3p": ("NormalizedLossLayer", "target"),
}
WITH_GRADIENTS = ("euclid", "norm93_exact", "norm94_conv3_const", "norm94_conv3_exact")


class Blob:
    """What a Python layer sees of a blob."""

    def __init__(self, array):
        self.data = np.array(array, np.float32)
        self.diff = np.full_like(self.data, np.nan)

    @property
    def num(self):
        return len(self.data)

    def reshape(self, *shape):
        self.data, self.diff = np.zeros(shape, np.float32), np.zeros(shape, np.float32)


def run(layer, x, y, weight=1.0, denominator=None, propagate=(True, True)):
    """Loss, dE/dx and dE/dy, through the calls that Caffe makes."""
    layer = getattr(losses, layer)()
    layer.param_str = f'{{"denominator": "{denominator}"}}' if denominator else ""
    bottom, top = [Blob(x), Blob(y)], [Blob(0.0)]
    layer.setup(bottom, top)
    layer.reshape(bottom, top)
    layer.forward(bottom, top)
    top[0].diff[...] = weight
    layer.backward(top, propagate, bottom)
    assert top[0].data.shape == (1,)
    return top[0].data[0], bottom[0].diff, bottom[1].diff


def assert_close(found, expected, tolerance=1e-6):
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", EUCLIDEAN_CASES)
def test_euclidean_is_caffes_own_layer(case):
    with np.load(GOLDEN / "euclidean_loss.npz") as file:
        a, b, loss, da, db = (file[f"{case}__{key}"] for key in ("a", "b", "loss", "da", "db"))
    weight = 0.25 if case == "weight_quarter" else 1.0
    found, dx, dy = run("EuclideanLossLayer", a, b, weight)
    assert_close(found, loss)
    assert_close(dx, da)
    assert_close(dy, db)


@pytest.mark.parametrize("variant", NORMALIZED)
def test_the_losses_are_those_of_the_same_layers_in_caffe(variant):
    layer, denominator = NORMALIZED[variant]
    with np.load(GOLDEN / f"e2e_dual_{variant}.npz") as file:
        x, y, expected = file["conv3"], file["conv3p"], file["loss1"]
    for iteration in range(len(expected)):
        found, _, _ = run(layer, x[iteration], y[iteration], denominator=denominator)
        assert_close(found, expected[iteration])


@pytest.mark.parametrize("variant", WITH_GRADIENTS)
def test_the_gradients_give_the_bias_gradient_of_conv3_that_caffe_found(variant):
    # The bias of conv3 is added before the in-place ReLU, so its gradient is dE/dconv3 summed over
    # samples and places where the ReLU is open.
    layer, denominator = NORMALIZED[variant]
    with np.load(GOLDEN / f"e2e_dual_{variant}.npz") as file:
        x, y, expected = file["conv3"][0], file["conv3p"][0], file["grad0.net1.conv3.b"]
    _, dx, _ = run(layer, x, y, denominator=denominator)
    assert_close((dx * (x > 0)).sum(axis=(0, 2, 3)), expected, 1e-5)


@pytest.mark.parametrize("layer", ["NormalizedBothLossLayer", "NormalizedLossLayer"])
def test_exact_gradients_are_the_differences_of_the_loss(layer):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 3, 4)).astype(np.float32) + 1, random.normal(size=(2, 3, 4))
    _, *gradients = run(layer, x, y, denominator="exact")
    for own, gradient in zip((0, 1), gradients, strict=True):
        direction = random.normal(size=x.shape) * 1e-2
        moved = [(x, y), (x, y)]
        for side, sign in enumerate((1, -1)):
            moved[side] = tuple(z + sign * direction * (k == own) for k, z in enumerate((x, y)))
        rise = run(layer, *moved[0], denominator="exact")[0] - \
            run(layer, *moved[1], denominator="exact")[0]
        assert rise / 2 == pytest.approx((gradient * direction).sum(), rel=2e-3)


def test_a_constant_denominator_by_hand():
    # x = (3, 4), y = 0: |x| = 5, E = 25 / (2 * 5); the root is a number: dE/dx = x / 5 = -dE/dy
    loss, dx, dy = run("NormalizedLossLayer", [[3.0, 4.0]], [[0.0, 0.0]], denominator="constant")
    assert loss == 2.5
    assert dx.tolist() == [pytest.approx([0.6, 0.8])]
    assert dy.tolist() == [pytest.approx([-0.6, -0.8])]


def test_a_blob_that_needs_no_gradient_is_left_alone():
    _, dx, dy = run("EuclideanLossLayer", [[1.0]], [[3.0]], propagate=(True, False))
    assert dx.tolist() == [[-2.0]]
    assert np.isnan(dy).all()


def test_zeros_before_the_first_message_do_not_stop_the_run():
    loss, _, _ = run("NormalizedLossLayer", [[1.0]], [[0.0]], denominator="target",
                     propagate=(False, False))
    assert loss == np.inf       # 1 / 0: it is discarded, since the message is still to come


@pytest.mark.parametrize(("layer", "denominator"), [
    ("NormalizedBothLossLayer", "target"), ("NormalizedLossLayer", "both"),
    ("EuclideanLossLayer", "exact")])
def test_an_unknown_denominator_is_refused(layer, denominator):
    with pytest.raises(ValueError, match=rf"{layer}: param_str .* found .*{denominator}"):
        run(layer, [[1.0]], [[0.0]], denominator=denominator)


def test_blobs_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
        run("EuclideanLossLayer", [[1.0, 2.0]], [[1.0], [2.0]])


def test_one_bottom_is_refused():
    layer = losses.EuclideanLossLayer()
    with pytest.raises(ValueError, match="two blobs, found 1"):
        layer.setup([SimpleNamespace()], [])
