"""When a change of the membership is settled, and who learns it how."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from syncline.consensus.types import ChangeType, MembershipChange, Message, MessageType, SingleChange, Transition
from syncline.node.log_writer import LogWriter
from syncline.node.member_registry import MemberRegistry
from syncline.node.settlement import IDLE_TICKS, Settlement
from syncline.transport.messages import Notice, NoticeKind
from tests.helpers.consensus_cluster import Cluster


class World:
    """Node `node_id` of three, led by 1, with a change of the membership applied at index 20."""

    def __init__(self, node_id: int = 1, voters: int = 3) -> None:
        self.cluster = Cluster(voters)
        self.leader = self.cluster.elect(1)
        self.core = self.cluster[node_id]
        self.book = MemberRegistry()
        self.book.membership_index = 20
        self.disk = SimpleNamespace(durable_commit=0)
        self.sent: list[tuple[int, Notice]] = []
        self.changes = 0
        self.settlement = Settlement(
            self.core,
            self.book,
            cast("LogWriter", self.disk),
            send=lambda to, notice: self.sent.append((to, notice)),
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def acknowledge(self, sender: int, commit: int) -> None:
        progress = self.core.raft.tracker.progress[sender]
        self.core.step(
            Message(
                MessageType.HEARTBEAT_RESP,
                to=1,
                sender=sender,
                term=self.core.term,
                commit=commit,
                session=progress.session,
            )
        )
        self.settlement.look()


def test_change_is_settled_by_a_quorum_of_durable_commit_indexes() -> None:
    world = World()
    world.acknowledge(2, 20)
    world.acknowledge(3, 19)
    assert world.settlement.index == 0
    world.disk.durable_commit = 21
    world.settlement.look()
    assert (world.settlement.index, world.changes) == (20, 1)
    world.book.membership_index = 22
    assert not world.settlement.complete


def test_joint_membership_is_not_settled() -> None:
    """Its caller waits for the simple membership that follows."""
    world = World()
    change = MembershipChange(Transition.JOINT_EXPLICIT, (SingleChange(ChangeType.REMOVE_NODE, 3),))
    world.leader.apply_membership(change)
    world.disk.durable_commit = 30
    world.acknowledge(2, 30)
    world.acknowledge(3, 30)
    assert world.settlement.index == 0
    world.leader.apply_membership(MembershipChange())
    world.settlement.look()
    assert world.settlement.complete


def test_learners_do_not_settle_a_change() -> None:
    world = World()
    world.leader.apply_membership(MembershipChange(changes=(SingleChange(ChangeType.ADD_LEARNER_NODE, 4),)))
    world.disk.durable_commit = 20
    world.acknowledge(4, 20)
    assert not world.settlement.complete


def test_follower_asks_the_leader_each_tick_while_a_caller_waits() -> None:
    world = World(2)
    question = (1, Notice(NoticeKind.IS_SETTLED, world.core.term))
    for _ in range(IDLE_TICKS):
        world.settlement.tick()
    assert world.sent == [question]
    with world.settlement.awaited():
        world.settlement.tick()
        world.settlement.tick()
    assert world.sent == [question] * 3
    world.settlement.on_notice(1, Notice(NoticeKind.SETTLED, world.core.term, 20))
    assert world.settlement.complete
    for _ in range(IDLE_TICKS):
        world.settlement.tick()
    assert world.sent == [question] * 3


def test_leader_answers_with_what_it_knows() -> None:
    world = World()
    world.settlement.on_notice(2, Notice(NoticeKind.IS_SETTLED, 0))
    world.disk.durable_commit = 20
    world.acknowledge(2, 20)
    world.settlement.on_notice(2, Notice(NoticeKind.IS_SETTLED, 0))
    assert [notice.index for _, notice in world.sent] == [0, 20]
    assert {notice.kind for _, notice in world.sent} == {NoticeKind.SETTLED}


@pytest.mark.parametrize(("sender", "kind"), [(3, NoticeKind.SETTLED), (1, NoticeKind.LOST_ENTRIES), (1, 99)])
def test_follower_ignores_what_is_not_its_leaders_answer(sender: int, kind: int) -> None:
    world = World(2)
    world.settlement.on_notice(sender, Notice(kind, world.core.term, 20))
    world.settlement.on_notice(3, Notice(NoticeKind.IS_SETTLED, world.core.term))
    assert world.settlement.index == 0
    assert world.sent == []


def test_settled_index_told_is_bounded_by_what_was_applied() -> None:
    """A later change is not settled because a wrong number was told before it was made."""
    world = World(2)
    world.settlement.on_notice(1, Notice(NoticeKind.SETTLED, world.core.term, 2**63))
    assert world.settlement.index == 20
    world.book.membership_index = 21
    assert not world.settlement.complete


def test_settled_index_never_goes_back() -> None:
    world = World(2)
    world.settlement.on_notice(1, Notice(NoticeKind.SETTLED, world.core.term, 20))
    world.settlement.on_notice(1, Notice(NoticeKind.SETTLED, world.core.term, 5))
    assert (world.settlement.index, world.changes) == (20, 1)
