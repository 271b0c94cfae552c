"""Reads without a log entry (ReadIndex: thesis, 6.4).

The leader remembers its commit index and makes sure that it still leads.

A read that arrives is numbered and queued with the commit index of that moment. Each heartbeat from then on carries
the number of the newest read in the queue, and each answer brings it back. The heartbeat was sent *after* the reads up
to that number had arrived, and the follower knew of no newer term when it got it. Once a quorum of voters has
brought back a number, all reads up to it are confirmed.

The numbers are the leader's own and are never reused within its term. So an answer to an earlier heartbeat can't
confirm a repeated read, even if it has the same context (thesis, 6.4; etcd/raft, pull request 397).
"""

from __future__ import annotations

from syncline.consensus import append_entries
from syncline.consensus.config import ReadOnlyOption
from syncline.consensus.read_queue import decode_position
from syncline.consensus.state import RaftState
from syncline.consensus.types import Message

__all__ = ["handle_heartbeat_response", "release_held_reads", "take_read"]


def take_read(raft: RaftState, request: Message) -> bool:
    """Queue a read on the leader (ReadIndex), or answer it if no quorum is needed. False: too many reads wait."""
    if raft.reads.full:
        return False
    # Until it has committed an entry of its own term, a leader does not know what is committed (thesis, 6.4). That
    # holds for a leader alone in its group as well: the commit index that it had before a restart may be lost.
    if raft.log.term_or_zero(raft.log.commit_index) != raft.term:
        raft.reads.held.append(request)
    else:
        _start_read(raft, request)
    return True


def _start_read(raft: RaftState, request: Message) -> None:
    """Ask a quorum with heartbeats whether this node still leads (ReadIndex, step 2: thesis, 6.4)."""
    voters = raft.tracker.configuration.voters
    # One voter is a quorum by itself; but a removed leader is not that voter, which may lead by now.
    alone = voters.singleton and raft.id in voters.voters
    if alone or raft.reads.option is ReadOnlyOption.LEASE_BASED:
        raft.respond_to_read(request, raft.log.commit_index)
        return
    raft.reads.add(request, raft.log.commit_index)
    raft.reads.acknowledge(raft.id, raft.reads.last_position)
    append_entries.broadcast_heartbeat(raft)


def release_held_reads(raft: RaftState) -> None:
    """Start the reads that were held until the leader had committed an entry of its own term."""
    held, raft.reads.held = raft.reads.held, []
    for request in held:
        _start_read(raft, request)


def handle_heartbeat_response(raft: RaftState, message: Message) -> None:
    """Answer the reads that a quorum has confirmed with this answer."""
    position = decode_position(message.context)
    if raft.reads.option is not ReadOnlyOption.SAFE or position is None:
        return
    raft.reads.acknowledge(message.sender, position)
    for request, index in raft.reads.confirm(raft.tracker.configuration.voters):
        raft.respond_to_read(request, index)
