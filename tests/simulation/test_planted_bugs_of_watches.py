"""Bugs of watches, of history and of leases, each planted on purpose: the simulator must find it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from syncline.kv import machine
from syncline.kv.auth.permissions import UserPermissions
from syncline.kv.batch import apply_batch
from syncline.kv.commands import OperationBatch
from syncline.kv.lessor import Lessor
from syncline.kv.records import BatchAnswer, Change, KeyRecord
from syncline.kv.store import KeyStore
from syncline.kv.watch import KeyWatch
from syncline.kv.watch_clock import WatchClock
from syncline.testing.faults.history import BATCHED, PAST
from syncline.testing.faults.leases import LASTS
from syncline.testing.faults.locks import HELD
from syncline.testing.sim.changes import LEFT, WHOLE
from syncline.testing.sim.recovery import LEASES_END
from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.sim.watcher import COMPLETE, PROGRESS, TOLD
from tests.mutations import leases, watch_bugs
from tests.simulation.test_planted_bugs_of_consensus import found


def test_watchers_of_a_sound_cluster_are_told_something() -> None:
    """A watcher that is told nothing finds nothing."""
    report = run_seed(1, Options(nodes=3, sim_seconds=2.0, faults=("watches", "history", "kill")))
    assert report.failure is None, report.failure
    assert report.told > 50


def test_watch_that_misses_an_event_on_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_bugs.missed_event_on_reconnect(monkeypatch)
    found(monkeypatch, TOLD, "watches")


def test_watch_that_is_told_twice_after_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_bugs.event_twice_after_a_snapshot_install(monkeypatch)
    found(monkeypatch, TOLD, "watches", "kill", "snapshot", "cut", sim_seconds=3.0)


def test_watch_from_the_future_that_is_told_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_bugs.future_watch_told_of_the_past(monkeypatch)
    found(monkeypatch, TOLD, "watches")


@pytest.mark.slow
def test_watch_mark_that_no_quorum_has_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is cut off says that all was told."""
    made = WatchClock.__init__

    def confirmed(_: float) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def make(self: WatchClock, **callbacks: Any) -> None:
        made(self, **{**callbacks, "confirm": confirmed})

    monkeypatch.setattr(WatchClock, "__init__", make)
    found(monkeypatch, PROGRESS, "watches", "cut", "isolate-leader", sim_seconds=6.0)


def test_watch_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader is not woken."""
    give = KeyWatch.give

    def silent(self: KeyWatch[object], *message: Any) -> None:
        wake, self._wake = self._wake, None
        give(self, *message)
        self._wake = wake

    monkeypatch.setattr(KeyWatch, "give", silent)
    found(monkeypatch, COMPLETE, "watches")


def test_history_that_shows_the_present(monkeypatch: pytest.MonkeyPatch) -> None:
    get = KeyStore.get

    def present(self: KeyStore, key: bytes, revision: int = 0) -> KeyRecord | None:
        get(self, key, revision)
        return get(self, key)

    monkeypatch.setattr(KeyStore, "get", present)
    found(monkeypatch, PAST, "history")


def test_history_without_previous_records(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = KeyStore.changes

    def bare(self: KeyStore, revision: int, end: int = 0) -> Iterator[tuple[int, list[Change]]]:
        groups = changes(self, revision, end)  # its errors are raised at the call
        return ((current, [Change(change.record, None) for change in group]) for current, group in groups)

    monkeypatch.setattr(KeyStore, "changes", bare)
    found(monkeypatch, WHOLE)


def test_batch_whose_results_are_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(store: KeyStore, batch: OperationBatch, permissions: UserPermissions | None = None) -> BatchAnswer:
        answer = apply_batch(store, batch, permissions)
        return msgspec.structs.replace(answer, results=answer.results[::-1])

    monkeypatch.setattr(machine, "apply_batch", mixed)
    found(monkeypatch, BATCHED, "batches")


def test_lock_that_two_clients_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new leader counts from the grant, and ends the lease of a holder that has kept it alive since."""
    leases.new_leader_counts_from_the_grant(monkeypatch)
    found(monkeypatch, HELD, "locks", "transfer", sim_seconds=3.0)


def test_lease_that_a_new_leader_ends_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    leases.new_leader_counts_from_the_grant(monkeypatch)
    found(monkeypatch, LASTS, "leases", "transfer", sim_seconds=3.0)


def test_lease_that_leaves_its_keys_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    leases.keys_of_a_lease_left_behind(monkeypatch)
    found(monkeypatch, LEFT, "locks")


def test_lease_that_no_leader_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lessor, "_tick", lambda *_: None)
    found(monkeypatch, LEASES_END, "leases")
