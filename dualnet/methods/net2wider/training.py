"""The teacher in training, and the net that it is widened to."""

import torch
from torch import nn

from dualnet.data.batches import Batches
from dualnet.errors import UserError
from dualnet.methods.net2wider.settings import TEACHER, WIDER, Net2WiderConfig
from dualnet.methods.net2wider.widen import add_noise, exact_mapping, random_mapping, widen
from dualnet.nets.initial import draw_weights
from dualnet.seeding import torch_seed
from dualnet.supervised import Record, Supervised
from dualnet.widths import narrowed, read

METHOD = "net2wider"


def teacher_net(settings: Net2WiderConfig, net: nn.Sequential) -> nn.Sequential:
    """`net` with each hidden layer --factor times as narrow, its weights drawn for that width.

    Raises UserError for a width that the factor does not divide.
    """
    hidden = read(net).hidden
    for layer, width in hidden.items():
        if width % settings.factor:
            raise UserError(f"layer '{layer}' has {width} units, which is no multiple of --factor "
                            f"{settings.factor}; take another factor")
    draw_weights(net, settings.seed)
    if settings.factor == 1:
        return net
    narrow = narrowed(net, {layer: torch.arange(width // settings.factor)
                            for layer, width in hidden.items()})
    draw_weights(narrow, settings.seed, f"/{TEACHER}")
    return narrow


def teacher(settings: Net2WiderConfig, net: nn.Sequential, batches: Batches,
            device: torch.device) -> Supervised:
    """The narrow net, trained up to the widening; where that comes first, by nobody."""
    until = settings.replace(iterations=settings.widen_at or 1)
    return Supervised(TEACHER, METHOD, until, teacher_net(settings, net), batches, device,
                      horizon=settings.iterations)


def widened(settings: Net2WiderConfig, net: nn.Sequential) -> nn.Sequential:
    """The wide net with the function of the narrow one, before noise.  Raises UserError."""
    mappings = {}
    for layer, width in read(net).hidden.items():
        generator = torch.Generator().manual_seed(
            torch_seed(settings.seed, f"{METHOD}/units/{layer}"))
        wide = width * settings.factor
        mappings[layer] = (exact_mapping(width, wide) if settings.mapping == "exact"
                           else random_mapping(width, wide, generator))
    return widen(net, mappings)


def wider_net(settings: Net2WiderConfig, net: nn.Sequential) -> nn.Sequential:
    """The net that the teacher of `net` is widened to, with weights of no training."""
    return widened(settings, teacher_net(settings, net))


class Wider(Supervised):
    """The wide net from the widening on; its momentum begins at 0.

    Miranda and Von Zuben 2016, footnote 2: that and 2 % of noise served best.
    """

    def __init__(self, settings: Net2WiderConfig, teacher: Supervised, batches: Batches,
                 device: torch.device) -> None:
        net = widened(settings, teacher.net)
        add_noise(net, settings.noise if settings.factor > 1 else 0.0, settings.seed)
        super().__init__(WIDER, METHOD, settings, net, batches, device)
        self._at_widening: Record = {}

    def compare(self, teacher: Supervised) -> None:
        """Score the teacher; the figures go into the next test."""
        score = teacher.evaluate()
        self._at_widening = {f"{METHOD}/{key}_{TEACHER}": value for key, value in score.items()}

    def evaluate(self) -> Record:
        """Loss and accuracy on the test images; just after the widening also of the teacher."""
        figures, self._at_widening = self._at_widening, {}
        return {**super().evaluate(), **figures}
