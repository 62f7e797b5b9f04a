"""Caffe's LeNet for digits, with a ReLU behind each convolution.

    conv1 relu1 pool1 | conv2 relu2 pool2 | fc3 relu3 | fc4
"""

from collections import OrderedDict

import torch
from torch import nn

from dualnet.caffe import Convolution, InnerProduct, max_pool
from dualnet.nets.dropout import Dropout

MAPS = (20, 50)
FEATURES = 500


def lenet(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Maps 20 and 50 of 5x5 without padding, pooling 2/2, 500 features; xavier fillers.

    431,080 weights for 28x28x1 images and ten classes.  The sizes and fillers are those of
    examples/mnist in Caffe, which has no ReLU behind its convolutions; here they have one, so
    that each layer is convolution, ReLU, pooling.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = input_shape[0]
    for number, width in enumerate(MAPS, start=1):
        layers[f"conv{number}"] = Convolution(channels, width, 5, pad=0)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = max_pool(2, 2)
        channels = width
    with torch.no_grad():
        num_features = nn.Sequential(layers)(torch.zeros(1, *input_shape)).numel()
    layers["fc3"] = InnerProduct(num_features, FEATURES)
    layers["relu3"] = nn.ReLU()
    layers["fc4"] = InnerProduct(FEATURES, classes)
    return nn.Sequential(layers)


def lenet_dropout(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """The same net with dropout 0.5 behind the 500 features: the MNIST net of Miranda and Von
    Zuben 2016, section 3.1."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in lenet(input_shape, classes).named_children():
        if name == "fc4":
            layers["drop3"] = Dropout("drop3", 0.5)
        layers[name] = layer
    return nn.Sequential(layers)
