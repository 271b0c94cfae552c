"""The seed decides what goes wrong."""

from __future__ import annotations

import itertools

import pytest

from tests.chaos import sandbox
from tests.chaos.schedule import KINDS, phases


def test_a_seed_decides_the_schedule() -> None:
    kinds = list(KINDS)
    one, again, other = (list(itertools.islice(phases(seed, kinds), 100)) for seed in (5, 5, 6))
    assert one == again
    assert one != other


def test_each_round_has_every_kind_once_as_its_main_fault() -> None:
    kinds = list(KINDS)
    rounds = phases(1, kinds)
    for _ in range(3):
        begun = [next(rounds).faults[0].kind for _ in kinds]
        assert sorted(begun) == sorted(kinds)


def test_only_the_kinds_that_were_asked_for_happen_alone_and_in_company() -> None:
    chosen = ["kill", "pause"]
    some = list(itertools.islice(phases(1, chosen), 100))
    assert {fault.kind for phase in some for fault in phase.faults} == set(chosen)
    assert {len(phase.faults) for phase in some} == {1, 2, 3}


def test_some_runs_have_more_faults_at_a_time_than_others() -> None:
    def total(seed: int) -> int:
        return sum(len(phase.faults) for phase in itertools.islice(phases(seed, list(KINDS)), 100))

    totals = [total(seed) for seed in range(10)]
    assert min(totals) < 140 < 170 < max(totals)


def test_where_no_sandbox_can_be_made_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert sandbox.why_not() == "there is no unshare and no ip command"
