"""Evidence that a node has lost a promise, or that a committed entry was replaced.

Sound nodes never produce it. An acknowledgement is durable before it is sent. A leader never sends a follower a commit
index above this follower's acknowledgement. Each leader's log holds every committed entry (Leader Completeness: thesis,
3.6.3). A data directory that was restored from an older copy breaks the first of these.

The core only reports it, and gives no answer that depends on a broken promise. The runtime decides what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from syncline.consensus.types import NONE, Message, NodeId

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["Evidence", "EvidenceKind", "contradiction", "lost_entries", "two_leaders"]


class EvidenceKind(StrEnum):
    """The kind of proof."""

    LOST_ENTRIES = "lost_entries"
    """This node has acknowledged entries to the leader that its log does not hold."""

    CONTRADICTION = "contradiction"
    """The leader's log has another entry if this node knows one to be committed. Which of the two logs is wrong is
    not known: this node may hold the only copy of an acknowledged write."""

    TWO_LEADERS = "two_leaders"
    """Another node than the leader that this node follows, or is, leads in the same term. A voter has voted twice:
    it was copied, or has lost its vote. Entries of that term with equal indexes may differ, and nothing shows it."""


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """One piece of evidence, found by the node that keeps it."""

    kind: EvidenceKind
    leader: NodeId
    """The leader whose message it is."""
    term: int
    """The leader's term."""
    index: int
    """The leader's commit index, the index of the entry that differs, or with two leaders the own last index."""
    own_term: int = 0
    """The term of this node's committed entry there."""
    told_term: int = 0
    """The term of the leader's entry there."""


def two_leaders(raft: RaftCore, message: Message) -> Evidence | None:
    """Evidence from a message that only a leader sends, in a term that has another leader already."""
    if message.term != raft.term or raft.leader in (NONE, message.sender):
        return None
    return Evidence(EvidenceKind.TWO_LEADERS, message.sender, message.term, raft.log.last_index)


def lost_entries(raft: RaftCore, heartbeat: Message) -> Evidence | None:
    """Evidence from a heartbeat whose commit index, which this node acknowledged, is above its last index.

    A heartbeat of an earlier replication session proves nothing: the node was removed and added again since.
    """
    if heartbeat.commit <= raft.log.last_index or heartbeat.term < raft.term or not heartbeat.session:
        return None
    if heartbeat.term == raft.term and heartbeat.session < raft.leader_session:
        return None
    return Evidence(EvidenceKind.LOST_ENTRIES, heartbeat.sender, heartbeat.term, heartbeat.commit)


def contradiction(raft: RaftCore, message: Message, positions: Iterable[tuple[int, int]]) -> Evidence | None:
    """Evidence from the (index, term) pairs of a leader's message: the first that differs from a committed entry
    here.

    Entries whose term is not known any more (compacted) are skipped.
    """
    log = raft.log
    for index, term in positions:
        if index > log.commit_index:
            return None
        own_term = log.term_or_zero(index)
        if own_term and own_term != term:
            return Evidence(EvidenceKind.CONTRADICTION, message.sender, message.term, index, own_term, term)
    return None
