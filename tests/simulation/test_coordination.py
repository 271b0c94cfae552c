"""Locks of client processes on simulated clusters: one holder, the next one in time, a lost one is told."""

from __future__ import annotations

import asyncio

import pytest

from syncline.client import AsyncClient
from syncline.errors import LeaseLost
from syncline.kv.lessor import Lessor
from syncline.testing.coordination.crew import ALLOWANCE_S, NEXT
from syncline.testing.coordination.programs import lock_place
from syncline.testing.sim.process import ClientProcess
from syncline.testing.sim.seeds import Options, run_seed
from tests.helpers.lock_trial import TTL_S, Holder, LockTrial, lock_trial

SEEDS = (5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (6, 7)))
FAULTS = ((), ("kill", "isolate-leader"), ("pause", "slow-loop", "cut"), ("transfer", "power"))
"""Beside the faults of the processes themselves."""

PLACE = lock_place("printer")


async def _two(at: LockTrial) -> tuple[Holder, Holder]:
    """A holder, and one that waits for it."""
    first = at.hold("first")
    await at.held(first)
    second = at.hold("second")
    await at.queued(2)
    await at.passes(1.0)  # its watch has begun
    return first, second


async def _next(at: LockTrial, first: Holder, second: Holder, since_s: float) -> None:
    within_s = TTL_S + at.next_s + ALLOWANCE_S
    assert await at.held(second, within_s) > first.token
    assert second.began_s - since_s <= within_s


