"""Messages in a candidate or a pre-candidate: it counts votes, and follows a leader that appears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncline.consensus import election, follower, roles
from syncline.consensus.types import Message, MessageType, StateType
from syncline.consensus.validation import StepRefusal

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["step"]


def step(raft: RaftCore, message: Message) -> StepRefusal | None:
    """Act on a message of the current term, or on a local one."""
    kind = message.type
    if kind in (MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP):
        # Another candidate has won this term (thesis, 3.4).
        roles.become_follower(raft, raft.term, message.sender)
        follower.follow(raft, message)
    elif kind is MessageType.PROP:
        raft.note("info", "%x no leader at term %d; dropping proposal", raft.id, raft.term)
        return StepRefusal.PROPOSAL_DROPPED
    elif kind is MessageType.PRE_VOTE_RESP or kind is MessageType.VOTE_RESP:
        # A candidate may still get answers to its pre-vote: they must not count as votes.
        asked = MessageType.PRE_VOTE_RESP if raft.state is StateType.PRE_CANDIDATE else MessageType.VOTE_RESP
        if kind is asked:
            election.count_vote(raft, message)
    elif kind is MessageType.TIMEOUT_NOW:
        raft.note("debug", "%x [term %d] ignored MsgTimeoutNow from %x", raft.id, raft.term, message.sender)
    return None
