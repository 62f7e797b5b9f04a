"""Random numbers as pure functions of (seed, purpose, index): no generator has a history.

Both roles, the single net, a resumed run and a script without this package can draw the same
numbers, because they come from Philox 4x64, a counter-based generator whose raw stream numpy
keeps stable (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import hashlib

import numpy as np


def bits(seed: int, purpose: str, index: int, count: int) -> np.ndarray:
    """`count` random 64-bit words, uint64 [count], the same on every machine.

        Philox(key=seed, counter=[0, 0, index, h]).random_raw(count)

    where h is the first eight bytes of sha256(purpose), little endian.  `purpose` says what the
    numbers are for ("order", "mirror", "weights/conv3"), so that no two uses share a stream;
    `index` is what they belong to: an epoch or a step.
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    stream = int.from_bytes(digest[:8], "little")
    return np.random.Philox(key=seed, counter=[0, 0, index, stream]).random_raw(count)


def uniform(seed: int, purpose: str, index: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64 [count]: the top 53 of each word's bits."""
    return (bits(seed, purpose, index, count) >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, purpose: str, index: int, count: int) -> np.ndarray:
    """A random order of 0..count-1, int64 [count]: the stable argsort of `bits`."""
    return np.argsort(bits(seed, purpose, index, count), kind="stable")


def torch_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for a `torch.Generator` that serves one purpose."""
    return int(bits(seed, purpose, index, 1)[0] >> np.uint64(1))
