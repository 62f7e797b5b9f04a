"""What a net definition says of its weights: lr_mult, decay_mult and names that share a weight."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from dualnet.caffe.definition import fail
from dualnet.caffe.schema import Record

_ATTRIBUTE = "caffe_multipliers"


class Multipliers(NamedTuple):
    """Factors of one weight or bias on the solver's rate and decay; Caffe's defaults."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0


def param_groups(net: nn.Module) -> list[dict[str, Any]]:
    """The weights of `net` in groups for a `Solver`, by lr_mult and decay_mult.

    Layers that no net definition made have 1 and 1.
    """
    groups: dict[Multipliers, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module in net.modules():
        multipliers: dict[str, Multipliers] = getattr(module, _ATTRIBUTE, {})
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                groups.setdefault(multipliers.get(name, Multipliers()), []).append(parameter)
    return [{"params": parameters, **factors._asdict()} for factors, parameters in groups.items()]


class Sharing:
    """Gives each layer its multipliers, and weights of one name to all layers that name it."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[Record, nn.Module, str]] = {}

    def apply(self, layer: Record, module: nn.Module) -> None:
        """Read the `param` blocks of a layer.  Raises PrototxtError."""
        names = [name for name, _ in module.named_parameters(recurse=False)]
        specs: Sequence[Record] = layer["param"]
        if len(specs) > len(names):
            raise fail(layer, f"has {len(names)} weights, so at most as many 'param', found "
                       f"{len(specs)}", "param", len(names))
        factors = {}
        for index, name in enumerate(names):
            spec = specs[index] if index < len(specs) else Record("ParamSpec", layer.at)
            factors[name] = Multipliers(spec["lr_mult"], spec["decay_mult"])
            if spec["name"]:
                factors[name] = self._share(layer, module, name, spec, factors[name])
            if factors[name].lr_mult == 0:
                getattr(module, name).requires_grad_(False)
        setattr(module, _ATTRIBUTE, factors)

    def _share(self, layer: Record, module: nn.Module, name: str, spec: Record,
               mine: Multipliers) -> Multipliers:
        if spec["name"] not in self._owners:
            self._owners[spec["name"]] = layer, module, name
            return mine
        owner_layer, owner, owner_name = self._owners[spec["name"]]
        weight: Tensor = getattr(owner, owner_name)
        own: Tensor = getattr(module, name)
        if weight.shape != own.shape:
            raise fail(layer, f"shares '{spec['name']}' with layer '{owner_layer['name']}', whose "
                       f"shape is {list(weight.shape)} and not {list(own.shape)}", "param")
        theirs: Multipliers = getattr(owner, _ATTRIBUTE)[owner_name]
        for field in Multipliers._fields:
            if field in spec and getattr(mine, field) != getattr(theirs, field):
                raise fail(layer, f"shares '{spec['name']}' with layer '{owner_layer['name']}', "
                           f"which has another {field}", "param")
        setattr(module, name, weight)
        return theirs
