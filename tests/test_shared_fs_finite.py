"""is_finite agrees with numpy's isfinite, wherever the odd value stands."""

import warnings

import numpy as np
import pytest

from shared_fs.finite import is_finite, nonfinite_values

KINDS = (np.float16, np.float32, np.float64, np.complex64)
ODD = (np.nan, -np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("odd", ODD)
def test_one_odd_value_anywhere_is_found(dtype, odd):
    array = np.random.default_rng(0).standard_normal((7, 67)).astype(dtype)
    assert is_finite(array)
    for place in (0, 1, 200, array.size - 1):
        spoilt = array.copy()
        spoilt.flat[place] = odd
        assert np.isfinite(spoilt).all() == is_finite(spoilt) == False  # noqa: E712
        row, column = divmod(place, 67)
        assert nonfinite_values(spoilt) == f"1 of 469 values are not finite, first at ({row}, " \
                                           f"{column})"


@pytest.mark.parametrize("dtype", KINDS[:3])
def test_finite_values_whose_sum_is_not_are_finite(dtype):
    largest = np.finfo(dtype).max
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_finite(np.full(100, largest, dtype))
        assert is_finite(np.array([largest, -largest] * 50, dtype))
        assert not is_finite(np.array([np.inf, -np.inf], dtype))


@pytest.mark.parametrize("array", [np.empty((0, 3)), np.array(1.5), np.arange(4),
                                   np.array([True]), np.finfo(np.float16).smallest_subnormal])
def test_empty_scalar_integer_and_tiny_arrays_are_finite(array):
    assert is_finite(np.asarray(array))
