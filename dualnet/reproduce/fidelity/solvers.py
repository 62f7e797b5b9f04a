"""The solver cases: a small net of inner products, its weights after each step.

    x -> ip1 -> ReLU -> ip2 -> ... -> SoftmaxWithLoss        as many layers as the case has weights

Iteration t sees batch t mod (number of batches) of the case `inputs`, in each of its passes.
"""

import torch
from torch import Tensor, nn

from dualnet import caffe
from dualnet.reproduce.fidelity.golden import Case, Difference

INPUTS = "inputs"
TOLERANCE = 2e-5
RATE_FIELDS = ("gamma", "power", "stepsize", "stepvalue", "max_iter")
SOLVER_FIELDS = ("momentum", "momentum2", "delta", "rms_decay", "weight_decay",
                 "regularization_type", "clip_gradients", "iter_size")


def solver(case: Case) -> list[Difference]:
    """The loss of each step, the weights before the first and after each, and the updates."""
    inputs = Case(case.golden, case.file, INPUTS)
    images, labels = inputs.tensor("x"), inputs.tensor("label")
    layers = _layers(case)
    net = nn.Sequential(*[module for layer in layers for module in (layer, nn.ReLU())][:-1])
    rate = caffe.rate(case.field("lr_policy", "fixed"), case.required("base_lr"),
                      **_fields(case, RATE_FIELDS))
    optimizer = _optimizer(case, layers)
    loss_layer = caffe.SoftmaxWithLoss()
    losses, history = [], [_weights(layers)]
    for step in range(len(case.arrays["loss"])):
        batch = step % len(images)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for _ in range(optimizer.iter_size):
            loss = loss_layer(net(images[batch]), labels[batch])
            loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.detach())
        history.append(_weights(layers))
    found = {"loss": torch.stack(losses)}
    for key in history[0]:
        found[key] = torch.stack([weights[key] for weights in history])
        found[f"upd_{key}"] = found[key][:-1] - found[key][1:]
    return case.differences(found, TOLERANCE, given="")


def _fields(case: Case, names: tuple[str, ...]) -> dict[str, object]:
    values = {name: case.field(name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _layers(case: Case) -> list[caffe.InnerProduct]:
    """ip1, ip2, ... with their initial weights, the first entries of w1, b1, w2, b2, ..."""
    layers: list[caffe.InnerProduct] = []
    while f"w{len(layers) + 1}" in case.arrays:
        weight = case.tensor(f"w{len(layers) + 1}")[0]
        bias = case.tensor(f"b{len(layers) + 1}")[0]
        layer = caffe.InnerProduct(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return layers


def _optimizer(case: Case, layers: list[caffe.InnerProduct]) -> caffe.Solver:
    """lr_mult and decay_mult are pairs: for the weights and for the biases."""
    rates, decays = case.field("lr_mult", [1, 1]), case.field("decay_mult", [1, 1])
    groups = [{"params": params, "lr_mult": float(rates[i]), "decay_mult": float(decays[i])}
              for i, params in enumerate(([layer.weight for layer in layers],
                                          [layer.bias for layer in layers]))]
    return caffe.solver(case.field("type", "SGD"), groups, 0.0, **_fields(case, SOLVER_FIELDS))


def _weights(layers: list[caffe.InnerProduct]) -> dict[str, Tensor]:
    found = {}
    for number, layer in enumerate(layers, start=1):
        for key, parameter in (("w", layer.weight), ("b", layer.bias)):
            assert parameter is not None
            found[f"{key}{number}"] = parameter.detach().clone()
    return found
