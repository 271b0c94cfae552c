"""The table of faults: each runs alone, those that wait for the product are drawn by no seed, and orders are met."""

from __future__ import annotations

import pytest

from syncline.testing.faults.table import FAULTS, LATER, PENDING
from syncline.testing.invariants import all as invariants
from syncline.testing.sim.seeds import Options, run_seed

ORDERED_SEEDS = 25


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - PENDING))
def test_each_fault_alone_lets_the_cluster_hold(fault: str) -> None:
    """With other faults around it a fault may never have its turn."""
    report = run_seed(11, Options(nodes=5, sim_seconds=2.0, faults=(fault,)))
    assert report.failure is None, report.failure


def test_pending_faults_are_drawn_by_no_seed() -> None:
    """They are made when they are named."""
    assert FAULTS.keys() >= PENDING
    drawn = {name for seed in range(1, 40) for name in run_seed(seed, Options(nodes=3, sim_seconds=0.01)).faults}
    assert not drawn & PENDING
    assert drawn & LATER.keys()


def test_pending_invariants_are_names_of_invariants() -> None:
    """A name that is none would be a switch that does nothing."""
    names = {kind.name for kind in vars(invariants).values() if isinstance(kind, type) and hasattr(kind, "name")}
    assert names >= invariants.PENDING


def test_ordered_disk_errors_are_mostly_met() -> None:
    """Orders for files of the log once named a path that no file had any more: nearly none was met."""
    counts: dict[str, tuple[int, int]] = {}
    for seed in range(1, ORDERED_SEEDS + 1):
        options = Options(nodes=3, sim_seconds=2.0, faults=("failed-sync", "failed-write"))
        report = run_seed(seed, options)
        assert report.failure is None, report.failure
        for kind, (ordered, met) in report.disk_errors.items():
            before = counts.get(kind, (0, 0))
            counts[kind] = (before[0] + ordered, before[1] + met)
    of_the_log = [counts[kind] for kind in ("sync *.wal", "write_at *.wal") if kind in counts]
    ordered, met = (sum(numbers) for numbers in zip(*of_the_log, strict=True))
    assert ordered >= 6, counts
    assert met > 0.6 * ordered, counts
    assert sum(met for kind, (_, met) in counts.items() if kind.startswith(("rename", "sync_dir"))) >= 5, counts
