"""train resist between processes that share nothing but a folder, a site each.

A site that ends is waited for; when it is back, all go on from the newest checkpoint of the first
site, which alone keeps any: the others hold nothing between two rounds.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dualnet.errors import UserError
from dualnet.methods.protocol import Record
from dualnet.methods.resist.parts import as_tested, packed_size
from dualnet.methods.resist.settings import RESIST, ResistConfig
from dualnet.methods.resist.training import Helper, Resist
from dualnet.parallel import World
from dualnet.ranks import train_through
from dualnet.resist_session import Place, lead, prepared
from dualnet.run import Run
from shared_fs import Exchange, PeerRestarted, RunOver

log = logging.getLogger("dualnet")

MOST_SITES = 9      # two channels between the first site and each other one, sixteen at most
WINDOW = 2          # of a round: weights, and the figures of the iterations


def site_names(sites: int) -> tuple[str, ...]:
    """The sites as users count them: site1, the first one, to site9.

    Raises UserError for more.
    """
    if sites > MOST_SITES:
        raise UserError(f"--exchange-dir connects at most {MOST_SITES} sites, found --sites "
                        f"{sites}; take fewer, or torchrun")
    return tuple(f"site{number + 1}" for number in range(sites))


class FolderLinks:
    """How a site talks to another one through an exchange.

    site  this one, counted from 0
    """

    def __init__(self, exchange: Exchange, site: int) -> None:
        self._exchange, self._site = exchange, site
        self._counts: Counter[str] = Counter()

    def send(self, site: int, tensor: Tensor) -> None:
        """Hand over `tensor`, on the CPU.  Raises PeerLost, PeerRestarted."""
        channel = channel_name(self._site, site)
        self._exchange.send(channel, self._next(channel), tensor.numpy())

    def receive(self, site: int, tensor: Tensor) -> None:
        """Fill `tensor` with the next one from `site`.  Raises PeerLost, PeerRestarted."""
        channel = channel_name(site, self._site)
        self._exchange.recv(channel, self._next(channel), tensor.numpy())

    def _next(self, channel: str) -> int:
        self._counts[channel] += 1
        return self._counts[channel] - 1


def channel_name(sender: int, receiver: int) -> str:
    """Of one direction between the first site, 0, and another one."""
    return f"to_site{receiver + 1}" if sender == 0 else f"from_site{sender + 1}"


def resist_in_folder(settings: ResistConfig, run: Run, folder: Path, site: int, *,
                     overwrite: bool = False) -> Iterator[Record]:
    """Train as a site, counted from 0, with the others at `folder`.

    Yields each line of metrics of the first site, which leaves summary.json behind.  Raises
    UserError for more sites than a folder connects, and the errors of shared_fs.
    """
    name = site_names(settings.sites)[site]
    role = name if site else RESIST
    run.admit(role, RESIST, settings, overwrite=overwrite)
    try:
        place = prepared(settings, World(), is_first=site == 0)
        exchange = _exchange(settings, run.home(role), folder, site, place)
        with exchange:
            run.join(RESIST, settings)      # from here on this folder is known by its home
            yield from _generations(settings, run, exchange, site, place)
    except RunOver as over:
        log.info("%s", over)
    finally:
        run.leave(role)


def _exchange(settings: ResistConfig, home: str, folder: Path, site: int,
              place: Place) -> Exchange:
    names = site_names(settings.sites)
    channels = {channel_name(*ends): (names[ends[0]], names[ends[1]])
                for other in range(1, settings.sites) for ends in ((0, other), (other, 0))}
    dtype: torch.dtype = getattr(torch, settings.weight_format)
    size = packed_size(as_tested(settings, place.net)) * dtype.itemsize
    return Exchange(
        folder, names[site], channels=channels, roles=names,
        agreement={**settings.agreed(), "images": place.batches.dataset.fingerprint()},
        window=WINDOW, transport="rename",      # the sizes of the messages vary
        nonfinite="allow",                      # the loss tells of it
        home=home, message_bytes=dict.fromkeys(channels, size),
        handshake_timeout_s=settings.rank_timeout, progress_timeout_s=settings.rank_timeout)


def _generations(settings: ResistConfig, run: Run, exchange: Exchange, site: int,
                 place: Place) -> Iterator[Record]:
    """Train to the end, anew from the newest checkpoint whenever another site has begun anew."""
    while True:
        try:
            yield from _generation(settings, run, FolderLinks(exchange, site), site, place)
            exchange.finish()
            return
        except PeerRestarted as restart:
            exchange.rejoin()
            log.info("%s: going back to the newest checkpoint", str(restart).partition(";")[0])


def _generation(settings: ResistConfig, run: Run, links: FolderLinks, site: int,
                place: Place) -> Iterator[Record]:
    step = torch.empty(1, dtype=torch.int64)
    if site:
        links.receive(0, step)
        method = Helper(settings, place.net, place.batches, place.device, links, site)
        # A signal ends this site at once, since it holds nothing that the next round needs.
        train_through(method.steps(int(step)), f"site {site + 1} ends as site 1 does")
        return

    def share(start: int) -> None:
        for other in range(1, settings.sites):
            links.send(other, step.fill_(start))

    first = Resist(settings, place.net, place.batches, place.device, links)
    yield from lead(first, run, share, settings.sites)
