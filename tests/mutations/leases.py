"""Bugs planted in the clockwork of the leases, and what must notice each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from syncline.kv import lease_commands, lessor
from syncline.kv.lease_clock import LeaseClock
from syncline.kv.leases import LeaseEvent
from syncline.kv.lessor import LeaderHandle, Lessor
from syncline.kv.records import LeaseRecord
from syncline.kv.store import KeyStore
from syncline.testing.faults.leases import LASTS
from syncline.testing.faults.locks import HELD
from syncline.testing.sim.changes import LEFT
from tests.mutations.catalogue import Mutation, simulator_hunt, test_hunt

__all__ = ["LEASES"]

MODULE = "simulation.test_leases"


class _Unfenced:
    """A node that proposes decisions of a leader as any command: in whatever term there is."""

    def __init__(self, raft: LeaderHandle) -> None:
        self._raft = raft

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raft, name)

    def apply(self, data: bytes, *, timeout: float, term: int | None = None, frees_space: bool = False) -> Any:
        return self._raft.apply(data, timeout=timeout, frees_space=frees_space)


def deposed_leader_ends_a_lease(patch: pytest.MonkeyPatch) -> None:
    """The end of a lease is proposed again in the next term, and no node compares the term."""
    original = Lessor.__init__

    def make(self: Lessor, raft: LeaderHandle, *arguments: Any, **named: Any) -> None:
        original(self, _Unfenced(raft), *arguments, **named)

    patch.setattr(Lessor, "__init__", make)
    patch.setattr(lease_commands, "check_term", lambda _decided, _term: None)


def keep_alive_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """A leader answers a keep-alive because it believes that it leads."""

    async def confirm(self: Lessor, lead: Any) -> None:
        self._check(lead)

    patch.setattr(Lessor, "_confirm", confirm)


def new_leader_counts_from_the_grant(patch: pytest.MonkeyPatch) -> None:
    """Each node notes when it applied the grant, and a new leader counts from there: keep-alives are not in the log."""
    granted_s: dict[int, float] = {}
    original, made = Lessor._on_lease, LeaseClock.__init__

    def on_lease(self: Lessor, event: LeaseEvent, record: LeaseRecord) -> None:
        if event is LeaseEvent.GRANTED:
            granted_s[record.id] = self._loop.time()
        original(self, event, record)

    def make(self: LeaseClock, records: Iterable[LeaseRecord], now_s: float, **named: float) -> None:
        known = list(records)
        made(self, known, now_s, **named)
        for record in known:
            gone_s = now_s - granted_s.get(record.id, now_s)
            self.set(record, max(1, record.ttl_ms - int(gone_s * 1000)), now_s)

    patch.setattr(Lessor, "_on_lease", on_lease)
    patch.setattr(LeaseClock, "__init__", make)


def rest_is_not_recorded(patch: pytest.MonkeyPatch) -> None:
    """A lease gets its full time from each new leader, as often as there is one."""
    made = LeaseClock.__init__

    def make(self: LeaseClock, records: Iterable[LeaseRecord], now_s: float, **_: float) -> None:
        made(self, records, now_s, checkpoint_s=1e9)

    patch.setattr(LeaseClock, "__init__", make)


def keep_alive_leaves_the_recorded_rest(patch: pytest.MonkeyPatch) -> None:
    """A keep-alive moves the leader's clock alone, though the log has recorded less than what it promises."""
    original = Lessor._renew

    def renew(self: Lessor, lead: Any, leases: Sequence[int]) -> list[LeaseRecord]:
        original(self, lead, leases)
        return []

    patch.setattr(Lessor, "_renew", renew)


def keys_of_a_lease_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A lease that ends leaves its keys."""

    def end(store: KeyStore, lease: int) -> int:
        leases = store.leases
        for key in leases.keys(lease):
            leases.moved(key, lease, 0)
        if lease in leases:
            leases.end(lease)
        return 0

    patch.setattr(lease_commands, "_end", end)


def all_ends_at_once(patch: pytest.MonkeyPatch) -> None:
    """Leases that end at one moment are ended without a pause."""
    patch.setattr(lessor, "DECISIONS_PER_S", 1_000_000)


LEASES: tuple[Mutation, ...] = (
    Mutation(
        "a lease ended by a deposed leader",
        "etcd #15247",
        deposed_leader_ends_a_lease,
        (test_hunt(MODULE, "test_end_in_the_log_of_a_leader_that_is_cut_off_has_no_effect", "ended too early"),),
    ),
    Mutation(
        "a keep-alive answered without a quorum",
        "two holders",
        keep_alive_without_a_quorum,
        (test_hunt(MODULE, "test_leader_that_is_cut_off_answers_no_keep_alive", "DID NOT RAISE"),),
    ),
    Mutation(
        "a new leader ends a lease too early",
        "two holders",
        new_leader_counts_from_the_grant,
        (
            test_hunt(MODULE, "test_new_leader_gives_each_lease_its_full_time", "ended at", age_s=3.8),
            simulator_hunt(f"{HELD}|{LASTS}", "locks", "leases", "transfer"),
        ),
    ),
    Mutation(
        "the rest of a lease is lost at a change of leader",
        "etcd (checkpoints are off by default)",
        rest_is_not_recorded,
        (
            test_hunt(MODULE, "test_remaining_time_survives_a_change_of_leader", "ended at"),
            test_hunt(MODULE, "test_remaining_time_survives_a_restart_of_all_nodes", "ended at"),
        ),
    ),
    Mutation(
        "a keep-alive after a checkpoint is lost at a change of leader",
        "two holders",
        keep_alive_leaves_the_recorded_rest,
        (test_hunt(MODULE, "test_keep_alive_after_a_checkpoint_holds_at_the_next_leader", "ended at"),),
    ),
    Mutation(
        "keys of a lease left behind",
        "planted",
        keys_of_a_lease_left_behind,
        (
            test_hunt(MODULE, "test_lease_ends_at_its_time_and_its_keys_with_it", "[aA]ssert"),
            simulator_hunt(LEFT, "locks"),
        ),
    ),
    Mutation(
        "thousands of leases are ended at once",
        "a stalled leader",
        all_ends_at_once,
        (test_hunt(MODULE, "test_leases_that_end_together_go_at_a_bounded_rate", "ended at"),),
    ),
)
