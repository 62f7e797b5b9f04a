"""What each stage of a MonolithNet costs, counted on the meta device, where no net takes memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.memory import COPIES, bytes_per_image
from dualnet.methods.monolith.settings import HEAD, STAGES, TRUNK, WHOLE, MonolithConfig
from dualnet.nets import build
from dualnet.nets.monolith import Trunks, head_of, joined, proxy_of
from dualnet.operations import Counted, counted, num_parameters

META = torch.device("meta")
NUMBER = 4      # bytes, in float32
COUNTED = 4     # images at a time


class Cost(NamedTuple):
    """One stage.

    nets          how many are trained in it, each as the other figures say
    trained       weights in training; `resting` those that are not
    weight_bytes  weights, gradients and momentum of the former, the latter, and statistics
    image_bytes   kept of an image for the backward pass
    forward       multiply-adds of an image, forward
    operations    additions and multiplications of an image in training, forward and backward
    once          those that are done once, for what is kept on the disk
    """

    stage: str
    nets: int
    trained: int
    resting: int
    weight_bytes: int
    image_bytes: int
    batch_size: int
    forward: int
    operations: int
    once: int
    iterations: int

    @property
    def memory(self) -> int:
        """Bytes of weights and of what a batch keeps."""
        return self.weight_bytes + self.batch_size * self.image_bytes

    @property
    def total(self) -> int:
        """Operations of the stage."""
        images = self.iterations * self.batch_size
        return self.nets * (images * self.operations + self.once)


def costs_of(settings: MonolithConfig, input_shape: tuple[int, ...], classes: int,
             num_images: int) -> list[Cost]:
    """The three stages, for so many training images."""
    with META:
        nets = [build(settings.trunk_net, input_shape, classes) for _ in range(settings.trunks)]
        head = head_of(sum(proxy_of(net).in_features for net in nets), classes, settings.neurons)
        trunks = Trunks(nets)
    found = []
    for stage in STAGES:
        if stage == HEAD:
            found.append(_of_head(settings, trunks, head, input_shape, num_images))
            continue
        net = nets[0] if stage == TRUNK else joined(nets, head)
        net.train().requires_grad_(True)
        found.append(_cost(settings, stage, net, None, input_shape, num_images))
    return found


def _of_head(settings: MonolithConfig, trunks: Trunks, head: nn.Sequential,
             input_shape: tuple[int, ...], num_images: int) -> Cost:
    """With what the trunks give computed in each iteration, or once for each image."""
    trunks.eval().requires_grad_(False)
    cost = _cost(settings, HEAD, head, trunks, input_shape, num_images)
    if settings.augment_head and (settings.mirror or settings.crop):
        return cost
    trunk_operations = 2 * _operations(lambda: trunks(_images(COUNTED, input_shape))).forward
    return cost._replace(operations=cost.operations - trunk_operations,
                         once=num_images * trunk_operations)


def _cost(settings: MonolithConfig, stage: str, net: nn.Module, trunks: Trunks | None,
          input_shape: tuple[int, ...], num_images: int) -> Cost:
    span, batch_size = settings.spans(num_images)[stage], settings.stage(stage).batch_size

    def loss(count: int, device: torch.device = META) -> Tensor:
        images = _images(count, input_shape)
        labels = torch.zeros(count, dtype=torch.long, device=device)
        return functional.cross_entropy(net(images if trunks is None else trunks(images)), labels)

    each = _operations(lambda: loss(COUNTED))
    return Cost(stage, settings.trunks if stage == TRUNK else 1, num_parameters(net),
                num_parameters(trunks) if trunks is not None else 0,
                NUMBER * (COPIES * num_parameters(net) + (num_parameters(trunks) if trunks else 0))
                + sum(buffer.nbytes for part in (net, trunks) if part is not None
                      for buffer in part.buffers()),
                round(bytes_per_image(loss, META)), batch_size, each.forward,
                each.training, 0, span.until - span.since)


def _operations(forward: Callable[[], Tensor]) -> Counted:
    """Of one of `COUNTED` images."""
    return Counted(*(number // COUNTED for number in counted(forward)))


def _images(count: int, input_shape: tuple[int, ...]) -> Tensor:
    return torch.empty(count, *input_shape, device=META)


def parameters_of(costs: list[Cost]) -> int:
    """The weights of the whole net."""
    return next(cost.trained for cost in costs if cost.stage == WHOLE)
