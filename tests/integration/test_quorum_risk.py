"""Live clusters refuse changes of the membership after which no quorum would be alive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncline import NodeId, Raft
from syncline.consensus.types import ChangeType
from syncline.errors import MembershipError, OperationError, Outcome, QuorumAtRisk
from syncline.node.quorum_risk import CommitHistory
from tests.helpers.node_cluster import cluster, until

Change = Callable[[Raft[object], int, int], Awaitable[object]]
"""Of a live voter, and another live voter, with the third one down."""

CHANGES: list[Change] = [
    lambda raft, live, _: raft.remove(live),
    lambda raft, live, _: raft.demote(live),
    lambda raft, live, _: raft.change_membership([(ChangeType.REMOVE_NODE, live)]),
    lambda raft, live, _: raft.remove(raft.node_id),
    lambda raft, *_: raft.demote(raft.node_id),
]


def misses(leader: Raft[object], member: int) -> bool:
    """Whether it leads, and has not heard from the member for a while."""
    progress = leader.stats().progress.get(NodeId(member))
    return progress is not None and not progress.active


@pytest.mark.parametrize("change", CHANGES, ids=["remove", "demote", "several", "remove-leader", "demote-leader"])
async def test_live_voter_is_kept_while_another_is_down(tmp_path: Path, change: Change) -> None:
    """After it one of two voters would be alive, and not even the change back could be committed."""
    async with cluster(tmp_path) as nodes:
        leader, live = await nodes.pair()
        await nodes.announced()
        [down] = [name for name, raft in nodes.rafts.items() if raft not in (leader, live)]
        down_id = nodes.rafts[down].node_id
        await nodes.stop(down)
        while not misses(leader, down_id):
            await leader._driver.running.wait(asyncio.get_running_loop().time() + 0.05)
            leader, live = await nodes.pair()  # on a slow machine another one may lead by now
        before = leader.membership()
        with pytest.raises(QuorumAtRisk, match=f"{down} \\({down_id:016x}\\)") as refused:
            await change(leader, live.node_id, 0)
        assert (refused.value.code, refused.value.outcome) == ("quorum_at_risk", Outcome.NOT_APPLIED)
        assert isinstance(refused.value, MembershipError)
        with pytest.raises(QuorumAtRisk):  # told to the node that forwarded it, too
            await change(live, leader.node_id, 0)
        assert leader.membership() == before
        await leader.apply(b"x")
        await leader.remove(down_id)  # a dead one always passes
        await leader.apply(b"y")


async def test_dead_learner_is_promoted_by_force_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        a = nodes.rafts["a"]
        info, _ = await nodes.join(a, "b", promote=False)
        await nodes.stop("b")
        with pytest.raises(QuorumAtRisk, match="b \\("):
            await a.promote(info.id)
        await a.apply(b"x")
        forced = asyncio.ensure_future(a.promote(info.id, force=True, timeout=5.0))
        await until(a, lambda: a.membership().members[info.id].voter)
        await nodes.start("b", cluster_id=a.cluster_id, node_id=info.id)
        assert (await forced).members[info.id].voter
        await a.apply(b"y")


async def test_forced_change_without_a_quorum_after_it_has_unknown_outcome(tmp_path: Path) -> None:
    """It is committed, and not durable on a quorum of the new membership: no answer says that it is."""
    async with cluster(tmp_path, "a") as nodes:
        a = nodes.rafts["a"]
        with pytest.raises(QuorumAtRisk, match="b \\("):
            await a.add_voter("b", nodes.address("b"))
        with pytest.raises(OperationError) as unknown:
            await a.add_voter("b", nodes.address("b"), force=True, timeout=1.0)
        assert unknown.value.outcome is Outcome.UNKNOWN


async def test_force_of_another_type_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        a = nodes.rafts["a"]
        with pytest.raises(TypeError, match="force must be a bool"):
            await a.add_voter("b", nodes.address("b"), force=1)  # type: ignore[arg-type]


async def test_automatic_promotion_is_checked_as_any_change(tmp_path: Path) -> None:
    """While the leader does not know who is alive, it promotes no learner by itself either."""
    async with cluster(tmp_path, "a") as nodes:
        a = nodes.rafts["a"]
        reconfiguration = a._driver.reconfiguration
        young = CommitHistory(10_000)
        known, reconfiguration._commits = reconfiguration._commits, young
        info, b = await nodes.join(a, "b")
        await a.apply(b"x")
        await until(b, lambda: nodes.machines["b"].items == [b"x"])
        await until(a, lambda: bool(a._driver.parts.book.members[info.id].directory))
        for _ in range(20):  # housekeeping looks at learners with each fifth tick
            await a._driver.running.wait(a._driver.loop.time() + a.config.heartbeat_s)
        assert not a.membership().members[info.id].voter
        reconfiguration._commits = known
        await until(a, lambda: a.membership().members[info.id].voter)
