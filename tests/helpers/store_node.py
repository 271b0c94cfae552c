"""Embedded stores on loopback, with short timers and without a reserve: for tests of `Store`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from syncline import Config, Store
from syncline.platform.world import World
from tests.helpers.ports import free_block

__all__ = ["StoreCluster", "one_store", "store_cluster", "until_true"]

LIMIT_S = 20.0


async def until_true(store: Store, condition: Callable[[], bool]) -> None:
    """Wait until it holds: looked at with every change of the node, and at least with every tick."""
    driver = store.raft._driver
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await driver.running.wait(driver.loop.time() + driver.config.heartbeat_s)


class StoreCluster:
    """Stores by name. Ports and directories stay with their name."""

    def __init__(self, path: Path, names: str) -> None:
        self.path = path
        self._first_port = free_block(len(names))
        self.peers = {name: f"127.0.0.1:{self._first_port + at}" for at, name in enumerate(names)}
        self.stores: dict[str, Store] = {}

    def config(self, name: str) -> Config:
        return Config(
            name=name,
            data_dir=str(self.path / name),
            listen=self.peers[name],
            peers=self.peers,
            heartbeat_s=0.02,
            election_s=0.2,
            segment_bytes=1 << 20,
            reserve_bytes=0,
        )

    async def open(
        self, name: str, *, world: World | None = None, max_key_bytes: int = 1024, max_value_bytes: int = 1 << 20
    ) -> Store:
        self.stores[name] = store = await Store.open(
            self.config(name),
            timeout=LIMIT_S,
            world=world,
            max_key_bytes=max_key_bytes,
            max_value_bytes=max_value_bytes,
        )
        return store

    async def leader(self) -> Store:
        """The leader, as all that run agree."""
        running = [store for store in self.stores.values() if store.raft.role != "stopped"]

        def agreed() -> bool:
            leaders = {store.raft.stats().leader for store in running}
            return len(leaders) == 1 and None not in leaders and any(store.raft.is_leader for store in running)

        await until_true(running[0], agreed)
        return next(store for store in running if store.raft.is_leader)

    async def followers(self) -> list[Store]:
        leader = await self.leader()
        return [store for store in self.stores.values() if store is not leader and store.raft.role != "stopped"]


@asynccontextmanager
async def store_cluster(path: Path, names: str = "abc") -> AsyncIterator[StoreCluster]:
    """A cluster whose stores are all open."""
    made = StoreCluster(path, names)
    try:
        await asyncio.gather(*(made.open(name) for name in names))
        yield made
    finally:
        await asyncio.gather(*(store.close() for store in made.stores.values()))


@asynccontextmanager
async def one_store(path: Path) -> AsyncIterator[Store]:
    """A cluster of one."""
    async with store_cluster(path, "a") as made:
        yield made.stores["a"]
