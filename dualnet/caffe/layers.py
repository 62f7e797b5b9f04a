"""Caffe's layers with the argument names of the prototxt, each an nn.Module.

Images are [N, C, H, W].  A size that may differ by axis is one number or (height, width).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualnet.caffe.fillers import ZERO, Filler, xavier

Size = int | tuple[int, int]
LARGEST = torch.finfo(torch.float32).max


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class _Filled:
    """Draws weight and bias from Caffe's fillers whenever `reset_parameters` is called."""

    def __init__(self, *args: Any, weight_filler: Filler, bias_filler: Filler,
                 **options: Any) -> None:
        self._fillers = weight_filler, bias_filler     # nn.Module.__init__ resets, so: first
        super().__init__(*args, **options)

    def reset_parameters(self) -> None:
        weight_filler, bias_filler = self._fillers
        with torch.no_grad():
            weight_filler(self.weight)  # type: ignore[attr-defined]
            if self.bias is not None:  # type: ignore[attr-defined]
                bias_filler(self.bias)  # type: ignore[attr-defined]


class Convolution(_Filled, nn.Conv2d):
    """[N, channels, H, W] -> [N, num_output, H', W'],  H' = floor((H + 2 pad - e) / stride) + 1.

    e = dilation (kernel_size - 1) + 1.  The kernel is not flipped.  `group` splits channels and
    outputs in order.  Weights [num_output, channels / group, kh, kw], bias [num_output].

    pad  pixels; by default (kernel_size - 1) / 2, which keeps the size of an image at stride 1
         for an odd kernel.  (In a prototxt the default is 0, and that of both fillers constant 0.)
    """

    def __init__(self, channels: int, num_output: int, kernel_size: Size, *,
                 pad: Size | None = None, stride: Size = 1, dilation: Size = 1, group: int = 1,
                 bias_term: bool = True, weight_filler: Filler = xavier,
                 bias_filler: Filler = ZERO) -> None:
        kernel = _pair(kernel_size)
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2) if pad is None else _pair(pad)
        super().__init__(channels, num_output, kernel, _pair(stride), padding, _pair(dilation),
                         group, bias_term, weight_filler=weight_filler, bias_filler=bias_filler)


class InnerProduct(_Filled, nn.Module):
    """[N, ...] -> [N, num_output]; all dimensions from `axis` on are flattened, row-major.

    features   how many numbers are flattened
    transpose  weights are stored [features, num_output] instead of [num_output, features]
    """

    bias: nn.Parameter | None

    def __init__(self, features: int, num_output: int, *, axis: int = 1, transpose: bool = False,
                 bias_term: bool = True, weight_filler: Filler = xavier,
                 bias_filler: Filler = ZERO) -> None:
        super().__init__(weight_filler=weight_filler, bias_filler=bias_filler)
        self.axis, self.transpose = axis, transpose
        self.weight = nn.Parameter(torch.empty(
            (features, num_output) if transpose else (num_output, features)))
        self.bias = nn.Parameter(torch.empty(num_output)) if bias_term else None
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.t() if self.transpose else self.weight
        return F.linear(x.flatten(self.axis), weight, self.bias)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, axis={self.axis}, transpose={self.transpose}"


def max_pool(kernel: int, stride: int) -> nn.MaxPool2d:
    """Caffe's MAX pooling: the output size is rounded up, 32 -> 16 -> 8 -> 4 for kernel 3/2.

    The common case of `Pooling`, in torch's own class: kernel at least the stride, no padding.
    """
    return nn.MaxPool2d(kernel, stride, ceil_mode=True)


