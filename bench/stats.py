"""Latencies counted by the microsecond, and the few figures that are made of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


class Histogram:
    """How many requests took how many microseconds. Exact: nothing is rounded into buckets."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._counts = {value: count for value, count in counts.items() if count}
        self.count = sum(self._counts.values())

    @classmethod
    def of(cls, values_us: Iterable[int]) -> Histogram:
        return cls(Counter(values_us))

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        total: Counter[int] = Counter()
        for part in parts:
            total.update(part._counts)
        return cls(total)

    def percentile_us(self, percent: float) -> int:
        """The smallest latency that `percent` of the requests did not exceed; 0 where there were none."""
        rank = math.ceil(self.count * percent / 100)
        seen = 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= rank:
                return value
        return 0


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    assert values, "a median of nothing"
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def uncorrected(counts: Mapping[int, int], interval_us: int) -> dict[int, int]:
    """What wrk measured, from what it shows.

    To each latency above twice the mean interval of a connection wrk adds those that requests sent in the meantime
    would have had (its `stats_correct`). The other generators don't, so it is taken back here: from the longest latency
    down, each one's additions are subtracted.
    """
    assert interval_us > 0
    original = dict(counts)
    for value in sorted(original, reverse=True):
        if value < 2 * interval_us:
            break
        count = original[value]
        added_to = value - interval_us
        while count and added_to > interval_us:
            original[added_to] -= count
            added_to -= interval_us
    return {value: count for value, count in original.items() if count}
