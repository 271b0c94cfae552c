"""A simulated cluster of key-value nodes with leases, and what its clients do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from syncline.errors import SynclineError
from syncline.kv.commands import Command, LeaseGrant, Put, encode_command
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.lease_calls import LeaseTime
from syncline.kv.machine import KvMachine
from syncline.kv.store import KeyStore
from syncline.node.raft import Raft
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import SimServer

__all__ = ["PATIENCE_S", "LeaseTrial", "lease_trial"]

PATIENCE_S = 60.0
"""Of simulated time."""

Result = TypeVar("Result")


class LeaseTrial:
    """A cluster under test."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster

    async def leader(self) -> SimServer:
        return await self.cluster.leader(PATIENCE_S)

    async def follower(self) -> SimServer:
        leader = await self.leader()
        return next(server for server in self.cluster.running if server is not leader)

    async def do(self, server: SimServer, work: Callable[[Raft[object]], Awaitable[Result]]) -> Result:
        """Run a coroutine inside the node's process, and wait for it."""
        raft = server.raft
        assert raft is not None
        task = await server.call(lambda: asyncio.ensure_future(work(raft)))
        await asyncio.wait([task], timeout=PATIENCE_S)
        return task.result()

    async def apply(self, command: Command, server: SimServer | None = None) -> object:
        data = encode_command(command)
        return await self.do(server or await self.leader(), lambda raft: raft.apply(data, timeout=20.0))

    async def grant(self, lease: int, ttl_s: float, key: bytes = b"") -> float:
        """Grant a lease, with a key if one is named; return the time before."""
        before_s = self.now_s
        await self.apply(LeaseGrant(lease, int(ttl_s * 1000)))
        if key:
            await self.apply(Put(key, b"value", lease))
        return before_s

    async def grant_many(self, leases: Iterable[int], ttl_s: float) -> None:
        """Grant leases at once."""
        commands = [encode_command(LeaseGrant(lease, int(ttl_s * 1000))) for lease in leases]

        async def grant(raft: Raft[object]) -> None:
            for start in range(0, len(commands), 500):
                await asyncio.gather(*raft.apply_many(commands[start : start + 500], timeout=20.0))

        await self.do(await self.leader(), grant)

    async def put(self, key: bytes, *, ttl_s: float, lease: int) -> None:
        """Set a key with a lease of its own."""
        await self.apply(Put(key, b"value", lease, ttl_ms=int(ttl_s * 1000)))

    async def keep_alive(self, server: SimServer, *leases: int, timeout_s: float = 20.0) -> list[LeaseTime]:
        return await self.do(server, lambda _: self._caller(server).keep_alive(leases, timeout_s))

    async def times_left(self, server: SimServer, *leases: int, timeout_s: float = 20.0) -> list[LeaseTime]:
        return await self.do(server, lambda _: self._caller(server).times_left(leases, timeout_s))

    @staticmethod
    def _caller(server: SimServer) -> LeaseCaller:
        assert server.lease_calls is not None
        return server.lease_calls

    async def ends_s(self, lease: int) -> float:
        """When the lease ends on some node, at the resolution of the look."""
        await self.cluster.until(
            lambda: any(lease not in self.store(one).leases for one in self.cluster.running), timeout_s=1000.0
        )
        return self.now_s

    def store(self, server: SimServer) -> KeyStore:
        assert isinstance(server.machine, KvMachine)
        return server.machine.store

    def isolate(self, server: SimServer) -> None:
        self.cluster.partition([server.name], [one.name for one in self.cluster.running if one is not server])

    async def next_leader(self, before: SimServer) -> SimServer:
        """Wait for another leader."""
        await self.cluster.until(
            lambda: any(one.is_leader for one in self.cluster.running if one is not before), timeout_s=PATIENCE_S
        )
        return next(one for one in self.cluster.running if one is not before and one.is_leader)

    @property
    def now_s(self) -> float:
        return self.cluster.loop.true_time()


def lease_trial(scenario: Callable[[LeaseTrial], Coroutine[Any, Any, None]], *, nodes: int = 3, seed: int = 5) -> None:
    """Run a scenario on a cluster with a leader. All nodes must hold the same state at the end."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=seed, machine=KvMachine)
        await cluster.start(nodes)
        trial = LeaseTrial(cluster)
        await trial.leader()
        try:
            await scenario(trial)
        except SynclineError as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error
        for server in cluster.running:
            trial.store(server).check()

    run_simulation(main)
