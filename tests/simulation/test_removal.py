"""A removal that was answered is durable: those who stay lead on after any crash, and the removed node leaves last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from syncline.consensus.types import ChangeType
from syncline.errors import OperationError
from syncline.kv.commands import Put, encode_command
from syncline.node import log_writer
from syncline.node.log_writer import LogWriter
from syncline.node.raft import Raft
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.disk import Survival
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import Condition, SimServer


async def call(server: SimServer, work: Callable[[Raft[object]], Awaitable[object]]) -> object:
    """Run a call of a server's node to its end."""
    raft = server.raft
    assert raft is not None
    task = await server.call(lambda: asyncio.ensure_future(work(raft)))
    return await task


async def write(server: SimServer) -> None:
    async def put(raft: Raft[object]) -> object:
        return await raft.apply(encode_command(Put(b"k", b"v")), timeout=10.0)

    await call(server, put)


async def remove_and_lose_power(loop: SimLoop, count: int, leaving: int, *, only_leader: bool, through: str) -> None:
    """Remove members of a new cluster; at the answer cut the power of those who stay, or of the leader alone."""
    cluster = SimCluster(loop, seed=f"{count} {leaving} {only_leader} {through}")
    await cluster.start(count)
    leader = await cluster.leader()
    await write(leader)
    await asyncio.sleep(2.0)
    others = [server for server in cluster.running if server is not leader]
    gone, stay = others[:leaving], [leader, *others[leaving:]]
    changes = [(ChangeType.REMOVE_NODE, cluster.node_id(server)) for server in gone]
    asked = {"leader": leader, "stays": stay[-1], "goes": gone[0]}[through]
    await call(asked, lambda raft: raft.change_membership(changes, timeout=10.0))
    for server in [leader] if only_leader else stay:
        if server.up:
            server.crash(Survival.NOTHING)
    for server in gone:  # their machines are switched off
        if server.up:
            server.crash()
    for server in stay:
        if not server.up and not (only_leader and server is leader):
            server.start()
    await cluster.until(lambda: cluster.current_leader() in stay, timeout_s=20.0)
    new = cluster.current_leader()
    assert new is not None
    await write(new)


@pytest.mark.parametrize("through", ["leader", "stays", "goes"])
@pytest.mark.parametrize(("count", "leaving"), [(2, 1), (3, 2), (5, 2), (5, 3), (4, 2)])
def test_answered_removal_survives_power_loss_of_all_that_stay(count: int, leaving: int, through: str) -> None:
    """They are no quorum of the membership before: with that one in force nobody would ever lead."""

    async def main(loop: SimLoop) -> None:
        await remove_and_lose_power(loop, count, leaving, only_leader=False, through=through)

    run_simulation(main)


@pytest.mark.parametrize("through", ["leader", "stays", "goes"])
@pytest.mark.parametrize(("count", "leaving"), [(5, 2), (6, 3), (7, 4)])
def test_answered_removal_survives_power_loss_of_the_leader(count: int, leaving: int, through: str) -> None:
    """One of those who stay may not know of it yet, and have the longest log."""

    async def main(loop: SimLoop) -> None:
        await remove_and_lose_power(loop, count, leaving, only_leader=True, through=through)

    run_simulation(main)


@pytest.mark.parametrize("leads", [True, False])
def test_removed_node_answers_its_own_removal_and_stops(leads: bool) -> None:
    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=f"own {leads}")
        await cluster.start(3)
        leader = await cluster.leader()
        await write(leader)
        await asyncio.sleep(2.0)
        goes = leader if leads else next(server for server in cluster.running if server is not leader)
        node_id = cluster.node_id(goes)
        await call(goes, lambda raft: raft.remove(node_id, timeout=10.0))
        await cluster.until(lambda: goes.condition is Condition.FAILED, timeout_s=5.0)
        assert "was removed from the cluster" in str(goes.error)

    run_simulation(main)


def test_removed_node_that_was_away_stops_when_it_is_back() -> None:
    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed="away")
        await cluster.start(3)
        leader = await cluster.leader()
        await write(leader)
        await asyncio.sleep(2.0)
        goes = next(server for server in cluster.running if server is not leader)
        goes.crash()
        node_id = cluster.node_id(goes)
        await call(leader, lambda raft: raft.remove(node_id, timeout=10.0))
        goes.start()
        await cluster.until(lambda: goes.condition is Condition.FAILED, timeout_s=20.0)
        assert "was removed from the cluster" in str(goes.error)

    run_simulation(main)


async def cut_off_at_the_removal(loop: SimLoop) -> None:
    """{1,2,3} became {1,2}; 2 is cut off before it hears so. The removed node may be the vote that 2 needs."""
    cluster = SimCluster(loop, seed="stays")
    await cluster.start(3)
    leader = await cluster.leader()
    await write(leader)
    await asyncio.sleep(2.0)
    goes, stays = (server for server in cluster.running if server is not leader)
    raft, node_id = leader.raft, cluster.node_id(goes)
    assert raft is not None
    before = raft.membership().index
    change = asyncio.ensure_future(call(leader, lambda raft: raft.remove(node_id, timeout=8.0)))
    await cluster.until(lambda: raft.membership().index > before, timeout_s=5.0)
    cluster.partition([leader.name, goes.name], [stays.name])
    await asyncio.sleep(0.8)  # shorter than it takes the leader to find that it has no quorum
    assert goes.running, "it left on the word of one of two"
    assert not change.done(), "the change was answered on the word of one of two"
    await asyncio.sleep(4.0)
    assert goes.running, "it left on the word of one of two"
    cluster.heal()
    await change
    await cluster.until(lambda: goes.condition is Condition.FAILED, timeout_s=20.0)


