"""The net of cuda-convnet that reaches 11 % errors on CIFAR-10 (Krizhevsky 2012).

    conv1 relu1 pool1 norm1 | conv2 relu2 norm2 pool2 | local3 relu3 | local4 relu4 | fc5

Sizes, fillers and the order of the layers are those of layers-cifar10-11pct.cfg.
"""

from collections import OrderedDict

import torch
from torch import nn

from dualnet.caffe import LRN, Convolution, InnerProduct, gaussian, max_pool
from dualnet.nets.local import GroupedLRN, LocallyConnected

MAPS = (64, 64, 64, 32)


def cuda_convnet(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """2,112,970 weights for windows of 24x24x3 and ten classes.

    norm1, norm2  y = x (1 + 0.001/9 sum x^2)^-0.75 over 9 maps
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = Convolution(input_shape[0], MAPS[0], 5, weight_filler=gaussian(1e-4))
    layers["relu1"] = nn.ReLU()
    layers["pool1"] = max_pool(3, 2)
    layers["norm1"] = _norm()
    layers["conv2"] = Convolution(MAPS[0], MAPS[1], 5, weight_filler=gaussian(0.01))
    layers["relu2"] = nn.ReLU()
    layers["norm2"] = _norm()
    layers["pool2"] = max_pool(3, 2)
    with torch.no_grad():
        height, width = nn.Sequential(layers)(torch.zeros(1, *input_shape)).shape[2:]
    for number in (3, 4):
        layers[f"local{number}"] = LocallyConnected(
            MAPS[number - 2], MAPS[number - 1], 3, (height, width), pad=1,
            weight_filler=gaussian(0.04))
        layers[f"relu{number}"] = nn.ReLU()
    layers["fc5"] = InnerProduct(MAPS[3] * height * width, classes, weight_filler=gaussian(0.01))
    return nn.Sequential(layers)


def cuda_convnet_duplicated(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The same net with two normalisations of 32 maps in place of one of 64, as a merge of two
    sub-models has them (Miranda and Von Zuben 2016, table 2, "Duplicated")."""
    net = cuda_convnet(input_shape, classes)
    for name in ("norm1", "norm2"):
        setattr(net, name, GroupedLRN(_norm(), (32, 32)))
    return net


def _norm() -> LRN:
    return LRN(9, alpha=0.001, beta=0.75)
