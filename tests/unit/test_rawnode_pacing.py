"""A leader sends at the pace of each connection: one probe at a time, and no more than there is room for."""

from __future__ import annotations

from typing import Any

import pytest

from syncline.consensus.config import RaftConfig
from syncline.consensus.progress import FIRST_PROBE_TICKS, ProgressState
from syncline.consensus.rawnode import RawNode
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import NO_LIMIT, LogEntry, Message, MessageType, NotLoaded
from tests.helpers.consensus_cluster import Cluster, Member

PROBE_TICKS = 5


def probing(**settings: Any) -> tuple[Cluster, RawNode]:
    """A leader that probes node 3, which is behind: the append that is out has not arrived."""
    cluster = Cluster(3, **settings)
    leader = cluster.elect(1)
    cluster.cut = {3}
    leader.propose_batch([b"x" * 100] * 20)
    cluster.settle()
    cluster.cut = set()
    leader.report_unreachable(3)
    assert leader.raft.tracker.progress[3].state is ProgressState.PROBE
    leader.step(answer(leader))
    sent(cluster)
    return cluster, leader


def answer(leader: RawNode) -> Message:
    progress = leader.raft.tracker.progress[3]
    return Message(MessageType.HEARTBEAT_RESP, to=1, sender=3, term=leader.term, session=progress.session)


def sent(cluster: Cluster) -> list[Message]:
    """Entries that go from the leader to node 3 now."""
    while cluster[1].has_ready():
        cluster.process(cluster.members[1])
    messages = [message for message in cluster.network if message.to == 3 and message.entries]
    cluster.network = []
    return messages


def test_heartbeat_answers_release_no_probe_before_its_time() -> None:
    """A burst of them once sent the same megabyte again and again."""
    cluster, leader = probing(probe_ticks=PROBE_TICKS)
    for ticks in (FIRST_PROBE_TICKS, 2 * FIRST_PROBE_TICKS, PROBE_TICKS, PROBE_TICKS):
        for _ in range(ticks):
            leader.step(answer(leader))
            leader.step(answer(leader))
            assert sent(cluster) == []
            leader.tick()
        leader.step(answer(leader))
        assert len(sent(cluster)) == 1
        leader.step(answer(leader))
        assert sent(cluster) == []


def test_probe_that_is_acknowledged_has_the_next_one_sent_early() -> None:
    """The wait is for one probe: it does not grow from one loss to another."""
    cluster, leader = probing(probe_ticks=PROBE_TICKS)
    for _ in range(PROBE_TICKS):
        leader.tick()
    leader.step(answer(leader))
    (append,) = sent(cluster)
    progress = leader.raft.tracker.progress[3]
    confirmed = append.entries[0].index
    session = progress.session
    leader.step(Message(MessageType.APP_RESP, to=1, sender=3, term=leader.term, index=confirmed, session=session))
    leader.report_unreachable(3)
    sent(cluster)
    leader.step(answer(leader))
    assert progress.probe_ticks == FIRST_PROBE_TICKS


def test_heartbeat_answers_release_a_probe_without_the_setting() -> None:
    """As in etcd/raft, whose traces say so."""
    cluster, leader = probing()
    leader.step(answer(leader))
    assert len(sent(cluster)) == 1


def test_probe_on_its_way_is_waited_for() -> None:
    cluster, leader = probing(probe_ticks=PROBE_TICKS)
    for _ in range(4 * PROBE_TICKS):
        leader.still_sending(3)
        leader.step(answer(leader))
        leader.tick()
    assert sent(cluster) == []


def test_probe_lost_with_its_connection_is_sent_again_at_the_next_answer() -> None:
    cluster, leader = probing(probe_ticks=PROBE_TICKS)
    leader.report_unreachable(3)
    leader.step(answer(leader))
    assert len(sent(cluster)) == 1


def test_failed_snapshot_is_followed_by_a_probe_at_the_next_answer() -> None:
    """Nothing is out then that could be waited for."""
    cluster, leader = probing(probe_ticks=PROBE_TICKS)
    leader.raft.tracker.progress[3].become_snapshot(leader.last_index)
    leader.report_snapshot(3, False)
    assert sent(cluster) == []
    leader.step(answer(leader))
    assert len(sent(cluster)) == 1


def test_appends_are_cut_to_the_room_and_go_on_when_there_is_more() -> None:
    cluster = Cluster(3, probe_ticks=PROBE_TICKS, first_room_bytes=300)
    leader = cluster.elect(1)
    leader.set_room(2, NO_LIMIT)
    leader.set_room(3, 300)
    leader.propose_batch([b"x" * 100] * 10)
    first = sent(cluster)
    assert [len(message.entries) for message in first] == [2]
    leader.set_room(3, 60)
    leader.set_room(3, 0)
    leader.set_room(3, 500)
    second = sent(cluster)
    assert [len(message.entries) for message in second] == [1, 4], "one entry goes whatever the room"
    cluster.network = [*first, *second]
    leader.set_room(2, NO_LIMIT)
    leader.set_room(3, NO_LIMIT)
    cluster.settle()
    assert cluster[3].last_index == leader.last_index


