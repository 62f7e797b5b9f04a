"""meProp: backward passes that follow only the k outputs of a layer whose gradients are largest.

Sun et al. 2017, "meProp: Sparsified back propagation for accelerated deep learning with reduced
overfitting", section 3; "unified" is its section 4.3, after Sun et al.'s simplified unified top-k.
Convolutions are not in the paper: there an output is a map, and its gradient counts with the sum of
its absolute values.

The products that are left have k columns where the dense ones have as many as the layer has
outputs; the forward pass and the gradient of the bias are the dense ones.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn import grad as conv_grad

from dualnet.errors import UserError
from dualnet.layer_calls import LayerCalls


class MeProp(LayerCalls):
    """While it is active, the layers of `net` take part in the backward pass with k outputs each.

        with MeProp(net, k=30):
            loss = functional.cross_entropy(net(images), labels)
        loss.backward()

    Layers are calls of `functional.linear` and `functional.conv2d` with a weight of the net.  The
    output layer, which is the last in order of its parameters, stays dense; so do layers with no
    more than k outputs and convolutions in groups.

    k        outputs that are kept; below 1 a share of those of each layer, rounded up
    unified  whether all samples keep the same outputs, those with the largest sums over the batch,
             or each its own
    Raises UserError if k is not positive, or neither whole nor below 1.
    """

    def __init__(self, net: nn.Module, k: float, *, unified: bool = True) -> None:
        if not (0 < k < 1 or (k >= 1 and k == int(k))):
            raise UserError("meProp keeps a whole number of outputs, or a share of them between 0 "
                            f"and 1, found {k:g}")
        weights = [parameter for parameter in net.parameters() if parameter.dim() > 1]
        super().__init__(weights[:-1])
        self._k, self._unified = k, unified

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        k = self._kept(weight)
        if k == len(weight):
            return functional.linear(x, weight, bias)
        return sparse_linear(x, weight, bias, k, self._unified)

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None,
               geometry: dict[str, Any]) -> Tensor:
        k = self._kept(weight)
        if k == len(weight) or geometry["groups"] != 1 or x.dim() != 4:
            return functional.conv2d(x, weight, bias, **geometry)
        return sparse_conv2d(x, weight, bias, k, self._unified, geometry)

    def _kept(self, weight: Tensor) -> int:
        """How many outputs of a layer are kept, at most all."""
        k = math.ceil(self._k * len(weight)) if self._k < 1 else int(self._k)
        return min(k, len(weight))


def sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None, k: int,
                  unified: bool) -> Tensor:
    """functional.linear, [N, ..., in] -> [N, ..., out], with a backward pass through k outputs.

    Each row counts as a sample.
    """
    return _Linear.apply(x, weight, bias, k, unified)


def sparse_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, k: int, unified: bool,
                  geometry: dict[str, Any]) -> Tensor:
    """functional.conv2d, [N, C, H, W] -> [N, out, H', W'], with a backward pass through k maps.

    geometry  stride, padding and dilation in numbers, and groups, which must be 1
    """
    return _Conv2d.apply(x, weight, bias, k, unified, geometry)


class _Linear(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, k: int,
                unified: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.k, ctx.unified = k, unified
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        product = _unified_product if ctx.unified else _product_by_sample
        of_input, of_weight = product(rows, inputs, weight, ctx.k, ctx.needs_input_grad)
        if of_input is not None:
            of_input = of_input.reshape(x.shape)
        return of_input, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None, None, None


def _unified_product(rows: Tensor, inputs: Tensor, weight: Tensor, k: int,
                     needed: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight by the k columns of `rows` with the largest sums."""
    kept = rows.abs().sum(0).topk(k, sorted=False).indices
    columns = rows.index_select(1, kept)
    of_input = columns @ weight.index_select(0, kept) if needed[0] else None
    of_weight = None
    if needed[1]:
        of_weight = torch.zeros_like(weight).index_copy_(0, kept, columns.t() @ inputs)
    return of_input, of_weight


def _product_by_sample(rows: Tensor, inputs: Tensor, weight: Tensor, k: int,
                       needed: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight by the k largest numbers of each row.

    Both are a sparse matrix times a dense one; torch has the product of both as a bag of
    embeddings, a weighted sum of rows.
    """
    kept = rows.abs().topk(k, dim=1, sorted=False).indices
    values = rows.gather(1, kept)
    of_input = of_weight = None
    if needed[0]:
        of_input = functional.embedding_bag(kept, weight, per_sample_weights=values, mode="sum")
    if needed[1]:
        outputs = kept.flatten()
        order = outputs.argsort(stable=True)        # the samples that keep output 0, then 1, ...
        counts = outputs.bincount(minlength=len(weight))
        of_weight = functional.embedding_bag(
            order // k, inputs.contiguous(), counts.cumsum(0) - counts,
            per_sample_weights=values.flatten()[order], mode="sum")
    return of_input, of_weight


class _Conv2d(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, k: int, unified: bool,
                geometry: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.k, ctx.unified, ctx.geometry = k, unified, geometry
        return functional.conv2d(x, weight, bias, **geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        sizes = gradient.abs().sum((2, 3))          # [N, out]
        if ctx.unified:
            kept = sizes.sum(0).topk(ctx.k, sorted=False).indices
            maps, images, filters = gradient.index_select(1, kept), x, weight.index_select(0, kept)
            geometry = ctx.geometry
        else:       # each sample is a group of its own in a batch of one
            kept = sizes.topk(ctx.k, dim=1, sorted=False).indices
            maps = gradient.gather(1, kept[..., None, None].expand(-1, -1, *gradient.shape[2:]))
            maps, images = maps.flatten(0, 1)[None], x.flatten(0, 1)[None]
            kept = kept.flatten()
            filters = weight.index_select(0, kept)
            geometry = {**ctx.geometry, "groups": len(x)}
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = conv_grad.conv2d_input(images.shape, filters, maps, **geometry)
            of_input = of_input.reshape(x.shape)
        if ctx.needs_input_grad[1]:
            of_filters = conv_grad.conv2d_weight(images, filters.shape, maps, **geometry)
            of_weight = torch.zeros_like(weight).index_add_(0, kept, of_filters)
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_input, of_weight, of_bias, None, None, None
