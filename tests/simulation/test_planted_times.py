"""Times of entries that fall, or differ from node to node: planted in whole nodes, and noticed by the simulator."""

from __future__ import annotations

import pytest

from syncline.node.entry_stamps import EntryTimes
from syncline.node.member_registry import MemberRegistry
from tests.simulation.test_planted_bugs_of_consensus import found

NAME = "times of entries never fall, and are equal"


def test_times_of_entries_that_fall_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new leader's clock is behind that of the one before it."""
    monkeypatch.setattr(EntryTimes, "of", lambda _, stamp_s: stamp_s)
    found(monkeypatch, NAME, "transfer", says="fall")


@pytest.mark.slow
def test_times_of_entries_that_a_snapshot_forgets_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that restarts from a snapshot takes the next leader's clock; nodes that have older entries do not."""
    load = MemberRegistry.load

    def forgetful(book: MemberRegistry, data: bytes) -> None:
        load(book, data)
        book.time_s = 0.0

    monkeypatch.setattr(MemberRegistry, "load", forgetful)
    found(monkeypatch, NAME, "kill-all", "snapshot")
