"""Faults do no more harm than Raft promises to survive; and what the operator is told in the midst of them is true."""

from __future__ import annotations

import asyncio
import random

import pytest

from syncline.consensus.types import ChangeType
from syncline.errors import DeadlineExceeded, MembershipError, Outcome
from syncline.node.changes import Changes
from syncline.node.member_registry import Membership
from syncline.testing.cluster import SimCluster
from syncline.testing.faults.base import Claims, Trouble
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.operations import Unknown


class Accuser:
    """Where no finding is expected."""

    def broken(self, invariant: str, text: str) -> None:
        raise AssertionError(f"{invariant}: {text}")


async def trouble_on(loop: SimLoop, nodes: int) -> Trouble:
    cluster = SimCluster(loop, seed=1)
    await cluster.start(nodes)
    await cluster.leader()
    return Trouble(cluster, random.Random(1), 1.0, Claims(), Accuser())


def test_a_voter_that_is_about_to_go_is_not_counted_on() -> None:
    async def main(loop: SimLoop) -> None:
        trouble = await trouble_on(loop, 5)
        membership = trouble.operator.membership()
        assert membership is not None
        answer: asyncio.Future[Membership | None] = loop.create_future()
        change = asyncio.ensure_future(trouble.demote(["n1", "n4"], answer))
        assert trouble.can_spare(2)
        await asyncio.sleep(0)
        assert not trouble.can_spare(), "of the three that may be left, all are needed but one: and of five three"
        answer.set_result(None)
        await change
        assert trouble.can_spare(2), "it is certain that nothing came of it"

        unknown: asyncio.Future[Membership | None] = loop.create_future()
        unknown.set_exception(Unknown())
        await trouble.demote(["n1", "n4"], unknown)
        assert not trouble.can_spare(), "nobody knows, now or later"

    run_simulation(main)


def test_once_they_have_gone_the_others_are_counted() -> None:
    async def main(loop: SimLoop) -> None:
        trouble = await trouble_on(loop, 5)
        ids = {name: trouble.cluster.node_id(server) for name, server in trouble.cluster.servers.items()}
        leader = await trouble.cluster.leader()
        out = [name for name in ids if name != leader.name][:2]
        changes = [(ChangeType.ADD_LEARNER_NODE, ids[name]) for name in out]
        change = asyncio.ensure_future(trouble.demote(out, trouble.operator.change(changes)))
        spared = set()
        while not change.done():  # it is answered when the joint membership has been left
            membership = trouble._membership()  # a follower may know before the leader that it has been left
            if membership is not None and membership.joint:
                spared.add(trouble.can_spare())
            await asyncio.sleep(0.0001)
        assert spared == {False}, "both halves are needed"
        assert trouble.voters() == 3
        assert trouble.can_spare()
        assert not trouble.can_spare(2)
        leader.damages += 1
        assert not trouble.can_spare(), "the two others are a quorum, just so"

    run_simulation(main)


def test_change_refused_for_its_unknown_attempt_stays_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[Exception] = [DeadlineExceeded("no answer"), MembershipError("not in a joint membership")]

    async def propose(*_: object, **__: object) -> None:
        raise attempts.pop(0)

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        leader = await cluster.leader()
        raft = leader.raft
        assert raft is not None
        monkeypatch.setattr(Changes, "_propose", propose)
        node_id = cluster.node_id(next(server for server in cluster.running if server is not leader))
        asked = await leader.call(lambda: asyncio.ensure_future(raft.demote(node_id, timeout=3.0)))
        with pytest.raises(MembershipError, match="joint") as refusal:
            await asked
        assert refusal.value.outcome is Outcome.UNKNOWN
        assert attempts == []

    run_simulation(main)
