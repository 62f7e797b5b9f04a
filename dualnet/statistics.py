"""Mean and spread over seeds, and the difference of two variants that share seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean, sample standard deviation (n - 1; None if n is 1) and number of values."""

    mean: float
    sd: float | None
    n: int


class Difference(NamedTuple):
    """Mean of n differences by seed, and the ends of its interval; None of a single seed."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval is above or below zero, 0 where zero is in it, which shows no
        difference; None of a single seed, which shows nothing."""
        if self.low is None or self.high is None:
            return None
        return (self.low > 0) - (self.high < 0)

    def said(self, form: str) -> str:
        """"+0.18 [-0.88, +1.24] (3)", or "+0.18 (1)"; `form` is of each number, without sign."""
        mean, *ends = (signed(value, form) for value in self[:3] if value is not None)
        interval = f" [{', '.join(ends)}]" if ends else ""
        return f"{mean}{interval} ({self.n})"

    def scaled(self, factor: float) -> "Difference":
        """The same in another unit; `factor` is above 0."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Difference(factor * self.mean, low, high, self.n)


def signed(value: float, form: str) -> str:
    """The number with its sign, and no "-0.00".

    >>> signed(-0.001, ".2f")
    '+0.00'
    """
    text = f"{value:+{form}}"
    return f"+{text[1:]}" if float(text.replace(",", "")) == 0 else text


def spread(values: Iterable[float | None]) -> Spread | None:
    """Spread of the values that are there, or None if none is.

    >>> spread([1.0, None, 4.0])
    Spread(mean=2.5, sd=2.1213203435596424, n=2)
    """
    found = [value for value in values if value is not None]
    if not found:
        return None
    sd = statistics.stdev(found) if len(found) > 1 else None
    return Spread(statistics.fmean(found), sd, len(found))


def mean_difference(differences: Iterable[float | None]) -> Difference | None:
    """Mean of the differences that are there, one per seed, or None if none is.

    The interval is mean -+ t sd / sqrt(n), with t the quantile of Student's distribution of n - 1
    degrees of freedom: in 95 of 100 experiments it contains the true mean, if the differences are
    normally distributed.
    """
    # Not at the top: what only reads a table need not wait for scipy.
    from scipy.special import stdtrit

    found = spread(differences)
    if found is None or found.sd is None:
        return found and Difference(found.mean, None, None, found.n)
    t = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2))
    half = t * found.sd / math.sqrt(found.n)
    return Difference(found.mean, found.mean - half, found.mean + half, found.n)


def paired(of: Mapping[int, float | None], to: Mapping[int, float | None]) -> Difference | None:
    """Difference of two variants, `of` minus `to`, over the seeds of which both have a value.

    of, to  seed -> value; None where there is none, as of a run that diverged
    """
    return mean_difference(_minus(of[seed], to[seed]) for seed in sorted(of.keys() & to.keys()))


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
