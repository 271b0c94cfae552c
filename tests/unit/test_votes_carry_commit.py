"""Vote messages carry the commit index: a removal that some voters know of never leaves the rest without a leader."""

from __future__ import annotations

import pytest

from syncline.consensus.membership import encode_change
from syncline.consensus.types import (
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    SingleChange,
    StateType,
    StepRefusal,
    Transition,
)
from tests.helpers.consensus_cluster import START, Cluster, storage_with

JOINT, LEAVE, EXTRA = START + 1, START + 2, START + 3
REMOVAL = MembershipChange(
    transition=Transition.JOINT_IMPLICIT,
    changes=(SingleChange(ChangeType.REMOVE_NODE, 2), SingleChange(ChangeType.REMOVE_NODE, 3)),
)
ENTRIES = (
    LogEntry(2, JOINT, EntryType.CONF_CHANGE_V2, encode_change(REMOVAL)),
    LogEntry(2, LEAVE, EntryType.CONF_CHANGE_V2),
    LogEntry(2, EXTRA, EntryType.NORMAL, b"x"),
)


def append(to: int, count: int, commit: int) -> Message:
    return Message(
        MessageType.APP, to=to, sender=1, term=2, index=START, log_term=1, entries=ENTRIES[:count], commit=commit
    )


def cluster_after_the_removal(*, commit_in_votes: bool = False, async_storage_writes: bool = False) -> Cluster:
    """{1,2,3,4,5} became {1,4,5}. 1 is dead, 2 and 3 have left. 4 knows it; 5 has the longer log and does not."""
    cluster = Cluster(
        5,
        check_quorum=True,
        pre_vote=True,
        commit_in_votes=commit_in_votes,
        async_storage_writes=async_storage_writes,
    )
    for gone in (1, 2, 3):
        del cluster.members[gone]
    cluster[4].step(append(4, 2, LEAVE))
    cluster[5].step(append(5, 3, JOINT))
    cluster.settle()
    assert cluster[4].raft.tracker.configuration.state() == MembershipState(voters=(1, 4, 5))
    assert cluster[5].raft.tracker.configuration.voters.joint
    return cluster


def leads_within(cluster: Cluster, ticks: int) -> int:
    """The node that leads at the end, 0 if none does."""
    for _ in range(ticks):
        for member in cluster.members.values():
            member.node.tick()
        cluster.settle()
    return next((node_id for node_id in cluster.members if cluster[node_id].state is StateType.LEADER), 0)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_removal_known_to_shorter_log_lets_longer_log_lead(restarted: bool, asynchronous: bool) -> None:
    """4 can't lead with the shorter log, and 5 would wait for the votes of 2 and 3 for ever."""
    cluster = cluster_after_the_removal(commit_in_votes=True, async_storage_writes=asynchronous)
    if restarted:
        for node_id in (4, 5):
            cluster.start(node_id, cluster.members[node_id].storage, applied=START)
    assert leads_within(cluster, 60) == 5
    assert cluster[5].raft.tracker.configuration.state() == MembershipState(voters=(1, 4, 5))


def test_removal_without_commit_in_votes_leaves_no_leader() -> None:
    """The course that the commit index in votes is for."""
    assert leads_within(cluster_after_the_removal(), 200) == 0


def vote(commit: int, commit_term: int, **fields: int) -> Message:
    values = {"term": 3, "index": EXTRA, "log_term": 2} | fields
    return Message(MessageType.VOTE, to=5, sender=4, commit=commit, commit_term=commit_term, **values)  # type: ignore[arg-type]


def follower() -> Cluster:
    """Node 5 with three entries, of which it knows none to be committed."""
    cluster = Cluster(0, check_quorum=True, commit_in_votes=True)
    cluster.start(5, storage_with(MembershipState(voters=(1, 4, 5))), applied=START)
    cluster[5].step(append(5, 3, START))
    cluster.settle()
    return cluster


