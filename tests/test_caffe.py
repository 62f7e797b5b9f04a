"""Caffe's layers, losses and fillers, by hand and by loops.

test_caffe_golden.py compares with what Caffe itself wrote.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualnet import caffe
from dualnet.caffe.fillers import FILLERS

LARGEST = float(np.finfo(np.float32).max)


def random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


# -- convolution and inner product -----------------------------------------------------------------

def convolve(x, w, b, stride, pad, dilation, group):
    """Cross-correlation by loops, float64."""
    (n, channels, height, width), (num_output, _, kh, kw) = x.shape, w.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    rows = (height + 2 * pad[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * pad[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, num_output, rows, columns)) + b[None, :, None, None]
    inputs, outputs = channels // group, num_output // group
    for o in range(num_output):
        own = slice(o // outputs * inputs, (o // outputs + 1) * inputs)
        for i in range(rows):
            for j in range(columns):
                window = x[:, own, i * stride[0]:i * stride[0] + dilation[0] * kh:dilation[0],
                           j * stride[1]:j * stride[1] + dilation[1] * kw:dilation[1]]
                y[:, o, i, j] += (window * w[o]).sum((1, 2, 3))
    return y


@pytest.mark.parametrize(("kernel", "stride", "pad", "dilation", "group"), [
    ((3, 3), (1, 1), (0, 0), (2, 2), 1), ((3, 2), (2, 1), (2, 1), (1, 3), 2),
    ((5, 5), (3, 2), (2, 2), (1, 1), 4), ((1, 1), (2, 2), (1, 0), (1, 1), 2)])
def test_convolution_is_a_cross_correlation_of_each_group(kernel, stride, pad, dilation, group):
    layer = caffe.Convolution(4, 8, kernel, stride=stride, pad=pad, dilation=dilation, group=group,
                              bias_filler=caffe.gaussian(1.0))
    x = random(2, 4, 9, 8)
    assert layer.weight.shape == (8, 4 // group, *kernel)
    expected = convolve(x.double().numpy(), layer.weight.detach().double().numpy(),
                        layer.bias.detach().double().numpy(), stride, pad, dilation, group)
    assert np.allclose(layer(x).detach(), expected, atol=1e-5)


def test_a_convolution_without_bias_has_none():
    layer = caffe.Convolution(2, 3, 1, bias_term=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer(torch.zeros(1, 2, 4, 4)).abs().max() == 0


def test_inner_product_flattens_channels_rows_and_columns():
    layer = caffe.InnerProduct(12, 2)
    x = random(5, 3, 2, 2)
    by_hand = x.numpy().reshape(5, 12) @ layer.weight.detach().numpy().T
    assert np.allclose(layer(x).detach(), by_hand, atol=1e-6)


def test_inner_product_keeps_the_dimensions_before_its_axis_and_may_store_its_weights_transposed():
    layer = caffe.InnerProduct(6, 4, axis=2, transpose=True, bias_filler=caffe.constant(0.5))
    x = random(5, 2, 3, 2)
    by_hand = x.numpy().reshape(5, 2, 6) @ layer.weight.detach().numpy() + 0.5
    assert layer.weight.shape == (6, 4)
    assert np.allclose(layer(x).detach(), by_hand, atol=1e-6)


def test_inner_product_without_bias_has_none():
    assert [name for name, _ in caffe.InnerProduct(3, 2, bias_term=False).named_parameters()] == [
        "weight"]


# -- pooling ---------------------------------------------------------------------------------------

def pool_by_loops(x, kind, kernel, stride, pad, is_ceil=True):
    """Caffe's rule for one image [H, W], window by window: values, and gradient of their sum."""
    outputs = []
    for axis in (0, 1):
        steps = (x.shape[axis] + 2 * pad[axis] - kernel[axis]) / stride[axis]
        number = (math.ceil(steps) if is_ceil else math.floor(steps)) + 1
        if any(pad) and (number - 1) * stride[axis] >= x.shape[axis] + pad[axis]:
            number -= 1
        outputs.append(number)
    y, dx = np.zeros(outputs), np.zeros(x.shape)
    for i in range(outputs[0]):
        for j in range(outputs[1]):
            top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
            area = ((min(top + kernel[0], x.shape[0] + pad[0]) - top)
                    * (min(left + kernel[1], x.shape[1] + pad[1]) - left))
            window = [(h, w) for h in range(max(top, 0), min(top + kernel[0], x.shape[0]))
                      for w in range(max(left, 0), min(left + kernel[1], x.shape[1]))]
            if kind == "AVE":
                y[i, j] = np.divide(sum(x[at] for at in window), np.float64(area))
                for at in window:
                    dx[at] += 1 / area
            else:
                y[i, j] = max((x[at] for at in window), default=-LARGEST)
                if window:
                    dx[max(window, key=lambda at: x[at])] += 1      # max keeps the first
    return y, dx


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pooling_agrees_with_caffes_loops(data):
    kernel = data.draw(st.tuples(*[st.integers(1, 4)] * 2))
    pad = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    stride = data.draw(st.tuples(*[st.integers(1, 5)] * 2))
    sides = tuple(data.draw(st.integers(max(k - 2 * p, 1), 9))
                  for k, p in zip(kernel, pad, strict=True))
    kind, is_ceil = data.draw(st.sampled_from(["MAX", "AVE"])), data.draw(st.booleans())
    # Few values, so that maxima tie.
    image = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-3, 1, sides)
    layer = caffe.Pooling(kind, kernel, stride=stride, pad=pad,
                          round_mode="CEIL" if is_ceil else "FLOOR")
    with np.errstate(all="ignore"):
        expected, gradient = pool_by_loops(image.astype(float), kind, kernel, stride, pad, is_ceil)
    x = torch.tensor(image, dtype=torch.float32)[None, None]
    y = layer(x)[0, 0]
    assert y.shape == expected.shape
    assert np.allclose(y, expected, rtol=1e-6, atol=0, equal_nan=True)
    if kind == "AVE" or expected.min() > -LARGEST:
        x.requires_grad_()
        layer(x).sum().backward()
        assert np.allclose(x.grad[0, 0], gradient, atol=1e-6)


