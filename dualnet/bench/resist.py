"""Rounds of ResIST beside rounds of local SGD at as many sites, in turns in this process.

The sites of a round train one after the other, so its seconds are the sum over the sites, with
what it takes to make the sub-nets and to average them.  Both have the same images in a round.  On
a CPU the seconds are those in which it worked for the one thread, so that other work counts little.
Operations are counted on the sub-nets of each round, bytes are those that the method counts.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from dualnet import machine
from dualnet.bench.random_images import CLASSES, SHAPE, dataset
from dualnet.bench.results import Row, over_base
from dualnet.from_prototxt import build_net
from dualnet.ledger import Line
from dualnet.methods.resist.deal import deal
from dualnet.methods.resist.parts import dealt_blocks, sub_net
from dualnet.methods.resist.settings import RESIST, ResistConfig
from dualnet.methods.resist.training import Resist
from dualnet.operations import counted, num_parameters
from dualnet.session import batches_of

META = torch.device("meta")
COUNTED = 2         # images at a time
WITHIN = 0.15       # how far a ratio of times may be from that of the operations
# What is compared with what: a figure of the rounds, and what it should follow.
FOLLOWS = {"seconds": "operations", "bytes": "parameters"}


class _Way(NamedTuple):
    """A method in training, and what it is compared with."""

    name: str
    base: str
    settings: ResistConfig
    device: torch.device
    steps: Iterator[Any]


def way_name(sites: int, *, decompose: bool) -> str:
    """"ResIST, 2 sites"."""
    return f"{'ResIST' if decompose else 'local SGD'}, {sites} sites"


def rows(settings: ResistConfig, sites: Sequence[int], rounds: int) -> Iterator[list[Row]]:
    """Train on random images; yields the rows of a round.

    A row has `way`, `base`, the local SGD it is compared with, and of all sites together
    `seconds`, `images_per_s`, `operations`, `bytes` and `parameters`.  Raises UserError for sites
    among which the blocks cannot be dealt.
    """
    ways = [_way(settings.replace(sites=count, decompose=decompose,
                                  min_blocks=settings.min_blocks if decompose else 0), rounds)
            for count in sites for decompose in (False, True)]
    each = settings.local_iterations
    clock = time.thread_time if ways[0].device.type == "cpu" else time.monotonic
    for number in range(rounds + 1):        # the first warms up
        found = []
        for way in ways:
            started = clock()
            records = list(islice(way.steps, each))
            seconds = clock() - started
            images = each * settings.batch_size * way.settings.sites
            found.append({"way": way.name, "base": way.base, "seconds": seconds,
                          "images_per_s": images / seconds, "bytes": records[-1][f"{RESIST}/bytes"],
                          **_size(way.settings, number)})
        if number:
            yield found


def _way(settings: ResistConfig, rounds: int) -> _Way:
    settings = settings.replace(
        iterations=settings.local_iterations * (rounds + 1), lr=1e-3, lr_schedule="constant",
        log_every=settings.local_iterations * (rounds + 2)).resolved()
    device = machine.prepare(settings, RESIST, (RESIST,))
    batches = batches_of(dataset(max(settings.batch_size, CLASSES) * 2), settings)
    method = Resist(settings, build_net(settings, SHAPE, CLASSES), batches, device)
    return _Way(way_name(settings.sites, decompose=settings.decompose),
                way_name(settings.sites, decompose=False), settings, device, method.steps())


def _size(settings: ResistConfig, number: int) -> dict[str, int]:
    """Operations and weights of the sub-nets of all sites in round `number`, counted from 0."""
    with META:
        net = build_net(settings, SHAPE, CLASSES)
    dealt = dealt_blocks(settings, net)
    operations = parameters = 0
    for hand in deal(dealt, settings, number):
        sub = sub_net(net, set(dealt) - hand).train()
        operations += counted(lambda sub=sub: _loss(sub)).training  # type: ignore[misc]
        parameters += num_parameters(sub)
    images = settings.local_iterations * settings.batch_size
    return {"operations": operations * images // COUNTED, "parameters": parameters}


def _loss(net: torch.nn.Module) -> torch.Tensor:
    """Of `COUNTED` images."""
    return functional.cross_entropy(net(torch.empty(COUNTED, *SHAPE, device=META)),
                                    torch.zeros(COUNTED, dtype=torch.long, device=META))


# -- what is told of it ----------------------------------------------------------------------------

def ways(line: Line) -> list[str]:
    """The ways that are compared with another one."""
    return [each["way"] for each in line["measured"] if each["way"] != each["base"]]


def followed(line: Line, way: str, figure: str) -> list[float] | None:
    """The ratio of a figure over the ratio that it should follow, round by round."""
    found, expected = over_base(line, way, figure), over_base(line, way, FOLLOWS[figure])
    return [a / b for a, b in zip(found, expected, strict=True)] if found and expected else None
