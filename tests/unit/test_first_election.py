"""When a node campaigns without waiting for an election timeout."""

from __future__ import annotations

import random

import pytest

from syncline.consensus.config import RaftConfig
from syncline.consensus.rawnode import RawNode
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import HardState, MembershipState, Snapshot, SnapshotMeta, StateType
from syncline.node.first_election import BOOTSTRAP_TERM, FirstElection


def node(voters: tuple[int, ...], *, term: int = BOOTSTRAP_TERM, vote: int = 0) -> RawNode:
    """Node 1 as it starts with these voters."""
    return node_in(MembershipState(voters=voters), term=term, vote=vote)


def node_in(membership: MembershipState, *, term: int = BOOTSTRAP_TERM, vote: int = 0) -> RawNode:
    """Node 1 as it starts, as a follower without a leader."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(SnapshotMeta(5, BOOTSTRAP_TERM, membership)))
    storage.set_hard_state(HardState(term, vote, 5))
    config = RaftConfig(
        id=1, storage=storage, election_ticks=10, pre_vote=True, check_quorum=True, rng=random.Random(1)
    )
    return RawNode(config)


def campaigns(core: RawNode, connected: set[int]) -> bool:
    FirstElection(core, connected.__contains__).look()
    return core.state is not StateType.FOLLOWER


def test_lowest_initial_member_campaigns_when_all_are_connected() -> None:
    assert campaigns(node((1, 2, 3)), {2, 3})


def test_initial_member_campaigns_at_once_only_with_links_to_all() -> None:
    assert not campaigns(node((1, 2, 3)), {2})


def test_other_initial_members_wait_for_the_lowest_id() -> None:
    core = node((1, 2, 3))
    core.raft.id = 2
    assert not campaigns(core, {1, 3})


@pytest.mark.parametrize(("term", "vote"), [(2, 0), (BOOTSTRAP_TERM, 3)])
def test_cluster_that_has_voted_before_waits_for_the_timeout(term: int, vote: int) -> None:
    assert not campaigns(node((1, 2, 3), term=term, vote=vote), {2, 3})


def test_sole_voter_campaigns_in_any_term() -> None:
    assert campaigns(node_in(MembershipState(voters=(1,), learners=(2,)), term=7), set())


@pytest.mark.parametrize(
    "membership",
    [
        MembershipState(voters=(2,), learners=(1,)),
        MembershipState(voters=(1,), voters_outgoing=(1, 2), auto_leave=True),
    ],
)
def test_learner_and_joint_membership_are_no_sole_voter(membership: MembershipState) -> None:
    assert not campaigns(node_in(membership, term=7), {2})


def test_known_leader_and_own_candidacy_are_not_disturbed() -> None:
    for state in (StateType.CANDIDATE, StateType.LEADER):
        core = node((1,), term=7)
        core.raft.state = state
        FirstElection(core, set[int]().__contains__).look()
        assert core.raft.tracker.votes == {}
        assert core.state is state
    core = node((1, 2, 3))
    core.raft.leader = 3
    assert not campaigns(core, {2, 3})
