"""The lines of the soak: growth is found, and steps, noise and a warm-up are none."""

from __future__ import annotations

import random

import pytest

from tests.soak.growth import LIMITS, Growth, fitted

MIB = float(1 << 20)
TIMES_S = [3.0 * number for number in range(1200)]
"""An hour."""


def growth(measure: str, values: list[float]) -> Growth:
    line = fitted(TIMES_S, values)
    assert line is not None
    return Growth("n1", measure, line)


def noisy(per_minute: float, *, noise: float = 2 * MIB, start: float = 90 * MIB) -> list[float]:
    rng = random.Random(1)
    return [start + per_minute * at / 60 + rng.gauss(0, noise) for at in TIMES_S]


@pytest.mark.parametrize(("per_minute", "is_fault"), [(0.0, False), (0.1 * MIB, False), (0.8 * MIB, True)])
def test_soak_memory_that_grows_is_a_fault(per_minute: float, is_fault: bool) -> None:
    found = growth("memory", noisy(per_minute))
    assert found.is_fault == is_fault
    assert found.line.slope * 60 == pytest.approx(per_minute, abs=0.05 * MIB)
    assert str(found).startswith("GROWS" if is_fault else "n1 memory")


def test_soak_warm_up_and_a_step_are_no_growth() -> None:
    """A dictionary that doubles once is a step; one that doubles again and again is growth."""
    warming = [90 * MIB + min(at, 600.0) / 600 * 60 * MIB for at in TIMES_S]
    assert not growth("memory", warming).is_fault
    step = [90 * MIB + (8 * MIB if at > 2000 else 0) for at in TIMES_S]
    assert not growth("memory", step).is_fault
    steps = [90 * MIB + 8 * MIB * (at // 600) for at in TIMES_S]
    assert growth("memory", steps).is_fault


def test_soak_leaking_descriptors_and_threads_are_faults() -> None:
    assert growth("descriptors", [40.0 + at / 60 for at in TIMES_S]).is_fault
    assert growth("threads", [4.0 + at / 600 for at in TIMES_S]).is_fault
    rng = random.Random(1)
    assert not growth("descriptors", [40.0 + rng.randrange(30) for _ in TIMES_S]).is_fault


def test_soak_disk_that_goes_up_and_down_is_no_growth() -> None:
    """Between two snapshots the log grows."""
    saw = [50 * MIB + (at % 300) / 300 * 40 * MIB for at in TIMES_S]
    assert not growth("disk", saw).is_fault
    assert growth("disk", [one + 3 * MIB * at / 60 for one, at in zip(saw, TIMES_S, strict=True)]).is_fault


def test_soak_short_life_has_no_line() -> None:
    assert fitted(TIMES_S[:20], [0.0] * 20) is None
    assert fitted([one / 10 for one in TIMES_S[:1000]], [0.0] * 1000) is None
    assert set(LIMITS) == {"memory", "descriptors", "threads", "disk"}
