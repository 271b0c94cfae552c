"""A simulated cluster whose nodes run blocks and jobs of the leader, by one wall clock."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from syncline.node.leadership import LeaderTerm
from syncline.node.raft import Raft
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import SimServer
from tests.helpers.digests import Tally

__all__ = ["WALL_S", "Leading", "leading", "raft_of"]

WALL_S: Final = 1_800_000_000.0
"""The wall clock when the loop's clock is 0."""

PATIENCE_S: Final = 30.0

Result = TypeVar("Result")


class Leading:
    """The cluster, and the terms that blocks have begun and ended, as (node, term)."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.begun: list[tuple[str, int]] = []
        self.ended: list[tuple[str, int]] = []

    def set_clocks(self) -> None:
        """Give all nodes that run the true time as their wall clock."""
        for server in self.cluster.running:
            raft = raft_of(server)
            raft._world = dataclasses.replace(raft._world, wall_time_s=self.wall_time_s)

    def wall_time_s(self) -> float:
        return WALL_S + self.cluster.loop.true_time()

    async def leader(self) -> SimServer:
        return await self.cluster.leader(PATIENCE_S)

    async def follower(self) -> SimServer:
        leader = await self.leader()
        return next(server for server in self.cluster.running if server is not leader)

    async def start(self, server: SimServer, work: Callable[[], Coroutine[Any, Any, Result]]) -> asyncio.Task[Result]:
        """Begin it inside the process of this node."""
        return await server.call(lambda: asyncio.ensure_future(work()))

    async def start_block(
        self, server: SimServer, inside: Callable[[LeaderTerm[object]], Coroutine[Any, Any, Any]], **how: Any
    ) -> asyncio.Task[object]:
        """A block of this node. It notes its term, and then does what is given."""

        async def block() -> object:
            async with raft_of(server).leadership(**how) as term:
                self.begun.append((server.name, term.number))
                try:
                    return await inside(term)
                finally:
                    self.ended.append((server.name, term.number))

        return await self.start(server, block)

    async def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        await self.cluster.until(condition, timeout_s=timeout_s)


def raft_of(server: SimServer) -> Raft[object]:
    assert server.raft is not None
    return server.raft


def leading(scenario: Callable[[Leading], Coroutine[Any, Any, None]], *, nodes: int = 3) -> None:
    """Run a scenario on a cluster that has a leader."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=5, machine=Tally)
        await cluster.start(nodes)
        trial = Leading(cluster)
        await trial.leader()
        trial.set_clocks()
        await scenario(trial)

    run_simulation(main)
