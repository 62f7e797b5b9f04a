"""Rounds of ResIST: blocks dealt out, sub-nets trained apart, weights averaged."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dualnet.config import TrainConfig
from dualnet.data.batches import Batches
from dualnet.evaluate import score
from dualnet.methods.protocol import Record
from dualnet.methods.resist.deal import deal, site_seed, split_images
from dualnet.methods.resist.parts import (
    Average,
    as_tested,
    dealt_blocks,
    pack,
    packed_size,
    round_bytes,
    sub_net,
    tensors_of,
    unpack,
)
from dualnet.methods.resist.settings import DROPS, RESIST, ResistConfig
from dualnet.nets.initial import draw_weights
from dualnet.nets.residual import survival_by_layer
from dualnet.operations import num_parameters
from dualnet.optimizer import Optimizer
from dualnet.schedules import milestones
from dualnet.supervised import Supervised
from shared_fs import PeerLost

FIGURES = 2     # of each iteration: loss and accuracy


class Links(Protocol):
    """How a site talks to another one; tensors are on the CPU."""

    def send(self, site: int, tensor: Tensor) -> None:
        """Hand over `tensor`.  Raises PeerLost."""
        ...

    def receive(self, site: int, tensor: Tensor) -> None:
        """Fill `tensor` with the next one that comes from `site`.  Raises PeerLost."""
        ...


class CountedLinks:
    """Links to other sites, and what they have cost.

    wait_s      seconds in `send` and `receive`
    bytes_sent  by this site
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self.wait_s, self.bytes_sent = 0.0, 0

    def send(self, site: int, tensor: Tensor) -> None:
        """Hand over `tensor`.  Raises PeerLost."""
        started = time.monotonic()
        self._links.send(site, tensor)
        self.wait_s += time.monotonic() - started
        self.bytes_sent += tensor.nbytes

    def receive(self, site: int, tensor: Tensor) -> None:
        """Fill `tensor` with the next one that comes from `site`.  Raises PeerLost."""
        started = time.monotonic()
        self._links.receive(site, tensor)
        self.wait_s += time.monotonic() - started


class Site(Supervised):
    """A sub-net in training for one round."""

    settings: ResistConfig

    def make_optimizer(self, settings: TrainConfig) -> Optimizer:
        """By --lr-schedule; its iterations are those of the whole training."""
        if settings.lr_schedule != "drops":
            return Optimizer(self.net, settings, settings.lr)
        drops = [math.ceil(share * settings.iterations) for share in DROPS]
        return Optimizer(self.net, settings, settings.lr, schedule=milestones(
            settings.lr, factor=settings.lr_factor, at=drops))


