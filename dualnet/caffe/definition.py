"""A net definition: the layers of a prototxt file in today's form, and which of them a phase has.

Files from before 2015 are brought up to date as Caffe's upgrade_net_proto_text does: `layers` with
types like CONVOLUTION, `blobs_lr`, `input` with `input_dim` or `input_shape`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualnet.caffe import prototxt
from dualnet.caffe.prototxt import Message, Position, PrototxtError
from dualnet.caffe.schema import MESSAGES, Record, decode

# How the types of old layers are written today, where it is not their words in capitals.
_TODAY = {
    "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output", "LRN": "LRN", "MVN": "MVN", "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH"}


@dataclasses.dataclass(frozen=True)
class NetState:
    """What decides which layers a net has; phase is TRAIN or TEST."""

    phase: str = "TRAIN"
    level: int = 0
    stages: tuple[str, ...] = ()

    def meets(self, rule: Record) -> bool:
        """Whether all that the rule asks for holds."""
        low, high = rule["min_level"], rule["max_level"]
        return ((rule["phase"] is None or rule["phase"] == self.phase)
                and (low is None or self.level >= low) and (high is None or self.level <= high)
                and set(rule["stage"]) <= set(self.stages)
                and not set(rule["not_stage"]) & set(self.stages))


@dataclasses.dataclass(frozen=True)
class NetDefinition:
    """All layers of a file as LayerParameter records, for every phase."""

    name: str
    layers: tuple[Record, ...]
    at: Position

    def select(self, state: NetState) -> list[Record]:
        """The layers that the net has in `state`."""
        return [layer for layer in self.layers if _is_included(layer, state)]


def read_net(path: Path) -> NetDefinition:
    """The definition in a file.  Raises PrototxtError, or UserError if it cannot be read."""
    return net_of(prototxt.read(path))


def net_of(message: Message) -> NetDefinition:
    """The definition that a tree holds.  Raises PrototxtError."""
    return definition_of(decode(message, "NetParameter"))


def definition_of(record: Record) -> NetDefinition:
    """The definition in a NetParameter record.  Raises PrototxtError."""
    if record["layer"] and record["layers"]:
        raise record.fail("a net has 'layer' or, in the old form, 'layers', found both", "layers")
    layers = record["layer"] or [_upgraded(layer) for layer in record["layers"]]
    layers = [*_inputs(record), *layers]
    if not layers:
        raise record.fail("expected a net with layers, found none")
    for layer in layers:
        if layer["include"] and layer["exclude"]:
            raise layer.fail(f"layer '{layer['name'] or ''}' has rules to include and to exclude "
                             "it; Caffe takes one kind", "exclude")
    return NetDefinition(record["name"] or "", tuple(layers), record.at)


def _is_included(layer: Record, state: NetState) -> bool:
    if layer["include"]:
        return any(map(state.meets, layer["include"]))
    return not any(map(state.meets, layer["exclude"]))


# -- old forms -------------------------------------------------------------------------------------

def _upgraded(old: Record) -> Record:
    """An old layer, `layers { type: CONVOLUTION blobs_lr: 1 }`, as today's."""
    if "layer" in old:
        raise old.fail("this form of a layer, from before 2014, is not read here; bring the file "
                       "up to date with Caffe's tool upgrade_net_proto_text", "layer")
    new = Record("LayerParameter", old.at)
    for name, value in old.given().items():
        if name in ("type", "param", "blob_share_mode", "blobs_lr", "weight_decay"):
            continue
        new.values[name], new.places[name] = value, old.places[name]
    if "type" in old:
        new.put("type", _today(old["type"]), old.where("type"))
    for index in range(max(len(old[name]) for name in ("param", "blobs_lr", "weight_decay"))):
        new.put("param", _param_spec(old, index), old.at)
    return new


def _today(old_type: str) -> str:
    """CONVOLUTION -> Convolution, SOFTMAX_LOSS -> SoftmaxWithLoss."""
    return _TODAY.get(old_type) or "".join(map(str.capitalize, old_type.split("_")))


def _param_spec(old: Record, index: int) -> Record:
    spec = Record("ParamSpec", old.at)
    for new_name, old_name in (("name", "param"), ("share_mode", "blob_share_mode"),
                               ("lr_mult", "blobs_lr"), ("decay_mult", "weight_decay")):
        if index < len(old[old_name]):
            spec.put(new_name, old[old_name][index], old.where(old_name, index))
    return spec


def _inputs(net: Record) -> list[Record]:
    """The layers that `input: "data"` stands for."""
    names, dims, shapes = net["input"], net["input_dim"], net["input_shape"]
    if not names:
        for field in ("input_dim", "input_shape"):
            if field in net:
                raise net.fail(f"'{field}' needs the name of an 'input'", field)
        return []
    if dims and shapes:
        raise net.fail("an input has 'input_shape' or, in the old form, 'input_dim', found both",
                       "input_dim")
    if dims:
        if len(dims) != 4 * len(names):
            raise net.fail(f"expected 4 'input_dim' for each of {len(names)} 'input', found "
                           f"{len(dims)}", "input_dim")
        shapes = [_shape(dims[i:i + 4], net.where("input_dim", i)) for i in range(0, len(dims), 4)]
    if len(shapes) not in (1, len(names)):
        raise net.fail(f"expected an 'input_shape' for each of {len(names)} 'input', found "
                       f"{len(shapes)}", "input")
    return [_input(name, shapes[min(i, len(shapes) - 1)], net.where("input", i))
            for i, name in enumerate(names)]


def _shape(dims: Sequence[int], at: Position) -> Record:
    return _made("BlobShape", at, dim=list(dims))


def _input(name: str, shape: Record, at: Position) -> Record:
    return _made("LayerParameter", at, name=name, type="Input", top=[name],
                 input_param=_made("InputParameter", at, shape=[shape]))


def _made(message: str, at: Position, **values: Any) -> Record:
    assert set(values) <= set(MESSAGES[message]), values
    return Record(message, at, values, {name: [at] for name in values})


def title(layer: Record) -> str:
    """`layer 'conv1' (Convolution)`, for complaints."""
    return f"layer '{layer['name'] or ''}' ({layer['type'] or 'no type'})"


def fail(layer: Record, sentence: str, field: str = "", index: int = 0) -> PrototxtError:
    """The error about a layer or one of its fields, which begins with the layer's title."""
    return layer.fail(f"{title(layer)} {sentence}", field, index)
