"""A residual net as hypothesis modules, a linear classifier behind each, and frozen features."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dualnet.data.batches import Batches
from dualnet.errors import UserError
from dualnet.nets.initial import draw_weights
from dualnet.nets.residual import ResidualBlock


def modules_of(net: nn.Sequential) -> tuple[list[nn.Sequential], nn.Sequential]:
    """The hypothesis modules in order, and what follows the last of them, the classifier.

    The first module is what comes before the first residual block, each block is one more.
    Raises UserError if the net has no residual blocks in a row.
    """
    layers = list(net.named_children())
    blocks = [index for index, (_, layer) in enumerate(layers) if isinstance(layer, ResidualBlock)]
    if not blocks or blocks != list(range(blocks[0], blocks[-1] + 1)) or blocks[0] == 0:
        raise UserError("boosting takes nets of a first layer, residual blocks in a row and a "
                        "classifier, such as resnet20; take one of them with --net")
    parts = [layers[:blocks[0]], *([layers[index]] for index in blocks)]
    return ([nn.Sequential(OrderedDict(part)) for part in parts],
            nn.Sequential(OrderedDict(layers[blocks[-1] + 1:])))


def draw_heads(modules: Sequence[nn.Sequential], last: nn.Sequential,
               input_shape: tuple[int, ...], seed: int) -> list[nn.Sequential]:
    """A classifier behind each module: `last` behind the last one, and layers like it, for as many
    maps as come, behind the others.  Their weights depend on the seed and the module alone."""
    heads = []
    x = torch.zeros(1, *input_shape)
    for module in modules[:-1]:
        with torch.no_grad():
            x = module.eval()(x)
        head = copy.deepcopy(last)
        for name, layer in last.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(head, name, nn.BatchNorm2d(x.shape[1]))
            elif isinstance(layer, nn.Linear):
                setattr(head, name, type(layer)(x.shape[1], layer.out_features))
        place = next(iter(dict(module.named_children())))
        draw_weights(head, seed, f"/head/{place}")
        heads.append(head)
    return [*heads, last]


class FrozenFeatures:
    """What the frozen modules make of the training images.

    They are in evaluation mode, so a batch does not change their statistics, and what they make of
    an image depends on nothing else.  Without augmentation that is kept where it fits.

    limit  bytes that may be kept
    """

    def __init__(self, batches: Batches, device: torch.device, dtype: torch.dtype,
                 limit: int) -> None:
        self._batches, self._device, self._dtype, self._limit = batches, device, dtype, limit
        self._frozen: list[nn.Module] = []
        self._kept: Tensor | None = None

    @torch.no_grad()
    def freeze(self, module: nn.Module) -> None:
        """From now on `module` is part of what is frozen."""
        module.requires_grad_(False).eval()
        for parameter in module.parameters():
            parameter.grad = None
        chunks = (module(chunk) for chunk in self.chunks())     # through what was kept till now
        self._kept, self._frozen = self._keep(chunks), [*self._frozen, module]

    def _keep(self, chunks: Iterator[Tensor]) -> Tensor | None:
        if self._batches.is_augmented or self._limit == 0:
            return None
        kept: list[Tensor] = []
        for chunk in chunks:
            if chunk[0].nbytes * self._batches.num_samples > self._limit:
                return None
            kept.append(chunk)
        return torch.cat(kept)

    @torch.no_grad()
    def batch(self, step: int) -> Tensor:
        """The features of the batch of `step`, [B, ...]."""
        if self._kept is not None:
            ids = torch.as_tensor(self._batches.sample_ids(step)).to(self._device)
            return self._kept[ids]
        return self._through(self._batches.images(step))

    @torch.no_grad()
    def chunks(self) -> Iterator[Tensor]:
        """The features of all training images in their order, without augmentation."""
        size = self._batches.batch_size
        for first in range(0, self._batches.num_samples, size):
            rows = slice(first, first + size)
            yield (self._kept[rows] if self._kept is not None
                   else self._through(self._batches.unaugmented(rows)))

    def _through(self, images: object) -> Tensor:
        x = torch.as_tensor(images).to(self._device, self._dtype)
        for module in self._frozen:
            x = module(x)
        return x
