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

    def branch_layers(self) -> list[str]:
        """A projection takes what bn1 gives, too."""
        shared = ("bn1", "relu") if self.projects else ()
        return [name for name in super().branch_layers() if name not in shared]


class PreactBottleneck(PreactBlock):
    """shortcut + conv3 relu bn3 conv2 relu bn2 conv1 a,   a = relu bn1 x

    conv1 of 1x1 to `width` maps, conv2 of 3x3 with the stride, conv3 of 1x1 to EXPANSION times as
    many; the shortcut of a block that changes the shape is a convolution of 1x1 of a.
    """

    EXPANSION = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, self.EXPANSION * width, stride, projection=True)
        self.conv1 = Conv(channels, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = Conv(width, width, 3, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = Conv(width, self.EXPANSION * width, 1)

    def branch(self, x: Tensor) -> Tensor:
        return self.conv3(self.relu(self.bn3(super().branch(x))))

    def last_layer(self) -> nn.Module:
        return self.conv3


def preact(input_shape: tuple[int, int, int], classes: int, *, blocks: int | Sequence[int],
           widths: Sequence[int] = WIDTHS, stem: int = WIDTHS[0], projection: bool = False,
           stem_bias: bool = False, dropout: float = 0.0, last_norm: bool = True) -> nn.Sequential:
    """A net of two convolutions in each block.

    blocks      of every stage, or of each
    widths      maps of each stage; `stem` those of the first convolution
    projection  see `PreactBlock`
    stem_bias   whether the first convolution has biases
    dropout     share of the units that are dropped within the blocks
    last_norm   whether normalisation and activation follow the last block
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = Conv(input_shape[0], stem, 3, bias=stem_bias)
    channels = stem
    for name, width, stride in stages(blocks, widths):
        layers[name] = PreactBlock(channels, width, stride, projection,
                                   Dropout(name, dropout) if dropout else None)
        channels = width
    if last_norm:
        layers["bn"] = nn.BatchNorm2d(channels)
        layers["relu"] = nn.ReLU()
    layers["pool"] = GlobalAveragePool()
    layers["fc"] = Classifier(channels, classes)
    return nn.Sequential(layers)


def bottleneck(input_shape: tuple[int, int, int], classes: int, *, blocks: Sequence[int],
               widths: Sequence[int]) -> nn.Sequential:
    """A net of three convolutions in each block, with nothing between the last one and the pool.

    blocks  of each stage
    widths  maps of the 3x3 convolutions of each stage; the first convolution has those of the first
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = Conv(input_shape[0], widths[0], 3)
    channels = widths[0]
    for name, width, stride in stages(blocks, widths):
        layers[name] = PreactBottleneck(channels, width, stride)
        channels = PreactBottleneck.EXPANSION * width
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
# Dun et al. 2021, ResIST: their code calls the first of these ResNet-101, whose stages it has, with
# blocks of two convolutions (68 layers).  The second has the blocks that the name stands for, the
# last is small, with one long stage.
preact_resnet101_basic = partial(preact, blocks=(3, 4, 23, 3), widths=(64, 128, 256, 512), stem=64,
                                 projection=True, last_norm=False)
preact_resnet101_bottleneck = partial(bottleneck, blocks=(3, 4, 23, 3), widths=(64, 128, 256, 512))
preact_resnet26_basic = partial(preact, blocks=(1, 1, 9, 1), widths=(16, 32, 64, 128),
                                projection=True, last_norm=False)
