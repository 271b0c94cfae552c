"""The core through its face: what it hands out, and what the rules of each part come to in a small cluster."""

from __future__ import annotations

import random

import pytest

from syncline.consensus.config import RaftConfig, ReadOnlyOption
from syncline.consensus.rawnode import RawNode
from syncline.consensus.roles import TRANSITIONS
from syncline.consensus.sizes import entry_size
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    HardState,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    ProposalDropped,
    StateType,
    StepRefusal,
)
from tests.helpers.consensus_cluster import START, Cluster, add_node, storage_with


def of_type(kind: MessageType, *, to: int | None = None) -> object:
    """A filter that holds such messages back."""
    return lambda message: message.type is kind and to in (None, message.to)


def data_of(cluster: Cluster, node_id: int) -> list[bytes]:
    return [entry.data for entry in cluster.members[node_id].applied if entry.data]


both_forms = pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])


# -- proposals, in both forms -------------------------------------------------------------------------------------


@both_forms
def test_what_is_proposed_is_applied_everywhere_in_order(asynchronous: bool) -> None:
    cluster = Cluster(3, async_storage_writes=asynchronous)
    leader = cluster.elect(1)
    leader.propose(b"a")
    assert leader.propose_batch([b"b", b"c"]) == (START + 3, leader.term)
    cluster[2].propose(b"d")  # a follower passes it on
    cluster.settle()
    for node_id in (1, 2, 3):
        assert data_of(cluster, node_id) == [b"a", b"b", b"c", b"d"]
        node = cluster[node_id]
        assert node.commit_index == node.applied == node.last_index == START + 5


@both_forms
def test_group_of_one_leads_alone(asynchronous: bool) -> None:
    cluster = Cluster(1, async_storage_writes=asynchronous)
    cluster.elect(1).propose(b"a")
    cluster.settle()
    assert data_of(cluster, 1) == [b"a"]
    assert not cluster.network


def test_a_batch_is_one_message_per_follower_and_one_acknowledgement() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    leader.propose_batch([b"%d" % number for number in range(100)])
    messages = leader.ready().messages
    assert [(message.type, message.to, len(message.entries)) for message in messages] == [
        (MessageType.APP, 2, 100),
        (MessageType.APP, 3, 100),
    ]


def test_proposals_without_a_leader_are_dropped() -> None:
    cluster = Cluster(3)
    with pytest.raises(ProposalDropped, match="raft proposal dropped"):
        cluster[1].propose(b"a")
    cluster[1].campaign()
    with pytest.raises(ProposalDropped):
        cluster[1].propose(b"a")
    assert cluster[1].raft.dropped[StepRefusal.PROPOSAL_DROPPED] == 2
    assert cluster[1].last_index == START


def test_only_a_leader_says_where_a_batch_goes() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    with pytest.raises(ProposalDropped):
        cluster[2].propose_batch([b"a"])
    with pytest.raises(ValueError, match="empty"):
        cluster[1].propose_batch([])


def test_followers_drop_proposals_where_forwarding_is_off() -> None:
    cluster = Cluster(3, disable_proposal_forwarding=True)
    cluster.elect(1)
    with pytest.raises(ProposalDropped):
        cluster[2].propose(b"a")


def test_uncommitted_tail_is_limited_and_takes_one_of_any_size() -> None:
    cluster = Cluster(3, max_uncommitted_bytes=100)
    leader = cluster.elect(1)
    leader.propose(b"x" * 1000)
    with pytest.raises(ProposalDropped):
        leader.propose(b"x")
    leader.propose(b"")  # an empty one is never too large
    cluster.settle()
    leader.propose(b"x" * 60)
    with pytest.raises(ProposalDropped):
        leader.propose_batch([b"x" * 20, b"x" * 21])
    leader.propose_batch([b"x" * 20, b"x" * 20])
    assert leader.last_index == START + 6


# -- what is handed out -------------------------------------------------------------------------------------------


def test_in_the_synchronous_form_nothing_is_promised_before_it_is_written() -> None:
    cluster = Cluster(3)
    cluster.elect(1).propose(b"a")
    follower = cluster[2]
    for message in cluster[1].ready().messages:
        cluster.deliver(message)
    ready = follower.ready()
    assert ready.must_sync
    assert [entry.data for entry in ready.entries] == [b"a"]
    assert [message.type for message in ready.messages] == [MessageType.APP_RESP]


def test_a_second_ready_before_advance_is_a_fault() -> None:
    cluster = Cluster(1)
    cluster[1].campaign()
    cluster[1].ready()
    with pytest.raises(AssertionError):
        cluster[1].ready()


