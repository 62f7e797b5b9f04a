"""Fixtures that several test files share."""

import functools
import sys

import pytest

from dualnet.data import shapes


@pytest.fixture(scope="session", autouse=True)
def built_in_set_drawn_once():
    """In this process all tests read one drawing of the built-in data set, which takes 2 s."""
    draw = shapes.load
    once = functools.cache(draw)
    shapes.load = functools.wraps(draw)(lambda folder=None: once())
    yield
    shapes.load = draw


@pytest.fixture(autouse=True)
def one_thread():
    """Here torch computes on one thread: two roles in threads, each with a pool of its own, on two
    cores mostly wait for the other's pool.  `--threads 0` in an earlier test has set all cores."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def calm(tmp_path_factory):
    """The weights of a dual net that nothing has disturbed, by role."""
    from pairs import undisturbed

    return undisturbed(tmp_path_factory.mktemp("calm"))


@pytest.fixture
def pair(tmp_path):
    """Makes pairs of roles, each with a folder of its own, and leaves no process behind."""
    from pairs import Pair

    pairs = []

    def make(name, *words, **options):
        pairs.append(Pair(tmp_path / name, *words, **options))
        return pairs[-1]

    yield make
    for each in pairs:
        each.clear()
