"""Networks by name: each an nn.Sequential of named layers, so that it can be cut anywhere."""

import importlib
import re
from typing import TYPE_CHECKING

from dualnet.config import choose
from dualnet.errors import UserError

if TYPE_CHECKING:
    from torch import nn

# name -> "module:function", so that the names are known without importing torch.  Each function
# takes (input_shape, classes).
NETS = {
    "caffenet": "dualnet.nets.caffenet:caffenet",
    "caffenet-small": "dualnet.nets.caffenet:caffenet_small",
    "caffenet-small-gaussian": "dualnet.nets.caffenet:caffenet_small_gaussian",
    "cuda-convnet": "dualnet.nets.cuda_convnet:cuda_convnet",
    "cuda-convnet-duplicated": "dualnet.nets.cuda_convnet:cuda_convnet_duplicated",
    "lenet": "dualnet.nets.lenet:lenet",
    "lenet-dropout": "dualnet.nets.lenet:lenet_dropout",
    "resnet20": "dualnet.nets.resnet:resnet20",
    "resnet32": "dualnet.nets.resnet:resnet32",
    "resnet44": "dualnet.nets.resnet:resnet44",
    "resnet56": "dualnet.nets.resnet:resnet56",
    "resnet110": "dualnet.nets.resnet:resnet110",
    "resnet20-projection": "dualnet.nets.resnet:resnet20_projection",
    "resnet122-projection": "dualnet.nets.resnet:resnet122_projection",
    "preact-resnet20": "dualnet.nets.preact_resnet:preact_resnet20",
    "preact-resnet32": "dualnet.nets.preact_resnet:preact_resnet32",
    "preact-resnet44": "dualnet.nets.preact_resnet:preact_resnet44",
    "preact-resnet56": "dualnet.nets.preact_resnet:preact_resnet56",
    "preact-resnet110": "dualnet.nets.preact_resnet:preact_resnet110",
    "preact-resnet20-projection": "dualnet.nets.preact_resnet:preact_resnet20_projection",
    "preact-resnet122-projection": "dualnet.nets.preact_resnet:preact_resnet122_projection",
    "resnet26-basic": "dualnet.nets.resnet:resnet26_basic",
    "resnet101-basic": "dualnet.nets.resnet:resnet101_basic",
    "preact-resnet26-basic": "dualnet.nets.preact_resnet:preact_resnet26_basic",
    "preact-resnet101-basic": "dualnet.nets.preact_resnet:preact_resnet101_basic",
    "preact-resnet101-bottleneck": "dualnet.nets.preact_resnet:preact_resnet101_bottleneck",
    "wrn-16-4": "dualnet.nets.wide_resnet:wrn_16_4",
    "wrn-28-2": "dualnet.nets.wide_resnet:wrn_28_2",
    "wrn-28-10": "dualnet.nets.wide_resnet:wrn_28_10",
}
# wrn-10-1 is a wide residual net of that depth and width, 3xwrn-10-1 a MonolithNet of three.
WIDE = re.compile(r"(?:([1-9]\d*)x)?wrn-(\d+)-([1-9]\d*)")


def build(name: str, input_shape: tuple[int, ...], classes: int) -> "nn.Sequential":
    """The network `name` for images [C, H, W] of `input_shape`, before its weights are drawn.

    Raises UserError for an unknown name, or for samples that are no images.
    """
    wide = None if name in NETS else WIDE.fullmatch(name)
    if wide is None:
        choose("network", name, NETS)
    if len(input_shape) != 3:
        raise UserError(f"--net {name} takes images [C, H, W], but a sample of the data has the "
                        f"shape {list(input_shape)}; name a net of your own")
    if wide is not None:
        return _wide(input_shape, classes, *(int(number or 0) for number in wide.groups()))
    module, function = NETS[name].split(":")
    net: nn.Sequential = getattr(importlib.import_module(module), function)(input_shape, classes)
    return net


def _wide(input_shape: tuple[int, ...], classes: int, trunks: int, depth: int,
          width: int) -> "nn.Sequential":
    from dualnet.nets.monolith import monolith
    from dualnet.nets.wide_resnet import wide_resnet

    channels, height, side = input_shape
    shape = (channels, height, side)
    if trunks:
        return monolith(shape, classes, trunks=trunks, depth=depth, width=width)
    return wide_resnet(shape, classes, depth=depth, widen=width)
