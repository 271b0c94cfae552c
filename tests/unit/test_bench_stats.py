"""The bench's arithmetic."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from bench.stats import Histogram, median, uncorrected
from hypothesis import given
from hypothesis import strategies as st


def corrected(counts: dict[int, int], interval_us: int) -> dict[int, int]:
    """What wrk does to its latencies before it shows them: literally, in ascending order."""
    shown = Counter(counts)
    for value in range(2 * interval_us, max(counts) + 1):
        count, earlier = shown[value], value - interval_us
        while count and earlier > interval_us:
            shown[earlier] += count
            earlier -= interval_us
    return dict(shown)


def test_percentiles_are_values_that_were_measured() -> None:
    latencies = Histogram.of([30, 10, 20, 40])
    assert [latencies.percentile_us(percent) for percent in (25, 50, 51, 100)] == [10, 20, 30, 40]


def test_percentiles_agree_with_a_sorted_list() -> None:
    rng = random.Random(3)
    values = [int(rng.expovariate(0.001)) for _ in range(1000)]
    latencies = Histogram.of(values)
    ordered = sorted(values)
    assert latencies.percentile_us(50) == ordered[499]
    assert latencies.percentile_us(99) == ordered[989]
    assert latencies.percentile_us(99.9) == ordered[998]


def test_no_latencies_have_no_percentile() -> None:
    assert Histogram({}).percentile_us(99) == 0


def test_histograms_merge() -> None:
    merged = Histogram.merged([Histogram({1: 2, 5: 1}), Histogram({5: 3})])
    assert merged.count == 6
    assert merged.percentile_us(33) == 1
    assert merged.percentile_us(34) == 5


def test_the_median_of_an_even_number_is_between_the_two_in_the_middle() -> None:
    assert median([4.0, 1.0, 2.0, 10.0]) == 3.0
    assert median([4.0, 1.0, 2.0]) == 2.0


def test_the_correction_of_wrk_adds_what_is_taken_back() -> None:
    measured = {100: 50, 350: 2, 1000: 1}
    shown = corrected(measured, 100)
    assert shown != measured
    assert uncorrected(shown, 100) == measured


@given(st.dictionaries(st.integers(1, 2000), st.integers(1, 5), min_size=1), st.integers(1, 500))
def test_taking_back_the_correction_of_wrk_is_exact(measured: dict[int, int], interval_us: int) -> None:
    assert uncorrected(corrected(measured, interval_us), interval_us) == measured


def test_a_median_of_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        median([])
