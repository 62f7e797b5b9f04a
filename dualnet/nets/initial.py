"""Initial weights as a pure function of (seed, layer name)."""

from collections.abc import Callable

import torch
from torch import nn

from dualnet.errors import UserError
from dualnet.seeding import torch_seed


def draw_weights(net: nn.Module, seed: int, suffix: str = "") -> None:
    """Draw the weights of every layer of `net` anew by its own `reset_parameters`.

    Each layer's numbers depend on the seed and the layer's name alone, so a part of a net starts
    as the whole net does.  What stands inside a layer draws before it, under a name of its own, so
    a layer that resets what it holds has the last word.  Weights that no layer can draw stay as
    they are.

    suffix  tells copies apart: an untied conv3 of net1 draws as "conv3/net1" and so differs from
            net2's conv3
    Raises UserError if there is a suffix, and weights that no layer can draw.
    """
    # A layer that is held by two others draws once, under the name that comes first.
    for name, module in sorted(net.named_modules(), key=lambda entry: -_depth(entry[0])):
        reset = _reset_of(module)
        if reset is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch_seed(seed, f"weights/{name}{suffix}"))
                reset()
        elif suffix and any(True for _ in module.parameters(recurse=False)):
            raise UserError(f"'{name}' has weights, but no reset_parameters to draw another copy "
                            "by; give it one, or leave out --no-tie")


def _depth(name: str) -> int:
    return name.count(".") + 1 if name else 0


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    reset: Callable[[], object] | None = getattr(module, "reset_parameters", None)
    if reset is None and any(True for _ in module.parameters(recurse=False)):
        return getattr(module, "_reset_parameters", None)   # torch's MultiheadAttention
    return reset
