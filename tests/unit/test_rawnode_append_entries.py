"""The core through its face: replication, membership and hand-over in a small cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from syncline.consensus.config import RaftConfig
from syncline.consensus.membership import MembershipRefused
from syncline.consensus.progress import ProgressState
from syncline.consensus.rawnode import RawNode
from syncline.consensus.sizes import entry_size
from syncline.consensus.types import (
    EntryType,
    HardState,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    ProposalDropped,
    Snapshot,
    SnapshotMeta,
    StateType,
)
from tests.helpers.consensus_cluster import START, Cluster, add_node, remove_node, storage_with


def of_type(kind: MessageType, *, to: int | None = None) -> Callable[[Message], bool]:
    """A filter that holds such messages back."""
    return lambda message: message.type is kind and to in (None, message.to)


def data_of(cluster: Cluster, node_id: int) -> list[bytes]:
    return [entry.data for entry in cluster.members[node_id].applied if entry.data]


both_forms = pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])


# -- replication --------------------------------------------------------------------------------------------------


def test_messages_are_limited_in_bytes_and_the_window_in_messages() -> None:
    one = entry_size(LogEntry(1, START + 2, data=b"x" * 10))
    cluster = Cluster(3, max_message_bytes=2 * one, max_inflight_messages=2)
    leader = cluster.elect(1)
    leader.propose_batch([b"x" * 10] * 9)
    cluster.take_ready(cluster.members[1])
    sent = [len(message.entries) for message in cluster.network if message.to == 2]
    assert sent == [2]  # the rest follows with the answers
    cluster.settle()
    assert cluster[2].applied == leader.last_index


def test_the_window_is_limited_in_bytes() -> None:
    cluster = Cluster(3, max_message_bytes=100, max_inflight_bytes=100)
    leader = cluster.elect(1)
    for _ in range(5):
        leader.propose(b"x" * 50)
    assert len([m for m in leader.ready().messages if m.to == 2 and m.entries]) == 2
    assert str(leader.status().progress[2]).endswith("paused inflight=2[full]")


def test_followers_that_lack_the_same_entries_share_one_read() -> None:
    cluster = Cluster(4)
    leader = cluster.elect(1)
    cluster.settle()
    cluster.cut = {4}
    leader.propose(b"missed")
    cluster.settle()
    leader.report_unreachable(4)  # it is probed from here on, behind the others
    known = leader.raft.tracker.progress[4].match_index
    leader.propose(b"new")
    appends = {m.to: m for m in leader.ready().messages if m.type is MessageType.APP}
    assert [appends[to].index for to in (2, 3, 4)] == [leader.last_index - 1, leader.last_index - 1, known]
    assert appends[2].entries is appends[3].entries
    assert [entry.data for entry in appends[2].entries] == [b"new"]
    assert [entry.data for entry in appends[4].entries] == [b"missed", b"new"]


def test_conflicting_entries_are_replaced_with_one_question_per_term() -> None:
    """Figure 7 of the paper: followers with missing and with extraneous entries end with the leader's log."""
    figure = {
        1: (1, 1, 1, 4, 4, 5, 5, 6, 6, 6),
        2: (1, 1, 1, 4, 4, 5, 5, 6, 6),
        3: (1, 1, 1, 4),
        4: (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        5: (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        6: (1, 1, 1, 4, 4, 4, 4),
        7: (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    }
    cluster = Cluster(7)
    for node_id, terms in figure.items():
        storage = storage_with(cluster.membership)
        storage.append([LogEntry(term, index) for index, term in enumerate(terms, START + 1)])
        storage.set_hard_state(HardState(7, 0, START))
        cluster.start(node_id, storage, applied=START)
    leader = cluster.elect(1)
    cluster.settle()
    leader.propose(b"a")
    cluster.settle()
    for node_id in figure:
        node = cluster[node_id]
        assert [node.raft.log.term(index) for index in range(START + 1, node.last_index + 1)] == [*figure[1], 8, 8]
        assert node.applied == leader.last_index


def test_entry_of_an_earlier_term_commits_with_one_of_this_term() -> None:
    """Figure 8 of the paper."""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.cut = {3, 4, 5}
    cluster[1].propose(b"of term 1")
    for member in (cluster.members[1], cluster.members[2]):
        cluster.process(member)
        messages, cluster.network = cluster.network, []
        for message in messages:
            if message.to == 2:
                cluster.deliver(message)
    lost = START + 2
    assert cluster[2].last_index == lost > cluster[2].commit_index
    cluster.network.clear()
    cluster.cut = {1, 5}
    cluster[2].campaign()
    held = of_type(MessageType.APP_RESP)
    cluster.settle(keep=held)
    assert cluster[2].state is StateType.LEADER
    assert cluster[2].commit_index < lost  # a quorum holds it by now, but it is of an earlier term
    cluster.settle()
    assert cluster[2].commit_index == lost + 1  # and goes in with the leader's own empty entry


def test_a_follower_too_far_behind_gets_a_snapshot_and_goes_on_from_there() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.cut = {3}
    leader.propose_batch([b"x"] * 5)
    cluster.settle()
    leader.report_unreachable(3)  # what was sent in the meantime is lost
    storage = cluster.members[1].storage
    storage.create_snapshot(leader.applied, leader.status().membership)
    storage.compact(leader.applied)
    cluster.cut = set()
    leader.tick()
    cluster.settle(keep=of_type(MessageType.SNAP))
    assert leader.status().progress[3].state is ProgressState.SNAPSHOT
    leader.propose(b"y")
    cluster.settle()
    assert leader.status().progress[3].state is ProgressState.REPLICATE
    assert cluster[3].applied == leader.last_index
    assert cluster.members[3].storage.first_index() == START + 7


@pytest.mark.parametrize(("ok", "next_index"), [(True, START + 7), (False, START + 2)])
def test_a_snapshot_that_has_ended_is_followed_by_a_probe(ok: bool, next_index: int) -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.cut = {3}
    leader.propose_batch([b"x"] * 5)
    cluster.settle()
    leader.report_unreachable(3)
    cluster.members[1].storage.create_snapshot(leader.applied, leader.status().membership)
    cluster.members[1].storage.compact(leader.applied)
    cluster.cut = set()
    leader.tick()
    cluster.settle(keep=of_type(MessageType.SNAP))
    cluster.network.clear()
    leader.report_snapshot(3, ok)
    progress = leader.status().progress[3]
    assert (progress.state, progress.next_index, progress.paused) == (ProgressState.PROBE, next_index, True)


def test_a_snapshot_over_a_conflicting_suffix_replaces_it() -> None:
    storage = storage_with(MembershipState(voters=(1, 2, 3)))
    storage.append([LogEntry(1, START + 1), LogEntry(1, START + 2), LogEntry(1, START + 3)])
    node = RawNode(RaftConfig(id=2, storage=storage, applied=START))
    meta = SnapshotMeta(START + 2, 2, MembershipState(voters=(1, 2)))
    node.step(Message(MessageType.SNAP, to=2, sender=1, term=3, snapshot=Snapshot(meta), session=4))
    ready = node.ready()
    assert ready.snapshot == Snapshot(meta)
    assert [(m.index, m.reject, m.session) for m in ready.messages] == [(START + 2, False, 4)]
    assert (node.commit_index, node.last_index) == (START + 2, START + 2)
    assert node.status().membership.voters == (1, 2)


def test_a_snapshot_of_what_the_log_has_only_moves_the_commit_index() -> None:
    storage = storage_with(MembershipState(voters=(1, 2, 3)))
    storage.append([LogEntry(1, START + 1), LogEntry(1, START + 2), LogEntry(1, START + 3)])
    node = RawNode(RaftConfig(id=2, storage=storage, applied=START))
    meta = SnapshotMeta(START + 2, 1, MembershipState(voters=(1, 2)))
    node.step(Message(MessageType.SNAP, to=2, sender=1, term=3, snapshot=Snapshot(meta)))
    assert (node.commit_index, node.last_index) == (START + 2, START + 3)
    assert node.ready().snapshot is None


@pytest.mark.parametrize(
    ("index", "voters"), [(START, (1, 2)), (START + 9, (1, 3))], ids=["old", "of a group without this node"]
)
def test_a_snapshot_that_does_not_help_is_answered_and_ignored(index: int, voters: tuple[int, ...]) -> None:
    node = RawNode(RaftConfig(id=2, storage=storage_with(MembershipState(voters=(1, 2, 3))), applied=START))
    meta = SnapshotMeta(index, 1, MembershipState(voters=voters))
    node.step(Message(MessageType.SNAP, to=2, sender=1, term=3, snapshot=Snapshot(meta)))
    ready = node.ready()
    assert ready.snapshot is None
    assert [(message.type, message.index) for message in ready.messages] == [(MessageType.APP_RESP, START)]


# -- membership ---------------------------------------------------------------------------------------------------


def test_a_new_member_is_brought_up_to_date() -> None:
    cluster = Cluster(1)
    leader = cluster.elect(1)
    cluster.start(2)
    storage = cluster.members[1].storage
    leader.propose_membership(add_node(2))
    cluster.process(cluster.members[1])
    cluster.process(cluster.members[1])
    storage.create_snapshot(leader.applied, leader.status().membership)
    cluster.settle()
    assert cluster[2].applied == leader.last_index
    assert cluster[2].status().membership.voters == (1, 2)


def test_one_change_at_a_time() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    leader.propose_membership(remove_node(2))
    leader.propose_membership(remove_node(3))  # the first one is not applied: an empty entry goes in its place
    cluster.settle()
    applied = cluster.members[1].applied
    assert [entry.type for entry in applied[-2:]] == [EntryType.CONF_CHANGE_V2, EntryType.NORMAL]
    assert leader.status().membership.voters == (1, 3)


def test_a_joint_membership_is_left_by_itself() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.start(4, storage_with(cluster.membership), applied=START)
    leader.propose_membership(MembershipChange(changes=add_node(4).changes + remove_node(2).changes))
    cluster.settle()
    assert leader.status().membership == MembershipState(voters=(1, 3, 4))
    assert not leader.status().configuration.voters.joint


def test_change_that_does_not_fit_is_refused_when_applied() -> None:
    cluster = Cluster(1)
    leader = cluster.elect(1)
    with pytest.raises(MembershipRefused, match="removed all voters"):
        leader.preview_membership(remove_node(1))
    with pytest.raises(MembershipRefused, match="removed all voters"):
        leader.apply_membership(remove_node(1))
    assert leader.preview_membership(add_node(2)).voters == (1, 2)
    assert leader.status().membership.voters == (1,)


def test_a_removed_leader_steps_down_where_it_is_told_to() -> None:
    cluster = Cluster(3, step_down_on_removal=True)
    leader = cluster.elect(1)
    leader.propose_membership(remove_node(1))
    cluster.settle()
    assert leader.state is StateType.FOLLOWER
    leader.campaign()
    assert leader.state is StateType.FOLLOWER


def test_an_entry_of_the_first_kind_holds_one_change() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    leader.propose_membership(remove_node(3), v1=True)
    cluster.settle()
    assert cluster.members[2].applied[-1].type is EntryType.CONF_CHANGE
    assert cluster[2].status().membership.voters == (1, 2)


# -- handing over -------------------------------------------------------------------------------------------------


@both_forms
def test_leadership_transfer_brings_the_follower_up_to_date_first(asynchronous: bool) -> None:
    cluster = Cluster(3, check_quorum=True, pre_vote=True, async_storage_writes=asynchronous)
    leader = cluster.elect(1)
    leader.propose(b"a")
    cluster[3].transfer_leadership(2)  # a follower passes it on
    cluster.settle()
    assert cluster[2].state is StateType.LEADER
    assert data_of(cluster, 2) == [b"a"]


def test_leader_in_a_transfer_drops_proposals_until_it_times_out() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.cut = {3}
    leader.propose(b"a")
    cluster.settle()
    leader.transfer_leadership(3)
    assert leader.status().transferee == 3
    with pytest.raises(ProposalDropped):
        leader.propose(b"b")
    with pytest.raises(ProposalDropped):
        leader.propose_batch([b"b"])
    for _ in range(10):
        leader.tick()
    assert leader.status().transferee == 0
    leader.propose(b"b")
    cluster.settle()
    assert data_of(cluster, 2) == [b"a", b"b"]


@pytest.mark.parametrize("to", [1, 4, 9], ids=["itself", "a learner", "a stranger"])
def test_leadership_is_not_transferred_to_a_learner(to: int) -> None:
    cluster = Cluster(4, learners=[4])
    leader = cluster.elect(1)
    leader.transfer_leadership(to)
    assert leader.status().transferee == 0
    leader.propose(b"a")


def test_a_transfer_ends_where_its_target_is_removed() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    leader.propose_membership(remove_node(3))
    cluster.cut = {3}
    for _ in range(2):
        cluster.process(cluster.members[1])
    leader.transfer_leadership(3)
    cluster.settle()
    assert leader.status().membership.voters == (1, 2)
    assert leader.status().transferee == 0


# -- a commit index that travels with other messages --------------------------------------------------------------


def lazy_leader() -> tuple[Cluster, RawNode]:
    """All hold the leader's first entry, and know that it is committed."""
    cluster = Cluster(3, lazy_commit=True)
    leader = cluster.elect(1)
    leader.tell_commit()
    cluster.settle()
    assert [cluster[node_id].commit_index for node_id in (1, 2, 3)] == [START + 1] * 3
    return cluster, leader


def test_commit_index_is_sent_with_entries_or_by_the_runtime() -> None:
    cluster, leader = lazy_leader()
    leader.propose(b"a")
    cluster.settle()
    assert (leader.commit_index, cluster[2].commit_index, cluster[3].commit_index) == (START + 2, START + 1, START + 1)
    leader.propose(b"b")
    cluster.settle()
    assert (leader.commit_index, cluster[2].commit_index, cluster[3].commit_index) == (START + 3, START + 2, START + 2)
    leader.tell_commit()
    cluster.settle()
    assert (cluster[2].commit_index, cluster[3].commit_index) == (START + 3, START + 3)
    leader.tell_commit()
    assert not leader.has_ready()  # everybody has been told


def test_a_heartbeat_tells_the_commit_index() -> None:
    cluster, leader = lazy_leader()
    leader.propose(b"a")
    cluster.settle()
    leader.tick()
    cluster.settle()
    assert (cluster[2].commit_index, cluster[3].commit_index) == (START + 2, START + 2)


def test_a_removed_member_hears_that_its_removal_is_committed() -> None:
    cluster, leader = lazy_leader()
    leader.propose_membership(remove_node(3))
    cluster.settle()
    assert leader.status().membership.voters == (1, 2)
    assert cluster[3].commit_index == leader.commit_index


def test_follower_that_missed_a_commit_gets_it_with_its_next_answer() -> None:
    cluster, leader = lazy_leader()
    leader.report_unreachable(2)
    leader.propose(b"a")
    cluster.settle(keep=of_type(MessageType.APP, to=2))
    assert leader.commit_index == START + 2
    assert leader.status().progress[2].paused
    leader.tell_commit()
    cluster.settle()
    assert (cluster[2].commit_index, cluster[3].commit_index) == (START + 2, START + 2)
    leader.propose(b"b")
    cluster.settle()
    assert cluster[2].commit_index == START + 2, "of what nobody has spoken of answers do not speak either"


def test_what_a_smaller_quorum_holds_is_told_at_once() -> None:
    cluster = Cluster(4, lazy_commit=True)
    leader = cluster.elect(1)
    cluster.cut = {3}
    leader.propose_membership(remove_node(4))
    leader.propose(b"held by two of four, hence by two of three")
    cluster.settle(keep=lambda message: message.to == 4 and message.index > START + 1)
    assert leader.status().membership.voters == (1, 2, 3)
    assert leader.commit_index == leader.last_index == START + 3
    assert cluster[2].commit_index == leader.commit_index


def test_only_a_leader_tells_a_commit_index() -> None:
    cluster, leader = lazy_leader()
    leader.propose(b"a")
    cluster.settle()
    cluster[2].tell_commit()
    assert not cluster[2].has_ready()


# -- views --------------------------------------------------------------------------------------------------------


def test_status_of_a_leader_shows_all_and_of_a_follower_itself() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    status = leader.status()
    assert (status.id, status.term, status.vote, status.leader, status.state) == (1, 1, 1, 1, StateType.LEADER)
    assert (status.commit_index, status.applied) == (START + 1, START + 1)
    assert {node_id: one.match_index for node_id, one in status.progress.items()} == dict.fromkeys((1, 2, 3), START + 1)
    assert cluster[2].status().progress == {}
    assert cluster[2].leader == 1


def test_the_trace_tells_the_story() -> None:
    lines: list[tuple[str, str]] = []
    cluster = Cluster(1, trace=lambda level, text: lines.append((level, text)))
    cluster.elect(1)
    assert ("info", "1 became leader at term 1") in lines
