"""Number formats of the activations that cross, and what a message looks like in each.

    float64, float32, float16    as they are
    bfloat16                     its 16 bits as int16, since numpy knows no bfloat16
    int8                         per sample 4 bytes of a float32 scale, then round(x / scale)

The scale of a sample is max |x| / 127.  What is not finite makes the scale, and so the sample, nan.
"""

import math

import torch
from torch import Tensor

FORMATS = ("float64", "float32", "float16", "bfloat16", "int8")
SCALE_BYTES = 4
LARGEST = 127


def message_dtype(name: str) -> torch.dtype:
    """The dtype that a message has on its way."""
    dtype: torch.dtype = {"bfloat16": torch.int16}.get(name) or getattr(torch, name)
    return dtype


def message_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape, on its way, of activations of `shape` [N, ...]."""
    return (shape[0], SCALE_BYTES + math.prod(shape[1:])) if name == "int8" else tuple(shape)


def message_bytes(shape: tuple[int, ...], name: str) -> int:
    """Bytes of the message that carries activations of `shape`."""
    return math.prod(message_shape(shape, name)) * message_dtype(name).itemsize


def pack(x: Tensor, name: str) -> Tensor:
    """The message that carries x [N, ...]: of `message_dtype` and `message_shape`."""
    if name == "bfloat16":
        return x.to(torch.bfloat16).view(torch.int16)
    if name != "int8":
        return x.to(message_dtype(name))
    flat = x.flatten(1).float()
    scale = flat.abs().amax(1, keepdim=True) / LARGEST
    levels = (flat / torch.where(scale == 0, 1.0, scale)).round().to(torch.int8)
    return torch.cat([scale.contiguous().view(torch.int8), levels], 1)


def unpack(message: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """The activations [N, ...] of `shape` in a message, in a floating-point dtype of its kind."""
    if name == "bfloat16":
        return message.view(torch.bfloat16)
    if name != "int8":
        return message
    scale = message[:, :SCALE_BYTES].contiguous().view(torch.float32)
    return (message[:, SCALE_BYTES:] * scale).view(shape)