async def commit_index_not_durable(loop: SimLoop, patch: pytest.MonkeyPatch) -> None:
    """The disk of the one that stays does not get to the commit index of the removal for a while."""
    cluster = SimCluster(loop, seed="not durable")
    await cluster.start(2)
    leader = await cluster.leader()
    await write(leader)
    await asyncio.sleep(2.0)
    goes = next(server for server in cluster.running if server is not leader)
    raft, driver, node_id = leader.raft, leader.driver, cluster.node_id(goes)
    assert raft is not None
    assert driver is not None
    before, writer = raft.membership().index, driver.parts.writer
    with patch.context() as held:
        held.setattr(LogWriter, "settle_now", lambda _: None)
        change = asyncio.ensure_future(call(leader, lambda raft: raft.remove(node_id, timeout=8.0)))
        await cluster.until(lambda: raft.membership().index > before, timeout_s=5.0)
        await asyncio.sleep(2.0)
        assert writer.durable_commit < raft.membership().index
        assert goes.running, "the removed node left before the one that stays has it on its disk"
        assert not change.done(), "the change was answered before it was durable"
        assert raft.peers()[node_id].connected, "the link was cut before the removal was durable"
    await leader.call(writer.settle_now)
    await change
    await cluster.until(lambda: goes.condition is Condition.FAILED, timeout_s=20.0)


def test_removed_node_stays_while_no_quorum_knows_of_it() -> None:
    run_simulation(cut_off_at_the_removal)


def test_removed_node_is_kept_until_the_removal_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before that, the one that stays starts with the membership before, and needs its vote."""
    run_simulation(lambda loop: commit_index_not_durable(loop, monkeypatch))


def test_commit_index_of_a_change_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other commit indexes wait for an append to travel with; here for a minute."""
    monkeypatch.setattr(log_writer, "COMMIT_SETTLE_S", 60.0)

    async def main(loop: SimLoop) -> None:
        await remove_and_lose_power(loop, 2, 1, only_leader=False, through="leader")

    run_simulation(main)


@pytest.mark.parametrize("leaving", [2, 3])
def test_removed_leader_transfers_to_a_voter_that_stays(leaving: int) -> None:
    """Handed to another one that is to go, the leadership would go to and fro between them."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=f"hand over {leaving}")
        await cluster.start(5)
        leader = await cluster.leader()
        await write(leader)
        await asyncio.sleep(2.0)
        others = sorted((server for server in cluster.running if server is not leader), key=cluster.node_id)
        gone, stay = [leader, *others[1 - leaving :]], others[: 1 - leaving]
        watched = stay[0].raft
        assert watched is not None
        before = watched.stats().leader_changes
        changes = [(ChangeType.REMOVE_NODE, cluster.node_id(server)) for server in gone]
        await call(stay[0], lambda raft: raft.change_membership(changes, timeout=20.0))
        assert watched.stats().leader_changes == before + 1
        assert cluster.current_leader() in stay

    run_simulation(main)


async def added_and_not_settled(loop: SimLoop, patch: pytest.MonkeyPatch) -> None:
    """No disk gets to the commit index of an added member for a while; the same and other changes are asked for."""
    cluster = SimCluster(loop, seed="not settled")
    await cluster.start(3)
    leader = await cluster.leader()
    await write(leader)
    await asyncio.sleep(2.0)
    away, other = (server for server in cluster.running if server is not leader)
    raft, node_id = leader.raft, cluster.node_id(other)
    assert raft is not None
    before = raft.membership().index

    async def add(raft: Raft[object]) -> object:
        return await raft.add_learner("x", "x:7100", promote=False, timeout=20.0)

    with patch.context() as held:
        held.setattr(LogWriter, "settle_now", lambda _: None)
        cluster.partition([leader.name, other.name], [away.name])
        added = [asyncio.ensure_future(call(leader, add))]
        await cluster.until(lambda: raft.membership().index > before, timeout_s=5.0)
        added.append(asyncio.ensure_future(call(leader, add)))
        asked_s = loop.true_time()
        late = asyncio.ensure_future(call(away, lambda raft: raft.remove(node_id, timeout=4.0)))
        await asyncio.sleep(3.0)
        cluster.heal()
        with pytest.raises(OperationError):
            await late
        assert loop.true_time() - asked_s < 5.0, "each of its steps took the whole time"
        assert not any(task.done() for task in added), "an answer came before the member was durable"
    for server in (leader, other):
        assert server.driver is not None
        await server.call(server.driver.parts.writer.settle_now)
    one, again = await asyncio.gather(*added)
    assert one == again


def test_member_that_is_there_is_answered_when_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to a call that finds it there, such as the second attempt of a client."""
    run_simulation(lambda loop: added_and_not_settled(loop, monkeypatch))
