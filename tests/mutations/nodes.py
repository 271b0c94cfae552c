"""Bugs of whole nodes that others published in 2025 and 2026, and some of the same kinds."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from syncline.consensus.membership import Changer, MembershipRefused, decode_change
from syncline.consensus.types import EntryType, MembershipChange, MembershipState, ReadState, SingleChange
from syncline.errors import Superseded
from syncline.node import changes
from syncline.node.applier import Applier
from syncline.node.bootstrap import Bootstrap
from syncline.node.envelope import MEMBERSHIP, ChangeContext, encode
from syncline.node.fsm import FSMSnapshot
from syncline.node.log_writer import LogWriter
from syncline.node.member_registry import MemberRegistry, Membership
from syncline.node.proposals import COUNTER_BITS, Proposals
from syncline.node.read_batches import ReadBatches
from syncline.node.snapshots import Snapshotter
from syncline.storage.wal.writer import Wal

__all__ = [
    "change_answered_when_appended",
    "empty_directory_let_in",
    "jumped_proposal_told_not_applied",
    "members_listed_wrongly_while_joint",
    "missing_log_taken_for_a_new_one",
    "numbers_from_one_at_each_start",
    "old_read_attempt_ends_a_new_batch",
    "promise_after_a_failed_write",
    "raising_machine_stalls_applying",
    "snapshot_with_an_uncommitted_membership",
]


def change_answered_when_appended(patch: pytest.MonkeyPatch) -> None:
    """A change of the membership is answered when it has a place in the leader's log: not applied, not settled."""
    settled = changes.Changes._durable
    appended: set[int] = set()

    async def propose(
        self: changes.Changes,
        singles: tuple[SingleChange, ...],
        brought: tuple[Any, ...],
        expected: int,
        deadline_s: float,
        *,
        force: bool,
    ) -> int:
        running, parts = self._running, self._parts
        running.check()
        future = parts.proposals.new(running.loop, 0, deadline_s)
        context = encode(ChangeContext(parts.core.id, future.number, brought, expected, force))
        self._callbacks.propose(future, MEMBERSHIP, encode(MembershipChange(changes=singles, context=context)))
        while not future.done() and not future.index:
            await running.wait(running.loop.time() + 0.0005)
        if future.done():
            await future
        else:
            future.add_done_callback(lambda done: None if done.cancelled() else done.exception())
            appended.add(future.index)
        return future.index

    async def durable(self: changes.Changes, index: int, deadline_s: float) -> Membership:
        return self._membership() if index in appended else await settled(self, index, deadline_s)

    patch.setattr(changes.Changes, "_propose", propose)
    patch.setattr(changes.Changes, "_durable", durable)


def snapshot_with_an_uncommitted_membership(patch: pytest.MonkeyPatch) -> None:
    """A snapshot holds the newest membership in the log, committed or not."""
    original = Snapshotter.viewed

    def viewed(snapshotter: Snapshotter, view: FSMSnapshot) -> None:
        node = snapshotter._parts.core.raft
        log, tracker = node.log, node.tracker
        before = newest = tracker.configuration, tracker.progress
        low = max(log.applied + 1, log.first_index)
        for entry in log.slice(low, log.last_index + 1, 1 << 40) if low <= log.last_index else ():
            if entry.type is not EntryType.NORMAL:
                with suppress(MembershipRefused):
                    newest = Changer(*newest, log.last_index, tracker.make_progress).change(decode_change(entry))
        tracker.configuration = newest[0]
        try:
            original(snapshotter, view)
        finally:
            tracker.configuration = before[0]

    patch.setattr(Snapshotter, "viewed", viewed)


def members_listed_wrongly_while_joint(patch: pytest.MonkeyPatch) -> None:
    """Of a joint membership only the half that is being entered is listed."""
    original = MemberRegistry.membership

    def membership(book: MemberRegistry, state: MembershipState) -> Membership:
        return original(book, MembershipState(voters=state.voters, learners=state.learners))

    patch.setattr(MemberRegistry, "membership", membership)


def old_read_attempt_ends_a_new_batch(patch: pytest.MonkeyPatch) -> None:
    """Whatever read the leader has confirmed, those that wait now are answered."""
    original = ReadBatches.confirmed

    def confirmed(reads: ReadBatches, state: ReadState) -> None:
        batch = reads._asked
        original(reads, state if batch is None else ReadState(state.index, batch.context))

    patch.setattr(ReadBatches, "confirmed", confirmed)


def jumped_proposal_told_not_applied(patch: pytest.MonkeyPatch) -> None:
    """A proposal over whose place a snapshot has gone is told to have no effect."""

    def jumped(proposals: Proposals, index: int) -> None:
        for waiter in [held for held in proposals._waiting.values() if held.attempt and held.index <= index]:
            proposals._fail(waiter, Superseded("a snapshot took the place of the log there"))

    patch.setattr(Proposals, "jumped", jumped)


def numbers_from_one_at_each_start(patch: pytest.MonkeyPatch) -> None:
    """A node gives its proposals the numbers that it gave in an earlier life."""
    original = Proposals.__init__

    def init(proposals: Proposals, *arguments: Any, **settings: Any) -> None:
        original(proposals, *arguments, **settings)
        proposals._next &= (1 << COUNTER_BITS) - 1

    patch.setattr(Proposals, "__init__", init)


def raising_machine_stalls_applying(patch: pytest.MonkeyPatch) -> None:
    """What a state machine raises ends the application of entries, and the node goes on without."""
    patch.setattr(Applier, "_fail", lambda _applier, _error: None)


def missing_log_taken_for_a_new_one(patch: pytest.MonkeyPatch) -> None:
    """A directory without a log is that of a node that starts for the first time."""
    original = Wal.open

    def open_anyway(*arguments: Any, must_exist: bool = False, **settings: Any) -> Wal:
        del must_exist
        return original(*arguments, **settings)

    patch.setattr(Wal, "open", open_anyway)


def empty_directory_let_in(patch: pytest.MonkeyPatch) -> None:
    """A member is let in with whatever directory it comes."""
    patch.setattr(Bootstrap, "known_directory", lambda _founding, _peer: 0)


def promise_after_a_failed_write(patch: pytest.MonkeyPatch) -> None:
    """What a group of appends promised leaves the node although the disk has refused the group."""
    original = LogWriter._fail

    def fail(writer: LogWriter, error: BaseException) -> None:
        broken, group = writer._broken, writer._group
        if not broken:
            writer._durable([response for append in group for response in append.responses])
        original(writer, error)

    patch.setattr(LogWriter, "_fail", fail)
