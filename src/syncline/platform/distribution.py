"""A distribution: how many values fell into each of a few fixed buckets, and their sum."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["DURATIONS_S", "Distribution"]

DURATIONS_S: Final = (
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Bounds for operations that take a fraction of a millisecond when all is well, and seconds when a leader is
missing."""


class Distribution:
    """Counts of values by bucket. For one thread; another one may read it, and sees a value more or less.

        commits = Distribution()
        commits.observe(0.0012)

    A histogram of Prometheus has the same buckets, each with all below it.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = DURATIONS_S) -> None:
        self.bounds: tuple[float, ...] = bounds
        """Ascending. A value equal to a bound belongs to that bound's bucket."""
        self.counts: list[int] = [0] * (len(bounds) + 1)
        """Per bucket, not cumulative; the last is what is above all bounds."""
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        """Count one value. A value equal to a bound belongs to that bound's bucket.

            waits = Distribution((0.001, 0.01))
            waits.observe(0.004)

        It takes a fraction of a microsecond.
        """
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
