"""The end-to-end runs: the dual net of figure 8.1 under each loss, and the undivided net.

The nets are built from the topology, cut by `dualnet.cut` and compared by `dualnet.losses`.  All
weights, biases too, are updated by hand: w <- w - lr * diff.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualnet import caffe, losses
from dualnet.cut import Part, cut, join
from dualnet.errors import UserError
from dualnet.optimizer import gradient_norm
from dualnet.reproduce.fidelity.golden import Arrays, Difference, Golden, measure

TOLERANCE = 1e-4
RELU = "relu_"


@dataclass(frozen=True)
class Variant:
    """How one run of the dual net departs from figure 8.1 with the Euclidean loss.

    loss_weight   0: no gradient enters net1 at all, as in Caffe
    clear_diffs   whether gradients are cleared before each backward pass
    stale_target  how many iterations late net2's answer is used; zeros before the first
    compare       post_relu or pre_relu: conv3 and conv3' with or without their ReLU
    python_layer  whether Caffe's loss was a Python layer, which changes nothing here
    """

    loss: str
    denominator: str = "constant"
    loss_weight: float = 1.0
    clear_diffs: bool = True
    stale_target: int = 0
    compare: str = "post_relu"
    python_layer: bool = False
    note: str = ""


@dataclass(frozen=True)
class Topology:
    """The layers of both nets, and the names that the golden files give to what is compared."""

    content: dict[str, Any]
    num_shared: int      # layers of net1 behind the boundary, each with a copy in net2

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Topology":
        names = [layer["name"] for layer in content["net1"]]
        if content["boundary"] not in names:
            raise UserError(f"the boundary '{content['boundary']}' is no layer of net1 "
                            f"({', '.join(names)})")
        return cls(content, len(names) - names.index(content["boundary"]) - 1)

    def names(self, net: str) -> list[str]:
        return [layer["name"] for layer in self.content[net]]

    @property
    def conv3(self) -> str:
        return self.names("net1")[-1]

    @property
    def conv3p(self) -> str:
        return self.names("net2")[self.num_shared - 1]

    def whole(self) -> nn.Sequential:
        """net1 up to the boundary and net2: the net before it is cut."""
        net1 = self.content["net1"]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        x = torch.zeros(1, *self.content["input"])
        for description in net1[:len(net1) - self.num_shared] + self.content["net2"]:
            for name, module in _modules(description, x):
                layers[name] = module
                x = module(x)
        return nn.Sequential(layers)

    def parts(self, variant: Variant | None, inputs: Arrays) -> list[Part]:
        """net1 and net2 with their initial weights."""
        parts = cut(self.whole(), [self.content["boundary"]],
                    before_activation=variant is not None and variant.compare == "pre_relu")
        shared = [name for name, _ in parts[0].tail.named_children() if not name.startswith(RELU)]
        if shared != self.names("net2")[:self.num_shared]:
            raise UserError(f"behind the boundary net1 has {self.names('net1')[-self.num_shared:]} "
                            f"but the cut gives it a copy of {shared}")
        for net, part in zip(("net1", "net2"), parts, strict=True):
            for name, parameter in _parameters(self.layers(net, part)):
                parameter.data = torch.tensor(inputs[f"init.{net}.{name}"])
        return parts

    def layers(self, net: str, part: Part) -> dict[str, Any]:
        """The layers with weights by their golden names: conv3 of net1 is a copy of conv3p."""
        renamed = dict(zip(self.names("net2"), self.names("net1")[-self.num_shared:], strict=False))
        own = {name: layer for group in (part.head, part.body)
               for name, layer in group.named_children()}
        copies = {renamed.get(name, name): layer for name, layer in part.tail.named_children()}
        return {name: layer for name, layer in (own | copies).items() if hasattr(layer, "weight")}


def _modules(layer: dict[str, Any], x: Tensor) -> list[tuple[str, nn.Module]]:
    """A layer and, where it has one, its ReLU; `x` is what enters it."""
    try:
        module = _module(layer, x)
    except (TypeError, ValueError) as error:
        raise UserError(f"layer '{layer['name']}' is not understood: {error}") from None
    relu = [(RELU + layer["name"], caffe.relu())] if layer.get("relu") else []
    return [(layer["name"], module), *relu]


def _module(layer: dict[str, Any], x: Tensor) -> nn.Module:
    fields = {key: value for key, value in layer.items() if key not in ("name", "type", "relu")}
    if layer["type"] == "Convolution":
        return caffe.Convolution(x.shape[1], **{"pad": 0, **fields})
    if layer["type"] == "InnerProduct":
        return caffe.InnerProduct(x[0].numel(), **fields)
    if layer["type"] == "Pooling":
        return caffe.Pooling(**fields)
    if layer["type"] == "LRN":
        return caffe.LRN(**fields)
    raise ValueError(f"type {layer['type']}")


def files(topology: dict[str, Any]) -> list[str]:
    """Names of the files of all runs."""
    single = [topology["single"]["file"]] if "single" in topology else []
    return [*topology.get("variants", []), *single]


def end_to_end(golden: Golden, file: str) -> list[Difference]:
    """One run against its file: every array in it but the learning rates."""
    topology = Topology.read(golden.topology)
    inputs, expected = golden.arrays("e2e_inputs"), golden.arrays(file)
    if file in golden.topology.get("variants", []):
        try:
            variant = Variant(**golden.topology["variants"][file])
        except TypeError as error:
            raise UserError(f"{file}: a variant that is not understood: {error}") from None
        found = _run_dual(topology, variant, inputs, expected)
    else:
        found = _run_single(topology, inputs, expected)
    outputs = [key for key in expected if key not in ("lr", "lr1", "lr2")]
    unknown = [key for key in outputs if key not in found]
    if unknown:
        raise UserError(f"{file} has arrays that are not understood: {', '.join(unknown)}")
    return [measure(key, found[key], expected[key], TOLERANCE) for key in outputs]


def _run_dual(topology: Topology, variant: Variant, inputs: Arrays,
              expected: Arrays) -> dict[str, np.ndarray]:
    net1, net2 = topology.parts(variant, inputs)
    layers1, layers2 = topology.layers("net1", net1), topology.layers("net2", net2)
    names = (topology.content["boundary"], topology.conv3, topology.conv3p,
             topology.names("net2")[-1])
    log, late = _Log(), deque[Tensor]()
    for step in range(topology.content["iterations"]):
        z = net1(torch.tensor(inputs["x"][step]))
        x = net1.tail(z)
        y = net2.head(z.detach())
        scores = net2.body(y)
        if not step:
            late.extend([torch.zeros_like(y)] * variant.stale_target)
        late.append(y.detach())
        loss1 = losses.BOUNDARY_LOSSES[variant.loss](x, late.popleft(), variant.denominator)
        loss2 = caffe.SoftmaxWithLoss()(scores, torch.tensor(inputs["label"][step]))
        if variant.clear_diffs:
            net1.zero_grad()
            net2.zero_grad()
        loss2.backward()
        if variant.loss_weight:
            (variant.loss_weight * loss1).backward()
        log.add(zip(names, (z, x, y, scores), strict=True), loss1=loss1, loss2=loss2,
                g1max=_largest_gradient(net1), g1l2=gradient_norm(net1), g2l2=gradient_norm(net2))
        if not step:
            grad0 = _gradients("grad0.net1.", layers1) | _gradients("grad0.net2.", layers2)
        _update(layers1, float(expected["lr1"]))
        _update(layers2, float(expected["lr2"]))
    return (log.arrays() | grad0 | _weights("final.net1.", layers1)
            | _weights("final.net2.", layers2))


def _run_single(topology: Topology, inputs: Arrays, expected: Arrays) -> dict[str, np.ndarray]:
    """The undivided net: net1 with its own conv3, then net2 behind conv3'."""
    parts = topology.parts(None, inputs)
    net = join(parts, merged=True)
    layers = topology.layers("net1", parts[0])
    layers |= {name: layer for name, layer in topology.layers("net2", parts[1]).items()
               if name not in topology.names("net2")[:topology.num_shared]}
    names = {topology.conv3p: topology.conv3}
    log = _Log()
    for step in range(topology.content["iterations"]):
        activations, x = {}, torch.tensor(inputs["x"][step])
        for name, module in net.named_children():
            x = module(x)
            name = name.removeprefix(RELU)
            activations[names.get(name, name)] = x
        net.zero_grad()
        loss = caffe.SoftmaxWithLoss()(x, torch.tensor(inputs["label"][step]))
        loss.backward()
        log.add(activations.items(), loss=loss, gl2=gradient_norm(net))
        if not step:
            grad0 = _gradients("grad0.", layers)
        _update(layers, float(expected["lr"]))
    return log.arrays() | grad0 | _weights("final.", layers)


