"""A candidate whose own removal comes into force while it waits for votes."""

from __future__ import annotations

import pytest

from syncline.consensus.config import RaftConfig
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    ChangeType,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    SingleChange,
    StateType,
)
from tests.consensus_cluster import storage_with


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("kind", [ChangeType.REMOVE_NODE, ChangeType.ADD_LEARNER_NODE])
def test_candidate_removed_meanwhile_does_not_lead(kind: ChangeType, pre_vote: bool) -> None:
    """Its votes are a quorum all the same: without the check the node stopped on an error."""
    storage = storage_with(MembershipState(voters=(1, 2, 3)))
    node = RawNode(RaftConfig(id=1, storage=storage, applied=10, pre_vote=pre_vote))
    node.campaign()
    term = node.term + pre_vote
    node.apply_membership(MembershipChange(changes=(SingleChange(kind, 1),)))
    answer = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    node.step(Message(answer, to=1, sender=1, term=term))
    for voter in (2, 3):
        node.step(Message(answer, to=1, sender=voter, term=term))
    assert node.state is StateType.FOLLOWER
    assert node.leader == 0