class Pooling(nn.Module):
    """[N, C, H, W] -> [N, C, H', W'],  H' = ceil((H + 2 pad - kernel_size) / stride) + 1,
    and with padding one less if the last window would begin beyond H + pad.

    pool            MAX: windows are clipped to the image, so padding never wins; the first maximum
                    in row-major order has the gradient.  A nan is passed on; Caffe skips it, so
                    that a net that has diverged may look alive.
                    AVE: the divisor is the window clipped to the padded image, so zeros of the
                    padding count and what hangs over it does not.
    global_pooling  one window as large as the image; takes no kernel_size
    round_mode      CEIL or FLOOR

    Without padding and with stride > kernel_size the last windows may lie outside the image.
    Caffe gives -FLT_MAX for MAX, and +-0 or nan for AVE; so does this.  Caffe's gradient of such a
    MAX is undefined (it writes outside the image's memory), hence refused with ValueError.
    """

    def __init__(self, pool: str = "MAX", kernel_size: Size | None = None, *, stride: Size = 1,
                 pad: Size = 0, global_pooling: bool = False, round_mode: str = "CEIL") -> None:
        super().__init__()
        if pool not in ("MAX", "AVE"):
            raise ValueError(f"pool must be MAX or AVE, found {pool}")
        if round_mode not in ("CEIL", "FLOOR"):
            raise ValueError(f"round_mode must be CEIL or FLOOR, found {round_mode}")
        if (kernel_size is None) != global_pooling:
            raise ValueError("pooling needs either a kernel_size or global_pooling, "
                             f"found {'both' if global_pooling else 'neither'}")
        if global_pooling and (_pair(stride), _pair(pad)) != ((1, 1), (0, 0)):
            raise ValueError("global_pooling takes no stride and no pad, "
                             f"found stride {stride}, pad {pad}")
        self.pool, self.round_mode = pool, round_mode
        self.kernel = None if kernel_size is None else _pair(kernel_size)
        self.stride, self.pad = _pair(stride), _pair(pad)
        if self.kernel and any(p and p >= k for p, k in zip(self.pad, self.kernel, strict=True)):
            raise ValueError(f"pad must be smaller than kernel_size, found pad {pad}, "
                             f"kernel_size {kernel_size}")

    def forward(self, x: Tensor) -> Tensor:
        sides = x.shape[2], x.shape[3]
        kernel = self.kernel or sides
        outputs = [self._num_windows(axis, sides[axis], kernel[axis]) for axis in (0, 1)]
        # What the windows reach beyond the image at the far side; negative if they fall short.
        beyond = [(outputs[axis] - 1) * self.stride[axis] + kernel[axis] - sides[axis]
                  - self.pad[axis] for axis in (0, 1)]
        borders = (self.pad[1], beyond[1], self.pad[0], beyond[0])
        if self.pool == "MAX":
            self._refuse_undefined_gradient(x, kernel, beyond)
            padded = F.pad(x, borders, value=-LARGEST) if any(borders) else x
            return F.max_pool2d(padded, kernel, self.stride)
        padded = F.pad(x, borders) if any(borders) else x
        areas = torch.outer(*(self._lengths(axis, sides[axis], kernel[axis], outputs[axis])
                              for axis in (0, 1))).to(x)
        return F.avg_pool2d(padded, kernel, self.stride, divisor_override=1) / areas

    def _num_windows(self, axis: int, side: int, kernel: int) -> int:
        stride, pad = self.stride[axis], self.pad[axis]
        steps = (side + 2 * pad - kernel) / stride
        number = (math.ceil(steps) if self.round_mode == "CEIL" else math.floor(steps)) + 1
        if number < 1:
            raise ValueError(f"a pooling window of {kernel} does not fit into {side} pixels "
                             f"with padding {pad}")
        is_outside = any(self.pad) and (number - 1) * stride >= side + pad
        return number - is_outside

    def _lengths(self, axis: int, side: int, kernel: int, number: int) -> Tensor:
        """How far each window reaches inside the padded image; <= 0 if it lies outside."""
        start = torch.arange(number) * self.stride[axis] - self.pad[axis]
        return (start + kernel).clamp(max=side + self.pad[axis]) - start

    def _refuse_undefined_gradient(self, x: Tensor, kernel: tuple[int, int],
                                   beyond: list[int]) -> None:
        is_empty = any(b >= k for b, k in zip(beyond, kernel, strict=True))
        if is_empty and x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"with kernel_size {list(kernel)} and stride {list(self.stride)} the last pooling "
                f"windows lie outside an image of {list(x.shape[2:])}, where Caffe's gradient is "
                "undefined; choose a stride no larger than the kernel")

    def extra_repr(self) -> str:
        return f"{self.pool}, kernel={self.kernel}, stride={self.stride}, pad={self.pad}"


def relu(negative_slope: float = 0.0) -> nn.Module:
    """max(x, 0) + negative_slope min(x, 0); the gradient at exactly 0 is negative_slope."""
    return nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU()


class LRN(nn.Module):
    """Local response normalisation, [N, C, H, W] -> the same shape.

    ACROSS_CHANNELS  y = x (k + alpha/n sum x^2)^-beta over n = local_size channels around each
    WITHIN_CHANNEL   y = x (1 + alpha/n^2 sum x^2)^-beta over n x n pixels around each; k is ignored
    What lies outside counts as 0.
    """

    def __init__(self, local_size: int = 5, alpha: float = 1.0, beta: float = 0.75,
                 k: float = 1.0, *, norm_region: str = "ACROSS_CHANNELS") -> None:
        super().__init__()
        if local_size < 1 or local_size % 2 == 0:
            raise ValueError(f"local_size must be odd, found {local_size}")
        if norm_region not in ("ACROSS_CHANNELS", "WITHIN_CHANNEL"):
            raise ValueError("norm_region must be ACROSS_CHANNELS or WITHIN_CHANNEL, "
                             f"found {norm_region}")
        self.local_size, self.alpha, self.beta, self.k = local_size, alpha, beta, k
        self.norm_region = norm_region

    def forward(self, x: Tensor) -> Tensor:
        n = self.local_size
        if self.norm_region == "ACROSS_CHANNELS":
            return F.local_response_norm(x, n, self.alpha, self.beta, self.k)
        mean = F.avg_pool2d(x.square(), n, 1, (n - 1) // 2, divisor_override=n * n)
        return x * (1 + self.alpha * mean).pow(-self.beta)

    def extra_repr(self) -> str:
        return (f"{self.norm_region}, local_size={self.local_size}, alpha={self.alpha}, "
                f"beta={self.beta}, k={self.k}")
