"""What follows from applied entries, in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast
from unittest.mock import MagicMock

import pytest

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import EntryType, LogEntry, MembershipState, SnapshotMeta
from syncline.node.applier import Applied, Restored
from syncline.node.envelope import LevelChange, MemberRecord
from syncline.node.events import MembershipChanged
from syncline.node.intake import Intake
from syncline.node.member_registry import MemberRegistry
from syncline.node.outcomes import on_outcome
from syncline.node.runtime import Driver

TOLD = MemberRecord(2, "b", "127.0.0.1:7101", level=2)
BACK = MemberRecord(2, "b", "127.0.0.1:7101", level=1)
RISE = LevelChange(2, 1)
CHANGE = LogEntry(1, 3, EntryType.CONF_CHANGE_V2, b"")


def driver(calls: list[object], *, restoring: bool) -> Driver:
    """As much of a driver as applied entries need; it records what reaches the registry."""
    nothing = SimpleNamespace(applied=lambda *_: None, resolved=lambda *_: None, passed=lambda _: None)
    nothing.applied_term = 1
    return cast(
        "Driver",
        SimpleNamespace(
            running=SimpleNamespace(stopped=False, wake=lambda: None),
            applied=0,
            restoring=restoring,
            reconfiguration=SimpleNamespace(applied=calls.append, announced=calls.append),
            parts=SimpleNamespace(levels=SimpleNamespace(applied=calls.append), book=SimpleNamespace(time_s=0.0)),
            proposals=nothing,
            snapshotter=nothing,
            reads=nothing,
            role_watch=SimpleNamespace(look=lambda: None),
            stages=nothing,
            on_applied=lambda _: None,
            fail=calls.append,
        ),
    )


@pytest.mark.parametrize("items", [[TOLD, RISE, BACK, CHANGE], [CHANGE, RISE, TOLD], [RISE, CHANGE, BACK, RISE]])
def test_runtime_entries_of_a_batch_take_effect_in_log_order(
    items: list[LogEntry | MemberRecord | LevelChange],
) -> None:
    """Each can depend on those before it; nodes that cut the log into other batches must come to the same registry."""
    calls: list[object] = []
    on_outcome(driver(calls, restoring=False), Applied((), 1, len(items), 1, runtime=items))
    assert calls == items


def test_rise_that_a_snapshot_overtakes_is_left_to_the_snapshot() -> None:
    """The core has the membership of the snapshot already: judged by that, the entry could stop a sound node."""
    calls: list[object] = []
    on_outcome(driver(calls, restoring=True), Applied((), 1, 2, 1, runtime=[TOLD, RISE]))
    assert calls == [TOLD]


def test_snapshot_with_another_membership_is_an_event() -> None:
    """A watcher of a node that was away missed all changes that were in the snapshot."""
    told: list[object] = []
    driver = cast("Driver", MagicMock())
    book, newer = MemberRegistry(), MemberRegistry()
    state = MembershipState(voters=(1, 2))
    newer.changed(7, state, (MemberRecord(1, "a", "h:1"), MemberRecord(2, "b", "h:2")))
    driver.running.stopped, driver.applied = False, 0
    driver.core.commit_index, driver.core.membership = 20, state  # type: ignore[misc]
    driver.parts.book, driver.emit, driver.fail = book, told.append, told.append  # type: ignore[method-assign,assignment]
    on_outcome(driver, Restored(SnapshotMeta(10, 1, state), newer.dump()))
    assert told == [MembershipChanged(newer.membership(state))]
    on_outcome(driver, Restored(SnapshotMeta(20, 1, state), newer.dump()))
    assert len(told) == 1, "the same membership again is no change"


async def test_backlog_that_a_snapshot_takes_away_is_gone_at_once() -> None:
    """The core need not have work then: without a leader its commands were refused until the next message came."""
    calls: list[object] = []
    nothing = cast("Driver", MagicMock())
    intake = Intake(cast("RawNode", SimpleNamespace(commit_index=50_000)), object(), "a", lambda: 0)  # type: ignore[arg-type]
    intake.look(50_000)
    assert intake.is_full
    nothing.running.stopped, nothing.applied = False, 0
    nothing.core.commit_index = 50_000  # type: ignore[misc]
    nothing.parts.intake, nothing.fail = intake, calls.append  # type: ignore[method-assign,assignment]
    on_outcome(nothing, Restored(SnapshotMeta(50_000, 1, MembershipState()), b""))
    assert calls == []
    assert not intake.is_full
