"""The stages of entries, and the growth of the log, by hand: what is timed, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.node.log_growth import MAX_SAMPLES, LogGrowth
from syncline.node.stage_times import MAX_OPEN, StageTimes
from syncline.platform.distribution import Distribution


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def total(distribution: Distribution) -> int:
    return sum(distribution.counts)


def test_stage_times_of_a_batch_are_those_of_its_last_entry() -> None:
    clock = Clock()
    stages = StageTimes(clock)
    stages.stored(3, leads=True)
    clock.now_s += 1
    stages.stored(5, leads=True)
    stages.durable(3)
    clock.now_s += 1
    stages.committed(4)
    stages.applied(4, 0.25)
    done = stages.last
    assert done is not None
    assert (done.last_index, done.stored_s, done.durable_s, done.committed_s, done.applied_s) == (3, 100, 101, 102, 102)
    assert done.took_s == 0.25
    assert (total(stages.commits), stages.commits.sum) == (1, 2.0)
    assert (total(stages.applies), stages.applies.sum) == (1, 0.25)
    stages.applied(5, 0.0)
    done = stages.last
    assert done is not None
    assert (done.last_index, done.durable_s, done.committed_s) == (5, 0.0, 0.0)


def test_stage_times_count_commits_on_the_leader_only() -> None:
    stages = StageTimes(Clock())
    stages.stored(1, leads=False)
    stages.committed(1)
    assert total(stages.commits) == 0


def test_stage_times_forget_entries_that_another_leader_replaced() -> None:
    clock = Clock()
    stages = StageTimes(clock)
    stages.stored(4, leads=True)
    stages.stored(6, leads=True)
    clock.now_s += 1
    stages.stored(5, leads=False)  # entry 5 again, by another leader
    stages.applied(6, 0.0)
    assert stages.last is not None
    assert (stages.last.last_index, stages.last.stored_s, stages.last.leads) == (5, 101.0, False)


def test_stage_times_of_a_backlog_stay_few() -> None:
    stages = StageTimes(Clock())
    for index in range(1, 10 * MAX_OPEN):
        stages.stored(index, leads=True)
    assert len(stages._open) == MAX_OPEN
    stages.applied(10 * MAX_OPEN, 0.0)
    assert len(stages._open) == 0


def test_log_growth_finds_since_when_entries_are_there() -> None:
    growth = LogGrowth()
    growth.sample(10.0, 100, 0)
    growth.sample(11.0, 110, 1000)
    growth.sample(12.0, 110, 1000)  # nothing was written
    growth.sample(13.0, 130, 5000)
    assert growth.behind(130, 130, 20.0, 1.0) == (0, 0.0)
    assert growth.behind(120, 130, 20.0, 1.0) == (2000, 7.0)
    assert growth.behind(110, 130, 20.0, 1.0) == (4000, 7.0)
    assert growth.behind(105, 130, 20.0, 1.0) == (4500, 9.0)
    assert growth.behind(0, 130, 20.0, 10.0) == (6000, 10.0)
    assert growth.behind(130, 132, 20.0, 7.0) == (14, 0.0), "newer than the newest sample"


def test_log_growth_forgets_what_another_leader_replaced() -> None:
    growth = LogGrowth()
    for index in range(1, 11):
        growth.sample(float(index), index, 100 * index)
    growth.sample(20.0, 5, 2000)
    growth.sample(21.0, 7, 2100)
    assert growth.behind(5, 7, 30.0, 1.0) == (1600, 9.0)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.data())
def test_log_growth_is_never_negative_and_never_too_old(steps: list[int], data: st.DataObject) -> None:
    growth, last, written, known_s = LogGrowth(), 0, 0, dict[int, float]()
    for number, step in enumerate(steps):
        for index in range(last + 1, last + step + 1):
            known_s[index] = float(number)
        last, written = last + step, written + 10 * step
        growth.sample(float(number), last, written)
    match = data.draw(st.integers(0, last))
    behind = growth.behind(match, last, 1000.0, 10.0)
    assert behind.size_bytes == 10 * (last - match)
    assert behind.seconds == (1000.0 - known_s[match + 1] if match < last else 0.0)


def test_log_growth_keeps_few_samples_for_hours() -> None:
    growth = LogGrowth()
    for number in range(40 * MAX_SAMPLES):
        growth.sample(number / 10, number + 1, 100 * number)
    assert len(growth._indexes) <= MAX_SAMPLES
    assert growth._indexes == sorted(growth._indexes)
    assert growth.behind(1, 40 * MAX_SAMPLES, 4 * MAX_SAMPLES, 100.0).seconds == pytest.approx(
        4 * MAX_SAMPLES, rel=0.05
    )
