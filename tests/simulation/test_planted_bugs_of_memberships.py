"""What keeps removals and rolled-back nodes safe, each broken on purpose: a scenario must notice it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from syncline.consensus import election
from syncline.errors import DeadlineExceeded
from syncline.node import log_writer
from syncline.node.changes import Changes
from syncline.node.log_writer import LogWriter
from syncline.node.lost_promises import Promises
from syncline.node.member_registry import Membership
from syncline.node.membership import Reconfiguration
from syncline.node.settlement import Settlement
from syncline.testing.sim.loop import SimLoop, run_simulation
from tests.simulation.test_removal import (
    commit_index_not_durable,
    cut_off_at_the_removal,
    remove_and_lose_power,
)
from tests.simulation.test_rolled_back import committed_entry_replaced, forget_starts, voter_rolled_back
from tests.unit.test_votes_carry_commit import cluster_after_the_removal, leads_within

NOTICED = (AssertionError, TimeoutError, DeadlineExceeded)

Scenario = Callable[[SimLoop], Awaitable[None]]


def is_noticed(scenario: Scenario, what: str) -> None:
    async def main(loop: SimLoop) -> None:
        await scenario(loop)

    with pytest.raises(NOTICED, match=what):
        run_simulation(main)


def test_commit_index_of_a_change_not_forced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "COMMIT_SETTLE_S", 60.0)
    monkeypatch.setattr(LogWriter, "settle_now", lambda _: None)
    is_noticed(
        lambda loop: remove_and_lose_power(loop, 2, 1, only_leader=False, through="leader"), "was not durable on"
    )


def test_change_answered_when_applied_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two harms: all who stay lose their power."""

    async def at_once(changes: Changes, _index: int, _deadline_s: float) -> Membership:
        return changes._membership()

    monkeypatch.setattr(Changes, "_durable", at_once)
    is_noticed(lambda loop: remove_and_lose_power(loop, 2, 1, only_leader=False, through="leader"), "not within 20")


def test_change_answered_when_durable_on_the_leader_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(settlement: Settlement) -> None:
        if settlement._writer.durable_commit >= settlement._book.membership_index:
            settlement._settled(settlement._book.membership_index)

    monkeypatch.setattr(Settlement, "look", look)
    is_noticed(cut_off_at_the_removal, "on the word of one of two")


def test_removed_node_that_leaves_at_once_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reconfiguration, "_may_leave", lambda one: bool(one._removed_at))
    is_noticed(cut_off_at_the_removal, "it left on the word of one of two")


def test_removed_node_refused_before_it_is_durable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Reconfiguration._note_removals

    def note(reconfiguration: Reconfiguration, index: int) -> None:
        original(reconfiguration, index)
        reconfiguration._removals.clear()

    monkeypatch.setattr(Reconfiguration, "_note_removals", note)
    is_noticed(
        lambda loop: commit_index_not_durable(loop, monkeypatch),
        "left before the one that stays has it|the link was cut before",
    )


def test_votes_without_the_commit_index_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_after_the_removal(commit_in_votes=True)
    monkeypatch.setattr(election, "learn_commit", lambda _raft, _message: None)
    assert leads_within(cluster, 200) == 0


def test_evidence_of_lost_entries_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the node itself, and by its leader: either alone is enough."""
    monkeypatch.setattr(Promises, "found", lambda promises: promises._core.take_evidence())
    run_simulation(voter_rolled_back)
    monkeypatch.setattr(Promises, "answered", lambda *_: None)
    is_noticed(voter_rolled_back, "not within 5")


def test_evidence_of_a_replaced_entry_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_starts(monkeypatch)
    monkeypatch.setattr(Promises, "found", lambda promises: promises._core.take_evidence())
    is_noticed(committed_entry_replaced, "not within 20")
