"""What happens to the cluster during a soak, in turns: transfers, snapshots, a member that joins and leaves, kills.

One node is never stopped: its lines are the longest. The others are killed and stopped.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from syncline.errors import OperationError
from tests.helpers.process_cluster import Cluster, Node, eventually

__all__ = ["Events"]

GUEST: Final = "guest"
SETTLE_S: Final = 120.0


class Events:
    """One event after the other, `every_s` apart, until it is cancelled."""

    def __init__(self, cluster: Cluster, rng: random.Random, every_s: float) -> None:
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._rng = rng
        self._every_s = every_s
        self._works: tuple[Callable[[], Awaitable[None]], ...] = (
            self._transfer,
            self._snapshot,
            self._join,
            self._kill,
            self._leave,
            self._stop,
        )

    async def run(self) -> None:
        async for work in self._turns():
            name = work.__name__.removeprefix("_")
            try:
                await work()
                self.done[name] += 1
            except OperationError as error:  # an election is under way, or a transfer was given up
                self.done[f"{name} {error.code}"] += 1

    async def _turns(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        while True:
            for work in self._works:
                await asyncio.sleep(self._every_s)
                yield work

    async def _transfer(self) -> None:
        async with self._cluster.client(timeout=20.0) as client:
            await client.transfer_leadership()

    async def _snapshot(self) -> None:
        node = self._rng.choice([node for node in self._cluster.nodes if node.running])
        async with node.client(timeout=60.0) as client:
            await client.snapshot()

    async def _join(self) -> None:
        if any(node.name == GUEST for node in self._cluster.nodes):
            return
        guest = self._cluster.joining(GUEST, self._cluster.nodes[:3])
        guest.start()
        await self._until_voters(4)

    async def _leave(self) -> None:
        guest = next((node for node in self._cluster.nodes if node.name == GUEST), None)
        if guest is None:
            return
        async with self._cluster.client(timeout=20.0) as client:
            await client.remove_member(GUEST)
        await self._until_voters(3)
        if guest.running:
            guest.kill()
        self._cluster.nodes.remove(guest)
        shutil.rmtree(guest.data_dir)

    async def _kill(self) -> None:
        victim = self._victim()
        victim.kill()
        await self._back(victim)

    async def _stop(self) -> None:
        victim = self._victim()
        await asyncio.to_thread(victim.stop)
        await self._back(victim)

    def _victim(self) -> Node:
        """Any but the first node and the guest."""
        return self._rng.choice(self._cluster.nodes[1:3])

    async def _back(self, node: Node) -> None:
        node.start()

        async def serves() -> bool:
            async with node.client(timeout=2.0) as client:
                await client.get("readiness")
            return True

        await eventually(f"{node.name} serves again", serves, deadline_s=SETTLE_S)

    async def _until_voters(self, count: int) -> None:
        async def are_there() -> bool:
            async with self._cluster.client(timeout=5.0) as client:
                members = (await client.members()).members
            return [member.role for member in members] == ["voter"] * count

        await eventually(f"there are {count} voters", are_there, deadline_s=SETTLE_S)
