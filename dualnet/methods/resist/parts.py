"""Sub-nets of a residual net: taken out of the whole one, carried, averaged, counted."""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualnet.errors import UserError
from dualnet.methods.resist.deal import hand_sizes
from dualnet.methods.resist.settings import ResistConfig
from dualnet.nets.residual import ResidualBlock, blocks_of


def sections_of(net: nn.Module) -> list[list[str]]:
    """The names of the residual blocks of `net`, a list for each section.

    A section begins with the first block and with each that changes the shape of what its shortcut
    carries.  Raises UserError if there are no blocks.
    """
    sections: list[list[str]] = []
    for name, block in blocks_of(net):
        if not sections or changes_shape(block):
            sections.append([])
        sections[-1].append(name)
    if not sections:
        raise UserError("--net has no residual blocks, so there is nothing to deal out; take a "
                        "residual network such as preact-resnet26-basic")
    return sections


def changes_shape(block: nn.Module) -> bool:
    """Whether the shortcut is more than the identity, as that of a strided block is."""
    return not isinstance(getattr(block, "shortcut", None), nn.Identity | None)


def dealt_blocks(settings: ResistConfig, net: nn.Module) -> list[str]:
    """The blocks that are dealt out to the sites; none with one site or in local SGD.

    Raises UserError for sections that are not there, or that leave nothing to deal out.
    """
    if not settings.is_decomposed:
        return []
    sections = sections_of(net)
    if settings.sections == "longest":
        chosen = [max(sections, key=len)]
    else:
        numbers = list(map(int, settings.sections.split(",")))
        if max(numbers) > len(sections):
            raise UserError(f"--sections {settings.sections}: {settings.net} has {len(sections)} "
                            "sections")
        chosen = [sections[number - 1] for number in sorted(set(numbers))]
    blocks = dict(blocks_of(net))
    found = [name for section in chosen for name in section
             if not (settings.share_strided and changes_shape(blocks[name]))]
    hand_sizes(len(found), settings.sites, settings.min_blocks)
    if not found:
        raise UserError(f"--sections {settings.sections} leaves no block of {settings.net} to deal "
                        "out; choose another section")
    return found


def as_tested(settings: ResistConfig, net: nn.Sequential) -> nn.Sequential:
    """`net` as it is tested: a dealt block counts by max(1 / S, min_blocks / B), B of them at S
    sites, and normalisation uses the statistics that the settings name."""
    dealt, blocks = dealt_blocks(settings, net), dict(blocks_of(net))
    if settings.statistics == "batch":
        use_batch_statistics(net)
    if settings.scale_branches:
        for name in dealt:
            blocks[name].survival = max(1 / settings.sites, settings.min_blocks / len(dealt))
    return net


def use_batch_statistics(net: nn.Module) -> None:
    """From now on the normalisations keep no running statistics, and tests use the batch's."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None


def sub_net(net: nn.Sequential, absent: Collection[str]) -> nn.Sequential:
    """A copy of `net` in which the blocks `absent` are their shortcuts, and have no weights."""
    sub = copy.deepcopy(net)
    for name, block in blocks_of(sub):
        block.survival = 1.0
        if name in absent:
            block.is_skipped = True
            for layer in block.branch_layers():
                if any(True for _ in block.get_submodule(layer).parameters()):
                    setattr(block, layer, nn.Identity())
    return sub


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """What the sites exchange, by name: the weights, and running statistics where they are kept.

    How many batches a normalisation has seen changes nothing, and stays out.
    """
    return {name: tensor.detach() for name, tensor in net.state_dict().items()
            if tensor.is_floating_point()}


def pack(net: nn.Module) -> Tensor:
    """All tensors of `net` in a row, [numbers], on the CPU."""
    return torch.cat([tensor.flatten() for tensor in tensors_of(net).values()]).cpu()


def unpack(net: nn.Module, packed: Tensor) -> None:
    """Give `net` what `pack` made of one like it."""
    tensors = list(tensors_of(net).values())
    parts = packed.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def packed_size(net: nn.Module) -> int:
    """How many numbers `pack` gives."""
    return sum(tensor.numel() for tensor in tensors_of(net).values())


class Average:
    """The mean of each tensor over the sites that have it, summed in the order of the sites."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Count in the tensors of the next site."""
        for name, tensor in tensors.items():
            if name in self._sums:
                self._sums[name] += tensor
            else:
                self._sums[name] = tensor.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def give(self, net: nn.Module) -> None:
        """Set the tensors of `net`; those that no site had stay as they are."""
        for name, tensor in tensors_of(net).items():
            if name in self._sums:
                tensor.copy_(self._sums[name] / self._counts[name])


def block_size(block: ResidualBlock) -> int:
    """How many of the numbers that `pack` gives come and go with a block."""
    return sum(packed_size(block.get_submodule(layer)) for layer in block.branch_layers())


def round_bytes(net: nn.Sequential, dealt: Sequence[str], hands: Iterable[Collection[str]]) -> int:
    """Bytes that all sites together receive and send in a round: twice what each of them has.

    Of the first site, too, although under torchrun its share stays in the process.
    """
    sizes = {name: block_size(block) for name, block in blocks_of(net) if name in dealt}
    bytes_each = next(iter(tensors_of(net).values())).element_size()
    shared = packed_size(net) - sum(sizes.values())
    return sum(2 * bytes_each * (shared + sum(sizes[name] for name in hand)) for hand in hands)


def published_bytes(net: nn.Sequential, dealt: Sequence[str], sites: int, min_blocks: int) -> int:
    """The same as the paper counts it: every site has as many blocks as the one with the most."""
    most = max(hand_sizes(len(dealt), sites, min_blocks)) if dealt else 0
    return round_bytes(net, dealt, [dealt[:most]] * sites)
