"""Nets of Caffe made of a few layers."""

import pytest

from dualnet.caffe.definition import NetState, net_of
from dualnet.caffe.net import CaffeNet
from dualnet.caffe.prototxt import PrototxtError, parse

COLOUR = (3, 32, 32)


def net_from(text, phase="TRAIN", device="cpu", **options):
    options.setdefault("image_shape", COLOUR)
    return CaffeNet(net_of(parse(text, "file")), NetState(phase), device=device, **options)


def refused(text, **options):
    with pytest.raises(PrototxtError) as caught:
        net_from(text, device="meta", **options)
    return caught.value


def image(*layers, shape="dim: 2 dim: 4 dim: 6 dim: 6", label=False):
    """A net of the given layers on the blob 'data'."""
    top = 'top: "label"' if label else ""
    second = "shape { dim: 2 }" if label else ""
    return (f'layer {{ name: "data" type: "Input" top: "data" {top}\n'
            f"  input_param {{ shape {{ {shape} }} {second} }} }}\n" + "\n".join(layers))


def layer(type, param="", bottom="data", name="x"):
    return f'layer {{ name: "{name}" type: "{type}" bottom: "{bottom}" top: "{name}"\n{param} }}'
