"""Who has which blocks in a round, and which images at all: functions of the seed.  No torch."""

from collections.abc import Sequence

import numpy as np

from dualnet.errors import UserError
from dualnet.methods.resist.settings import ResistConfig
from dualnet.seeding import permutation, torch_seed, uniform

DRAWS = 1000    # of a split before it is given up


def hand_sizes(count: int, sites: int, min_blocks: int) -> list[int]:
    """How many of `count` blocks each site gets: an equal share, but at least `min_blocks`.

    Raises UserError if there are not as many blocks.

    >>> hand_sizes(22, 4, 0), hand_sizes(22, 8, 4)
    ([6, 6, 5, 5], [4, 4, 4, 4, 4, 4, 4, 4])
    """
    if min_blocks > count:
        raise UserError(f"--min-blocks {min_blocks} is more than the {count} blocks that are dealt "
                        "out; choose fewer")
    share, rest = divmod(count, sites)
    return [max(share + (site < rest), min_blocks) for site in range(sites)]


def deal(blocks: Sequence[str], settings: ResistConfig, number: int) -> list[frozenset[str]]:
    """The blocks of each site in round `number`, counted from 0; none where there are none to deal.

    balanced  the blocks in a random order, round and round; each site takes the next ones.  So a
              block is at floor(T / B) or ceil(T / B) sites, T = sum of `hand_sizes`, B blocks.
              The authors' code draws the overlap, so that there the counts vary.
    random    each site draws for itself
    """
    if not blocks:
        return [frozenset()] * settings.sites
    sizes = hand_sizes(len(blocks), settings.sites, settings.min_blocks)
    if settings.assign == "random":
        return [_pick(blocks, permutation(settings.seed, f"resist/deal/{site}", number,
                                          len(blocks))[:size])
                for site, size in enumerate(sizes)]
    order, hands, taken = permutation(settings.seed, "resist/deal", number, len(blocks)), [], 0
    for size in sizes:
        hands.append(_pick(blocks, np.take(order, range(taken, taken + size), mode="wrap")))
        taken += size
    return hands


def _pick(blocks: Sequence[str], chosen: np.ndarray) -> frozenset[str]:
    return frozenset(blocks[index] for index in chosen)


def site_seed(settings: ResistConfig, site: int) -> int:
    """The seed of order, augmentation and dropout at `site`; that of the first is the run's."""
    return torch_seed(settings.seed, f"resist/site{site}") if site else settings.seed


def split_images(labels: np.ndarray, settings: ResistConfig) -> list[np.ndarray] | None:
    """Which training images each site has, int64 [n_site] each; None if all have all.

    Of the images of each class, site k gets a share p_k, p ~ Dirichlet(A, ..., A): gamma variates
    over their sum.  It is drawn anew until each site can fill a batch.
    Hsu et al. 2019, "Measuring the effects of non-identical data distribution", section 3.
    Raises UserError if no draw is good enough.
    """
    if settings.concentration is None:
        return None
    for attempt in range(DRAWS):
        parts = _draw_split(labels, settings, settings.concentration, attempt)
        if min(map(len, parts)) >= settings.batch_size:
            return parts
    raise UserError(f"--split {settings.split} leaves a site without a batch of "
                    f"{settings.batch_size} images in {DRAWS} draws; take a larger number, fewer "
                    "sites or a smaller batch")


def _draw_split(labels: np.ndarray, settings: ResistConfig, concentration: float,
                attempt: int) -> list[np.ndarray]:
    from scipy.special import gammaincinv

    parts: list[list[np.ndarray]] = [[] for _ in range(settings.sites)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[permutation(settings.seed, f"resist/split/{label}", attempt,
                                      len(members))]
        gammas = gammaincinv(concentration, uniform(
            settings.seed, f"resist/shares/{label}", attempt, settings.sites))
        cuts = np.floor(np.cumsum(gammas)[:-1] / gammas.sum() * len(members)).astype(np.int64)
        for part, chosen in zip(parts, np.split(members, cuts), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]