def test_in_the_asynchronous_form_promises_travel_with_the_write() -> None:
    cluster = Cluster(3, async_storage_writes=True)
    cluster.elect(1).propose(b"a")
    ready = cluster[1].ready()
    assert [message.to for message in ready.messages] == [2, 3, LOCAL_APPEND]  # the peers do not wait for the disk
    write = ready.messages[-1]
    assert [(one.type, one.to) for one in write.responses] == [
        (MessageType.APP_RESP, 1),
        (MessageType.STORAGE_APPEND_RESP, 1),
    ]
    assert not cluster[1].has_ready()
    with pytest.raises(AssertionError):
        cluster[1].advance()


def test_leader_commits_before_its_own_disk_and_applies_later() -> None:
    cluster = Cluster(3, async_storage_writes=True)
    leader = cluster.elect(1)
    leader.propose(b"a")
    member = cluster.members[1]
    cluster.take_ready(member)
    for node_id in (2, 3):
        messages, cluster.network = cluster.network, []
        for message in messages:
            cluster.deliver(message)
        cluster.process(cluster.members[node_id])
    for message in cluster.network:
        cluster.deliver(message)
    assert leader.commit_index == START + 2
    cluster.take_ready(member)
    assert not member.apply_work
    cluster.do_append(member)
    cluster.take_ready(member)
    assert [entry.data for entry in member.apply_work[0].entries] == [b"a"]


def test_a_confirmation_from_an_earlier_term_leaves_the_entries_unstable() -> None:
    """The entry that it speaks of may have been replaced and have come back, with a write still on its way."""
    cluster = Cluster(3, async_storage_writes=True)
    follower = cluster[2]

    def append(term: int, sender: int, entry: LogEntry) -> None:
        follower.step(
            Message(MessageType.APP, to=2, sender=sender, term=term, index=START, log_term=1, entries=[entry])
        )
        cluster.take_ready(cluster.members[2])

    old = LogEntry(2, START + 1, data=b"old")
    append(2, 1, old)
    append(3, 3, LogEntry(3, START + 1, data=b"new"))
    append(4, 1, old)
    cluster.do_append(cluster.members[2])
    cluster.do_append(cluster.members[2])
    assert follower.raft.log.unstable.entries == [old]
    cluster.do_append(cluster.members[2])
    assert follower.raft.log.unstable.entries == []
    assert cluster.members[2].storage.entries(START + 1, START + 2) == [old]


def test_committed_entries_are_returned_within_the_limit() -> None:
    one = entry_size(LogEntry(1, START + 2, data=b"x" * 10))
    cluster = Cluster(1, max_committed_bytes_per_ready=2 * one)
    leader = cluster.elect(1)
    leader.propose_batch([b"x" * 10] * 5)
    cluster.take_ready(cluster.members[1])
    sizes = []
    while leader.has_ready():
        ready = leader.ready()
        sizes.append(len(ready.committed_entries))
        leader.advance()
    assert sizes == [2, 2, 1]


def test_a_commit_index_alone_needs_no_sync() -> None:
    cluster = Cluster(1)
    leader = cluster.elect(1)
    leader.propose(b"a")
    cluster.take_ready(cluster.members[1])
    ready = leader.ready()
    assert ready.hard_state == HardState(leader.term, 1, START + 2)
    assert not ready.must_sync


# -- restarts -----------------------------------------------------------------------------------------------------


def test_a_node_continues_where_it_was() -> None:
    cluster = Cluster(3)
    cluster.elect(1).propose(b"a")
    cluster.settle()
    member = cluster.start(2, cluster.members[2].storage, applied=START + 1)
    node = member.node
    assert (node.term, node.commit_index, node.applied, node.raft.vote) == (1, START + 2, START + 1, 1)
    assert [entry.data for entry in node.ready().committed_entries] == [b"a"]


def test_a_restarted_node_does_not_vote_twice_in_a_term() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    node = cluster.start(2, cluster.members[2].storage, applied=START).node
    node.step(Message(MessageType.VOTE, to=2, sender=3, term=1, index=99, log_term=1))
    assert node.ready().messages[0].reject


@pytest.mark.parametrize(
    ("hard_state", "applied", "reason"),
    [(HardState(1, 0, START + 5), START, "a part of it was lost"), (HardState(1, 0, START), START + 3, "applied is")],
)
def test_storage_that_contradicts_itself_is_refused(hard_state: HardState, applied: int, reason: str) -> None:
    storage = storage_with(MembershipState(voters=(1,)))
    storage.set_hard_state(hard_state)
    with pytest.raises(ValueError, match=reason):
        RawNode(RaftConfig(id=1, storage=storage, applied=applied))


def test_a_commit_index_behind_the_snapshot_is_brought_up_to_it() -> None:
    storage = storage_with(MembershipState(voters=(1,)))
    storage.set_hard_state(HardState(3, 1, START - 4))
    assert RawNode(RaftConfig(id=1, storage=storage)).commit_index == START


