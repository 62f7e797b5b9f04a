"""Cut an nn.Sequential of named layers at named boundaries, and join the parts again.

A cut at pool2 of conv1..pool2, conv3, relu3, ..., fc6 gives two parts that share the layer after
the boundary:

    part 1:  body = conv1..pool2             tail = conv3, relu3    (its own copy)
    part 2:  head = conv3, relu3             body = conv4..fc6

Training compares the output of part 1's tail with that of part 2's head.  More boundaries make a
chain: each part but the first has a head, each but the last a tail.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from dualnet.config import nearest
from dualnet.errors import UserError

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Softplus)


class Part(nn.Module):
    """One part of a cut net; an absent head or tail has no layers.

    boundary  name of the layer behind which this part is cut, "" for the last part
    """

    def __init__(self, head: nn.Sequential, body: nn.Sequential, tail: nn.Sequential,
                 boundary: str) -> None:
        super().__init__()
        self.head, self.body, self.tail = head, body, tail
        self.boundary = boundary

    def forward(self, x: Tensor) -> Tensor:
        """What the part hands on: the boundary activation, or the logits of the last part."""
        return self.body(self.head(x))


def cut(net: nn.Sequential, boundaries: Sequence[str], *,
        before_activation: bool = False) -> list[Part]:
    """Cut `net` behind each of the named layers, in their order.

    before_activation  leave the activation out of head and tail, so that they are compared
                       before it
    Returns one part more than there are boundaries.  The layers are those of `net`, not copies,
    except the tails, which are copies of the following heads, weights included.
    Raises UserError if a name is unknown, out of order, or has no parametrised layer between it
    and the next.
    """
    layers = list(net.named_children())
    ends = [_position(layers, name) for name in boundaries]
    if ends != sorted(set(ends)):
        names = ", ".join(name for name, _ in layers)
        raise UserError("cuts must be in the order of the layers, each once, found "
                        f"{', '.join(boundaries)} (layers: {names})")
    positions = [0, *ends, len(layers)]
    heads = [nn.Sequential()]
    bodies = [nn.Sequential(OrderedDict(layers[:positions[1]]))]
    for start, stop in pairwise(positions[1:]):
        end = _head_end(layers, start, stop, before_activation)
        heads.append(nn.Sequential(OrderedDict(layers[start:end])))
        bodies.append(nn.Sequential(OrderedDict(layers[end:stop])))
    tails = [copy.deepcopy(head) for head in heads[1:]] + [nn.Sequential()]
    return [Part(*layers_of) for layers_of in
            zip(heads, bodies, tails, [*boundaries, ""], strict=True)]


def _position(layers: list[tuple[str, nn.Module]], name: str) -> int:
    """How many layers stand before the cut behind layer `name`."""
    names = [layer for layer, _ in layers]
    if name not in names:
        raise UserError(f"there is no layer '{name}' to cut behind{nearest(name, names)} "
                        f"(layers: {', '.join(names)})")
    return names.index(name) + 1


def _head_end(layers: list[tuple[str, nn.Module]], start: int, stop: int,
              before_activation: bool) -> int:
    """Where the head that starts at `start` ends: behind the first parametrised layer and, if one
    follows before the next layer of weights, its activation."""
    weighted = [i for i in range(start, stop) if _has_weights(layers[i][1])]
    if not weighted:
        last = max((i for i, (_, layer) in enumerate(layers) if _has_weights(layer)), default=0)
        known = ", ".join(name for name, _ in layers[:min(last, start - 1)])
        where = ("behind it" if stop == len(layers) else
                 f"between it and the next, behind '{layers[stop - 1][0]}'")
        raise UserError(f"the cut behind '{layers[start - 1][0]}' has no layer with weights "
                        f"{where}, so there is nothing to compare; cut earlier"
                        + (f" (behind {known})" if known else ""))
    end = weighted[0] + 1
    for i in range(end, stop):
        module = layers[i][1]
        if isinstance(module, ACTIVATIONS):
            return i if before_activation else i + 1
        if not _is_norm(module):
            break
        end = i + 1
    return end


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm))


def join(parts: Sequence[Part], *, merged: bool = False) -> nn.Sequential:
    """The whole net, its layers under their own names, sharing their weights with the parts.

    merged  take each boundary's layer from the part before it (conv3) instead of the part behind
            it (conv3')
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    tail = nn.Sequential()
    for part in parts:
        for group in (tail if merged else part.head, part.body):
            layers.update(group.named_children())
        tail = part.tail
    return nn.Sequential(layers)


def compared_layer(part: Part) -> str:
    """Name of the layer with weights in the tail of `part`: conv3 for a cut at pool2."""
    return next(name for name, module in part.tail.named_children() if _has_weights(module))


def shared_layers(part: Part) -> list[str]:
    """Names of all layers in the tail of `part`: conv3 and relu3 for a cut at pool2."""
    return [name for name, _ in part.tail.named_children()]
