"""The uncut net: the same layers, data, seed and schedule in one process."""

import torch
from torch import nn

from dualnet.config import TrainConfig
from dualnet.data.batches import Batches
from dualnet.nets.initial import draw_weights
from dualnet.supervised import Supervised


class Single(Supervised):
    """What every partitioned method is compared with."""

    name = "single"

    def __init__(self, settings: TrainConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device) -> None:
        draw_weights(net, settings.seed)
        super().__init__(self.name, self.name, settings, net, batches, device)
