"""Fixtures that several test files share."""

import pytest


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
