"""A lease that a client holds: kept alive in time, and lost in time, in virtual time and against a double."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from syncline.client.held_lease import MOMENTS, HeldLease, KeepAlives
from syncline.client.results import GrantedLease
from syncline.errors import LeaseLost, NoLeader, OperationError, UsageError
from syncline.testing.sim.loop import SimLoop, run_simulation

LEASE = "00000000000000a1"
TTL_S = 6.0


class Servers:
    """Grants leases of 6 s, and answers keep-alives as the test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, list[str]]] = []
        self.error: OperationError | None = None
        self.gone = False
        self.delay_s = 0.1
        self.ttl_s = TTL_S
        self.ended: list[str] = []
        self.asleep_s = 0.0
        self.keep_alives = KeepAlives(self.keep)

    async def keep(self, names: list[str], timeout_s: float) -> list[GrantedLease]:
        self.sent.append((asyncio.get_running_loop().time(), names))
        await asyncio.sleep(min(self.delay_s, timeout_s))
        if self.error is not None:
            raise self.error
        return [] if self.gone else [GrantedLease(name, self.ttl_s) for name in names]

    def lease(self, name: str = LEASE, *, ends: bool = True) -> HeldLease:
        async def begin() -> GrantedLease:
            await asyncio.sleep(self.delay_s)
            return GrantedLease(name, self.ttl_s)

        async def end(ended: str, timeout_s: float) -> None:
            self.ended.append(ended)
            if self.error is not None:
                raise self.error

        return HeldLease(
            begin, end if ends else None, self.keep_alives.keep, self.keep_alives.pause_s, lambda: self.asleep_s
        )


def run(scenario: Callable[[Servers], Coroutine[Any, Any, None]]) -> None:
    async def main(_: SimLoop) -> None:
        await scenario(Servers())

    run_simulation(main)


def test_held_lease_is_kept_alive_and_ended_with_its_block() -> None:
    async def scenario(servers: Servers) -> None:
        async with servers.lease() as lease:
            assert (lease.id, lease.ttl_s) == (LEASE, TTL_S)
            for _ in range(20):
                await asyncio.sleep(1.0)
                lease.check()
                assert not lease.is_lost
                assert lease.rest_s > TTL_S / 2
        assert servers.ended == [LEASE]
        assert 9 <= len(servers.sent) <= 11, "three within its time"
        await asyncio.sleep(10.0)
        assert len(servers.sent) <= 11

    run(scenario)


def test_held_lease_counts_from_the_moment_before_the_request() -> None:
    """The servers count from a later one: a holder that counted from the answer would hold it longer than they."""

    async def scenario(servers: Servers) -> None:
        servers.delay_s = 1.5
        sent_s = asyncio.get_running_loop().time()
        lease = servers.lease()
        await lease.__aenter__()
        assert lease.rest_s == pytest.approx(TTL_S - 1.5)
        await asyncio.sleep(TTL_S / 3 + 1.7)  # a keep-alive was sent 2 s after the answer
        assert lease.rest_s == pytest.approx(TTL_S - 1.7)
        sent_s += 1.5 + TTL_S / 3
        servers.error = NoLeader("no")
        assert isinstance(await lease.lost(), LeaseLost)
        assert asyncio.get_running_loop().time() == pytest.approx(sent_s + TTL_S)
        with pytest.raises(LeaseLost):
            await lease.__aexit__(None, None, None)

    run(scenario)


def test_held_lease_survives_failures_shorter_than_its_time() -> None:
    async def scenario(servers: Servers) -> None:
        async with servers.lease() as lease:
            for _ in range(5):
                servers.error = NoLeader("an election")
                await asyncio.sleep(3.5)
                lease.check()
                servers.error = None
                await asyncio.sleep(2.5)
                lease.check()

    run(scenario)


def test_held_lease_that_has_ended_on_the_servers_is_lost_at_once() -> None:
    async def scenario(servers: Servers) -> None:
        lease = servers.lease()
        await lease.__aenter__()
        servers.gone = True
        await asyncio.sleep(TTL_S / 3 + 0.3)
        assert lease.is_lost
        assert lease.rest_s == 0.0
        with pytest.raises(LeaseLost):
            lease.check()
        with pytest.raises(LeaseLost, match="it has ended on the servers"):
            await lease.__aexit__(None, None, None)
        assert servers.ended == []

    run(scenario)


