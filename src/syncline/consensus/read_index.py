"""Reads without a log entry (ReadIndex: thesis, 6.4).

The leader remembers its commit index and makes sure that it still leads.

A read that arrives is numbered and queued with the commit index of that moment. Each heartbeat from then on carries
the number of the newest read in the queue, and each answer brings it back: the follower that answers knew of no newer
term when it got a heartbeat that was sent *after* the reads up to that number had arrived. Once a quorum of voters has
brought back a number, all reads up to it are confirmed.

The numbers are the leader's own and are never reused within its term. So an answer to an earlier heartbeat can't
confirm a repeated read, even if it has the same context (thesis, 6.4; etcd/raft, pull request 397).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from syncline.consensus import append_entries
from syncline.consensus.config import ReadOnlyOption
from syncline.consensus.quorum import JointConfig
from syncline.consensus.types import Message, NodeId

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = [
    "MAX_READS",
    "ReadQueue",
    "decode_position",
    "handle_heartbeat_response",
    "release_held_reads",
    "take_read",
]

MAX_READS: Final[int] = 1 << 16
"""Reads that wait in one leader. A runtime shares one read among concurrent callers, so more are a fault."""

_POSITION_BYTES: Final[int] = 8


def decode_position(context: bytes) -> int | None:
    """The number of a read that a heartbeat or its answer carries; None if the context is not one."""
    if len(context) != _POSITION_BYTES:
        return None
    return int.from_bytes(context, "little")


class ReadQueue:
    """The reads that wait for a leader to be confirmed. A new one starts with each term and each role."""

    __slots__ = ("_acked", "_confirmed", "_waiting", "held", "option")

    def __init__(self, option: ReadOnlyOption) -> None:
        self.option: Final = option
        self.held: list[Message] = []
        """Reads that arrived before the leader had committed an entry of its own term: until then it does not know
        what is committed (thesis, 6.4, step 1)."""
        self._waiting: deque[tuple[Message, int]] = deque()
        self._confirmed = 0
        """How many reads were confirmed, which is also the number of the last of them."""
        self._acked: dict[NodeId, int] = {}

    @property
    def full(self) -> bool:
        """Whether no more reads are accepted."""
        return len(self.held) + len(self._waiting) >= MAX_READS

    @property
    def last_position(self) -> int:
        """The number of the newest read."""
        return self._confirmed + len(self._waiting)

    def add(self, request: Message, commit: int) -> None:
        """Queue a read that arrived while `commit` was the commit index."""
        self._waiting.append((request, commit))

    def context(self) -> bytes:
        """The context of heartbeats: the number of the newest waiting read, or nothing."""
        return self.last_position.to_bytes(_POSITION_BYTES, "little") if self._waiting else b""

    def acknowledge(self, sender: NodeId, position: int) -> None:
        """`sender` has answered a heartbeat that carried `position`."""
        assert position <= self.last_position, "an answer to a heartbeat that was never sent"
        if position > self._acked.get(sender, 0):
            self._acked[sender] = position

    def confirm(self, voters: JointConfig) -> list[tuple[Message, int]]:
        """Remove the reads that a quorum of `voters` has confirmed, oldest first, each with its commit index."""
        position = min(voters.committed_index(self._acked), self.last_position)
        confirmed = [self._waiting.popleft() for _ in range(position - self._confirmed)]
        self._confirmed = max(self._confirmed, position)
        return confirmed


def take_read(raft: RaftCore, request: Message) -> bool:
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


def _start_read(raft: RaftCore, request: Message) -> None:
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


def release_held_reads(raft: RaftCore) -> None:
    """Start the reads that were held until the leader had committed an entry of its own term."""
    held, raft.reads.held = raft.reads.held, []
    for request in held:
        _start_read(raft, request)


def handle_heartbeat_response(raft: RaftCore, message: Message) -> None:
    """Answer the reads that a quorum has confirmed with this answer."""
    position = decode_position(message.context)
    if raft.reads.option is not ReadOnlyOption.SAFE or position is None:
        return
    raft.reads.acknowledge(message.sender, position)
    for request, index in raft.reads.confirm(raft.tracker.configuration.voters):
        raft.respond_to_read(request, index)
