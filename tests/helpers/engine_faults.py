"""A log backend with faults: answers are lost, requests are dropped, refused, or arrive late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from syncline.engines.backend import BackendLost, LogBackend, LogPage, Mark, StoredSnapshot

__all__ = ["FaultyBackend"]

Result = TypeVar("Result")


class FaultyBackend:
    """Passes calls on to `inner`, or not. `rate` is the share of calls with a fault; `cut` fails all of them."""

    def __init__(self, inner: LogBackend, rng: random.Random, rate: float = 0.0) -> None:
        self.inner = inner
        self.rng = rng
        self.rate = rate
        self.cut = False
        self.held: asyncio.Event | None = None
        """While it is there and not set, reads of the log wait."""
        self.holding = asyncio.Event()
        """A read waits for `held`."""
        self.appends = 0
        self.appended: tuple[int, int, bytes] = (0, 0, b"")
        """The newest append: writer, sequence, body."""
        self.lost = 0
        self._late: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def snapshot_bytes(self) -> int:
        return self.inner.snapshot_bytes

    async def _call(self, work: Callable[[], Awaitable[Result]], *, late: bool = True) -> Result:
        if self.cut:
            raise BackendLost("cut off", sent=True)
        if self.rng.random() >= self.rate:
            return await work()
        fault = self.rng.choice(["refused", "dropped", "lost", "late"])
        if fault == "lost":
            await work()
        elif fault == "late" and late:  # a node has one read of the log at a time
            self._late.append(asyncio.get_running_loop().create_task(self._later(work)))
        self.lost += 1
        raise BackendLost(fault, sent=fault != "refused")

    async def _later(self, work: Callable[[], Awaitable[object]]) -> None:
        """Behind the attempts that follow."""
        for _ in range(self.rng.randrange(200)):
            await asyncio.sleep(0)
        try:
            await work()
        except Exception:  # noqa: BLE001 - no caller hears of it
            return

    async def start(self) -> int:
        return await self._call(self.inner.start)

    async def claim(self, machine: str) -> str:
        return await self._call(lambda: self.inner.claim(machine))

    async def renew(self, log_id: int) -> None:
        await self._call(lambda: self.inner.renew(log_id))

    async def read(self, mark: Mark, seen: int, limit_bytes: int) -> LogPage:
        if self.held is not None:
            self.holding.set()
            await self.held.wait()
            self.held = None
            await self.inner.start()  # without what a watch has brought meanwhile
        return await self._call(lambda: self.inner.read(mark, seen, limit_bytes), late=False)

    async def wait(self, seen: int, timeout_s: float) -> None:
        await self.inner.wait(seen, timeout_s)

    def kick(self) -> None:
        self.inner.kick()

    async def append(self, writer: int, sequence: int, body: bytes, fence: int, mark: Mark) -> None:
        self.appends += 1
        self.appended = writer, sequence, body
        await self._call(lambda: self.inner.append(writer, sequence, body, fence, mark))

    async def confirm(self, mark: Mark) -> int:
        return await self._call(lambda: self.inner.confirm(mark))

    async def snapshot(self) -> StoredSnapshot | None:
        return await self._call(self.inner.snapshot)

    async def stored_position(self) -> int:
        return await self._call(self.inner.stored_position)

    async def store_snapshot(self, snapshot: StoredSnapshot, mark: Mark) -> bool:
        return await self._call(lambda: self.inner.store_snapshot(snapshot, mark))

    async def trim(self, position: int) -> None:
        await self._call(lambda: self.inner.trim(position))

    async def acquire(self, holder: str, ttl_s: float) -> int:
        return await self._call(lambda: self.inner.acquire(holder, ttl_s))

    async def keep(self, token: int, ttl_s: float) -> bool:
        return await self._call(lambda: self.inner.keep(token, ttl_s))

    async def release(self, token: int) -> None:
        await self._call(lambda: self.inner.release(token))

    async def settle(self) -> None:
        """No more faults, and nothing is on its way any more."""
        self.rate = 0.0
        await asyncio.gather(*self._late)

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self.inner.close()
