"""Evidence of lost promises, as the consensus core finds it."""

from __future__ import annotations

import pytest

from syncline.consensus.evidence import Evidence, EvidenceKind
from syncline.consensus.types import (
    EntryType,
    HardState,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMeta,
    StepRefusal,
)
from tests.helpers.consensus_cluster import START, Cluster, storage_with

VOTERS = MembershipState(voters=(1, 2, 3))


def entries(*terms: int) -> tuple[LogEntry, ...]:
    return tuple(LogEntry(term, START + 1 + place, EntryType.NORMAL, b"x") for place, term in enumerate(terms))


def follower(*terms: int, commit: int = START, term: int = 5) -> Cluster:
    """Node 2 with entries of these terms behind the snapshot, committed up to `commit`."""
    storage = storage_with(VOTERS)
    if terms:
        storage.append(entries(*terms))
    storage.set_hard_state(HardState(term, 0, commit))
    cluster = Cluster(0)
    cluster.start(2, storage, applied=START)
    cluster.settle()
    return cluster


def heartbeat(commit: int, *, term: int = 5, session: int = 7) -> Message:
    return Message(MessageType.HEARTBEAT, to=2, sender=1, term=term, commit=commit, session=session)


def append(index: int, log_term: int, *terms: int, term: int = 5) -> Message:
    sent = tuple(LogEntry(one, index + 1 + place, EntryType.NORMAL, b"y") for place, one in enumerate(terms))
    return Message(MessageType.APP, to=2, sender=1, term=term, index=index, log_term=log_term, entries=sent, session=7)


@pytest.mark.parametrize("term", [5, 6])
def test_heartbeat_above_the_last_index_proves_lost_entries(term: int) -> None:
    """A leader tells each follower of commits up to what that follower has acknowledged as durable."""
    node = follower(5)[2]
    assert node.step(heartbeat(START + 2, term=term)) is StepRefusal.IMPOSSIBLE_INDEX
    assert node.take_evidence() == Evidence(EvidenceKind.LOST_ENTRIES, 1, term, START + 2)
    assert node.take_evidence() is None
    assert node.commit_index == START


def test_heartbeat_of_an_earlier_session_proves_nothing() -> None:
    """The node was removed and added again meanwhile, perhaps with an empty log."""
    node = follower()[2]
    node.step(heartbeat(START, session=8))
    assert node.step(heartbeat(START + 1, session=7)) is StepRefusal.IMPOSSIBLE_INDEX
    assert node.take_evidence() is None
    node.step(heartbeat(START + 1, session=8))
    assert node.take_evidence() is not None


def test_heartbeat_of_an_older_term_proves_nothing() -> None:
    """A deposed leader may know of entries that were replaced since."""
    node = follower()[2]
    node.step(heartbeat(START + 1, term=4))
    assert node.take_evidence() is None


def test_heartbeat_without_a_session_proves_nothing() -> None:
    """No leader of this kind sends one."""
    node = follower()[2]
    node.step(heartbeat(START + 1, session=0))
    assert node.take_evidence() is None


@pytest.mark.parametrize(
    "message",
    [
        append(START, 1, 4, 5),  # an entry behind the common one
        append(START + 1, 4, 5),  # the entry before, below the commit index
        append(START + 2, 5),  # the entry before, at the commit index
    ],
)
def test_append_that_differs_from_a_committed_entry_is_not_answered(message: Message) -> None:
    """An answer would agree to the loss of a committed entry."""
    cluster = follower(3, 4, commit=START + 2)
    node = cluster[2]
    node.step(message)
    found = node.take_evidence()
    assert found is not None
    assert found.kind is EvidenceKind.CONTRADICTION
    assert (found.leader, found.term) == (1, 5)
    assert (found.index, found.own_term, found.told_term) in {
        (START + 1, 3, 4),
        (START + 2, 4, 5),
    }
    cluster.settle(keep=lambda _: True)
    assert cluster.network == []
    assert [entry.term for entry in cluster.members[2].storage.entries(START + 1, START + 3, 1 << 20)] == [3, 4]


def test_snapshot_that_differs_from_a_committed_entry_is_not_answered() -> None:
    cluster = follower(3, 4, commit=START + 2)
    snapshot = Snapshot(SnapshotMeta(START + 1, 4, VOTERS))
    cluster[2].step(Message(MessageType.SNAP, to=2, sender=1, term=5, snapshot=snapshot, session=7))
    assert cluster[2].take_evidence() == Evidence(EvidenceKind.CONTRADICTION, 1, 5, START + 1, 3, 4)
    cluster.settle(keep=lambda _: True)
    assert cluster.network == []


@pytest.mark.parametrize(
    "message",
    [
        append(START, 1, 3),  # repeated
        append(START, 1, 3, 4, 5),  # repeated, and more
        append(START - 1, 2),  # before what is still known
        append(START + 2, 4, 5),  # the next
        append(START + 3, 5),  # beyond the end
    ],
)
def test_append_that_agrees_with_committed_entries_is_answered(message: Message) -> None:
    cluster = follower(3, 4, commit=START + 2)
    cluster[2].step(message)
    assert cluster[2].take_evidence() is None
    cluster.settle(keep=lambda _: True)
    assert len(cluster.network) == 1


def test_append_that_replaces_uncommitted_entries_proves_nothing() -> None:
    """That is what a new leader does (thesis, 3.5)."""
    cluster = follower(3, 4, commit=START + 1)
    cluster[2].step(append(START + 1, 3, 5))
    assert cluster[2].take_evidence() is None
    cluster.settle(keep=lambda _: True)
    assert cluster[2].raft.log.term(START + 2) == 5


def test_leader_keeps_the_newest_durable_commit_index_of_each_follower() -> None:
    """The runtime puts it into acknowledgements of both kinds. It never goes back."""
    cluster = Cluster(3)
    leader = cluster.elect(1)
    progress = leader.raft.tracker.progress[2]
    assert progress.durable_commit == 0
    for kind, told, kept in (
        (MessageType.APP_RESP, 10, 10),
        (MessageType.HEARTBEAT_RESP, 11, 11),
        (MessageType.APP_RESP, 9, 11),
    ):
        session = progress.session
        leader.step(Message(kind, to=1, sender=2, term=leader.term, index=11, commit=told, session=session))
        assert progress.durable_commit == kept


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.APP])
@pytest.mark.parametrize("node_id", [1, 2])
def test_second_leader_of_a_term_is_reported_and_not_followed(kind: MessageType, node_id: int) -> None:
    """By a follower of the first one, and by that leader itself. A leader of a later term is followed."""
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.settle()
    node, term = cluster[node_id], leader.term
    last = node.last_index
    message = Message(kind, to=node_id, sender=3, term=term, session=9)
    assert node.step(message) is StepRefusal.SECOND_LEADER
    assert node.take_evidence() == Evidence(EvidenceKind.TWO_LEADERS, 3, term, last)
    assert node.leader == 1
    assert node.step(Message(kind, to=node_id, sender=3, term=term + 1, session=9)) is None
    assert node.take_evidence() is None
    assert node.leader == 3
