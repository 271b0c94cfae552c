"""`Raft.leadership`, in virtual time: a block that runs while its node leads, and is cancelled with the leadership."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from syncline import LeaderTerm
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import StateType
from syncline.errors import Closed, ConfigError, LeadershipLost, NotLeader, OperationError, Outcome
from syncline.node.leadership import leadership
from syncline.node.running import Running
from syncline.testing.sim.server import SimServer
from tests.helpers.leading import Leading, leading, raft_of


async def for_long(_: LeaderTerm[object]) -> None:
    await asyncio.sleep(10_000)


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    await asyncio.wait([task], timeout=30)
    assert task.done()
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def test_leadership_block_begins_on_the_leader_alone() -> None:
    async def scenario(at: Leading) -> None:
        tasks = [await at.start_block(server, for_long) for server in at.cluster.running]
        leader = await at.leader()
        await at.until(lambda: bool(at.begun))
        await asyncio.sleep(5)
        assert at.begun == [(leader.name, raft_of(leader).stats().term)]
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()

    leading(scenario)


def test_leadership_that_moves_cancels_the_block_and_begins_the_next() -> None:
    async def scenario(at: Leading) -> None:
        tasks = {server.name: await at.start_block(server, for_long) for server in at.cluster.running}
        leader, follower = await at.leader(), await at.follower()
        await at.until(lambda: bool(at.begun))
        raft = raft_of(leader)
        moved = await at.start(leader, lambda: raft.transfer_leadership(follower.name))
        assert await ended(moved) is None
        lost = await ended(tasks[leader.name])
        assert isinstance(lost, LeadershipLost)
        assert lost.outcome is Outcome.UNKNOWN
        assert f"term {at.begun[0][1]} any more" in str(lost)
        await at.until(lambda: len(at.begun) == 2)
        assert at.ended == at.begun[:1]
        assert at.begun[1][0] == follower.name
        assert at.begun[1][1] > at.begun[0][1], "terms grow: they fence"

    leading(scenario)


def test_leadership_of_a_node_cut_off_ends_within_two_election_timeouts() -> None:
    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        task = await at.start_block(leader, for_long)
        await at.until(lambda: bool(at.begun))
        others = [server.name for server in at.cluster.running if server is not leader]
        cut_s = at.cluster.loop.true_time()
        at.cluster.partition([leader.name], others)
        assert isinstance(await ended(task), LeadershipLost)
        assert at.cluster.loop.true_time() - cut_s <= 2 * at.cluster.settings.election_s + 0.2

    leading(scenario)


def test_leadership_command_of_a_lost_term_takes_no_effect() -> None:
    """The fence: what a deposed leader has queued must not be carried out under the next one."""

    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        terms: list[LeaderTerm[object]] = []

        async def keep(term: LeaderTerm[object]) -> None:
            terms.append(term)
            await for_long(term)

        task = await at.start_block(leader, keep)
        await at.until(lambda: bool(terms))
        term, raft = terms[0], raft_of(leader)
        assert not is_lost(term)
        applied = await at.start(leader, lambda: _await(term, b"first"))
        assert await ended(applied) is None
        others = [server.name for server in at.cluster.running if server is not leader]
        at.cluster.partition([leader.name], others)
        queued = await at.start(leader, lambda: _await(term, b"second"))
        assert isinstance(await ended(task), LeadershipLost)
        assert is_lost(term)
        with pytest.raises(LeadershipLost, match=f"term {term.number} any more"):
            term.check()
        at.cluster.heal()
        await at.leader()
        failed = await ended(queued)
        assert isinstance(failed, OperationError)
        after = await at.start(leader, lambda: _await(term, b"third"))
        failed = await ended(after)
        assert isinstance(failed, OperationError)
        assert failed.outcome is Outcome.NOT_APPLIED
        assert term.number < raft.stats().term

    leading(scenario)


def is_lost(term: LeaderTerm[object]) -> bool:
    return term.lost


def _apply(*_: object, **__: object) -> NoReturn:
    pytest.fail("nothing is proposed")


async def _await(term: LeaderTerm[object], data: bytes) -> object:
    return await term.apply(data, timeout=3.0)


def test_leadership_before_the_deadline_or_not_leader() -> None:
    async def scenario(at: Leading) -> None:
        follower = await at.follower()
        begun_s = at.cluster.loop.true_time()
        task = await at.start_block(follower, for_long, timeout=2.0)
        error = await ended(task)
        assert isinstance(error, NotLeader)
        assert error.outcome is Outcome.NOT_APPLIED
        assert error.leader == raft_of(await at.leader()).node_id
        assert 1.9 <= at.cluster.loop.true_time() - begun_s <= 2.5
        assert at.begun == []

    leading(scenario)


def test_leadership_block_that_is_cancelled_by_others_stays_cancelled() -> None:
    async def scenario(at: Leading) -> None:
        leader, follower = await at.leader(), await at.follower()
        raft = raft_of(leader)
        task = await at.start_block(leader, for_long)
        await at.until(lambda: bool(at.begun))
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)

        async def moved_within(term: LeaderTerm[object]) -> None:
            await raft.transfer_leadership(follower.name)
            await for_long(term)

        async def both() -> int:
            me = asyncio.current_task()
            assert me is not None
            with pytest.raises(LeadershipLost):
                async with raft.leadership() as term:
                    await moved_within(term)
            return me.cancelling()

        counted = await at.start(leader, both)
        assert await ended(counted) is None
        assert counted.result() == 0, "the block takes back its own cancellation"

    leading(scenario)


def test_leadership_block_that_ends_after_the_loss_raises_it_too() -> None:
    async def scenario(at: Leading) -> None:
        leader, follower = await at.leader(), await at.follower()
        raft = raft_of(leader)

        async def swallow(_: LeaderTerm[object]) -> str:
            try:
                await raft.transfer_leadership(follower.name)
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                return "done"
            return "not cancelled"

        assert isinstance(await ended(await at.start_block(leader, swallow)), LeadershipLost)

        async def fail(_: LeaderTerm[object]) -> None:
            try:
                await raft_of(follower).transfer_leadership(leader.name)
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                raise ValueError("mine") from None

        await at.until(lambda: raft_of(follower).is_leader)
        assert isinstance(await ended(await at.start_block(follower, fail)), ValueError), "an own error is kept"

    leading(scenario)


def test_leadership_ends_with_the_node() -> None:
    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        raft = raft_of(leader)
        task = await at.start_block(leader, for_long)
        waiting = await at.start_block(leader, for_long)
        await at.until(lambda: len(at.begun) == 2)
        await at.start(leader, raft.close)
        for block in (task, waiting):
            error = await ended(block)
            assert isinstance(error, Closed)
            assert error.outcome is Outcome.UNKNOWN
        late = await at.start_block(leader, for_long)
        error = await ended(late)
        assert isinstance(error, Closed)
        assert error.outcome is Outcome.NOT_APPLIED

    leading(scenario, nodes=1)


async def test_leadership_of_a_node_that_stops_just_then_begins_no_block() -> None:
    """The answer of the quorum and the stop come in one turn of the loop: nothing would cancel the block afterwards."""
    running = Running()
    core = cast("RawNode", SimpleNamespace(state=StateType.LEADER, term=3, leader=1))

    async def confirm(_: float) -> int:
        running.end(Closed("this node is closed"), Closed("this node is closed"))
        return 3

    with pytest.raises(Closed):
        async with leadership(core, running, confirm, _apply, None, 1.0):
            pytest.fail("the block ran on a node that had stopped")


@pytest.mark.parametrize(("timeout", "error"), [("5", TypeError), (0, ConfigError), (-1.0, ConfigError)])
def test_leadership_with_a_wrong_deadline_is_refused(timeout: object, error: type[Exception]) -> None:
    async def scenario(at: Leading) -> None:
        with pytest.raises(error, match="timeout"):
            raft_of(await at.leader()).leadership(timeout=timeout)  # type: ignore[arg-type]

    leading(scenario, nodes=1)


async def closed_together(at: Leading, servers: list[SimServer]) -> float:
    """Close these nodes at the same moment; the seconds until all are closed."""
    began_s = at.cluster.loop.true_time()
    tasks = [await at.start(server, raft_of(server).close) for server in servers]
    await at.until(lambda: all(task.done() for task in tasks))
    return at.cluster.loop.true_time() - began_s


@pytest.mark.parametrize("nodes", [3, 5])
def test_leader_closed_with_all_others_waits_for_none_of_them(nodes: int) -> None:
    """The voter that shall take over is closing, too: the leader waited for it for two election timeouts."""

    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        assert await closed_together(at, at.cluster.running) < raft_of(leader).config.election_s / 2

    leading(scenario, nodes=nodes)


def test_leader_closed_with_its_successor_transfers_to_another() -> None:
    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        raft, election_s = raft_of(leader), raft_of(leader).config.election_s
        successor = raft._driver.reconfiguration.best_successor()
        closing = [server for server in at.cluster.running if raft_of(server).node_id in (raft.node_id, successor)]
        closing.sort(key=lambda server: server is leader)  # the transfer begins before the other's link is lost
        left = [server for server in at.cluster.running if server not in closing]
        assert await closed_together(at, closing) < election_s / 2
        assert any(raft_of(server).is_leader for server in left), "there is no wait for an election timeout"

    leading(scenario, nodes=5)


def test_leader_closed_alone_ends_when_another_one_leads() -> None:
    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        left = [server for server in at.cluster.running if server is not leader]
        assert await closed_together(at, [leader]) < raft_of(left[0]).config.election_s / 2
        assert any(raft_of(server).is_leader for server in left)

    leading(scenario)


@pytest.mark.parametrize("stop", [SimServer.pause, SimServer.crash])
@pytest.mark.parametrize("nodes", [3, 5])
def test_leadership_transfer_without_a_target_passes_over_silent_voters(
    nodes: int, stop: Callable[[SimServer], object]
) -> None:
    """The voter that was chosen first was asked again until the deadline."""

    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        raft = raft_of(leader)
        silent: list[int] = []
        for _ in range(nodes // 2):  # those that are chosen first; a quorum is left
            silent.append(raft._driver.reconfiguration.best_successor(silent))
        for server in at.cluster.running:
            if raft_of(server).node_id in silent:
                stop(server)
        moved = await at.start(leader, raft.transfer_leadership)
        assert await ended(moved) is None
        assert moved.result().id not in (*silent, raft.node_id)

    leading(scenario, nodes=nodes)


def test_leadership_transfer_by_a_learner_passes_over_silent_voters() -> None:
    """A node without a vote does not know which voters are alive: it asks for one after the other."""

    async def scenario(at: Leading) -> None:
        leader = await at.leader()
        learner, *others = (server for server in at.cluster.running if server is not leader)
        demoted = await at.start(leader, lambda: raft_of(leader).demote(learner.name))
        assert await ended(demoted) is None
        await at.until(lambda: raft_of(learner).role == "learner")
        first = raft_of(learner)._changes.successor(0)
        next(server for server in others if raft_of(server).node_id == first).pause()
        moved = await at.start(learner, raft_of(learner).transfer_leadership)
        assert await ended(moved) is None
        assert moved.result().id not in (first, raft_of(leader).node_id)

    leading(scenario, nodes=5)