def test_held_lease_is_lost_after_the_machine_was_suspended() -> None:
    """An event loop's clock stands still in that time, and the servers' clocks do not."""

    async def scenario(servers: Servers) -> None:
        lease = servers.lease()
        await lease.__aenter__()
        servers.asleep_s = TTL_S
        assert lease.is_lost
        with pytest.raises(LeaseLost):
            lease.check()
        with pytest.raises(LeaseLost):
            await lease.__aexit__(None, None, None)

    run(scenario)


def test_held_lease_leaves_an_error_of_its_block_as_it_is() -> None:
    async def scenario(servers: Servers) -> None:
        lease = servers.lease()
        await lease.__aenter__()
        servers.gone = True
        await asyncio.sleep(10.0)
        await lease.__aexit__(KeyError, KeyError(), None)
        assert lease.is_lost

    run(scenario)


def test_held_lease_that_can_not_be_ended_runs_out() -> None:
    async def scenario(servers: Servers) -> None:
        async with servers.lease():
            servers.error = NoLeader("no")
        assert servers.ended == [LEASE]
        async with servers.lease(ends=False):
            pass
        assert servers.ended == [LEASE]

    run(scenario)


def test_held_lease_is_for_one_block() -> None:
    async def scenario(servers: Servers) -> None:
        lease = servers.lease()
        with pytest.raises(UsageError, match="not granted yet"):
            print(lease.id)
        with pytest.raises(UsageError, match="not granted yet"):
            await lease.lost()
        async with lease:
            with pytest.raises(UsageError, match="one block"):
                await lease.__aenter__()

    run(scenario)


def test_thousands_of_held_leases_share_requests() -> None:
    async def scenario(servers: Servers) -> None:
        leases = [servers.lease(f"{number:016x}") for number in range(1, 2501)]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        await asyncio.sleep(TTL_S / 3 + 0.5)
        assert [len(names) for _, names in servers.sent] == [1000, 1000, 500]
        assert all(not lease.is_lost for lease in leases)
        await asyncio.gather(*(lease.__aexit__(None, None, None) for lease in leases))
        assert len(servers.ended) == 2500

    run(scenario)


def granted_one_by_one(servers: Servers, count: int) -> list[HeldLease]:
    return [servers.lease(f"{number:016x}") for number in range(1, count + 1)]


def test_held_leases_of_any_begin_are_kept_alive_at_shared_moments() -> None:
    async def scenario(servers: Servers) -> None:
        leases = granted_one_by_one(servers, 100)
        for lease in leases:
            await lease.__aenter__()
            await asyncio.sleep(0.037)
        servers.sent.clear()
        await asyncio.sleep(5 * TTL_S)
        assert len(servers.sent) <= 15 * MOMENTS + 1, "a lease has 15 keep-alives in this time"
        for lease in leases:
            moments_s = [sent_s for sent_s, names in servers.sent if lease.id in names]
            pauses_s = [after - before for before, after in pairwise(moments_s)]
            assert max(pauses_s) <= TTL_S / 3 + 0.001
            assert min(pauses_s) >= TTL_S / 3 * (1 - 1 / MOMENTS) - 0.001
            assert not lease.is_lost
        await asyncio.gather(*(lease.__aexit__(None, None, None) for lease in leases))

    run(scenario)


def test_held_leases_are_kept_alive_in_time_with_slow_answers() -> None:
    async def main(_: SimLoop) -> None:
        for ttl_s in (2.0, 2.5, 7.0, 3600.0):
            for delay_s in (0.0, 0.01, ttl_s / 13, ttl_s / 4):
                servers = Servers()
                servers.ttl_s, servers.delay_s = ttl_s, delay_s
                async with servers.lease() as lease:
                    await asyncio.sleep(4 * ttl_s)
                    assert not lease.is_lost
                    moments_s = [sent_s for sent_s, _ in servers.sent]
                    pauses_s = [after - before for before, after in pairwise(moments_s)]
                    assert all(0.75 * ttl_s / 3 <= pause_s <= ttl_s / 3 + delay_s + 0.06 for pause_s in pauses_s)

    run_simulation(main)


def test_held_leases_of_two_clients_have_moments_of_their_own() -> None:
    async def main(_: SimLoop) -> None:
        begun: list[Servers] = []
        for number in range(3):
            servers = Servers()
            await servers.lease(f"{number + 1:016x}").__aenter__()
            begun.append(servers)
            await asyncio.sleep(0.2)
        await asyncio.sleep(2 * TTL_S)
        assert len({round(servers.sent[-1][0] % (TTL_S / 3 / MOMENTS), 3) for servers in begun}) == 3

    run_simulation(main)
