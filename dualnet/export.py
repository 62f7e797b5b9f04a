"""The weights of a finished run as the state_dict of the uncut net.

    net.load_state_dict(torch.load("net.pt"))       into the class or function that made the net

The names are those of the uncut net's layers, so neither the cut nor this package is needed then.
"""

import importlib
import os
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.errors import UserError
from dualnet.methods import role_of_whole
from dualnet.methods.dual.wire import roles_of
from dualnet.run import Run

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pt", ".pth", ".safetensors")


def state_of(run: Run, *, merged: bool = False) -> "OrderedDict[str, Tensor]":
    """Weights and buffers of a finished run under the names of the uncut net, on the CPU.

    merged  take each shared layer from the part before its boundary (conv3) instead of the part
            behind it (conv3')
    Raises UserError if the run has not finished, or is of a single net and `merged` is asked for;
    DataError for a damaged checkpoint.
    """
    config = run.config()
    iterations = config["iterations"]
    if config["method"] != "dual":
        if merged:
            raise UserError(f"{run.folder} is not of a dual net, so there is no second copy of a "
                            "layer to merge; leave out --merged")
        state = run.load_checkpoint(role_of_whole(config["method"]), iterations)
        return _folded(state["net"], state.get("survival", {}))
    parts = [run.load_checkpoint(role, iterations)["part"] for role in roles_of(config["cut"])]
    groups = [(parts[0], "body.")]
    for before, behind in pairwise(parts):
        groups += [(before, "tail.") if merged else (behind, "head."), (behind, "body.")]
    return OrderedDict((name.removeprefix(group), value) for part, group in groups
                       for name, value in part.items() if name.startswith(group))


def _folded(net: "Mapping[str, Tensor]", survival: Mapping[str, float]
            ) -> "OrderedDict[str, Tensor]":
    """`net` with the factor of each layer in `survival` in its weights and biases: in a test a
    block that may be skipped counts by its survival, which a plain net does not know."""
    def factor(name: str) -> float:
        layer, _, last = name.rpartition(".")
        return survival.get(layer, 1.0) if last in ("weight", "bias") else 1.0

    return OrderedDict((name, value if factor(name) == 1 else value * factor(name))
                       for name, value in net.items())


def write(state: "OrderedDict[str, Tensor]", path: Path, *, overwrite: bool = False) -> None:
    """Write `state` to a .pt, .pth or .safetensors file, whole or not at all.

    Raises UserError for another suffix, a file that is there already, a folder that cannot be
    written, or if safetensors is not installed.
    """
    import torch

    if path.suffix not in SUFFIXES:
        raise UserError(f"the file should end in {', '.join(SUFFIXES)}, found '{path.name}'")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; name another file, or replace it with "
                        "--overwrite")
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    save = torch.save if path.suffix != ".safetensors" else _safetensors().save_file
    try:
        save({name: value.contiguous() for name, value in state.items()}, scratch)
        os.replace(scratch, path)
    except (OSError, RuntimeError) as error:    # torch raises this for a folder that is not there
        raise UserError(f"cannot write {path} ({error}); name another file") from None
    finally:
        scratch.unlink(missing_ok=True)


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError:
        raise UserError("writing .safetensors takes the package safetensors, which is not "
                        "installed; 'pip install safetensors', or name a .pt file") from None
