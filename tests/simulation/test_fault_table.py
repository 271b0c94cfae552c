"""The table of faults: each runs alone, those that wait for the product are drawn by no seed, and orders are met."""

from __future__ import annotations

import random

import pytest

from syncline.testing.faults.table import FAULTS, LATER, PENDING
from syncline.testing.invariants import all as invariants
from syncline.testing.sim.scenario import _swarm
from syncline.testing.sim.seeds import Options, run_seed

CLIENTS = {
    "sessions",
    "leases",
    "watches",
    "history",
    "batches",
    "locks",
    "transactions",
    "coordination",
    "etcd-clients",
    "etcd-watches",
    "etcd-leases",
    "http-clients",
}
"""They make calls all the time, so a shorter run has each kind of call."""


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - PENDING))
def test_each_fault_alone_lets_the_cluster_hold(fault: str) -> None:
    """With other faults around it a fault may never have its turn."""
    report = run_seed(11, Options(nodes=5, sim_seconds=0.8 if fault in CLIENTS else 2.0, faults=(fault,)))
    assert report.failure is None, report.failure


def test_pending_faults_are_drawn_by_no_seed() -> None:
    """They are made when they are named."""
    assert FAULTS.keys() >= PENDING
    drawn = {name for seed in range(1, 400) for name in _swarm(random.Random(seed), seed)}
    assert not drawn & PENDING
    assert drawn & LATER.keys()


def test_pending_invariants_are_names_of_invariants() -> None:
    """A name that is none would be a switch that does nothing."""
    names = {kind.name for kind in vars(invariants).values() if isinstance(kind, type) and hasattr(kind, "name")}
    assert names >= invariants.PENDING


@pytest.mark.parametrize(
    ("seeds", "least", "least_of_directories"), [(3, 1, 0), pytest.param(25, 6, 5, marks=pytest.mark.slow)]
)
def test_ordered_disk_errors_are_mostly_met(seeds: int, least: int, least_of_directories: int) -> None:
    """Orders for files of the log once named a path that no file had any more: nearly none was met."""
    counts: dict[str, tuple[int, int]] = {}
    for seed in range(1, seeds + 1):
        options = Options(nodes=3, sim_seconds=2.0, faults=("failed-sync", "failed-write"))
        report = run_seed(seed, options)
        assert report.failure is None, report.failure
        for kind, (ordered, met) in report.disk_errors.items():
            before = counts.get(kind, (0, 0))
            counts[kind] = (before[0] + ordered, before[1] + met)
    of_the_log = [counts[kind] for kind in ("sync *.wal", "write_at *.wal") if kind in counts]
    ordered, met = (sum(numbers) for numbers in zip(*of_the_log, strict=True))
    assert ordered >= least, counts
    assert met > 0.6 * ordered, counts
    of_directories = sum(met for kind, (_, met) in counts.items() if kind.startswith(("rename", "sync_dir")))
    assert of_directories >= least_of_directories, counts
