"""Bugs of transactions, each planted on purpose: the simulator must find it."""

from __future__ import annotations

import msgspec
import pytest

from syncline.kv import txn
from syncline.kv.commands import CompareTarget, Txn, TxnCompare, TxnOperation
from syncline.kv.records import KeyRecord
from syncline.testing.faults.transactions import DECIDED
from syncline.testing.sim.seeds import Options, run_seed
from tests.simulation.test_planted_bugs_of_consensus import found


def test_transactions_of_a_sound_cluster_hold() -> None:
    report = run_seed(1, Options(nodes=3, sim_seconds=1.0, faults=("transactions", "kill")))
    assert report.failure is None, report.failure


def test_range_compare_that_looks_at_the_first_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = txn._Plan._holds

    def first(self: txn._Plan, compare: TxnCompare) -> bool:
        records = txn._records(self._store, compare.key, None if compare.end is True else compare.end or None)
        return holds(self, compare) if compare.end is None else txn.holds(next(records, None), compare)

    monkeypatch.setattr(txn._Plan, "_holds", first)
    found(monkeypatch, DECIDED, "transactions")


def test_range_compare_of_no_key_that_always_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = txn._Plan._holds

    def empty(self: txn._Plan, compare: TxnCompare) -> bool:
        if compare.end is not None and not self._store.range(compare.key, None, limit=1).items:
            return True
        return holds(self, compare)

    monkeypatch.setattr(txn._Plan, "_holds", empty)
    found(monkeypatch, DECIDED, "transactions")


def test_lease_compare_that_reads_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    number = txn._number

    def read(record: KeyRecord | None, target: CompareTarget) -> int:
        return number(record, CompareTarget.VERSION if target is CompareTarget.LEASE else target)

    monkeypatch.setattr(txn, "_number", read)
    found(monkeypatch, DECIDED, "transactions")


def test_nested_transaction_whose_compares_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = txn._Plan.choose

    def careless(self: txn._Plan, operation: Txn) -> object:
        def open_door(one: TxnOperation) -> TxnOperation:
            return msgspec.structs.replace(one, compares=()) if isinstance(one, Txn) else one

        then, else_ = (tuple(map(open_door, branch)) for branch in (operation.then, operation.else_))
        return choose(self, msgspec.structs.replace(operation, then=then, else_=else_))

    monkeypatch.setattr(txn._Plan, "choose", careless)
    found(monkeypatch, DECIDED, "transactions")
