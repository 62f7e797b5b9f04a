"""A net definition as a PyTorch module over named blobs, and as nn.Sequential where it is a chain.

Shapes are those that Caffe computes; layers draw their weights from their fillers.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualnet.caffe.definition import NetDefinition, NetState, fail, title
from dualnet.caffe.layer_data import DATA_LAYERS, LARGEST_BLOB, Shape, data_shapes
from dualnet.caffe.layer_table import LOSSES, PYTHON_LAYERS, PythonLayers, build, kind_of
from dualnet.caffe.params import Sharing
from dualnet.caffe.schema import Record
from dualnet.config import nearest


class Step(NamedTuple):
    """One layer: what it reads, computes and writes, and what its tops weigh in the loss."""

    layer: Record
    module: nn.Module
    bottoms: list[str]
    tops: list[str]
    propagates: list[bool]
    loss_weights: list[float]


class CaffeNet(nn.Module):
    """The layers that a definition has in one state, run in their order.

    inputs  name -> shape of every blob that a data layer gives and `forward` takes
    shapes  name -> shape of every blob; a blob that is rewritten in place has its last shape
    steps   the layers with bottoms

    image_shape    [C, H, W] of the images that Data layers read, where the file does not say
    python_layers  layer name -> module for layers of type Python, called with its two bottoms
    device         "meta" checks shapes without memory for the weights

    Raises PrototxtError, naming the layer and its line.
    """

    def __init__(self, definition: NetDefinition, state: NetState | None = None, *,
                 image_shape: Shape | None = None, python_layers: PythonLayers = PYTHON_LAYERS,
                 device: str = "cpu") -> None:
        super().__init__()
        state = state or NetState()
        self.definition, self.state = definition, state
        self.inputs: dict[str, Shape] = {}
        self.shapes: dict[str, Shape] = {}
        self.data_layers: list[Record] = []
        self.steps: list[Step] = []
        self.layers = nn.ModuleList()
        for layer in definition.select(state):
            if layer["type"] in DATA_LAYERS:
                self._add_data(layer, image_shape)
            else:
                self._add(layer, python_layers)
        if not self.steps:
            raise definition.layers[0].fail(
                f"the net has no layer with bottoms in the phase {state.phase}")
        if device != "meta":
            self._allocate(device)
        sharing = Sharing()
        for step in self.steps:
            sharing.apply(step.layer, step.module)
        self.train(state.phase == "TRAIN")

    def forward(self, blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All blobs, from those of `inputs` that are needed.

        A layer that rewrites a blob in place replaces it here, so "conv1" is what its ReLU gave.
        Raises ValueError for a blob that is missing or has another shape than in the file; the
        first dimension, the batch, may differ.
        """
        found = {name: self._checked(name, blob) for name, blob in blobs.items()}
        for step in self.steps:
            missing = [name for name in step.bottoms if name not in found]
            if missing:
                raise ValueError(f"{title(step.layer)} needs the blob '{missing[0]}' "
                                 f"(given: {', '.join(blobs)})")
            bottoms = [found[name] if propagates else found[name].detach()
                       for name, propagates in zip(step.bottoms, step.propagates, strict=True)]
            if step.tops:
                y = step.module(*bottoms)
                found.update(dict.fromkeys(step.tops, y))
        return found

    def loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """What is differentiated: the sum of all tops with a loss_weight, times it.

        blobs  what `forward` returned.  Without any weight the loss is 0 and has no gradient.
        """
        total = torch.zeros(())
        for step in self.steps:
            for top, weight in zip(step.tops, step.loss_weights, strict=True):
                if weight:
                    total = total + weight * blobs[top].sum()
        return total

    def as_sequential(self) -> nn.Sequential:
        """The layers between the images and the losses, under their own names.

        Raises PrototxtError naming the first layer because of which the net is no chain.
        """
        chain: OrderedDict[str, nn.Module] = OrderedDict()
        blob = ""
        for step in self.chain():
            name = step.layer["name"] or ""
            if len(step.bottoms) != 1 or len(step.tops) != 1:
                raise fail(step.layer, f"has {len(step.bottoms)} bottoms and {len(step.tops)} "
                           "tops, so the net is no chain of layers")
            if blob and step.bottoms[0] != blob:
                raise fail(step.layer, f"takes the blob '{step.bottoms[0]}' and not '{blob}' of "
                           "the layer before it, so the net is no chain of layers", "bottom")
            if not name or "." in name or name in chain or hasattr(nn.Sequential(), name):
                raise fail(step.layer, "needs a name of its own, without a dot and other than the "
                           "words of torch, in a chain of layers", "name")
            chain[name] = step.module
            blob = step.tops[0]
        return nn.Sequential(chain)

    def chain(self) -> list[Step]:
        """The steps besides losses, accuracies and Silence."""
        return [step for step in self.steps
                if step.layer["type"] not in (*LOSSES, "Accuracy", "Silence")]

    def losses(self) -> list[Step]:
        """The steps that are losses."""
        return [step for step in self.steps if step.layer["type"] in LOSSES]

    # -- building ----------------------------------------------------------------------------------

    def _add_data(self, layer: Record, image_shape: Shape | None) -> None:
        if layer["bottom"]:
            raise fail(layer, f"takes no bottoms, found {len(layer['bottom'])}", "bottom")
        self.data_layers.append(layer)
        shapes = data_shapes(layer, image_shape)
        for index, (top, shape) in enumerate(zip(layer["top"], shapes, strict=True)):
            self._refuse_second(layer, top, index)
            self.inputs[top] = self.shapes[top] = shape

    def _add(self, layer: Record, python_layers: PythonLayers) -> None:
        kind = kind_of(layer, python_layers)
        bottoms, tops = layer["bottom"], layer["top"]
        for index, bottom in enumerate(bottoms):
            if bottom not in self.shapes:
                raise fail(layer, f"takes the blob '{bottom}', which no layer before it gives"
                           f"{nearest(bottom, self.shapes)}", "bottom", index)
        for index, top in enumerate(tops):
            if top not in bottoms[index:index + 1]:
                self._refuse_second(layer, top, index)
        shapes = [self.shapes[bottom] for bottom in bottoms]
        with torch.device("meta"):
            module = build(layer, shapes, python_layers)
        shape = () if kind.is_scalar else self._inferred(layer, module, shapes)
        if kind.is_scalar and not tops:
            tops = [f"(automatic {len(self.steps)})"]    # a loss without a top still counts
        self.shapes.update(dict.fromkeys(tops, shape))
        self.layers.append(module)
        self.steps.append(Step(layer, module, bottoms, tops, self._propagates(layer),
                               self._loss_weights(layer, tops)))

    def _refuse_second(self, layer: Record, top: str, index: int) -> None:
        if top in self.shapes:
            raise fail(layer, f"gives the blob '{top}', which a layer before it gives already",
                       "top", index)

    def _inferred(self, layer: Record, module: nn.Module, shapes: list[Shape]) -> Shape:
        """The shape of a top, found without memory for its numbers."""
        if not layer["top"]:
            return ()
        try:
            with torch.no_grad():
                y = module(*(torch.empty(shape, device="meta") for shape in shapes))
        except (ValueError, RuntimeError, TypeError) as error:
            found = ", ".join(str(list(shape)) for shape in shapes)
            raise fail(layer, f"does not fit its bottom {found}: {str(error).splitlines()[0]}"
                       ) from None
        if y.numel() > LARGEST_BLOB:
            raise fail(layer, f"gives a blob of {list(y.shape)}, more than 2^31 numbers")
        return tuple(y.shape)

    def _propagates(self, layer: Record) -> list[bool]:
        given = layer["propagate_down"]
        if given and len(given) != len(layer["bottom"]):
            raise fail(layer, f"needs a 'propagate_down' for each of {len(layer['bottom'])} "
                       f"bottoms, found {len(given)}", "propagate_down")
        return given or [True] * len(layer["bottom"])

    def _loss_weights(self, layer: Record, tops: list[str]) -> list[float]:
        """Those given; else 1 for a loss of Caffe, and 0 for all others, Python layers too."""
        given = layer["loss_weight"]
        if given and len(given) != len(tops):
            raise fail(layer, f"needs a 'loss_weight' for each of {len(tops)} tops, found "
                       f"{len(given)}", "loss_weight")
        return given or [float(layer["type"].endswith("Loss"))] * len(tops)

    def _allocate(self, device: str) -> None:
        self.to_empty(device=device)
        for step in self.steps:
            reset = getattr(step.module, "reset_parameters", None)
            if reset is None:
                continue
            try:
                reset()
            except (ValueError, RuntimeError) as error:
                raise fail(step.layer, str(error).splitlines()[0]) from None

    def _checked(self, name: str, blob: Tensor) -> Tensor:
        if name not in self.inputs:
            raise ValueError(f"no data layer gives the blob '{name}'{nearest(name, self.inputs)}")
        expected = self.inputs[name]
        if tuple(blob.shape[1:]) != expected[1:]:
            raise ValueError(f"the blob '{name}' is {list(expected)} in the file, found "
                             f"{list(blob.shape)}")
        return blob
