"""The layer cases: build the layer that the fields describe, run it forwards and backwards.

Tolerances are what float32 rounding explains, with a margin of ten or so.
"""

import math

import torch
from torch import Tensor, nn

from dualnet import caffe
from dualnet.errors import UserError
from dualnet.nets.dropout import Dropout
from dualnet.reproduce.fidelity.golden import Case, Difference, measure

PRODUCTS = 1e-5      # convolution, inner product, LRN, softmax: sums in another order
COPIES = 1e-6        # pooling, ReLU, Euclidean loss, dropout, accuracy


def convolution(case: Case) -> list[Difference]:
    layer = caffe.Convolution(
        case.arrays["x"].shape[1], case.required("num_output"), case.size("kernel_size"),
        pad=case.size("pad", 0), stride=case.size("stride", 1),
        dilation=case.size("dilation", 1), group=case.field("group", 1),
        bias_term=case.field("bias_term", True))
    return _forward_and_backward(layer, case, PRODUCTS)


def inner_product(case: Case) -> list[Difference]:
    axis = case.field("axis", 1)
    layer = caffe.InnerProduct(
        math.prod(case.arrays["x"].shape[axis:]), case.required("num_output"), axis=axis,
        transpose=case.field("transpose", False), bias_term=case.field("bias_term", True))
    return _forward_and_backward(layer, case, PRODUCTS)


def pooling(case: Case) -> list[Difference]:
    pool = case.field("pool", "MAX")
    if case.field("forward_only") and pool == "MAX":
        case.undefined = "the gradient, since the last windows lie outside the image"
    layer = caffe.Pooling(
        pool, case.size("kernel_size"), stride=case.size("stride", 1),
        pad=case.size("pad", 0), global_pooling=case.field("global_pooling", False),
        round_mode=case.field("round_mode", "CEIL"))
    return _forward_and_backward(layer, case, COPIES)


def relu(case: Case) -> list[Difference]:
    return _forward_and_backward(caffe.relu(case.field("negative_slope", 0.0)), case, COPIES)


def lrn(case: Case) -> list[Difference]:
    layer = caffe.LRN(case.field("local_size", 5), case.field("alpha", 1.0),
                      case.field("beta", 0.75), case.field("k", 1.0),
                      norm_region=case.field("norm_region", "ACROSS_CHANNELS"))
    return _forward_and_backward(layer, case, PRODUCTS)


def _forward_and_backward(layer: nn.Module, case: Case, tolerance: float) -> list[Difference]:
    """y, dx, dw, db of a layer with one bottom, from x, dy, w, b."""
    weights = {key: parameter for key, name in (("w", "weight"), ("b", "bias"))
               if (parameter := getattr(layer, name, None)) is not None}
    for key, parameter in weights.items():
        parameter.data = case.tensor(key)
    x = case.tensor("x").requires_grad_("dy" in case.arrays)
    y = layer(x)
    found = {"y": y}
    if "dy" in case.arrays:
        if y.shape != case.arrays["dy"].shape:
            raise UserError(f"{case.file} '{case.name}': dy has shape "
                            f"{list(case.arrays['dy'].shape)}, but the layer gives {list(y.shape)}")
        y.backward(case.tensor("dy"))
        found["dx"] = _gradient(x)
        found |= {f"d{key}": _gradient(parameter) for key, parameter in weights.items()}
    return case.differences(found, tolerance, given="x dy w b")


def _gradient(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.grad is None else x.grad


def dropout(case: Case) -> list[Difference]:
    """The masks are random, so Caffe's is not expected: units that both keep must agree, units
    that ours drops must be 0, and the shares of the units kept must agree within five standard
    errors.
    """
    ratio = case.field("dropout_ratio", 0.5)
    layer = Dropout(case.name, ratio).train(case.field("phase", "TRAIN") == "TRAIN")
    x = case.tensor("x").requires_grad_()
    y = layer(x)
    y.backward(case.tensor("dy"))
    if not layer.training:
        return case.differences({"y": y, "dx": _gradient(x)}, COPIES, given="x dy")
    ours, caffes = _gradient(x) != 0, case.tensor("dx") != 0
    differences = []
    for key, found in (("y", y), ("dx", _gradient(x))):
        comparable = torch.where(ours & ~caffes, 0, found)
        expected = torch.where(ours & caffes, case.tensor(key), 0)
        differences.append(measure(key, comparable, expected.numpy(), COPIES))
    kept = [float(mask.double().mean()) for mask in (ours, caffes)]
    error = math.sqrt(2 * ratio / (1 - ratio) / ours.numel())      # of the relative difference
    distance = abs(kept[0] - kept[1])
    differences.append(Difference("share kept", distance, distance / kept[1], 5 * error))
    return differences


def softmax_loss(case: Case) -> list[Difference]:
    axis = case.field("axis", 1)
    layer = caffe.SoftmaxWithLoss(
        axis=axis, ignore_label=case.field("ignore_label"),
        normalization=case.field("normalization", "VALID").removesuffix(" (default)"),
        loss_weight=case.field("loss_weight", 1.0))
    x = case.tensor("x").requires_grad_()
    loss = layer(x, case.tensor("label"))
    loss.retain_grad()
    (layer.loss_weight * loss).backward()
    found = {"loss": loss, "net_loss_diff": _gradient(loss), "dx": _gradient(x),
             "prob": x.softmax(axis)}
    return case.differences(found, PRODUCTS, given="x label")


def euclidean_loss(case: Case) -> list[Difference]:
    layer = caffe.EuclideanLoss(loss_weight=case.field("loss_weight", 1.0))
    a, b = case.tensor("a").requires_grad_(), case.tensor("b").requires_grad_()
    loss = layer(a, b)
    (layer.loss_weight * loss).backward()
    found = {"loss": loss, "da": _gradient(a), "db": _gradient(b)}
    return case.differences(found, COPIES, given="a b")


def accuracy(case: Case) -> list[Difference]:
    layer = caffe.Accuracy(top_k=case.field("top_k", 1), axis=case.field("axis", 1),
                           ignore_label=case.field("ignore_label"))
    found = {"accuracy": layer(case.tensor("x"), case.tensor("label"))}
    return case.differences(found, COPIES, given="x label")
