"""Residual nets with normalisation and activation ahead of each convolution.

    stem | block1_0 ... | block2_0 ... | block3_0 ... | bn relu | pool | fc

He et al. 2016, "Identity mappings in deep residual networks", figure 4 (e): what the shortcuts
carry is never normalised or activated on its way.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from dualnet.nets.dropout import Dropout
from dualnet.nets.residual import (
    Classifier,
    Conv,
    GlobalAveragePool,
    PaddedShortcut,
    ResidualBlock,
    stages,
)
from dualnet.nets.resnet import WIDTHS


class PreactBlock(ResidualBlock):
    """shortcut + conv2 relu bn2 conv1 a,   a = relu bn1 x

    The shortcut is x where the shape stays.  Where it changes, it is a convolution of 1x1 of a
    with `projection`, else x with zeros in the new maps.

    dropout  a layer between relu and conv2, if any (Zagoruyko and Komodakis 2016, section 2.4)
    """

    def __init__(self, channels: int, width: int, stride: int, projection: bool = False,
                 dropout: Dropout | None = None) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv1 = Conv(channels, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = dropout if dropout is not None else nn.Identity()
        self.conv2 = Conv(width, width, 3)
        self.shortcut: nn.Module = nn.Identity()
        changes = stride != 1 or channels != width
        self.projects = changes and projection
        if self.projects:
            self.shortcut = Conv(channels, width, 1, stride)
        elif changes:
            self.shortcut = PaddedShortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        if not self.projects:
            return self.add_branch(self.shortcut(x), x)
        activated = self.relu(self.bn1(x))
        return self.add_branch(self.shortcut(activated), activated)

    def branch(self, x: Tensor) -> Tensor:
        if not self.projects:
            x = self.relu(self.bn1(x))
        return self.conv2(self.dropout(self.relu(self.bn2(self.conv1(x)))))

    def last_layer(self) -> nn.Module:
        return self.conv2


def preact(input_shape: tuple[int, int, int], classes: int, *, blocks: int,
           widths: Sequence[int] = WIDTHS, stem: int = WIDTHS[0], projection: bool = False,
           stem_bias: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """A net of two convolutions in each of `blocks` blocks of each stage.

    widths      maps of each stage; `stem` those of the first convolution
    projection  see `PreactBlock`
    stem_bias   whether the first convolution has biases
    dropout     share of the units that are dropped within the blocks
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = Conv(input_shape[0], stem, 3, bias=stem_bias)
    channels = stem
    for name, width, stride in stages(blocks, widths):
        layers[name] = PreactBlock(channels, width, stride, projection,
                                   Dropout(name, dropout) if dropout else None)
        channels = width
    layers["bn"] = nn.BatchNorm2d(channels)
    layers["relu"] = nn.ReLU()
    layers["pool"] = GlobalAveragePool()
    layers["fc"] = Classifier(channels, classes)
    return nn.Sequential(layers)


preact_resnet20 = partial(preact, blocks=3)
preact_resnet32 = partial(preact, blocks=5)
preact_resnet44 = partial(preact, blocks=7)
preact_resnet56 = partial(preact, blocks=9)
preact_resnet110 = partial(preact, blocks=18)
preact_resnet20_projection = partial(preact, blocks=3, projection=True, stem_bias=True)
preact_resnet122_projection = partial(preact, blocks=20, projection=True, stem_bias=True)
