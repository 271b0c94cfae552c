"""What follows from applied entries, in which order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from syncline.consensus.types import EntryType, LogEntry
from syncline.node.applier import Applied
from syncline.node.envelope import LevelChange, MemberRecord
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
            stopped=False,
            applied=0,
            restoring=restoring,
            reconfiguration=SimpleNamespace(applied=calls.append, announced=calls.append),
            parts=SimpleNamespace(levels=SimpleNamespace(applied=calls.append)),
            proposals=nothing,
            snapshotter=nothing,
            reads=nothing,
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
