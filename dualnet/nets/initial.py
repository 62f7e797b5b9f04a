"""Initial weights as a pure function of (seed, layer name)."""

import torch
from torch import nn

from dualnet.seeding import torch_seed


def draw_weights(net: nn.Module, seed: int, suffix: str = "") -> None:
    """Draw the weights of every layer of `net` anew by its own `reset_parameters`.

    Each layer's numbers depend on the seed and the layer's name alone, so a part of a net starts
    as the whole net does.  `suffix` tells copies apart: an untied conv3 of net1 draws as
    "conv3/net1" and so differs from net2's conv3.
    """
    for name, module in net.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch_seed(seed, f"weights/{name}{suffix}"))
                reset()
