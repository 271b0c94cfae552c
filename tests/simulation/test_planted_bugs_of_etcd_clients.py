"""Bugs of etcd's interface, each planted on purpose: the simulator must find it."""

from __future__ import annotations

import pytest

from syncline.server.etcd.context import ServiceContext
from syncline.server.etcd.messages import Message
from syncline.server.etcd.ranges import RangePlan
from syncline.testing.faults.etcd_clients import ANSWERED
from syncline.testing.sim.seeds import Options, run_seed
from tests.simulation.test_planted_bugs_of_consensus import found


def test_etcd_clients_of_a_sound_cluster_hold() -> None:
    report = run_seed(1, Options(nodes=3, sim_seconds=1.0, faults=("etcd-clients", "kill")))
    assert report.failure is None, report.failure


def test_header_with_the_revision_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patroni's watch begins at the revision of its read: one that is too low tells changes twice."""
    header = ServiceContext.header

    def late(self: ServiceContext, revision: int | None = None) -> Message:
        made = header(self, revision)
        return {**made, "revision": max(1, int(str(made["revision"])) - 1)}

    monkeypatch.setattr(ServiceContext, "header", late)
    found(monkeypatch, ANSWERED, "etcd-clients")


def test_range_that_ends_one_key_early(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = RangePlan.answer

    def short(self: RangePlan, items: list[object], *more: object, **named: object) -> Message:
        return answer(self, items[:-1] if len(items) > 1 else items, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(RangePlan, "answer", short)
    found(monkeypatch, ANSWERED, "etcd-clients")
