"""A mixed load of bounded size: the state, the history and the leases stay as large as they are.

Writes and reads, transactions, batches, counters, leases that end, watches that come and go, connections that come and
go, users of locks. What was acknowledged is remembered, and compared at the end.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from syncline.client import AsyncClient
from syncline.errors import OperationError

__all__ = ["Mixed"]

KEYS: Final = 2_000
VALUE_BYTES: Final = 300
WATCH_S: Final = 3.0


class Mixed:
    """Several clients, each with a kind of work of its own. `rate`: operations a second of all together."""

    def __init__(self, endpoints: list[str], rng: random.Random, rate: float) -> None:
        self.acknowledged: dict[str, bytes] = {}
        """The newest acknowledged value of each key that the writer wrote; one writer a key."""
        self.doubtful: set[str] = set()
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._endpoints = endpoints
        self._rng = rng
        works = {
            "put": self._put, "get": self._get, "txn": self._txn, "incr": self._increment, "lease": self._lease,
            "watch": self._watch, "lock": self._lock, "connect": self._connect,
        }  # fmt: skip
        self._pause_s = len(works) / rate
        self._tasks = [asyncio.create_task(self._repeat(name, work)) for name, work in works.items()]

    async def _repeat(self, name: str, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async with AsyncClient(self._endpoints, timeout=10.0) as client:
            while True:
                try:
                    await work(client)
                    self.done[name] += 1
                except OperationError as error:
                    self.failed[f"{name} {error.code}"] += 1
                await asyncio.sleep(self._pause_s * self._rng.uniform(0.5, 1.5))

    def _key(self) -> str:
        return f"soak/{self._rng.randrange(KEYS)}"

    def _value(self) -> bytes:
        return self._rng.randbytes(VALUE_BYTES)

    async def _put(self, client: AsyncClient) -> None:
        pairs = {f"own/{self._rng.randrange(KEYS)}": self._value() for _ in range(8)}
        for key, value in pairs.items():
            self.doubtful.add(key)
            await client.put(key, value)
            self.acknowledged[key] = value
            self.doubtful.discard(key)

    async def _get(self, client: AsyncClient) -> None:
        await client.get(self._key())
        await client.get(self._key(), consistency="stale")
        async for _ in client.scan(f"soak/{self._rng.randrange(10)}", page=50):
            pass

    async def _txn(self, client: AsyncClient) -> None:
        await asyncio.gather(*(client.put(self._key(), self._value()) for _ in range(8)))
        await client.delete(self._key())

    async def _increment(self, client: AsyncClient) -> None:
        await client.increment("counter", 1)

    async def _lease(self, client: AsyncClient) -> None:
        await client.put(f"ttl/{self._rng.randrange(100)}", b"v", ttl=2.0)

    async def _watch(self, client: AsyncClient) -> None:
        async def follow() -> None:
            async for _ in client.watch(prefix="own/"):
                pass

        try:
            async with asyncio.timeout(WATCH_S):
                await follow()
        except TimeoutError:
            self.done["watch ended"] += 1

    async def _lock(self, client: AsyncClient) -> None:
        async with client.lock("soak", ttl=5.0, wait=5.0):
            await client.put("held", b"v")

    async def _connect(self, client: AsyncClient) -> None:
        del client
        async with AsyncClient(self._rng.choice(self._endpoints), timeout=5.0) as fresh:
            await fresh.get(self._key())

    async def stop(self) -> None:
        """End the load."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def check(self) -> list[str]:
        """The keys whose acknowledged value is lost."""
        async with AsyncClient(self._endpoints, timeout=30.0) as client:
            held = {item.key.decode(): item.value async for item in client.scan("own/", values=True)}
        return [key for key, value in self.acknowledged.items() if held.get(key) != value and key not in self.doubtful]