class _Log:
    """Values of each iteration, stacked at the end."""

    def __init__(self) -> None:
        self._values: dict[str, list[np.ndarray]] = {}

    def add(self, tensors: Iterable[tuple[str, Tensor]], **numbers: Tensor | float) -> None:
        for name, value in {**dict(tensors), **numbers}.items():
            self._values.setdefault(name, []).append(torch.as_tensor(value).detach().numpy().copy())

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack(values) for name, values in self._values.items()}


def _largest_gradient(net: nn.Module) -> float:
    return max((float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None),
               default=0.0)


def _parameters(layers: dict[str, Any]) -> Iterator[tuple[str, nn.Parameter]]:
    """conv1.w, conv1.b, ... as the golden files name them."""
    for name, layer in layers.items():
        yield f"{name}.w", layer.weight
        if layer.bias is not None:
            yield f"{name}.b", layer.bias


def _weights(prefix: str, layers: dict[str, Any]) -> dict[str, np.ndarray]:
    return {prefix + name: parameter.detach().numpy().copy()
            for name, parameter in _parameters(layers)}


def _gradients(prefix: str, layers: dict[str, Any]) -> dict[str, np.ndarray]:
    """0 where there is none."""
    return {prefix + name: np.zeros(parameter.shape) if parameter.grad is None
            else parameter.grad.numpy().copy() for name, parameter in _parameters(layers)}


def _update(layers: dict[str, Any], lr: float) -> None:
    with torch.no_grad():
        for _, parameter in _parameters(layers):
            if parameter.grad is not None:
                parameter.sub_(lr * parameter.grad)