def test_the_undefined_gradient_of_an_empty_window_is_refused():
    # 6 pixels, windows of 1 at 0, 4 and 8: the third lies outside
    layer, x = caffe.Pooling("MAX", 1, stride=4), random(1, 1, 6, 6)
    assert layer(x)[0, 0, 2, 0] == -LARGEST
    with pytest.raises(ValueError, match="undefined; choose a stride no larger"):
        layer(x.requires_grad_())
    with torch.no_grad():
        layer(x)


def test_max_pooling_passes_a_nan_on():
    # Caffe skips it: its comparison with the maximum so far is false
    y = caffe.Pooling("MAX", 2, stride=2)(torch.tensor([[[[1.0, math.nan], [2.0, 3.0]]]]))
    assert y.isnan().all()


def test_global_pooling_is_one_window_and_takes_no_other_size():
    x = random(2, 3, 5, 7)
    assert torch.equal(caffe.Pooling("MAX", global_pooling=True)(x), x.amax((2, 3), keepdim=True))
    for wrong in ({"kernel_size": 2}, {"stride": 2}, {"pad": 1}):
        with pytest.raises(ValueError, match="global_pooling"):
            caffe.Pooling("MAX", global_pooling=True, **wrong)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"pool": "STOCHASTIC", "kernel_size": 2}, "MAX or AVE, found STOCHASTIC"),
    ({"kernel_size": 2, "pad": 2}, "pad must be smaller than kernel_size"),
    ({"kernel_size": 2, "round_mode": "UP"}, "CEIL or FLOOR, found UP"), ({}, "found neither")])
def test_pooling_refuses_what_caffe_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        caffe.Pooling(**arguments)


def test_a_window_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="a pooling window of 5 does not fit into 2 pixels"):
        caffe.Pooling("MAX", 5, stride=1)(torch.zeros(1, 1, 2, 2))


def test_max_pool_is_the_common_case_of_pooling():
    x = random(2, 3, 32, 32)
    assert torch.equal(caffe.max_pool(3, 2)(x), caffe.Pooling("MAX", 3, stride=2)(x))


# -- ReLU and LRN ----------------------------------------------------------------------------------

@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_the_gradient_of_relu_at_zero_is_its_negative_slope(slope):
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    y = caffe.relu(slope)(x)
    y.sum().backward()
    assert y.tolist() == [-2 * slope, 0.0, 3.0]
    assert x.grad.tolist() == [slope, slope, 1.0]


def test_lrn_across_channels_divides_by_the_squares_of_its_neighbours():
    x = random(2, 4, 3, 3)
    squares, expected = x.double().numpy() ** 2, np.zeros(x.shape)
    for c in range(4):
        total = squares[:, max(c - 1, 0):c + 2].sum(1)
        expected[:, c] = x[:, c].double().numpy() * (2 + 0.6 / 3 * total) ** -0.5
    assert np.allclose(caffe.LRN(3, 0.6, 0.5, 2.0)(x), expected, atol=1e-6)


