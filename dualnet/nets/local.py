"""Layers of the nets that Caffe does not have."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualnet.caffe import LRN, ZERO, Filler, xavier


class LocallyConnected(nn.Module):
    """A convolution whose weights and biases are not shared between positions, stride 1.

    [N, channels, H, W] -> [N, num_output, H', W'],  H' = H + 2 pad - kernel_size + 1

        y[n, o, p] = b[o, p] + sum_{c, i} w[o, c, i, p] x[n, c, p + i]

    Weights [num_output, channels, kernel_size^2, H' W'], biases [num_output, H' W'].

    side  (H, W) of the images, as the number of weights depends on it
    Krizhevsky 2012, cuda-convnet, layer type `local`.
    """

    def __init__(self, channels: int, num_output: int, kernel_size: int, side: tuple[int, int], *,
                 pad: int = 0, weight_filler: Filler = xavier, bias_filler: Filler = ZERO) -> None:
        super().__init__()
        self.kernel_size, self.pad, self.side = kernel_size, pad, side
        height, width = (length + 2 * pad - kernel_size + 1 for length in side)
        if min(height, width) < 1:
            raise ValueError(f"a window of {kernel_size} does not fit into {side} pixels with "
                             f"padding {pad}")
        self.out_side = height, width
        self._fillers = weight_filler, bias_filler
        positions = height * width
        self.weight = nn.Parameter(torch.empty(num_output, channels, kernel_size ** 2, positions))
        self.bias = nn.Parameter(torch.empty(num_output, positions))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; each position counts as a layer of its own, as its fan-in is."""
        weight_filler, bias_filler = self._fillers
        outputs, channels, window, positions = self.weight.shape
        with torch.no_grad():
            drawn = self.weight.new_empty(outputs * positions, channels, window)
            drawn = weight_filler(drawn).view(outputs, positions, channels, window)
            self.weight.copy_(drawn.permute(0, 2, 3, 1))
            bias_filler(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.side:
            raise ValueError(f"this layer has weights for images of {self.side}, found "
                             f"{tuple(x.shape[2:])}")
        windows = F.unfold(x, self.kernel_size, padding=self.pad)       # [N, c k^2, P]
        products = torch.einsum("nkp,okp->nop", windows, self.weight.flatten(1, 2))
        return (products + self.bias).unflatten(2, self.out_side)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, side={self.side}, pad={self.pad}"


class GroupedLRN(nn.Module):
    """Local response normalisation over each group of maps alone, [N, C, H, W] -> the same shape.

    sizes  maps per group, in the order of the channels; their sum is C

    The "Duplicated" layer of Miranda and Von Zuben 2016, section 3.2: no map of one sub-model
    changes a map of another.
    """

    def __init__(self, lrn: LRN, sizes: Sequence[int]) -> None:
        super().__init__()
        self.lrn, self.sizes = lrn, tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.lrn(group) for group in x.split(self.sizes, dim=1)], dim=1)

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}"


class Scale(nn.Module):
    """x -> factor x: scales what the output function is given."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor}"