class Rounds:
    """What a site knows without being told: the settings, its images, and who has which blocks.

    net  the whole one; its weights do not count
    """

    def __init__(self, settings: ResistConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device) -> None:
        self.settings, self.batches, self.device = settings, batches, device
        self.dealt = dealt_blocks(settings, net)
        parts = split_images(batches.dataset.train_labels, settings)
        self._own = [batches.drawn_by(site_seed(settings, site), parts[site] if parts else None)
                     for site in range(settings.sites)]

    def hands(self, start: int) -> list[frozenset[str]]:
        """The blocks of each site in the round that begins with iteration `start`."""
        return deal(self.dealt, self.settings, start // self.settings.local_iterations)

    def absent(self, hand: frozenset[str]) -> frozenset[str]:
        """The blocks that a site with these has not."""
        return frozenset(self.dealt) - hand

    def train(self, site: int, sub: nn.Sequential, start: int,
              momentum: Mapping[str, Tensor]) -> tuple[Site, list[Record]]:
        """Train `sub` from iteration `start` to the end of its round.

        momentum  that it begins with, by name
        """
        until = self.settings.round_end(start)
        own = self.settings.replace(iterations=until, seed=site_seed(self.settings, site))
        method = Site(RESIST, RESIST, own, sub, self._own[site], self.device,
                      horizon=self.settings.iterations)
        method.optimizer.set_momentum(method.net, momentum)
        return method, list(method.steps(start))


class Resist:
    """The first site, which has the whole net; and the other ones, where they are not processes.

    net    before its weights are drawn
    links  to the processes of the other sites; without them this process trains all sites, one
           after the other
    One site alone has no rounds: its momentum goes on, and it is the plain training.
    """

    name = RESIST

    def __init__(self, settings: ResistConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device, links: Links | None = None) -> None:
        self.settings, self.batches, self.device = settings, batches, device
        self.dtype: torch.dtype = getattr(torch, settings.weight_format)
        draw_weights(net, settings.seed)
        self.net = as_tested(settings, net).to(device, self.dtype)
        self._rounds = Rounds(settings, net, batches, device)
        self.links = CountedLinks(links) if links else None
        self._momentum: dict[str, Tensor] = {}
        self._bytes, self.is_whole = 0, True

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train from iteration `start`, at which a round begins, one record per iteration.

        Records come when their round is over; their loss and accuracy are means over the sites.
        Raises PeerLost, naming the round, if a site ends or is silent.
        """
        while start < self.settings.iterations:
            records = self._round(start)
            start += len(records)
            self.is_whole = False
            yield from records[:-1]
            self.is_whole = True
            yield records[-1]

    def _round(self, start: int) -> list[Record]:
        hands = self._rounds.hands(start)
        average, found = Average(), []
        try:
            self._hand_out(hands)
            for site, hand in enumerate(hands):
                sub = sub_net(self.net, self._rounds.absent(hand))
                found.append(self._trained(site, sub, start))
                average.add(tensors_of(sub))
        except PeerLost as error:
            number = start // self.settings.local_iterations + 1
            raise PeerLost(f"round {number} ended early: {error}; run the same command again, "
                           "which goes on from the newest checkpoint") from None
        average.give(self.net)
        return self._records(start, found, hands)

    def _is_here(self, site: int) -> bool:
        return self.links is None or site == 0

    def _hand_out(self, hands: Sequence[frozenset[str]]) -> None:
        """Send each other process the weights that it has in this round."""
        for site, hand in enumerate(hands):
            if self.links is not None and site > 0:
                self.links.send(site, pack(sub_net(self.net, self._rounds.absent(hand))))

    def _trained(self, site: int, sub: nn.Sequential, start: int) -> list[Record]:
        """Train `sub`, here or at its own process; what became of each iteration."""
        if self._is_here(site):
            method, records = self._rounds.train(site, sub, start, self._momentum)
            if self.settings.sites == 1:
                self._momentum = method.optimizer.momentum(method.net)
            return records
        assert self.links is not None
        packed = torch.empty(packed_size(sub), dtype=self.dtype)
        figures = torch.empty(self.settings.round_end(start) - start, FIGURES, dtype=torch.float64)
        self.links.receive(site, packed)
        self.links.receive(site, figures)
        unpack(sub, packed)
        return [{"loss": loss, "accuracy": accuracy} for loss, accuracy in figures.tolist()]

    def _records(self, start: int, found: Sequence[Sequence[Record]],
                 hands: Sequence[frozenset[str]]) -> list[Record]:
        first, sites = found[0], len(found)
        records = [{**record, **{key: sum(each[index][key] for each in found) / sites
                                 for key in ("loss", "accuracy")}}
                   for index, record in enumerate(first)]
        moved = round_bytes(self.net, self._rounds.dealt, hands) if sites > 1 else 0
        self._bytes += moved
        records[-1] |= {f"{RESIST}/round": start // self.settings.local_iterations + 1,
                        f"{RESIST}/bytes": moved}
        return records

    # -- what has been trained -----------------------------------------------------------------

    def evaluate(self) -> Record:
        """Loss and accuracy of the whole net on the test images."""
        return score(self.net, self.batches, self.device, self.dtype, self.settings.num_views)

    def state_dict(self) -> dict[str, Any]:
        """The whole net; the momentum of a site alone; by how much which layers count in a test."""
        return {"net": self.net.state_dict(), "momentum": self._momentum, "bytes": self._bytes,
                "survival": survival_by_layer(self.net)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.net.load_state_dict(state["net"])
        self._momentum, self._bytes = state["momentum"], state["bytes"]

    def facts(self) -> Record:
        """Sites, blocks, sizes, and the bytes of all rounds."""
        most = max(self._rounds.hands(0), key=len)
        return {"collapsed": False, "collapse_reason": "", "sites": self.settings.sites,
                "dealt_blocks": len(self._rounds.dealt), "blocks_per_site": len(most),
                "parameters": num_parameters(self.net),
                "bytes_rounds": self._bytes}


class Helper:
    """A site other than the first one, in a process of its own: it holds what it trains only.

    net  the whole one, without memory for its weights (device meta)
    """

    def __init__(self, settings: ResistConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device, links: Links, site: int) -> None:
        self.settings, self.device, self.site, self._links = settings, device, site, links
        self.dtype: torch.dtype = getattr(torch, settings.weight_format)
        self._net = as_tested(settings, net).to(dtype=self.dtype)
        self._rounds = Rounds(settings, net, batches, device)

    def steps(self, start: int) -> Iterator[Record]:
        """Train from iteration `start`, at which a round begins.  Raises PeerLost."""
        while start < self.settings.iterations:
            hand = self._rounds.hands(start)[self.site]
            sub = sub_net(self._net, self._rounds.absent(hand)).to_empty(device=self.device)
            packed = torch.empty(packed_size(sub), dtype=self.dtype)
            self._links.receive(0, packed)
            unpack(sub, packed)
            method, records = self._rounds.train(self.site, sub, start, {})
            self._links.send(0, pack(method.net))
            self._links.send(0, torch.tensor([[record["loss"], record["accuracy"]]
                                              for record in records], dtype=torch.float64))
            start += len(records)
            yield from records
