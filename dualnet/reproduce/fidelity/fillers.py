"""The filler cases: the distribution of what is drawn, since the draws themselves are random.

We draw several samples for each of Caffe's, so that the error left is mostly that of Caffe's one.
"""

import math
import re
from typing import Any

import numpy as np
import torch

from dualnet import caffe
from dualnet.errors import UserError
from dualnet.reproduce.fidelity.golden import Case, Difference, measure

REPEATS = 4
BOUNDED = ("constant", "uniform", "xavier", "bilinear")     # their extremes are no matter of luck


def filler(case: Case) -> list[Difference]:
    """mean, std, zeros, limits, quantiles: what `relative` is, and how much chance explains.

    mean       distance in standard deviations; five standard errors
    std        relative distance; 1 %, or 4.5 standard errors where the sample is too small for it
    zeros      distance of the shares of exact zeros; five standard errors
    limits     distance of minimum and maximum, relative to the range; 25 / count
    quantiles  largest distance of the distribution functions at Caffe's quantiles (Kolmogorov and
               Smirnov); 2.7 / sqrt(count), which chance exceeds once in a million
    """
    shape, text = case.required("blob_shape"), case.required("filler")
    count = math.prod(shape)
    _check_fans(case, shape)
    fields = parse_fields(text)
    fill = caffe.filler(**fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sample = torch.stack([fill(torch.empty(shape)) for _ in range(REPEATS)]).numpy().ravel()
    bias = caffe.filler()(torch.empty(count // shape[0]))
    limits = torch.stack([bias.min(), bias.max()])
    return [measure("bias_stats", limits, case.arrays["bias_stats"], 0.0),
            *_moments(sample, case.arrays["stats"], count, fields["type"] in BOUNDED),
            _quantiles(sample, case.arrays["quantiles"], count)]


def _check_fans(case: Case, shape: list[int]) -> None:
    count = math.prod(shape)
    sizes = {"count": count, "fan_in": count // shape[0], "fan_out": count // shape[1]}
    for name, value in sizes.items():
        if case.field(name, value) != value:
            raise UserError(f"fillers '{case.name}': {name} of {shape} is {value}, "
                            "not what cases.json says")


def parse_fields(text: str) -> dict[str, Any]:
    """The fields of a filler block: 'type: "gaussian" std: 2' -> {"type": "gaussian", "std": 2}."""
    pairs = re.findall(r'(\w+)\s*:\s*("[^"]*"|[^\s"]+)', text)
    return {name: value.strip('"') if re.match(r'["A-Za-z]', value) else
            float(value) if re.search(r"[.eE]", value) else int(value) for name, value in pairs}


def _moments(sample: np.ndarray, stats: np.ndarray, count: int,
             is_bounded: bool) -> list[Difference]:
    mean, std, low, high, zeros = stats.astype(np.float64)
    values = sample.astype(np.float64)
    # Standard errors of the difference between our sample and Caffe's.
    unit = math.sqrt((1 + 1 / REPEATS) / count)
    our_std = float(values.std())
    kurtosis = float(((values - values.mean()) ** 4).mean()) / our_std ** 4 if our_std else 1.0
    std_error = unit * math.sqrt(max(kurtosis - 1, 0) / 4)
    our_zeros = float((sample == 0).mean())
    if low == high:      # a constant: nothing is random, but Caffe's mean is rounded
        scale = abs(low) or 1.0
        return [_relative("mean", abs(float(values.mean()) - mean), scale, 1e-6),
                _relative("std", abs(our_std - std), scale, 1e-6)]
    differences = [
        _relative("mean", abs(float(values.mean()) - mean), std, 5 * unit),
        _relative("std", abs(our_std - std), std, max(0.01, 4.5 * std_error)),
        _relative("zeros", abs(our_zeros - zeros), 1.0,
                  5 * unit * math.sqrt(zeros * (1 - zeros)))]
    if is_bounded:
        distance = max(abs(float(sample.min()) - low), abs(float(sample.max()) - high))
        differences.append(_relative("limits", distance, high - low, 25 / count))
    return differences


def _relative(name: str, absolute: float, scale: float, tolerance: float) -> Difference:
    return Difference(name, float(absolute), float(absolute / scale), float(tolerance))


def _quantiles(sample: np.ndarray, quantiles: np.ndarray, count: int) -> Difference:
    """Share k/100 of Caffe's numbers lies at or below the k-th quantile, fewer strictly below."""
    shares = np.linspace(0, 1, len(quantiles))
    ordered = np.sort(sample)
    below = np.searchsorted(ordered, quantiles, side="left") / len(sample)
    at_or_below = np.searchsorted(ordered, quantiles, side="right") / len(sample)
    distance = float(np.maximum(below - shares, shares - at_or_below).max(initial=0.0))
    absolute = float(np.abs(np.quantile(ordered, shares) - quantiles).max())
    return Difference("quantiles", absolute, distance, 2.7 / math.sqrt(count))
