"""Messages in a follower. It answers, and starts nothing by itself before it campaigns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.consensus import append_entries, election, install_snapshot
from syncline.consensus.config import ReadOnlyOption
from syncline.consensus.types import NONE, Message, MessageType, ReadState
from syncline.consensus.validation import StepRefusal

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["follow", "step"]


def step(raft: RaftCore, message: Message) -> StepRefusal | None:
    """Act on a message of the current term, or on a local one."""
    kind = message.type
    if kind in _FROM_LEADER:
        raft.election_elapsed = 0
        raft.leader = message.sender
        follow(raft, message)
    elif kind is MessageType.PROP:
        return _forward_proposal(raft, message)
    elif kind is MessageType.READ_INDEX or kind is MessageType.TRANSFER_LEADER:
        _forward(raft, message)
    elif kind is MessageType.READ_INDEX_RESP:
        raft.read_states.append(ReadState(message.index, message.entries[0].data))
    elif kind is MessageType.FORGET_LEADER:
        _forget_leader(raft)
    elif kind is MessageType.TIMEOUT_NOW:
        raft.note("info", "%x [term %d] received MsgTimeoutNow from %x", raft.id, raft.term, message.sender)
        # The leader itself asks for the election, so no leader can be disturbed: no pre-vote (thesis, 3.10).
        election.campaign_if_allowed(raft, pre_vote=False, transfer=True)
    return None


def follow(raft: RaftCore, message: Message) -> None:
    """Handle a message of the term's leader."""
    if message.session > raft.leader_session:
        raft.leader_session = message.session
    _FROM_LEADER[message.type](raft, message)


_FROM_LEADER = {
    MessageType.APP: append_entries.handle_append,
    MessageType.HEARTBEAT: append_entries.handle_heartbeat,
    MessageType.SNAP: install_snapshot.handle_snapshot,
}


def _forward_proposal(raft: RaftCore, message: Message) -> StepRefusal | None:
    if raft.leader == NONE or raft.config.disable_proposal_forwarding:
        reason = "no leader" if raft.leader == NONE else "not forwarding"
        raft.note("info", "%x %s at term %d; dropping proposal", raft.id, reason, raft.term)
        return StepRefusal.PROPOSAL_DROPPED
    _forward(raft, message)
    return None


def _forward(raft: RaftCore, message: Message) -> None:
    """Forward a request to the leader with its original sender: the answer goes there."""
    if raft.leader == NONE:
        raft.note("info", "%x no leader at term %d; dropping %s", raft.id, raft.term, message.type.name)
        return
    raft.send(Message(message.type, to=raft.leader, sender=message.sender, entries=message.entries))


def _forget_leader(raft: RaftCore) -> None:
    """Follow no leader until the next message of one: the next candidate need not wait for the lease to end."""
    if raft.config.read_only is ReadOnlyOption.LEASE_BASED:
        # The leader's lease reads depend on this node: it must not vote for another node before the lease ends.
        raft.note("error", "ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
        return
    if raft.leader != NONE:
        raft.note("info", "%x forgetting leader %x at term %d", raft.id, raft.leader, raft.term)
        raft.leader = NONE
