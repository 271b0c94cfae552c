"""A simulated cluster whose state machine can be made to diverge, for tests of the comparison of states."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, BinaryIO, TypeVar

from syncline import BytesSnapshot, Entry
from syncline.errors import NodeFailed, OperationError
from syncline.node.digests import Digests
from syncline.node.raft import Raft
from syncline.testing.cluster import Settings, SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.operations import Operator
from syncline.testing.sim.server import Condition, SimServer

__all__ = ["INTERVAL", "Tally", "Trial", "trial"]

INTERVAL = 8
PATIENCE_S = 60.0
"""Of simulated time."""

Result = TypeVar("Result")


class Tally:
    """A state machine: a checksum over all commands. `twist` is added to each command if it is not empty."""

    apply_on_loop = False

    def __init__(self) -> None:
        self.state = bytes(32)
        self.twist = b""
        self.digests = 0
        self.fault: Exception | None = None
        self.on_digest: Callable[[], object] | None = None

    def apply(self, entry: Entry) -> object:
        self.state = hashlib.sha256(self.state + entry.data + self.twist).digest()
        return len(self.state)

    def snapshot(self) -> BytesSnapshot:
        return BytesSnapshot(self.state)

    def restore(self, source: BinaryIO) -> None:
        self.state = source.read()

    def digest(self) -> bytes:
        self.digests += 1
        if self.fault is not None:
            raise self.fault
        if self.on_digest is not None:
            self.on_digest()
        return self.state


class LoopTally(Tally):
    apply_on_loop = True


class Trial:
    """A cluster under test, and what one does to it."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.operator = Operator(cluster, random.Random(1))

    def servers(self) -> list[SimServer]:
        return list(self.cluster.servers.values())

    def machine(self, server: SimServer) -> Tally:
        assert isinstance(server.machine, Tally)
        return server.machine

    def digests(self, server: SimServer) -> Digests:
        assert server.driver is not None
        return server.driver.digests

    async def leader(self) -> SimServer:
        return await self.cluster.leader(PATIENCE_S)

    async def followers(self) -> list[SimServer]:
        leader = await self.leader()
        return [server for server in self.cluster.running if server is not leader]

    async def write(self, count: int = 3 * INTERVAL, *, through: SimServer | None = None) -> None:
        """Write until so many commands are acknowledged; a leader may stop in between."""
        done = 0
        async with asyncio.timeout(PATIENCE_S):
            while done < count:
                server = through or await self.leader()
                raft = server.raft
                assert raft is not None, server
                done += await self.attempt(server, raft)

    async def attempt(self, server: SimServer, raft: Raft[object]) -> bool:
        """Write once; whether it was acknowledged. The process may end meanwhile."""
        call = server.call(lambda: asyncio.ensure_future(attempt(raft)))
        await asyncio.wait([call], timeout=2.0)
        if not call.done():
            return False
        await asyncio.wait([call.result()], timeout=2.0)
        return call.result().done() and call.result().result()

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.cluster.until(condition, timeout_s=PATIENCE_S)

    async def until_failed(self, server: SimServer) -> str:
        """Write until the node has stopped itself; why it did."""
        for _ in range(20):
            if server.condition in (Condition.FAILED, Condition.REFUSED):
                return str(server.error)
            await self.write(INTERVAL)
        raise AssertionError(f"{server} goes on")

    async def until_all_agree(self) -> int:
        """Write until all running nodes have seen that a majority agrees at a point after now; that point."""
        after = (await self.leader()).raft.stats().last_index  # type: ignore[union-attr]
        await self.write()
        await self.until(lambda: all(self.agreed_since(server, after) for server in self.cluster.running))
        return after

    def agreed_since(self, server: SimServer, index: int) -> bool:
        status = self.digests(server).status
        return status.point > index and status.agreement == "agreed"

    def alarms(self) -> list[bool]:
        return [bool(self.digests(server).alarm) for server in self.cluster.running]


async def attempt(raft: Raft[object]) -> bool:
    try:
        await raft.apply(b"command", timeout=1.0)
    except (OperationError, NodeFailed):
        return False
    return True


def trial(
    scenario: Callable[[Trial], Coroutine[Any, Any, Result]],
    *,
    nodes: int = 3,
    machine: Callable[[], Tally] = Tally,
    settings: Settings | None = None,
) -> Result:
    """Run a scenario on a fresh cluster that compares states every `INTERVAL` entries."""

    async def main(loop: SimLoop) -> Result:
        cluster = SimCluster(
            loop,
            seed=1,
            machine=machine,
            settings=settings or Settings(snapshot_entries=1000),
            digest_interval=INTERVAL,
        )
        await cluster.start(nodes)
        return await scenario(Trial(cluster))

    return run_simulation(main)