@pytest.mark.parametrize("seed", SEEDS)
def test_lock_of_a_killed_holder_is_free_in_time(seed: int) -> None:
    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        since_s = at.now_s
        first.process.kill()
        await _next(at, first, second, since_s)

    lock_trial(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("power_loss", [False, True])
def test_lock_is_free_in_time_if_the_leader_is_killed_with_its_holder(seed: int, power_loss: bool) -> None:
    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        leader = await at.cluster.leader()
        since_s = at.now_s
        first.process.kill()
        if power_loss:
            at.cluster.partition([leader.name], [name for name in at.names if name != leader.name] + ["second"])
        else:
            leader.crash()
        await _next(at, first, second, since_s)

    lock_trial(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("suspended", [False, True])
def test_lock_is_lost_to_a_holder_that_is_stopped(seed: int, suspended: bool) -> None:
    """Also if its machine was suspended, so that its monotonic clock stood still."""

    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        since_s = at.now_s
        if suspended:
            first.process.suspend()
        else:
            first.process.pause()
        await _next(at, first, second, since_s)
        await at.passes(3.0)
        first.process.resume()
        await at.until(lambda: first.lost_s is not None, "the first holder learns that it has lost", 0.1)
        await at.passes(1.0)
        assert second.lost_s is None

    lock_trial(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_lock_is_lost_to_a_holder_that_is_cut_off(seed: int) -> None:
    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        since_s = at.now_s
        first.process.cut(*at.names)
        await _next(at, first, second, since_s)
        assert first.lost_s is not None
        assert first.lost_s <= second.began_s

    lock_trial(scenario, seed=seed)


def test_lock_stays_with_its_holder_through_a_change_of_leader() -> None:
    async def scenario(at: LockTrial) -> None:
        first = at.hold("first", ttl_s=6.0)
        await at.held(first)
        second = at.hold("second", ttl_s=6.0)
        await at.queued(2)
        for _ in range(3):
            leader = await at.cluster.leader()
            leader.crash()
            await at.passes(3.0)
            leader.start()
            await at.passes(2.0)
        assert not second.tokens
        assert len(at.keys(PLACE.prefix)) == 2
        assert first.lost_s is None

    lock_trial(scenario)


def test_lock_time_is_counted_from_the_request() -> None:
    """The answer to a keep-alive comes half a second late, then nothing. The leader has counted since it came in."""

    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        before_s = first.rest_s
        await at.until(lambda: first.rest_s > before_s, "a keep-alive is answered", TTL_S)
        await at.passes(TTL_S / 3 - 0.1)
        for name in at.names:
            at.cluster.network.hold_back(name, "first", 0.5)
        before_s = first.rest_s
        await at.until(lambda: first.rest_s > before_s, "the next one is answered late", TTL_S)
        first.process.cut(*at.names)
        await at.held(second, TTL_S + 1.0)
        assert first.lost_s is not None

    lock_trial(scenario)


def test_lock_waiter_whose_lease_has_ended_never_gets_it() -> None:
    """Jepsen found this in etcd in 2020: the lock was granted to a waiter whose lease had ended while it was queued."""

    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        third = at.hold("third")
        await at.queued(3)
        second.process.pause()
        await at.passes(TTL_S + 1.0)
        await at.queued(2)
        second.process.resume()
        await at.passes(0.5)
        first.stop = True
        await at.held(third)
        third.stop = True
        await at.queued(0)
        await at.passes(1.0)
        assert not second.tokens
        assert second.lost_s is not None

    lock_trial(scenario)


def test_lock_is_not_taken_when_another_waiter_leaves() -> None:
    async def scenario(at: LockTrial) -> None:
        first, second = await _two(at)
        third = at.hold("third")
        await at.queued(3)
        await at.passes(0.5)
        second.process.kill()
        await at.queued(2)
        await at.passes(1.0)
        assert not third.tokens
        first.stop = True
        await at.held(third, 1.0)

    lock_trial(scenario)


def test_lock_wait_that_is_cancelled_leaves_no_key() -> None:
    async def scenario(at: LockTrial) -> None:
        first = at.hold("first")
        await at.held(first)
        over: list[str] = []

        async def give_up(kv: AsyncClient, _: ClientProcess) -> None:
            for limit_s in (0.001, 0.003, 0.01, 0.03, 0.2, 0.4, 0.8):
                try:
                    async with asyncio.timeout(limit_s), kv.lock("printer", ttl=TTL_S):
                        raise AssertionError("it is held by another process")
                except TimeoutError:
                    over.append("cancelled")
            await asyncio.sleep(60.0)

        at.start("waiter", give_up)
        await at.until(lambda: len(over) == 7, "all waits are cancelled", 10.0)
        await at.passes(0.3)
        assert len(at.keys(PLACE.prefix)) == 1, "the holder's"
        second = at.hold("second")
        await at.queued(2)
        first.stop = True
        await at.held(second, 1.0)

    lock_trial(scenario)


def test_lock_order_is_that_of_the_requests() -> None:
    async def scenario(at: LockTrial) -> None:
        holders = []
        for place in range(5):
            holders.append(at.hold(f"p{place}"))
            await at.queued(place + 1)
        holders[2].process.kill()
        for holder in (holders[0], holders[1], holders[3], holders[4]):
            await at.held(holder)
            await at.passes(0.3)
            holder.stop = True
        tokens = [holder.token for holder in holders if holder.tokens]
        assert tokens == sorted(tokens)
        assert len(tokens) == 4

    lock_trial(scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_semaphore_has_as_many_holders_as_places(seed: int) -> None:
    async def scenario(at: LockTrial) -> None:
        holders = [at.hold(f"p{place}", holders=2, lock="rooms") for place in range(4)]
        place = lock_place("rooms", 2)
        await at.queued(4, place)
        await at.until(lambda: sum(map(bool, (one.tokens for one in holders))) == 2, "two hold it")
        await at.passes(1.0)
        inside = [one for one in holders if one.tokens]
        assert len(inside) == 2
        inside[0].process.kill()
        inside[1].process.pause()
        within_s = TTL_S + at.next_s + ALLOWANCE_S
        await at.until(lambda: all(one.tokens for one in holders), "the others hold it", within_s)
        inside[1].process.resume()
        await at.until(lambda: inside[1].lost_s is not None, "it learns", 0.1)

    lock_trial(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_queue_claim_that_is_lost_finishes_nothing(seed: int) -> None:
    async def scenario(at: LockTrial) -> None:
        ended: dict[str, str] = {}
        going: list[str] = []

        def worker(name: str, busy_s: float) -> ClientProcess:
            async def work(kv: AsyncClient, process: ClientProcess) -> None:
                claim = None
                try:
                    async with kv.queue("mail").claim(ttl=TTL_S) as item:
                        claim = at.items.claimed(item.id, process, item.check)
                        going.append(name)
                        await asyncio.sleep(busy_s)
                        at.items.left(claim)
                    at.items.done(claim)
                    ended[name] = "finished"
                except LeaseLost:
                    ended[name] = "lost"

            return at.start(name, work)

        async def put(kv: AsyncClient, _: ClientProcess) -> None:
            await kv.queue("mail").put("hello")
            ended["put"] = "done"

        at.start("producer", put)
        await at.until(lambda: "put" in ended, "it is put")
        first = worker("first", 1.0)
        await at.until(lambda: going == ["first"], "it is claimed")
        first.pause()
        worker("second", 3.0)
        within_s = TTL_S + at.next_s + ALLOWANCE_S
        await at.until(lambda: going == ["first", "second"], "it is claimed again", within_s)
        first.resume()
        await at.until(lambda: "first" in ended, "the first one ends", 1.0)
        assert ended["first"] == "lost"
        await at.until(lambda: "second" in ended, "the second one ends", 10.0)
        assert ended["second"] == "finished"

    lock_trial(scenario, seed=seed)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (3, 12))])
def test_crew_of_client_processes_breaks_no_promise(seed: int) -> None:
    """A few seeds: locks, semaphores, counters."""
    report = run_seed(seed, Options(faults=("coordination",), chosen_clients=(), sim_seconds=2.5))
    assert report.failure is None, report.failure


def test_next_holder_that_does_not_come_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """No leader ends a lease: the locks of processes that were killed stay held."""
    monkeypatch.setattr(Lessor, "_tick", lambda *_: None)
    options = Options(faults=("coordination",), chosen_clients=(), sim_seconds=1.0)
    failures = (run_seed(seed, options).failure for seed in range(1, 9))
    assert any(failure is not None and failure.invariant == NEXT for failure in failures)


def test_crew_of_client_processes_does_the_same_in_each_run_of_a_seed() -> None:
    options = Options(faults=("coordination", "kill"), chosen_clients=(), sim_seconds=0.5, trace=True)
    assert run_seed(9, options).trace == run_seed(9, options).trace


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("faults", FAULTS)
def test_crew_of_client_processes_breaks_no_promise_under_faults(faults: tuple[str, ...]) -> None:
    for seed in range(1, 31):
        report = run_seed(seed, Options(faults=("coordination", *faults), chosen_clients=(), sim_seconds=8.0))
        assert report.failure is None, f"seed {seed}: {report.failure}"