@pytest.mark.parametrize(
    "settings",
    [
        {"id": 0},
        {"id": LOCAL_APPLY},
        {"heartbeat_ticks": 0},
        {"election_ticks": 1},
        {"max_inflight_messages": 0},
        {"max_message_bytes": -1},
        {"max_message_bytes": 100, "max_inflight_bytes": 99},
        {"read_only": ReadOnlyOption.LEASE_BASED},
    ],
)
def test_settings_that_can_not_be_used_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        RaftConfig(**{"id": 1, "storage": MemoryStorage(), **settings})  # type: ignore[arg-type]


# -- elections ----------------------------------------------------------------------------------------------------


def test_election_timeouts_are_random_within_their_range() -> None:
    storage = storage_with(MembershipState(voters=(1, 2, 3)))
    drawn = set()
    rng = random.Random(1)
    for _ in range(200):
        node = RawNode(RaftConfig(id=1, storage=storage, rng=rng))
        drawn.add(node.raft.randomized_election_timeout)
    assert drawn == set(range(10, 20))


def test_a_follower_campaigns_when_its_timeout_has_passed_and_not_before() -> None:
    cluster = Cluster(3)
    node = cluster[1]
    for _ in range(node.raft.randomized_election_timeout - 1):
        node.tick()
    assert node.term == 0
    node.tick()
    assert (node.term, node.state) == (1, StateType.CANDIDATE)


def test_refused_pre_candidate_changes_no_term() -> None:
    cluster = Cluster(3, pre_vote=True, check_quorum=True)
    leader = cluster.elect(1)
    cluster.cut = {3}
    leader.propose(b"a")
    cluster.settle()
    cluster.cut = set()
    cluster[3].campaign()
    cluster.settle()
    assert {cluster[node_id].term for node_id in (1, 2, 3)} == {1}
    assert leader.state is StateType.LEADER


@both_forms
def test_a_leader_that_hears_of_no_quorum_steps_down(asynchronous: bool) -> None:
    cluster = Cluster(3, check_quorum=True, async_storage_writes=asynchronous)
    leader = cluster.elect(1)
    cluster.cut = {2, 3}
    for _ in range(2 * 10):  # they were active in the first of the two timeouts
        leader.tick()
        cluster.settle()
    assert leader.state is StateType.FOLLOWER
    assert leader.leader == 0


def test_learners_do_not_keep_a_leader_in_office() -> None:
    cluster = Cluster(4, learners=[4], check_quorum=True)
    leader = cluster.elect(1)
    cluster.cut = {2, 3}
    for _ in range(2 * 10):
        leader.tick()
        cluster.settle()
    assert leader.state is StateType.FOLLOWER


def test_within_the_lease_only_a_transfer_gets_votes() -> None:
    cluster = Cluster(3, check_quorum=True)
    cluster.elect(1)
    request = Message(MessageType.VOTE, to=2, sender=3, term=5, index=99, log_term=1)
    cluster[2].step(request)
    assert not cluster[2].has_ready()
    request.context = b"CampaignTransfer"
    cluster[2].step(request)
    assert cluster[2].term == 5


def test_a_node_that_applies_slowly_does_not_campaign_on_an_old_membership() -> None:
    cluster = Cluster(3, async_storage_writes=True)
    leader = cluster.elect(1)
    leader.propose_membership(add_node(4))
    cluster.settle(keep=of_type(MessageType.APP_RESP))  # type: ignore[arg-type]
    follower = cluster.members[2]
    messages, cluster.network = cluster.network, []
    for message in messages:
        cluster.deliver(message)
    cluster.take_ready(cluster.members[1])
    for message in cluster.network:
        cluster.deliver(message)
    cluster.take_ready(follower)
    assert follower.node.commit_index == START + 2 > follower.node.applied
    follower.node.campaign()
    assert follower.node.term == 1
    while follower.append_work:
        cluster.do_append(follower)
    cluster.process(follower)
    follower.node.campaign()
    assert (follower.node.term, follower.node.state) == (2, StateType.CANDIDATE)


def test_every_role_can_end() -> None:
    assert TRANSITIONS.keys() == set(StateType)
    assert all(StateType.FOLLOWER in following for following in TRANSITIONS.values())
    assert {state for state, following in TRANSITIONS.items() if StateType.LEADER in following} == {StateType.CANDIDATE}


def test_pre_vote_without_check_quorum_is_refused() -> None:
    """A leader whose followers can't reach it would lead on for ever: nothing is committed, and nobody campaigns."""
    with pytest.raises(ValueError, match="pre_vote needs check_quorum"):
        RaftConfig(id=1, storage=MemoryStorage(), pre_vote=True)
    assert RaftConfig(id=1, storage=MemoryStorage(), pre_vote=True, check_quorum=True).pre_vote
    assert RaftConfig(id=1, storage=MemoryStorage(), pre_vote=True, pre_vote_alone=True).pre_vote
