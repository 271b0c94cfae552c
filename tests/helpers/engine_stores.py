"""Stores on one log in memory, in virtual time. Each store has a backend of its own, with faults on order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from syncline import LogReplica, Store
from syncline.engines.backend import LogBackend
from syncline.engines.memory import MemoryBackend, MemoryLog
from syncline.kv.log_lessor import LogLessor
from syncline.machines import opening
from syncline.platform.world import World
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.workers import SimWorkers
from tests.helpers.engine_faults import FaultyBackend

__all__ = ["EngineStores", "lessor_of", "run_stores"]

URL: Final = "memory:stores"
LOOK_S: Final = 0.01


class EngineStores:
    """Stores by the order of their open. `backends` has the backend of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log = MemoryLog(self.rng)
        self.stores: list[Store] = []
        self.backends: list[FaultyBackend] = []
        self._loop = loop

    def now_s(self) -> float:
        return self._loop.time()

    def backend(self, url: str, _: random.Random) -> LogBackend:
        """In place of `make_backend`."""
        assert url == URL
        self.backends.append(FaultyBackend(MemoryBackend(self.log), self.rng))
        return self.backends[-1]

    async def open(self, **settings: Any) -> Store:
        rng = random.Random(self.rng.random())
        world = World(rng=rng, workers=SimWorkers(rng), entropy=rng.randbytes, wall_time_s=self.now_s)
        self.stores.append(await Store.open(URL, world=world, **settings))
        return self.stores[-1]

    async def open_all(self, count: int) -> list[Store]:
        return [await self.open() for _ in range(count)]

    async def until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> float:
        """Let the time pass until it holds. Returns the time of that, at the resolution of the look."""
        give_up_s = self.now_s() + limit_s
        while not condition():
            assert self.now_s() < give_up_s, f"not within {limit_s:g} s"
            await asyncio.sleep(LOOK_S)
        return self.now_s()

    def commands(self) -> int:
        """Records in the log."""
        return self.log.head


def lessor_of(store: Store) -> LogLessor:
    replica = store.replica
    assert isinstance(replica, LogReplica)
    lessor = vars(store._upkeep)["lessor"]
    assert isinstance(lessor, LogLessor)
    return lessor


def run_stores(scenario: Callable[[EngineStores], Coroutine[Any, Any, None]], *, seed: int = 1) -> None:
    """Run a scenario. All stores must hold the same state at the end."""

    async def main(loop: SimLoop) -> None:
        with pytest.MonkeyPatch.context() as patch:
            made = EngineStores(loop, seed)
            patch.setattr(opening, "make_backend", made.backend)
            try:
                await scenario(made)
                await _same_state(made.stores)
            finally:
                for store in made.stores:
                    await store.close()

    run_simulation(main)


async def _same_state(stores: list[Store]) -> None:
    running = [store for store in stores if store._closing is None]
    for store in running:
        await store.replica.read_index(timeout=20)
        store._machine.store.check()
    assert len({store._machine.digest() for store in running}) <= 1
