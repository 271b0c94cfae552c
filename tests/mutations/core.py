"""Bugs planted in the consensus core. Each function makes one, by replacing as little as it can."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from syncline.consensus import install_snapshot, leader, roles, validation
from syncline.consensus.log import RaftLog
from syncline.consensus.quorum import JointConfig, VoteResult
from syncline.consensus.raft import RaftCore
from syncline.consensus.read_index import ReadQueue
from syncline.consensus.tracker import Tracker
from syncline.consensus.types import NONE, LogEntry, Message, MessageType, NodeId, Snapshot
from syncline.consensus.unstable import Unstable

__all__ = [
    "any_answer_confirms_a_read",
    "change_before_an_entry_of_the_own_term",
    "earlier_terms_by_counting",
    "learners_commit",
    "learners_confirm_reads",
    "old_sessions_count",
    "snapshot_keeps_the_suffix",
    "stale_membership_after_a_snapshot",
    "transfer_outlives_its_term",
    "truncate_what_matches",
    "vote_before_it_is_durable",
    "votes_by_message",
]


def vote_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """A granted vote leaves at once, beside the write that remembers it."""
    original = RaftCore.send

    def send(raft: RaftCore, message: Message) -> None:
        original(raft, message)
        if message.type is MessageType.VOTE_RESP and message.to != raft.id:
            raft.messages.append(raft.messages_after_append.pop())

    patch.setattr(RaftCore, "send", send)


def truncate_what_matches(patch: pytest.MonkeyPatch) -> None:
    """An append replaces what it overlaps, and all that follows, also where both are the same."""

    def without_known(log: RaftLog, prev_index: int, entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
        return [entry for entry in entries if entry.index > max(prev_index, log.commit_index)]

    patch.setattr(RaftLog, "_without_known", without_known)


def votes_by_message(patch: pytest.MonkeyPatch) -> None:
    """Every answer counts, also the second one of the same voter."""

    def record_vote(tracker: Tracker, node_id: NodeId, granted: bool) -> None:
        tracker.votes[(len(tracker.votes) << 64) + node_id] = granted

    def tally(tracker: Tracker) -> tuple[int, int, VoteResult]:
        granted = sum(tracker.votes.values())
        refused = len(tracker.votes) - granted
        needed = len(tracker.configuration.voters.voters) // 2 + 1
        if granted >= needed:
            return granted, refused, VoteResult.WON
        return granted, refused, VoteResult.LOST if refused >= needed else VoteResult.PENDING

    patch.setattr(Tracker, "record_vote", record_vote)
    patch.setattr(Tracker, "tally", tally)


def learners_commit(patch: pytest.MonkeyPatch) -> None:
    """An entry is committed once as many *members* hold it as there must be voters."""

    def committed_index(tracker: Tracker) -> int:
        held = sorted((one.match_index for one in tracker.progress.values()), reverse=True)
        needed = len(tracker.configuration.voters.voters) // 2 + 1
        return held[needed - 1] if len(held) >= needed else 0

    patch.setattr(Tracker, "committed_index", committed_index)


def stale_membership_after_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A snapshot replaces the log, and the membership from before it stays in force."""
    original = install_snapshot._restore

    def restore(raft: RaftCore, snapshot: Snapshot) -> bool:
        before = raft.tracker.configuration, raft.tracker.progress
        restored = original(raft, snapshot)
        if restored:
            raft.tracker.switch(*before)
        return restored

    patch.setattr(install_snapshot, "_restore", restore)


def any_answer_confirms_a_read(patch: pytest.MonkeyPatch) -> None:
    """An answer to a heartbeat confirms all reads that wait, also those that came after that heartbeat was sent."""
    original = ReadQueue.acknowledge

    def acknowledge(queue: ReadQueue, sender: NodeId, position: int) -> None:
        original(queue, sender, queue.last_position if position else 0)

    patch.setattr(ReadQueue, "acknowledge", acknowledge)


def learners_confirm_reads(patch: pytest.MonkeyPatch) -> None:
    """A read is confirmed once as many *members* answer as there must be voters."""

    def confirm(queue: ReadQueue, voters: JointConfig) -> list[tuple[Message, int]]:
        acked = sorted(queue._acked.values(), reverse=True)
        needed = len(voters.voters) // 2 + 1
        position = min(acked[needed - 1] if len(acked) >= needed else 0, queue.last_position)
        confirmed = [queue._waiting.popleft() for _ in range(position - queue._confirmed)]
        queue._confirmed = max(queue._confirmed, position)
        return confirmed

    patch.setattr(ReadQueue, "confirm", confirm)


def earlier_terms_by_counting(patch: pytest.MonkeyPatch) -> None:
    """A leader commits whatever a quorum holds, entries of earlier terms too (the Raft paper, figure 8)."""

    def maybe_commit(log: RaftLog, index: int, _term: int) -> bool:
        if index <= log.commit_index:
            return False
        log.commit_to(index)
        return True

    patch.setattr(RaftLog, "maybe_commit", maybe_commit)


def change_before_an_entry_of_the_own_term(patch: pytest.MonkeyPatch) -> None:
    """A new leader takes a change of the membership while one of its predecessor's may be under way."""
    original = roles.become_leader

    def become_leader(raft: RaftCore) -> None:
        original(raft)
        raft.pending_membership_index = 0

    patch.setattr(roles, "become_leader", become_leader)


def old_sessions_count(patch: pytest.MonkeyPatch) -> None:
    """A member that was removed and added again is credited with the answers of its earlier life."""
    patch.setattr(validation, "_check_session", lambda _raft, _message: None)


def transfer_outlives_its_term(patch: pytest.MonkeyPatch) -> None:
    """The transferee outlives its term: a node that leads again takes no proposals."""
    reset, tick = roles._reset, leader.tick

    def reset_but_for_the_transfer(raft: RaftCore, term: int) -> None:
        transferee = raft.transferee
        reset(raft, term)
        raft.transferee = transferee

    def tick_but_for_the_transfer(raft: RaftCore) -> None:
        transferee = raft.transferee
        tick(raft)
        if raft.transferee == NONE:
            raft.transferee = transferee

    patch.setattr(roles, "_reset", reset_but_for_the_transfer)
    patch.setattr(leader, "tick", tick_but_for_the_transfer)


def snapshot_keeps_the_suffix(patch: pytest.MonkeyPatch) -> None:
    """A snapshot replaces the log up to its index, and what came behind that in another leader's log stays."""
    original = Unstable.restore

    def restore(unstable: Unstable, snapshot: Snapshot) -> None:
        kept = [entry for entry in unstable.entries if entry.index > snapshot.meta.index]
        original(unstable, snapshot)
        if kept and kept[0].index == unstable.offset:
            unstable.entries = kept

    patch.setattr(Unstable, "restore", restore)
