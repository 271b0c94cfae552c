"""The times of leases: the first to end comes first, a keep-alive is cheap, and the heaps do not grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.kv import lease_clock
from syncline.kv.lease_clock import TIDY_ENTRIES, LeaseClock
from syncline.kv.records import LeaseRecord


def record(lease: int, ttl_s: float, rest_s: float | None = None) -> LeaseRecord:
    ttl_ms = int(ttl_s * 1000)
    return LeaseRecord(lease, ttl_ms, ttl_ms if rest_s is None else int(rest_s * 1000))


def test_clock_starts_with_the_recorded_rest() -> None:
    clock = LeaseClock([record(1, 10.0), record(2, 10.0, 3.0)], 100.0)
    assert clock.next_s() == 103.0
    assert (clock.rest_ms(1, 101.0), clock.rest_ms(2, 101.0), clock.rest_ms(3, 101.0)) == (9000, 2000, 0)
    assert list(clock.expired(102.9)) == []
    assert list(clock.expired(103.0)) == [2]
    assert list(clock.expired(103.0)) == [], "each is returned once"
    assert list(clock.expired(110.0)) == [1]


def test_clock_looks_at_a_bounded_number_of_leases_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new leader sets all alarms at one moment: 100,000 that were kept alive would take a third of a second."""
    monkeypatch.setattr(lease_clock, "LOOKS", 10)
    records = [record(lease, 100.0) for lease in range(1, 31)]
    clock = LeaseClock(records, 0.0, checkpoint_s=50.0)
    for kept in records[:-1]:
        clock.set(kept, kept.ttl_ms, 49.0)
    found = [list(clock.expired(100.0)) for _ in range(4)]
    assert found == [[], [], [30], []]
    recorded = [clock.to_record(98.0, 5) for _ in range(4)]
    assert recorded == [[], [], [(30, 2000)], []]
    assert clock.next_s() == 99.0


def test_clock_returns_a_lease_again_if_it_was_not_ended() -> None:
    clock = LeaseClock([record(1, 10.0)], 0.0)
    assert list(clock.expired(10.0)) == [1]
    clock.again(1, 11.0)
    clock.again(1, 12.0)
    clock.again(2, 11.0)
    assert list(clock.expired(10.9)) == []
    assert list(clock.expired(11.0)) == [1]
    clock.again(1, 11.0)
    clock.ended(1)
    assert list(clock.expired(99.0)) == []
    assert len(clock) == 0


def test_clock_records_a_lease_that_is_left_alone() -> None:
    clock = LeaseClock([record(1, 100.0), record(2, 9.0), record(3, 100.0)], 0.0, checkpoint_s=10.0)
    clock.set(record(3, 100.0), 100_000, 6.0)
    assert clock.to_record(9.9, 10) == []
    assert clock.to_record(10.0, 10) == [(1, 90_000)]
    assert clock.to_record(15.9, 10) == []
    assert clock.to_record(16.0, 10) == [(3, 90_000)]
    assert clock.to_record(20.0, 10) == [(1, 80_000)]
    clock.set(record(1, 5.0), 5000, 21.0)  # a touch gave it a short TTL
    assert clock.to_record(60.0, 10) == [(3, 46_000)]


def test_clock_records_no_more_than_asked_and_the_rest_later() -> None:
    clock = LeaseClock([record(lease, 100.0) for lease in range(1, 6)], 0.0, checkpoint_s=10.0)
    assert [len(clock.to_record(10.0, 2)) for _ in range(4)] == [2, 2, 1, 0]


def test_clock_forgets_leases_that_ended_long_before_their_time() -> None:
    """A key that is put every second with a TTL of a year ends a lease each time."""
    clock = LeaseClock([], 0.0, checkpoint_s=10.0)
    for lease in range(1, 20_000):
        clock.set(record(lease, 3e7), int(3e10), 0.0)
        clock.ended(lease)
    assert len(clock._alarms._heap) <= TIDY_ENTRIES + 2
    assert len(clock._records._heap) <= TIDY_ENTRIES + 2
    assert not clock._since_s


def test_keep_alives_add_nothing_to_the_heaps() -> None:
    clock = LeaseClock([record(1, 100.0)], 0.0, checkpoint_s=10.0)
    for turn in range(10_000):
        clock.set(record(1, 100.0), 100_000, turn / 10)
    assert len(clock._alarms._heap) == 1
    assert len(clock._records._heap) == 1


steps = st.tuples(st.sampled_from(["set", "end", "wait", "again"]), st.integers(1, 4), st.integers(1, 30))


@given(st.lists(steps, max_size=60))
def test_clock_agrees_with_a_naive_model(actions: list[tuple[str, int, int]]) -> None:
    clock, now_s = LeaseClock([], 0.0, checkpoint_s=7.0), 0.0
    ends: dict[int, float] = {}
    returned: set[int] = set()
    for action, lease, amount in actions:
        if action == "set":
            clock.set(record(lease, amount), amount * 1000, now_s)
            ends[lease] = now_s + amount
            returned.discard(lease)
        elif action == "end":
            clock.ended(lease)
            ends.pop(lease, None)
            returned.discard(lease)
        elif action == "again":
            clock.again(lease, now_s)
            returned.discard(lease)
        else:
            now_s += amount
            clock.to_record(now_s, 10)
        due = {one for one, end_s in ends.items() if end_s <= now_s} - returned
        found = list(clock.expired(now_s))
        assert set(found) == due
        assert len(found) == len(due)
        returned |= due
