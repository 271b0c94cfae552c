"""Evidence of lost promises at run time: how often it must be seen, whom it convicts, and what is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from syncline.consensus.evidence import Evidence, EvidenceKind
from syncline.consensus.types import Message, MessageType
from syncline.errors import NodeFailed, RepairNeeded, SynclineError
from syncline.node.lost_promises import REPEATED, Promises
from syncline.transport.messages import Notice, NoticeKind
from tests.helpers.consensus_cluster import Cluster


class World:
    """Node 1 of three, which leads, or node 2, which follows it."""

    def __init__(self, node_id: int = 1) -> None:
        cluster = Cluster(3)
        leader = cluster.elect(1)
        leader.propose(b"x")
        cluster.settle()
        self.core = cluster[node_id]
        self.leader = leader
        self.sent: list[tuple[int, Notice]] = []
        self.failures: list[SynclineError] = []
        self.has_copies = False
        self.promises = Promises(
            self.core,
            lambda: self.has_copies,
            name="n",
            data_dir="/data/n",
            send=lambda to, notice: self.sent.append((to, notice)),
            fail=self.failures.append,
        )

    def refusal(self, **fields: int) -> Message:
        """A follower refuses an append behind what it has acknowledged."""
        progress = self.core.raft.tracker.progress[2]
        values = {"term": self.core.term, "session": progress.session, "reject_hint": progress.match_index - 1} | fields
        return Message(MessageType.APP_RESP, to=1, sender=2, reject=True, index=progress.match_index, **values)  # type: ignore[arg-type]


def test_follower_that_refuses_what_it_acknowledged_is_convicted() -> None:
    world = World()
    match = world.core.raft.tracker.progress[2].match_index
    for _ in range(REPEATED - 1):
        world.promises.answered(2, world.refusal())
        assert world.sent == []
        assert world.promises.fault_of(2) == ""
    world.promises.answered(2, world.refusal())
    assert world.sent == [(2, Notice(NoticeKind.LOST_ENTRIES, world.core.term, match))]
    assert f"up to index {match}" in world.promises.fault_of(2)
    assert world.promises.fault_of(3) == ""


SOUND: dict[str, Callable[[World], Message]] = {
    "hint at the match index": lambda world: world.refusal(reject_hint=world.core.raft.tracker.progress[2].match_index),
    "another session": lambda world: world.refusal(session=1),
    "no session": lambda world: world.refusal(session=0),
    "older term": lambda world: world.refusal(term=world.core.term - 1),
}


@pytest.mark.parametrize("name", SOUND)
def test_follower_is_not_convicted_by_sound_refusals(name: str) -> None:
    world = World()
    for _ in range(2 * REPEATED):
        world.promises.answered(2, SOUND[name](world))
        world.promises.answered(9, SOUND[name](world))
    assert world.sent == []
    assert world.promises.convicted == {}


def test_conviction_ends_with_the_leaders_term() -> None:
    """A later leader has acknowledgements of its own term alone."""
    world = World()
    for _ in range(REPEATED):
        world.promises.answered(2, world.refusal())
    assert world.promises.fault_of(2)
    world.core.step(Message(MessageType.APP, to=1, sender=3, term=world.core.term + 1, session=1))
    assert world.promises.fault_of(2) == ""


@pytest.mark.parametrize("wrong", [{"sender": 3}, {"term": 0}, {"kind": 99}])
def test_notice_of_lost_entries_counts_from_the_leader_of_the_term(wrong: dict[str, int]) -> None:
    world = World(2)
    right = {"sender": 1, "term": world.core.term, "kind": int(NoticeKind.LOST_ENTRIES)}
    given = right | wrong
    ahead = world.core.commit_index + 1
    for _ in range(REPEATED):
        world.promises.on_notice(given["sender"], Notice(given["kind"], given["term"], ahead))
    assert world.failures == []
    for _ in range(REPEATED):
        assert world.failures == [], "one notice convicts no node"
        world.promises.on_notice(1, Notice(right["kind"], right["term"], ahead))
    [failure] = world.failures
    assert isinstance(failure, RepairNeeded)
    assert "syncline repair --replace --data-dir /data/n" in str(failure)


def test_notice_of_lost_entries_that_are_committed_here_is_ignored() -> None:
    """The node has them: one frame in the leader's name must not make its operator discard a sound disk."""
    world = World(2)
    assert world.core.commit_index > 0
    for index in (world.core.commit_index, 1, 0, -1):
        for _ in range(REPEATED):
            world.promises.on_notice(1, Notice(NoticeKind.LOST_ENTRIES, world.core.term, index))
    assert world.failures == []


def seen(world: World, evidence: Evidence, times: int) -> None:
    for _ in range(times):
        world.core.raft.evidence = evidence
        world.promises.found()


def test_one_piece_of_evidence_does_not_stop_a_node() -> None:
    """A faulty peer could have made it up: it counts if it is repeated by the same leader in one term."""
    world = World(2)
    for leader in (1, 3, 1, 3):
        seen(world, Evidence(EvidenceKind.LOST_ENTRIES, leader, 5, 99), REPEATED - 1)
    world.promises.found()
    assert world.failures == []
    seen(world, Evidence(EvidenceKind.LOST_ENTRIES, 3, 5, 99), 1)
    assert len(world.failures) == 1


def test_contradiction_stops_without_naming_the_repair() -> None:
    """The node may hold the only copy of an acknowledged write."""
    world = World(2)
    seen(world, Evidence(EvidenceKind.CONTRADICTION, 1, 5, 11, own_term=2, told_term=4), REPEATED)
    [failure] = world.failures
    assert isinstance(failure, NodeFailed)
    text = str(failure)
    assert "log entry 11" in text
    assert "term 2" in text
    assert "term 4" in text
    assert "repair" not in text


def second_leader(world: World, term: int) -> Message:
    return Message(MessageType.HEARTBEAT, to=world.core.raft.id, sender=3, term=term, session=9)


@pytest.mark.parametrize("node_id", [1, 2])
def test_two_leaders_stop_a_node_if_members_know_a_copy(node_id: int, caplog: pytest.LogCaptureFixture) -> None:
    """A leader and a follower alike. One node that says so stops none: a copied directory must be known, too."""
    world = World(node_id)
    leader, term = world.core.leader, world.core.term
    for _ in range(REPEATED + 2):
        world.core.step(second_leader(world, term))
        world.promises.found()
    assert world.failures == []
    assert world.core.leader == leader
    assert caplog.text.count("has two leaders, 0000000000000001 and 0000000000000003") == 1
    world.has_copies = True
    world.core.step(second_leader(world, term))
    world.promises.found()
    assert len(world.failures) == 1
    assert not isinstance(world.failures[0], RepairNeeded)
    assert "Keep /data/n as it is" in str(world.failures[0])
    assert "--replace" not in str(world.failures[0])
