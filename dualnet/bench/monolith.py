"""Stage 2 of train monolith with kept features of the resting trunks, beside running the trunks.

In every round each has an epoch of the same images in the same batches, and the features are kept
anew: what has to be paid for once.
"""

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from dualnet import feature_file, machine
from dualnet.bench.random_images import CLASSES, SHAPE, dataset
from dualnet.bench.results import Row
from dualnet.data.dataset import Dataset
from dualnet.methods.monolith.settings import HEAD, MONOLITH, MonolithConfig, Span
from dualnet.methods.monolith.training import Head, trunk_net
from dualnet.session import batches_of

TRUNKS, KEPT, KEEPING = "trunks in each step", "kept features", "to keep them, once"


def rows(settings: MonolithConfig, images: int, rounds: int) -> Iterator[list[Row]]:
    """Train heads on random images; yields the rows of a round: `way`, `base` and `images_per_s`.

    Raises UserError or DataError for a batch that is larger than the images.
    """
    data = dataset(images)
    running, reading = (_head(settings, data, rounds) for _ in range(2))
    steps = {TRUNKS: running.steps(), KEPT: reading.steps()}
    shape, dtype = (images, reading.num_features), np.dtype(settings.weight_format)
    each = running.batches.steps_per_epoch
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-") as folder:
        path = Path(folder, "features.npy")
        for number in range(rounds + 1):        # the first warms up
            seconds = {}
            started = time.monotonic()
            for _ in feature_file.write(path, reading.features(), shape, dtype):
                pass
            seconds[KEEPING] = time.monotonic() - started
            kept = feature_file.read(path, shape, dtype)
            assert kept is not None
            reading.keep(kept)
            for way, its in steps.items():
                started = time.monotonic()
                for _ in islice(its, each):
                    pass
                seconds[way] = time.monotonic() - started
            if number:
                seen = dict.fromkeys(steps, each * running.batches.batch_size) | {KEEPING: images}
                yield [{"way": way, "base": TRUNKS, "images_per_s": seen[way] / seconds[way]}
                       for way in (TRUNKS, KEPT, KEEPING)]


def _head(settings: MonolithConfig, data: Dataset, rounds: int) -> Head:
    """A head for an epoch in each round and one that warms up."""
    each = max(1, len(data.train_images) // settings.head_batch)
    span = Span(0, each * (rounds + 1), 0.0, each)
    of_stage = settings.of_stage(HEAD, span).replace(log_every=span.until + 1)
    device = machine.prepare(settings, MONOLITH, (MONOLITH,))
    trunks = [trunk_net(settings, role, SHAPE, CLASSES) for role in settings.trunk_roles]
    return Head(of_stage, settings.stage(HEAD), span, trunks, batches_of(data, of_stage), device)
