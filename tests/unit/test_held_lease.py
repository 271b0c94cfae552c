"""A lease that a client holds: kept alive in time, and lost in time, in virtual time and against a double."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from syncline.client.held_lease import HeldLease, KeepAlives
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
        self.ended: list[str] = []
        self.asleep_s = 0.0
        self.keep_alives = KeepAlives(self.keep)

    async def keep(self, names: list[str], timeout_s: float) -> list[GrantedLease]:
        self.sent.append((asyncio.get_running_loop().time(), names))
        await asyncio.sleep(min(self.delay_s, timeout_s))
        if self.error is not None:
            raise self.error
        return [] if self.gone else [GrantedLease(name, TTL_S) for name in names]

    def lease(self, name: str = LEASE, *, ends: bool = True) -> HeldLease:
        async def begin() -> GrantedLease:
            await asyncio.sleep(self.delay_s)
            return GrantedLease(name, TTL_S)

        async def end(ended: str, timeout_s: float) -> None:
            self.ended.append(ended)
            if self.error is not None:
                raise self.error

        return HeldLease(begin, end if ends else None, self.keep_alives.keep, lambda: self.asleep_s)


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
