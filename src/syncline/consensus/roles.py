"""The roles of a node, and the transitions between them (thesis, figure 3.3).

`TRANSITIONS` is the whole state diagram. A pre-candidate asks whether it could win. A candidate has entered the next
term and asks for votes. A leader has the votes of a quorum. All other nodes are followers, with or without a leader.
"""

from __future__ import annotations

from typing import Final

from syncline.consensus import append_entries
from syncline.consensus.read_queue import ReadQueue
from syncline.consensus.state import RaftState
from syncline.consensus.types import NONE, LogEntry, NodeId, StateType

__all__ = ["TRANSITIONS", "become_candidate", "become_follower", "become_leader", "become_pre_candidate"]

TRANSITIONS: Final[dict[StateType, frozenset[StateType]]] = {
    # message of a leader or a newer term; election timeout with pre-vote, and without
    StateType.FOLLOWER: frozenset({StateType.FOLLOWER, StateType.PRE_CANDIDATE, StateType.CANDIDATE}),
    # rejected, or message of a leader; asks again; a quorum would vote for it
    StateType.PRE_CANDIDATE: frozenset({StateType.FOLLOWER, StateType.PRE_CANDIDATE, StateType.CANDIDATE}),
    # rejected, or message of a leader; split vote with pre-vote, and without; a quorum votes for it
    StateType.CANDIDATE: frozenset(
        {StateType.FOLLOWER, StateType.PRE_CANDIDATE, StateType.CANDIDATE, StateType.LEADER}
    ),
    # message of a newer term, lost quorum, or removal. A leader never replaces its own term.
    StateType.LEADER: frozenset({StateType.FOLLOWER}),
}
"""From each role, the roles that can follow it."""


def become_follower(raft: RaftState, term: int, leader: NodeId) -> None:
    """Follow `leader` (perhaps none yet) in `term`."""
    _reset(raft, term)
    raft.leader = leader
    _enter(raft, StateType.FOLLOWER)
    raft.note("info", "%x became follower at term %d", raft.id, raft.term)


def become_pre_candidate(raft: RaftState) -> None:
    """Ask whether an election could be won. Neither term nor vote change, so nothing is disturbed (thesis, 9.6)."""
    raft.tracker.votes.clear()
    raft.leader = NONE
    _enter(raft, StateType.PRE_CANDIDATE)
    raft.note("info", "%x became pre-candidate at term %d", raft.id, raft.term)


def become_candidate(raft: RaftState) -> None:
    """Enter the next term and vote for the node itself in it (thesis, 3.4)."""
    _reset(raft, raft.term + 1)
    raft.vote = raft.id
    _enter(raft, StateType.CANDIDATE)
    raft.note("info", "%x became candidate at term %d", raft.id, raft.term)


def become_leader(raft: RaftState) -> None:
    """Lead the current term, and append an empty entry to it.

    Entries of earlier terms can't be committed by counting their copies, only together with one of the leader's own
    term (thesis, 3.6.2). The empty entry commits them, and gives the leader its commit index for reads (thesis, 6.4).
    """
    _reset(raft, raft.term)
    raft.leader = raft.id
    _enter(raft, StateType.LEADER)
    own = raft.tracker.progress[raft.id]
    own.become_replicate()
    own.recent_active = True
    # There may be an unapplied change of the membership in the log. Rather than look for it, take no other one until
    # all that is in the log now is applied.
    raft.pending_membership_index = raft.log.last_index
    appended = append_entries.append(raft, [LogEntry(raft.term, raft.log.last_index + 1)])
    assert appended, "an empty entry is never too large"
    raft.note("info", "%x became leader at term %d", raft.id, raft.term)


def _enter(raft: RaftState, state: StateType) -> None:
    assert state in TRANSITIONS[raft.state], f"a {raft.state.name} can't become a {state.name}"
    raft.state = state


def _reset(raft: RaftState, term: int) -> None:
    """Reset the state of a role or of an earlier term."""
    if raft.term != term:
        assert term > raft.term, "terms only grow"
        raft.term = term
        raft.vote = NONE
    raft.leader = NONE
    raft.leader_session = 0
    raft.transferee = NONE
    raft.election_elapsed = 0
    raft.heartbeat_elapsed = 0
    raft.draw_timeout()
    raft.tracker.reset(raft.id, raft.log.last_index)
    raft.pending_membership_index = 0
    raft.told_commit = 0
    raft.uncommitted_bytes = 0
    raft.reads = ReadQueue(raft.config.read_only)