def test_has_room_counts_what_was_sent_and_what_still_waits() -> None:
    """The runtime goes by it when it leaves out `set_room` after an append."""
    cluster = Cluster(3, first_room_bytes=10_000)
    leader = cluster.elect(1)
    leader.set_room(2, 1_000)
    leader.set_room(3, 150)
    assert leader.has_room(2, 1_000)
    assert not leader.has_room(2, 1_001)
    leader.propose_batch([b"x" * 100] * 2)
    assert not leader.has_room(2, 1_000), "200 bytes of data, and what the entries take beside it, were sent"
    assert leader.has_room(2, 500)
    assert not leader.has_room(3, 0), "one of the two entries waits for room"
    assert not leader.has_room(9, 0), "no member"


def test_commit_index_is_told_without_room() -> None:
    cluster = Cluster(3, first_room_bytes=NO_LIMIT)
    leader = cluster.elect(1)
    leader.propose(b"one")
    cluster.settle(keep=lambda message: message.type is MessageType.APP_RESP)
    leader.set_room(3, 0)
    cluster.settle()
    assert cluster[3].commit_index == leader.commit_index


def test_proposals_without_room_send_one_append_and_no_more() -> None:
    """Each would put one without entries on a line that is full."""
    cluster = Cluster(3, first_room_bytes=NO_LIMIT)
    leader = cluster.elect(1)
    for state in (ProgressState.REPLICATE, ProgressState.PROBE):
        if state is ProgressState.PROBE:
            leader.report_unreachable(3)
        leader.set_room(3, 0)
        messages = 0
        for _ in range(5):
            leader.propose(b"x")
            cluster.process(cluster.members[1])
            messages += sum(message.to == 3 for message in cluster.network)
            cluster.network = []
        assert messages == 1, state
        leader.step(answer(leader))
        cluster.process(cluster.members[1])
        assert [message.to for message in cluster.network] == [3], "as often as heartbeats are answered"
        leader.set_room(3, NO_LIMIT)
        assert sent(cluster), state


def test_room_of_a_follower_does_not_cut_what_others_get() -> None:
    cluster = Cluster(3, max_inflight_bytes=1 << 20, max_message_bytes=1 << 20, first_room_bytes=1 << 20)
    leader = cluster.elect(1)
    leader.set_room(2, 150)
    leader.propose_batch([b"x" * 100] * 4)
    ready = leader.ready()
    assert {m.to: len(m.entries) for m in ready.messages if m.entries} == {2: 1, 3: 4}


class LazyStorage(MemoryStorage):
    """Does not have entries in memory until `loads` is set."""

    __slots__ = ()
    loads = True

    def entries_to_send(self, low: int, high: int, max_bytes: int) -> list[LogEntry]:
        if not self.loads:
            raise NotLoaded
        return list(super().entries_to_send(low, high, max_bytes))


def test_entries_that_are_being_read_are_sent_when_they_are_loaded() -> None:
    cluster, leader = probing(probe_ticks=PROBE_TICKS)
    member = cluster.members[1]
    assert isinstance(member, Member)
    member.storage.__class__ = LazyStorage
    LazyStorage.loads = False
    try:
        leader.report_unreachable(3)
        leader.step(answer(leader))
        leader.loaded()
        assert sent(cluster) == []
    finally:
        LazyStorage.loads = True
    leader.loaded()
    assert len(sent(cluster)) == 1


def test_only_a_leader_sends_for_room() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[2].set_room(3, 100)
    cluster[2].loaded()
    cluster[2].still_sending(3)
    assert not cluster[2].has_ready()
    cluster[1].set_room(9, 100)  # no member
    cluster[1].set_room(1, 100)  # itself
    cluster[1].still_sending(9)
    assert not cluster[1].has_ready()


@pytest.mark.parametrize("settings", [{"probe_ticks": -1}, {"first_room_bytes": 0}])
def test_settings_that_send_nothing_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="nothing could be sent"):
        RaftConfig(id=1, storage=MemoryStorage(), **settings)  # type: ignore[arg-type]


def test_heartbeat_that_overtakes_the_appends_proves_nothing_lost() -> None:
    """It carries no commit index above what the follower has acknowledged."""
    cluster = Cluster(3)
    leader = cluster.elect(1)
    cluster.settle()
    leader.propose_batch([b"x"] * 3)
    cluster.settle(keep=lambda message: message.type is MessageType.APP and message.to == 3)
    late = cluster.network
    assert leader.commit_index > cluster[3].last_index
    leader.tick()
    leader.raft.step(Message(MessageType.BEAT))
    cluster.network = []
    cluster.settle()
    assert cluster[3].take_evidence() is None
    assert not cluster[3].raft.dropped
    cluster.network = late
    cluster.settle()
    assert cluster[3].commit_index == leader.commit_index
