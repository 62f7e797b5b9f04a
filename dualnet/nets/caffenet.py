"""The nets of the thesis: a slimmed CaffeNet for small images, at two sizes.

    conv1 relu1 pool1 | conv2 relu2 pool2 | conv3 relu3 | conv4 relu4 pool4 | fc5 relu5 | fc6
"""

from collections import OrderedDict

import torch
from torch import nn

from dualnet.caffe import Convolution, Filler, InnerProduct, constant, gaussian, max_pool, xavier
from dualnet.nets.dropout import Dropout

KERNELS = (5, 5, 3, 3)


def caffenet(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The thesis' net for 32x32 images (Dziwulski 2017, figure 6.1; sizes of its finished code).

    Maps 96, 256, 384, 256, features 4096, dropout 0.5; gaussian fillers.
    """
    layers = _convolutions(input_shape, (96, 256, 384, 256), (gaussian(0.01),) * 4)
    layers["fc5"] = InnerProduct(_num_features(layers, input_shape), 4096,
                                 weight_filler=gaussian(0.005), bias_filler=constant(1.0))
    layers["relu5"] = nn.ReLU()
    layers["drop5"] = Dropout("drop5", 0.5)
    layers["fc6"] = InnerProduct(4096, classes, weight_filler=gaussian(0.01))
    return nn.Sequential(layers)


def caffenet_small(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The same layers with maps 32, 32, 64, 64 and 64 features; xavier fillers, no dropout.

    149,738 weights for 32x32x3 images and ten classes.
    """
    return _small(input_shape, classes, (xavier,) * 4, xavier)


def caffenet_small_gaussian(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """caffenet-small with the fillers of Caffe's cifar10_quick, meant for unscaled pixels.

    Gaussians of 1e-4 in conv1, 0.01 in the other convolutions, 0.1 behind them.  Its activations
    start so small that a shrinking loss stops it at once.
    """
    fillers = (gaussian(1e-4), gaussian(0.01), gaussian(0.01), gaussian(0.01))
    return _small(input_shape, classes, fillers, gaussian(0.1))


def _small(input_shape: tuple[int, int, int], classes: int, fillers: tuple[Filler, ...],
           last: Filler) -> nn.Sequential:
    layers = _convolutions(input_shape, (32, 32, 64, 64), fillers)
    layers["fc5"] = InnerProduct(_num_features(layers, input_shape), 64, weight_filler=last)
    layers["relu5"] = nn.ReLU()
    layers["fc6"] = InnerProduct(64, classes, weight_filler=last)
    return nn.Sequential(layers)


def _convolutions(input_shape: tuple[int, int, int], widths: tuple[int, ...],
                  fillers: tuple[Filler, ...]) -> OrderedDict[str, nn.Module]:
    """conv1..pool4; every convolution but the third is pooled."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = input_shape[0]
    for number, (width, kernel, filler) in enumerate(zip(widths, KERNELS, fillers, strict=True),
                                                     start=1):
        layers[f"conv{number}"] = Convolution(channels, width, kernel, weight_filler=filler)
        layers[f"relu{number}"] = nn.ReLU()
        if number != 3:
            layers[f"pool{number}"] = max_pool(3, 2)
        channels = width
    return layers


def _num_features(layers: OrderedDict[str, nn.Module], input_shape: tuple[int, int, int]) -> int:
    with torch.no_grad():
        return nn.Sequential(layers)(torch.zeros(1, *input_shape)).numel()