def test_lrn_within_a_channel_divides_by_the_squares_of_its_pixels_and_ignores_k():
    x = random(2, 2, 5, 4)
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros(x.shape)
    for i in range(5):
        for j in range(4):
            total = (padded[:, :, i:i + 3, j:j + 3] ** 2).sum((2, 3))
            expected[:, :, i, j] = padded[:, :, i + 1, j + 1] * (1 + 0.6 / 9 * total) ** -0.75
    layer = caffe.LRN(3, 0.6, 0.75, 7.0, norm_region="WITHIN_CHANNEL")
    assert np.allclose(layer(x), expected, atol=1e-6)


def test_lrn_refuses_an_even_window_and_another_region():
    with pytest.raises(ValueError, match="odd, found 4"):
        caffe.LRN(4)
    with pytest.raises(ValueError, match="ACROSS_CHANNELS or WITHIN_CHANNEL, found ACROSS"):
        caffe.LRN(norm_region="ACROSS")


# -- losses and accuracy ---------------------------------------------------------------------------

def test_euclidean_loss_divides_by_samples_alone_and_only_counts_what_follows():
    # squared distances 1 + 4 and 9, two samples: 14 / 4; gradients (a - b) / 2 and its opposite
    a = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
    b = torch.zeros(2, 2, 1, 1, requires_grad=True)
    loss = caffe.EuclideanLoss()(a, b)
    loss.backward()
    assert loss.item() == 3.5
    assert a.grad.tolist() == [[0.5, 1.0], [0.0, 1.5]]
    assert torch.equal(b.grad.flatten(), -a.grad.flatten())
    with pytest.raises(ValueError, match="as many samples"):
        caffe.EuclideanLoss()(a, b[:1])


@pytest.mark.parametrize(("normalization", "divisor"), [
    ("VALID", 4), ("BATCH_SIZE", 2), ("FULL", 6), ("NONE", 1)])
def test_the_softmax_loss_is_divided_by_its_normalization(normalization, divisor):
    # two images of 1 x 3 pixels, two of the six labels ignored
    x, label = random(2, 4, 1, 3), torch.tensor([[[[0, 1, 3]]], [[[1, 2, 1]]]])
    label[0, 0, 0, 2] = label[1, 0, 0, 0] = 9
    probabilities = np.exp(x.double().numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    counted = [(0, 0, 0, 0), (0, 1, 0, 1), (1, 2, 0, 1), (1, 1, 0, 2)]
    expected = -sum(math.log(probabilities[at]) for at in counted) / divisor
    layer = caffe.SoftmaxWithLoss(ignore_label=9, normalization=normalization)
    assert layer(x, label).item() == pytest.approx(expected, rel=1e-6)
    assert layer(x, label.float()).item() == layer(x, label).item()


def test_ignored_samples_have_no_gradient_and_a_batch_of_them_no_loss():
    x = random(2, 3).requires_grad_()
    layer = caffe.SoftmaxWithLoss(ignore_label=-1)
    layer(x, torch.tensor([1, -1])).backward()
    assert x.grad[1].tolist() == [0.0, 0.0, 0.0]
    assert x.grad[0].abs().min() > 0
    assert layer(x, torch.tensor([-1, -1])).item() == 0


def test_a_saturated_softmax_loses_at_most_the_logarithm_of_flt_min_but_keeps_its_gradient():
    x = torch.tensor([[0.0, 500.0]], requires_grad=True)
    loss = caffe.SoftmaxWithLoss()(x, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(87.33655, abs=1e-5)
    assert x.grad.tolist() == [[-1.0, 1.0]]


def test_the_softmax_may_run_along_another_axis():
    x, label = random(2, 3, 5), torch.tensor([[0, 4, 2], [1, 1, 3]])
    inner = caffe.SoftmaxWithLoss(axis=2)(x, label)
    assert inner.item() == pytest.approx(
        caffe.SoftmaxWithLoss()(x.reshape(6, 5), label.flatten()).item())
    # two dimensions before the axis count as the batch
    assert caffe.SoftmaxWithLoss(axis=-1, normalization="BATCH_SIZE")(x, label).item() == (
        pytest.approx(inner.item()))


@pytest.mark.parametrize("layer", [caffe.SoftmaxWithLoss(), caffe.Accuracy()])
@pytest.mark.parametrize(("label", "message"), [
    ([0, 3], "classes 0 to 2, found 3"), ([-1, 0], "found -1"), ([0], "need 2 labels, found 1")])
def test_a_label_that_is_no_class_is_refused(layer, label, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(2, 3), torch.tensor(label))


def test_an_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="found BATCH"):
        caffe.SoftmaxWithLoss(normalization="BATCH")


@pytest.mark.parametrize(("scores", "top_k", "expected"), [
    ([0, 0, 0], 1, 0.0),      # a tie counts against the label
    ([0, 0, 0], 3, 1.0), ([2, 1, 0], 1, 1.0), ([1, 2, 0], 1, 0.0), ([1, 2, 0], 2, 1.0),
    ([1, 2, 1], 2, 0.0), ([math.nan] * 3, 1, 1.0)])
def test_accuracy_counts_the_classes_that_are_as_good(scores, top_k, expected):
    x = torch.tensor([scores], dtype=torch.float32)
    assert caffe.Accuracy(top_k=top_k)(x, torch.tensor([0])).item() == expected


def test_accuracy_leaves_out_ignored_labels():
    x, layer = torch.eye(4), caffe.Accuracy(ignore_label=7)
    assert layer(x, torch.tensor([0, 0, 2, 7])).item() == pytest.approx(2 / 3)
    assert layer(x, torch.tensor([7, 7, 7, 7])).item() == 0
    with pytest.raises(ValueError, match="top_k must be at most"):
        caffe.Accuracy(top_k=5)(x, torch.tensor([0, 0, 0, 0]))


# -- fillers ---------------------------------------------------------------------------------------

def draw(type, *shape, **fields):
    torch.manual_seed(0)
    return caffe.filler(type, **fields)(torch.empty(shape))


@pytest.mark.parametrize(("norm", "fan"), [
    # 96 x 32 x 5 x 5: 32 * 25 in, 96 * 25 out
    ({}, 800), ({"variance_norm": "FAN_OUT"}, 2400), ({"variance_norm": "AVERAGE"}, 1600)])
def test_xavier_and_msra_have_the_spread_of_their_fan(norm, fan):
    xavier = draw("xavier", 96, 32, 5, 5, **norm)
    assert xavier.abs().max() <= math.sqrt(3 / fan)
    assert xavier.std().item() == pytest.approx(math.sqrt(1 / fan), rel=0.01)
    msra = draw("msra", 96, 32, 5, 5, **norm)
    assert msra.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.01)
    assert (msra.abs() > math.sqrt(6 / fan)).any()      # normal, not uniform


