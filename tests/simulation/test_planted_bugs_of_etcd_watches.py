"""Bugs of the watches and leases of etcd's interface, each planted on purpose: the simulator must find it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from syncline.errors import OperationError, WatchEnded
from syncline.kv.watch import KeyWatch
from syncline.server.etcd.face import EtcdCaller, Send
from syncline.server.etcd.messages import Message
from syncline.server.etcd.services.lease import LeaseService
from syncline.server.etcd.services.watch import _StreamWatch, _WatchStream
from syncline.testing.faults.etcd_leases import ENDED, HELD, KEYS
from syncline.testing.sim.etcd_watcher import COMPLETE, TOLD
from syncline.testing.sim.seeds import Options, run_seed
from tests.mutations import leases, watch_bugs
from tests.simulation.test_planted_bugs_of_consensus import found


def test_etcd_watchers_of_a_sound_cluster_are_told_something() -> None:
    """A watcher that is told nothing finds nothing."""
    faults = ("etcd-watches", "etcd-leases", "history", "kill")
    report = run_seed(1, Options(nodes=3, sim_seconds=2.0, faults=faults))
    assert report.failure is None, report.failure
    assert report.told > 50


def test_etcd_watch_that_misses_an_event_on_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_bugs.missed_event_on_reconnect(monkeypatch)
    found(monkeypatch, TOLD, "etcd-watches")


def test_etcd_watch_that_is_told_an_event_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that resumes, or that is slow, begins with the revision before."""
    begin = _WatchStream._open

    def early(
        self: _WatchStream, create: Message, start: bytes, end: bytes | None, revision: int
    ) -> KeyWatch[tuple[int, list[Message]]]:
        return begin(self, create, start, end, max(0, revision - 1))

    monkeypatch.setattr(_WatchStream, "_open", early)
    found(monkeypatch, TOLD, "etcd-watches")


def test_etcd_watch_that_is_slow_and_misses_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service resumes it by itself: one revision too late."""
    ended = _WatchStream._ended

    async def late(self: _WatchStream, watch: _StreamWatch, error: OperationError) -> None:
        if isinstance(error, WatchEnded) and error.code == "slow_watcher":
            error.resume += 1
        await ended(self, watch, error)

    monkeypatch.setattr(_WatchStream, "_ended", late)
    found(monkeypatch, TOLD, "etcd-watches")


def test_etcd_watch_from_the_future_that_is_told_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_bugs.future_watch_told_of_the_past(monkeypatch)
    found(monkeypatch, TOLD, "etcd-watches", says="it watches from")


def test_etcd_watch_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_WatchStream, "_wake", lambda *_: None)
    found(monkeypatch, COMPLETE, "etcd-watches", sim_seconds=1.0)


def test_etcd_progress_ahead_of_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client resumes after it, and is never told of what was left out."""

    async def hasty(self: _WatchStream) -> None:
        self._progress = False
        header = self._context.header(self._context.node.store.revision)
        await self._send({"header": header, "watch_id": -1})

    monkeypatch.setattr(_WatchStream, "_answer_progress", hasty)
    found(monkeypatch, TOLD, "etcd-watches", says="passes over")


def test_etcd_keep_alive_of_a_lease_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered as if the lease were there."""

    async def kind(self: LeaseService, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        del caller
        async for request in inbox:
            await send({"header": self._context.header(), "ID": request["ID"], "TTL": 2})

    monkeypatch.setattr(LeaseService, "keep_alive", kind)
    found(monkeypatch, ENDED, "etcd-leases", sim_seconds=4.0)


def test_etcd_lease_that_a_new_leader_ends_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    leases.new_leader_counts_from_the_grant(monkeypatch)
    found(monkeypatch, HELD, "etcd-leases", "transfer", sim_seconds=4.0)


def test_etcd_lease_that_shows_the_keys_of_another_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = LeaseService.time_to_live

    async def bare(self: LeaseService, request: Message, caller: EtcdCaller) -> Message:
        return {name: value for name, value in (await answer(self, request, caller)).items() if name != "keys"}

    monkeypatch.setattr(LeaseService, "time_to_live", bare)
    found(monkeypatch, KEYS, "etcd-leases", sim_seconds=3.0)
