"""The sub-models in training, and the net that they are merged to."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from dualnet.data.batches import Batches
from dualnet.evaluate import probabilities
from dualnet.methods.partition.settings import MERGED, PartitionConfig
from dualnet.methods.partition.split import merge, merged_tensors, split
from dualnet.nets.initial import draw_weights
from dualnet.supervised import Record, Supervised

METHOD = "partition"


def initial_subs(settings: PartitionConfig, net: nn.Sequential) -> list[nn.Sequential]:
    """The sub-models of `net` before their training.

    A single sub-model is the whole net, and starts as it.  Raises UserError for sizes that do not
    fit.
    """
    draw_weights(net, settings.seed)
    subs = split(net, settings.sub_models, settings.given_sizes())
    if settings.initial == "own" and len(subs) > 1:
        for role, sub in zip(settings.sub_roles, subs, strict=True):
            draw_weights(sub, settings.seed, f"/{role}")
    return subs


def merged_net(settings: PartitionConfig, net: nn.Sequential) -> nn.Sequential:
    """The net that the sub-models of `net` are merged to, with weights of no training."""
    return merge(initial_subs(settings, net), settings.output)


def sub_model(settings: PartitionConfig, role: str, net: nn.Sequential, batches: Batches,
              device: torch.device) -> Supervised:
    """Sub-model `role` of `net`: trained as the whole net is, up to the merge.

    Where the merge comes before all training nobody trains it.
    """
    sub = initial_subs(settings, net)[settings.sub_roles.index(role)]
    until = settings.replace(iterations=settings.merge_at or 1)
    return Supervised(role, METHOD, until, sub, batches, device, horizon=settings.iterations)


class Merged(Supervised):
    """The whole net from the merge on.

    subs  the sub-models, in training; their state is what is merged
    """

    def __init__(self, settings: PartitionConfig, subs: Sequence[Supervised], batches: Batches,
                 device: torch.device) -> None:
        nets = [sub.net for sub in subs]
        super().__init__(MERGED, METHOD, settings, merge(nets, settings.output), batches, device)
        self._at_merge: Record = {}
        momenta = [sub.optimizer.momentum(sub.net) for sub in subs]
        if settings.merge_momentum and all(momenta):
            self.optimizer.set_momentum(self.net, merged_tensors(nets, momenta, settings.output))

    def compare(self, subs: Sequence[Supervised]) -> np.ndarray:
        """Score the sub-models; the figures go into the next test.

        Returns the probability that each gives the correct class of each test image,
        float64 [K, N].        Miranda and Von Zuben 2016, figure 2
        """
        scores = [sub.evaluate() for sub in subs]
        found = np.stack([probabilities(sub.net, self.batches, sub.device, sub.dtype)
                          for sub in subs])
        self._at_merge = {
            **{f"{METHOD}/accuracy_{sub.name}": score["accuracy"]
               for sub, score in zip(subs, scores, strict=True)},
            f"{METHOD}/loss_mean": float(np.mean([score["loss"] for score in scores])),
            f"{METHOD}/accuracy_mean": float(np.mean([score["accuracy"] for score in scores])),
            f"{METHOD}/diversity": diversity(found)}
        return found

    def evaluate(self) -> Record:
        """Loss and accuracy on the test images; just after the merge also of the sub-models."""
        figures, self._at_merge = self._at_merge, {}
        return {**super().evaluate(), **figures}


def diversity(found: np.ndarray) -> float:
    """How far the probabilities of two sub-models lie apart, mean over pairs and images.

        1 / (N K(K-1)/2) sum_{i<j} sum_n |p_i(n) - p_j(n)|,     float [K, N]; 0 for K = 1
    """
    pairs = list(itertools.combinations(found, 2))
    return float(np.mean([np.abs(one - other).mean() for one, other in pairs])) if pairs else 0.0
