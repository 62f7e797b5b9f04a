"""Means, spreads and paired differences, by hand and beside scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from dualnet.statistics import Difference, Spread, mean_difference, paired, spread


def test_the_spread_of_one_value_is_none():
    assert spread([3.0]) == Spread(3.0, None, 1)
    assert spread([None]) is None
    assert spread([1.0, None, 4.0]) == (2.5, pytest.approx(4.5 ** 0.5), 2)


def test_the_interval_of_two_seeds_by_hand():
    # differences 1 and 3: mean 2, deviation sqrt(2); with one degree of freedom Student's
    # distribution is Cauchy's, whose quantile at 0.975 is tan(pi (0.975 - 0.5)) = 12.706
    half = math.tan(math.pi * 0.475) * math.sqrt(2) / math.sqrt(2)
    found = paired({0: 2.0, 1: 5.0, 2: 9.0}, {1: 2.0, 0: 1.0, 3: 4.0})
    assert found == (2.0, pytest.approx(2 - half), pytest.approx(2 + half), 2)


def test_the_interval_is_that_of_scipys_paired_test():
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        a, b = rng.normal(size=(2, count))
        wanted = stats.ttest_rel(a, b).confidence_interval(0.95)
        found = paired(dict(enumerate(a)), dict(enumerate(b)))
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
        # the interval leaves out zero exactly where the test rejects at 5 %
        assert bool(found.sign) == (stats.ttest_rel(a, b).pvalue < 0.05)


def test_only_an_interval_beside_zero_has_a_sign():
    assert [mean_difference(values).sign for values in
            ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [1.0, -1.0, 0.5], [1.0], [0.0, 0.0])] == [
                1, -1, 0, None, 0]
    assert mean_difference([]) is None and paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 1.0, 1: None}, {0: 0.5, 1: 2.0}) == (0.5, None, None, 1)


def test_a_difference_in_words():
    assert Difference(0.001, -0.02, 0.022, 3).scaled(100).said(".2f") == "+0.10 [-2.00, +2.20] (3)"
    assert Difference(-0.00001, None, None, 1).said(".2f") == "+0.00 (1)"