def test_vote_with_the_term_held_commits_up_to_it() -> None:
    """Log Matching: the same term at the same index means the same entries before it."""
    node = follower()[5]
    node.step(vote(LEAVE, 2))
    assert node.commit_index == LEAVE


def test_vote_ignored_within_the_lease_commits_too() -> None:
    """What is committed is a fact, whatever becomes of the election."""
    node = follower()[5]
    node.step(vote(LEAVE, 2))
    assert node.term == 2
    assert node.raft.vote == 0
    assert node.commit_index == LEAVE


def test_vote_of_an_older_term_commits_too() -> None:
    node = follower()[5]
    node.step(Message(MessageType.VOTE_RESP, to=5, sender=4, term=1, reject=True, commit=START, commit_term=1))
    node.step(Message(MessageType.VOTE_RESP, to=5, sender=4, term=2, reject=True, commit=JOINT, commit_term=2))
    assert node.commit_index == JOINT


@pytest.mark.parametrize(("commit", "term"), [(LEAVE, 1), (LEAVE, 3), (EXTRA + 1, 2), (START - 1, 1)])
def test_vote_with_another_term_or_index_commits_nothing(commit: int, term: int) -> None:
    """The entry of this log at that index is another one, or is not known."""
    node = follower()[5]
    node.step(vote(commit, term))
    assert node.commit_index == START


@pytest.mark.parametrize("term", [-1, 4, 2**63])
def test_vote_with_an_impossible_commit_term_is_malformed(term: int) -> None:
    assert follower()[5].step(vote(LEAVE, term)) is StepRefusal.MALFORMED


def test_commit_term_in_another_message_is_malformed() -> None:
    message = append(5, 3, START)
    message.commit_term = 2
    assert follower()[5].step(message) is StepRefusal.MALFORMED


def test_leader_learns_no_commit_from_votes() -> None:
    """A leader commits by its own entry alone, so that nothing overtakes what it tells its followers."""
    cluster = Cluster(3, commit_in_votes=True)
    leader = cluster.elect(1)
    leader.propose(b"x")
    before, index = leader.commit_index, leader.last_index
    assert before < index
    leader.step(Message(MessageType.VOTE_RESP, to=1, sender=2, term=leader.term, commit=index, commit_term=leader.term))
    assert leader.commit_index == before


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("change", [ChangeType.REMOVE_NODE, ChangeType.ADD_LEARNER_NODE])
def test_candidate_that_learns_of_its_own_removal_does_not_lead(change: ChangeType, pre_vote: bool) -> None:
    """A refusal tells candidate 3 that its removal is committed; then votes come, enough to lead.

    Found by random clusters: the candidate became leader without a place in its own membership.
    """
    cluster = Cluster(0, commit_in_votes=True, check_quorum=True, pre_vote=pre_vote)
    cluster.start(3, storage_with(MembershipState(voters=(1, 2, 3, 4, 5))), applied=START)
    removal = encode_change(MembershipChange(changes=(SingleChange(change, 3),)))
    entry = LogEntry(2, START + 1, EntryType.CONF_CHANGE_V2, removal)
    cluster[3].step(
        Message(MessageType.APP, to=3, sender=1, term=2, index=START, log_term=1, entries=(entry,), commit=START)
    )
    cluster.settle()
    cluster[3].campaign()
    cluster.settle()
    kind = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    refusal_term = 2 if pre_vote else 3
    refusal = Message(kind, to=3, sender=1, term=refusal_term, reject=True, commit=START + 1, commit_term=2)
    cluster[3].step(refusal)
    cluster.settle()
    assert 3 not in cluster[3].raft.tracker.configuration.state().voters
    for voter in (2, 4, 5):
        cluster[3].step(Message(kind, to=3, sender=voter, term=3))
        cluster.settle()
    assert cluster[3].state is StateType.FOLLOWER
