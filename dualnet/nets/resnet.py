"""Residual nets for small images (He et al. 2015, "Deep residual learning", section 4.2).

    stem | block1_0 ... block1_n-1 | block2_0 ... | block3_0 ... | pool | fc

6n + 2 layers: three stages of n blocks with 16, 32 and 64 maps; the first block of the second and
of the third stage halves the sides.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from dualnet.nets.residual import (
    Classifier,
    Conv,
    GlobalAveragePool,
    PaddedShortcut,
    ResidualBlock,
    stages,
)

WIDTHS = (16, 32, 64)


class BasicBlock(ResidualBlock):
    """relu( shortcut(x) + bn2 conv2 relu bn1 conv1 x ), two convolutions of 3x3.

    projection  a shortcut that changes the shape is a convolution of 1x1 with normalisation
                (option B) instead of zeros in the new maps (option A)
    """

    def __init__(self, channels: int, width: int, stride: int, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = Conv(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = Conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = PaddedShortcut(channels, width, stride)
            if projection:
                self.shortcut = nn.Sequential(OrderedDict(
                    conv=Conv(channels, width, 1, stride), bn=nn.BatchNorm2d(width)))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.add_branch(self.shortcut(x), x))

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))

    def last_layer(self) -> nn.Module:
        return self.bn2


def resnet(input_shape: tuple[int, int, int], classes: int, *, blocks: int | Sequence[int],
           widths: Sequence[int] = WIDTHS, projection: bool = False,
           stem_bias: bool = False) -> nn.Sequential:
    """A net of two layers for each block and two more.

    blocks      of every stage, or of each
    widths      maps of each stage, and of the first convolution those of the first
    projection  see `BasicBlock`
    stem_bias   whether the first convolution has biases
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Sequential(OrderedDict(
        conv=Conv(input_shape[0], widths[0], 3, bias=stem_bias), bn=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU()))
    channels = widths[0]
    for name, width, stride in stages(blocks, widths):
        layers[name] = BasicBlock(channels, width, stride, projection)
        channels = width
    layers["pool"] = GlobalAveragePool()
    layers["fc"] = Classifier(channels, classes)
    return nn.Sequential(layers)


resnet20 = partial(resnet, blocks=3)        # 269,722 weights for 32x32x3 images and ten classes
resnet32 = partial(resnet, blocks=5)
resnet44 = partial(resnet, blocks=7)
resnet56 = partial(resnet, blocks=9)
resnet110 = partial(resnet, blocks=18)
# Solomatov and Stepanov 2017, "Speeding up ResNet training": projections, and biases in the stem.
# Their "20" is n, so that their net has 122 layers; the net of 20 layers in that form is here too.
resnet20_projection = partial(resnet, blocks=3, projection=True, stem_bias=True)
resnet122_projection = partial(resnet, blocks=20, projection=True, stem_bias=True)
# The stages of "ResNet-101" and a small net with one long stage, for `train resist`: see
# preact_resnet.py.
resnet101_basic = partial(resnet, blocks=(3, 4, 23, 3), widths=(64, 128, 256, 512), projection=True)
resnet26_basic = partial(resnet, blocks=(1, 1, 9, 1), widths=(16, 32, 64, 128), projection=True)