def test_a_sparse_gaussian_keeps_a_weight_for_each_of_so_many_outputs():
    weight = draw("gaussian", 200, 500, std=3, mean=0, sparse=10)
    assert (weight != 0).double().mean().item() == pytest.approx(10 / 200, rel=0.05)
    assert weight[weight != 0].std().item() == pytest.approx(3, rel=0.05)


def test_the_numbers_of_each_output_lie_on_the_positive_unit_ball():
    weight = draw("positive_unitball", 6, 4, 3)
    assert weight.min() >= 0
    assert weight.flatten(1).sum(1).tolist() == pytest.approx([1.0] * 6)


def test_bilinear_interpolates():
    # a kernel of 4 doubles an image: weights 1/4, 3/4, 3/4, 1/4 along each axis
    line = np.array([0.25, 0.75, 0.75, 0.25])
    weight = draw("bilinear", 2, 1, 4, 4)
    assert np.array_equal(weight, np.broadcast_to(np.outer(line, line), (2, 1, 4, 4)))
    assert draw("bilinear", 1, 1, 3, 3)[0, 0, 1].tolist() == [0.5, 1.0, 0.5]
    with pytest.raises(ValueError, match="square kernel"):
        draw("bilinear", 1, 1, 3, 4)


def test_caffes_defaults_are_a_constant_zero_and_a_standard_normal():
    assert draw("constant", 5).tolist() == [0.0] * 5
    assert caffe.filler()(torch.empty(2)).tolist() == [0.0] * 2
    assert draw("gaussian", 100_000).std().item() == pytest.approx(1, rel=0.02)
    uniform = draw("uniform", 100_000)
    assert (uniform.min() >= 0, uniform.max() <= 1, uniform.max() > 0.99) == (True, True, True)


@pytest.mark.parametrize("name", FILLERS)
def test_every_filler_fills_in_place_and_records_no_gradient(name):
    layer = caffe.Convolution(3, 4, 3, weight_filler=caffe.filler(name))
    layer.weight.data.fill_(math.nan)
    layer.reset_parameters()
    assert layer.weight.isfinite().all()
    assert layer.weight.is_leaf


@pytest.mark.parametrize(("arguments", "message"), [
    ({"type": "he"}, "unknown filler 'he'"),
    ({"type": "xavier", "std": 1}, "'xavier' does not take std"),
    ({"type": "gaussian", "sparse": -2}, "found -2")])
def test_a_filler_that_caffe_does_not_know_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        caffe.filler(**arguments)
    with pytest.raises(ValueError, match="FAN_IN, FAN_OUT, AVERAGE, found IN"):
        draw("msra", 3, 3, variance_norm="IN")
