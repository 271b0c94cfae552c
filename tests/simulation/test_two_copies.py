"""Two processes on copies of one data directory: what is promised while they are apart, and what when they meet."""

from __future__ import annotations

import asyncio

import pytest

from syncline.node.member_registry import MemberRegistry
from syncline.node.starts import confirmation
from syncline.node.starts import guard as start_guard
from syncline.node.starts import reports as start_reports
from syncline.node.starts.incarnations import Origin
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.seeds import Options, run_seed
from syncline.testing.sim.server import Condition, SimServer
from tests.simulation.test_removal import write


async def three_with_a_copy(seed: str) -> tuple[SimCluster, SimServer, SimServer, list[SimServer]]:
    """A cluster, a follower that is not running, a copy of it, and the two others."""
    cluster = SimCluster(cluster_loop(), seed=seed)
    await cluster.start(3)
    leader = await cluster.leader()
    await write(leader)
    copied = next(server for server in cluster.running if server is not leader)
    copied.crash()
    return cluster, copied, cluster.twin(copied), [server for server in cluster.running if server is not copied]


def cluster_loop() -> SimLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop


def takes_part(server: SimServer) -> bool:
    return server.driver is not None and not server.driver.parts.confirmation.withheld


def is_confirmed(server: SimServer) -> bool:
    return server.driver is not None and server.driver.parts.confirmation.confirmed


def leads(server: SimServer) -> bool:
    return server.running and server.is_leader


def test_copy_of_a_confirmed_start_is_refused_and_stops() -> None:
    """A quorum of the others knows the first start: the copy never takes part, and the first one goes on."""

    async def main(_: SimLoop) -> None:
        cluster, copied, copy, _others = await three_with_a_copy("confirmed")
        copied.start()
        await cluster.until(lambda: is_confirmed(copied), timeout_s=5.0)
        copy.start()
        seen: list[bool] = []

        def stopped() -> bool:
            seen.append(takes_part(copy))
            return copy.condition is Condition.FAILED

        await cluster.until(stopped, timeout_s=5.0)
        assert not any(seen)
        assert "it was copied and another process uses the other copy" in str(copy.error)
        assert "syncline repair --replace" in str(copy.error)
        await write(copied)
        assert copied.running

    run_simulation(main)


def test_copies_that_were_kept_apart_stop_when_the_members_meet() -> None:
    """Each side elects a leader, and no rule can prevent it. The members then tell each other what they know."""

    async def main(_: SimLoop) -> None:
        cluster, copied, copy, (one, other) = await three_with_a_copy("apart")
        one.crash()
        other.crash()
        cluster.partition([copied.name, one.name], [copy.name, other.name])
        for server in (copied, copy, one, other):
            server.start()
        left, right = (copied, one), (copy, other)
        for side in (left, right):
            await cluster.until(lambda side=side: any(map(leads, side)), timeout_s=10.0)  # type: ignore[misc]
        cluster.heal()
        await cluster.until(
            lambda: copied.condition is Condition.FAILED and copy.condition is Condition.FAILED, timeout_s=10.0
        )
        for server in (copied, copy):
            assert "it was copied" in str(server.error)
        await cluster.until(lambda: Condition.FAILED in (one.condition, other.condition), timeout_s=10.0)
        stopped = one if one.condition is Condition.FAILED else other
        assert "has two leaders" in str(stopped.error)
        assert "--replace" not in str(stopped.error), "it may hold the only copy of an acknowledged write"
        assert sum(map(leads, (one, other))) <= 1

    run_simulation(main)


def test_start_that_a_member_refuses_takes_no_part() -> None:
    """That member has let in a copy, and the third one knows neither: with it the copy would be a quorum."""

    async def main(_: SimLoop) -> None:
        cluster, copied, copy, (one, other) = await three_with_a_copy("refused")
        one.crash()
        copy.start()
        await cluster.until(lambda: takes_part(copy), timeout_s=10.0)
        copy.crash()
        one.start()
        copied.start()
        seen: list[bool] = []

        def stopped() -> bool:
            seen.append(takes_part(copied))
            return copied.condition is Condition.FAILED

        await cluster.until(stopped, timeout_s=10.0)
        assert not any(seen)
        await cluster.until(lambda: leads(one) or leads(other), timeout_s=10.0)
        await write(one if leads(one) else other)

    run_simulation(main)


def test_copies_are_found_by_members_that_were_told_too_early() -> None:
    """A member that applies its log does not know the other members yet when it is told of a start."""

    async def main(_: SimLoop) -> None:
        cluster, copied, copy, (one, other) = await three_with_a_copy("too early")
        one.crash()
        copy.start()
        await cluster.until(lambda: takes_part(copy), timeout_s=10.0)
        copy.crash()
        one.start()
        books: list[tuple[start_guard.StartGuard, MemberRegistry]] = []
        for server in (one, other):
            await cluster.until(lambda server=server: server.running, timeout_s=5.0)  # type: ignore[misc]
            assert server.driver is not None
            guard = server.driver.parts.guard
            books.append((guard, guard._book))
            guard._book = MemberRegistry()
        copied.start()
        await asyncio.sleep(3.0)
        assert copied.running
        for guard, book in books:
            guard._book = book
        await cluster.until(lambda: copied.condition is Condition.FAILED, timeout_s=3.0)
        assert "it was copied" in str(copied.error)

    run_simulation(main)


@pytest.mark.parametrize("patience", [True, False])
def test_restart_beside_a_dead_member_takes_part_after_an_election_timeout(
    monkeypatch: pytest.MonkeyPatch, patience: bool
) -> None:
    """Two of three can go on, though just one of them can welcome the start. Without the limit nobody would lead."""
    if not patience:
        monkeypatch.setattr(confirmation.Confirmation, "look", lambda self, _: self.withheld)

    async def main(_: SimLoop) -> None:
        cluster = SimCluster(cluster_loop(), seed="beside a dead member")
        await cluster.start(3)
        leader = await cluster.leader()
        await write(leader)
        dead, again = (server for server in cluster.running if server is not leader)
        dead.crash()
        again.crash()
        await asyncio.sleep(2.0)
        assert not leads(leader)
        again.start()
        if patience:
            await cluster.until(lambda: leads(leader) or leads(again), timeout_s=10.0)
            await write(leader if leads(leader) else again)
        else:
            await asyncio.sleep(10.0)
            assert not leads(leader)
            assert not leads(again)

    run_simulation(main)


def test_fault_of_two_copies_finds_members_that_let_in_each_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: no member looks at the history of a start."""
    for module in (start_guard, start_reports):
        monkeypatch.setattr(module, "judge", lambda *_: Origin.LEGITIMATE)
    for seed in range(1, 13):
        failure = run_seed(seed, Options(nodes=3, sim_seconds=3.0, faults=("two-copies",))).failure
        if failure is not None:
            assert str(failure).startswith("one copy is confirmed")
            return
    raise AssertionError("not found in 12 seeds")


@pytest.mark.parametrize("seed", [10434, 10764])
def test_seeds_in_which_two_copies_were_counted_hold(seed: int) -> None:
    """Two leaders of one term: one copy voted with a member each. The members tell each other, and the copies wait."""
    report = run_seed(seed, Options(sim_seconds=2.0))
    assert "two-copies" in report.faults
    assert report.failure is None, report.failure
