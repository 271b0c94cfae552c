"""Reads: the queue that a leader keeps, and what confirms a read in a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from syncline.consensus import read_queue
from syncline.consensus.config import ReadOnlyOption
from syncline.consensus.quorum import JointConfig
from syncline.consensus.read_queue import ReadQueue, decode_position
from syncline.consensus.types import HardState, LogEntry, Message, MessageType, ReadState, StepRefusal
from tests.helpers.consensus_cluster import START, Cluster, storage_with

READ = Message(MessageType.READ_INDEX, sender=1)
FIRST = START + 1


def queue_of(*commits: int) -> ReadQueue:
    queue = ReadQueue(ReadOnlyOption.SAFE)
    for commit in commits:
        queue.add(READ, commit)
    return queue


def answered(message: Message) -> bool:
    return message.type is MessageType.HEARTBEAT_RESP


# -- the queue ----------------------------------------------------------------------------------------------------


def test_quorum_confirms_all_reads_up_to_its_number() -> None:
    voters = JointConfig([1, 2, 3])
    queue = queue_of(11, 12, 13)
    queue.acknowledge(1, 3)
    assert queue.confirm(voters) == []
    queue.acknowledge(2, 2)
    assert [index for _, index in queue.confirm(voters)] == [11, 12]
    queue.acknowledge(2, 1)  # late, and says nothing new
    assert queue.confirm(voters) == []
    queue.acknowledge(3, 3)
    assert [index for _, index in queue.confirm(voters)] == [13]
    assert queue.context() == b""


def test_numbers_go_on_after_reads_are_confirmed() -> None:
    queue = queue_of(11)
    assert decode_position(queue.context()) == 1
    queue.acknowledge(1, 1)
    queue.confirm(JointConfig([1]))
    queue.add(READ, 12)
    assert decode_position(queue.context()) == 2
    assert queue.confirm(JointConfig([1])) == []  # the old answer does not count


def test_learners_and_strangers_do_not_confirm() -> None:
    queue = queue_of(11)
    for sender in (1, 4, 5, 6):
        queue.acknowledge(sender, 1)
    assert queue.confirm(JointConfig([1, 2, 3])) == []
    assert queue.confirm(JointConfig([1, 4, 5], [1, 2, 3])) == []


def test_what_is_not_a_number_is_none() -> None:
    assert decode_position(b"") is None
    assert decode_position(b"x" * 9) is None


# -- in a cluster -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2], ids=["the leader", "a follower"])
def test_a_read_is_confirmed_at_the_commit_index_of_its_arrival(asked: int) -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    assert cluster[asked].read_index(b"mine")
    cluster.settle(keep=answered)
    assert cluster.members[asked].reads == []
    leader.propose(b"later")
    cluster.settle()
    assert cluster.members[asked].reads == [ReadState(FIRST, b"mine")]


def test_a_leader_that_was_replaced_confirms_nothing() -> None:
    cluster = Cluster(3)
    old = cluster.elect(1)
    cluster.cut = {1}
    cluster.elect(2).propose(b"new")
    cluster.settle()
    old.read_index(b"mine")
    cluster.settle()
    cluster.cut = set()
    old.tick()
    cluster.settle()
    assert cluster.members[1].reads == []


def test_answers_to_the_first_attempt_do_not_confirm_the_second() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    leader.read_index(b"attempt 1")
    cluster.settle(keep=answered)
    old = list(cluster.network)
    cluster.network.clear()
    leader.read_index(b"attempt 2")
    for message in old:
        leader.step(message)
    cluster.take_ready(cluster.members[1])
    assert [read.context for read in cluster.members[1].reads] == [b"attempt 1"]


def test_reads_wait_for_the_first_entry_of_the_term() -> None:
    cluster = Cluster(3)
    cluster.elect(2)
    cluster[1].campaign()
    cluster.settle(keep=lambda message: message.type is MessageType.APP_RESP)
    assert cluster[1].leader == 1
    cluster[1].read_index(b"early")
    cluster[2].read_index(b"early too")
    cluster.settle(keep=lambda message: message.type is MessageType.APP_RESP)
    assert cluster.members[1].reads == cluster.members[2].reads == []
    cluster.settle()
    assert cluster.members[1].reads == [ReadState(FIRST + 1, b"early")]
    assert cluster.members[2].reads == [ReadState(FIRST + 1, b"early too")]


def test_a_leader_alone_waits_for_the_first_entry_of_its_term_too() -> None:
    """It may have lost its commit index, and with it the knowledge of what it answered before."""
    cluster = Cluster(1)
    storage = storage_with(cluster.membership)
    storage.append([LogEntry(1, START + 1, data=b"was committed and answered")])
    storage.set_hard_state(HardState(1, 1, START))
    cluster.start(1, storage, applied=START)
    cluster[1].campaign()
    cluster.take_ready(cluster.members[1])
    cluster[1].read_index(b"mine")
    cluster.settle()
    assert cluster.members[1].reads == [ReadState(START + 2, b"mine")]


def test_lease_reads_are_answered_at_once() -> None:
    cluster = Cluster(3, check_quorum=True, read_only=ReadOnlyOption.LEASE_BASED)
    leader = cluster.elect(1)
    leader.read_index(b"mine")
    ready = leader.ready()
    assert ready.read_states == [ReadState(FIRST, b"mine")]
    assert not ready.messages


def test_read_index_without_a_leader_is_dropped() -> None:
    cluster = Cluster(3)
    assert not cluster[1].read_index(b"mine")
    assert cluster[1].raft.dropped == {StepRefusal.NO_LEADER: 1}


def test_a_leader_takes_only_so_many_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_queue, "MAX_READS", 3)
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.cut = {2, 3}
    taken = [leader.read_index(b"%d" % number) for number in range(5)]
    assert taken == [True, True, True, False, False]
    assert leader.raft.dropped == {StepRefusal.TOO_MANY_READS: 2}
    cluster.cut = set()
    leader.tick()
    cluster.settle()
    assert len(cluster.members[1].reads) == 3


@pytest.mark.parametrize("settings", [{}, {"async_storage_writes": True}])
def test_reads_of_a_leader_that_steps_down_are_given_up(settings: dict[str, Any]) -> None:
    cluster = Cluster(3, **settings)
    leader = cluster.elect(1)
    cluster.cut = {1}
    leader.read_index(b"mine")
    cluster.settle()
    cluster.elect(2)
    cluster.cut = set()
    cluster[2].tick()
    cluster.settle()
    assert leader.leader == 2
    assert leader.raft.reads.last_position == 0
    assert cluster.members[1].reads == []
