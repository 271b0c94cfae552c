"""A lease that keeps itself alive, and says when it is lost."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from syncline.client.lease_schemas import MAX_KEPT_LEASES
from syncline.client.results import GrantedLease
from syncline.errors import LeaseLost, OperationError, UsageError
from syncline.platform.waiting import result_of

__all__ = ["HeldLease", "HeldLeases", "KeepAlives"]

KEEP_ALIVES: Final = 3
"""Keep-alives within the time of a lease: one may be lost, and an election pass, and it lives on."""

MOMENTS: Final = 4
"""The leases of a client share the moments of their keep-alives: so many within the time between two. A lease is kept
alive up to a fourth of this time too early, and a request is for many leases, whenever they were granted."""

GATHER_S: Final = 0.05
"""Keep-alives of the leases of one client wait so long for each other. A TTL is 2 s at least."""

RETRY_SHARE: Final = 0.05
"""Pause before the next keep-alive after one that failed, as a share of the lease's time."""

ENDS_AT_ONCE: Final = 16
"""Leases that are ended at the same time when a client is closed: each end is a request."""

_ROUNDING: Final = 1e-6
"""A moment that is a little later than now plus the period, by rounding alone, is taken."""

REVOKE_S: Final = 5.0
"""How long the end of a block waits for the end of its lease. Without an answer the lease ends by itself."""


class KeepAlives:
    """Gathers the keep-alives of a client's leases: thousands of leases are kept alive by a few requests.

    `send` keeps up to 1,000 leases alive, and returns those that exist.
    """

    def __init__(self, send: Callable[[list[str], float], Awaitable[list[GrantedLease]]]) -> None:
        self._send = send
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._timeout_s = 0.0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._first_s: float | None = None
        """A moment of all its leases. Each client has its own: programs that start one after the other must not all
        ask at once."""

    def pause_s(self, ttl_s: float) -> float:
        """How long a lease that was just granted or kept alive waits for its next keep-alive."""
        now_s = asyncio.get_running_loop().time()
        if self._first_s is None:
            self._first_s = now_s
        period_s = ttl_s / KEEP_ALIVES
        step_s = period_s / MOMENTS
        latest_s = now_s - self._first_s + period_s
        moment_s = math.floor(latest_s / step_s + _ROUNDING) * step_s
        return moment_s + self._first_s - now_s

    async def keep(self, lease: str, timeout_s: float) -> float:
        """Keep a lease alive; its TTL in seconds, or 0 if it is gone. Raises the error of the request."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._timeout_s = timeout_s
            loop.call_later(GATHER_S, self._start)
        self._timeout_s = min(self._timeout_s, timeout_s)
        future = self._waiting.setdefault(lease, loop.create_future())
        return await result_of(future)

    def _start(self) -> None:
        waiting, self._waiting = list(self._waiting.items()), {}
        for start in range(0, len(waiting), MAX_KEPT_LEASES):
            work = self._keep(dict(waiting[start : start + MAX_KEPT_LEASES]), self._timeout_s)
            task = asyncio.get_running_loop().create_task(work)
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

    async def _keep(self, waiting: dict[str, asyncio.Future[float]], timeout_s: float) -> None:
        try:
            kept = {one.id: one.ttl_s for one in await self._send(list(waiting), timeout_s)}
        except Exception as error:  # noqa: BLE001 - the client is closed, or the caller's `on_retry` has failed
            for future in waiting.values():
                future.set_exception(error)
                future.exception()  # its holder may have gone
        else:
            for lease, future in waiting.items():
                future.set_result(kept.get(lease, 0.0))
        finally:
            for future in waiting.values():
                future.cancel()


class HeldLeases:
    """The leases that a client holds. They end with the client: the next holder must not wait for their TTL."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leases: dict[HeldLease, None] = {}
        self._closed = False

    def check(self) -> None:
        """Raise `UsageError` if the client is closed, or is being closed."""
        if self._closed:
            raise UsageError("the client is closed: use it before its close, or make another one")

    def watched(self, lease: HeldLease) -> HeldLease:
        """Return a lease that ends with the client from the begin of its block on."""
        lease._held = self
        return lease

    def add(self, lease: HeldLease) -> None:
        """It is held from now on. Raises `UsageError` as `check` does: it ends by itself then."""
        self.check()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._leases.clear()  # those of a loop that is closed: they are kept alive no longer
            self._loop = loop
        self._leases[lease] = None

    def discard(self, lease: HeldLease) -> None:
        """Its block has ended."""
        self._leases.pop(lease, None)

    async def end(self, limit_s: float) -> None:
        """Tell the holders that their leases are lost, then end them on the servers, as many as can be in `limit_s`.

        In this order: no other client gets what a lease stands for before its holder was told.
        """
        self._closed = True
        leases = deque(self._leases) if self._loop is asyncio.get_running_loop() else deque()
        self._leases.clear()
        for lease in leases:
            lease._client_closed()

        async def work() -> None:
            while leases:
                await leases.popleft()._revoke(limit_s)

        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                for _ in range(min(ENDS_AT_ONCE, len(leases))):
                    group.create_task(work())


class HeldLease:
    """A lease that is kept alive while its block runs. `AsyncClient.lease` makes it.

    It counts its time from the moment before each keep-alive was sent, so it is over here before it is over on the
    servers. Time in which the machine was suspended counts, too.

        async with kv.lease(30) as lease:
            await kv.put("worker/7", "alive", lease=lease.id)
            while work:
                lease.check()  # raises LeaseLost
                ...

    At the end of the block the lease is ended, and its keys are deleted; one that was granted before the block
    (`AsyncClient.hold_lease`) is left to run out. If it was lost by then, and the block has raised nothing, `LeaseLost`
    is raised.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[GrantedLease]],
        end: Callable[[str, float], Awaitable[object]] | None,
        keep: Callable[[str, float], Awaitable[float]],
        pause_s: Callable[[float], float],
        asleep_s: Callable[[], float],
    ) -> None:
        """`begin` and `keep` give the lease its full time; `end` ends it. The number is a limit in seconds. `pause_s`
        says how long a lease with a full time waits for its next keep-alive."""
        self._begin = begin
        self._end = end
        self._keep = keep
        self._pause_s = pause_s
        self._asleep_s = asleep_s
        self._held: HeldLeases | None = None
        """Of the client, whose close ends it."""
        self._end_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._granted: GrantedLease | None = None
        self._lost: asyncio.Future[LeaseLost] | None = None
        self.ttl_s: float = 0.0
        """Its full time in seconds; 0 before the block has begun."""

    @property
    def id(self) -> str:
        """Its id, 16 hexadecimal digits. Raises `UsageError` before the block has begun."""
        if self._granted is None:
            raise UsageError("the lease is not granted yet: begin it by `async with`, or by `with` in blocking code")
        return self._granted.id

    @property
    def rest_s(self) -> float:
        """How many seconds it surely has, without another keep-alive; 0 if it is lost."""
        if self._lost is None or self._lost.done():
            return 0.0
        return max(0.0, self._end_s - self._now_s())

    @property
    def is_lost(self) -> bool:
        """Whether it may be over: another client may hold what it stood for."""
        return self.rest_s == 0.0

    def check(self) -> None:
        """Make sure that the lease is not over: call it before each step that relies on the lease.

        Raises:
            LeaseLost: it may be over.
        """
        if self.is_lost:
            raise self._loss("its time was over before a keep-alive was answered")

    async def lost(self) -> LeaseLost:
        """Wait until the lease is lost, and return why.

            watching = asyncio.create_task(lease.lost())

        Raises:
            UsageError: the block has not begun.
        """
        if self._lost is None:
            raise UsageError("the lease is not granted yet: begin it by `async with`, or by `with` in blocking code")
        return await result_of(self._lost)

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise UsageError("a held lease is for one block: call `kv.lease` again")
        loop = asyncio.get_running_loop()
        if self._held is not None:
            self._held.check()
        sent_s = self._now_s()
        self._granted = granted = await self._begin()
        if self._held is not None:
            self._held.add(self)
        self.ttl_s = granted.ttl_s
        self._end_s = sent_s + granted.ttl_s
        self._lost = loop.create_future()
        self._task = loop.create_task(self._run(granted.id), name=f"lease {granted.id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._lost is not None
        try:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self.is_lost:
                await self._revoke(min(REVOKE_S, max(self.rest_s, 0.1)))
            elif error is None:
                raise self._lost.result() if self._lost.done() else self._loss("its time is over")
        finally:
            if self._held is not None:
                self._held.discard(self)

    def _client_closed(self) -> None:
        """Keep it alive no longer: the client is closed. Its holder is told that it is lost."""
        assert self._task is not None
        self._task.cancel()
        self._lose("the client was closed")

    async def _revoke(self, timeout_s: float) -> None:
        """End it on the servers. If that can't be done within the time, it ends by itself."""
        if self._end is not None:
            with suppress(OperationError, UsageError):
                await self._end(self.id, timeout_s)

    async def _run(self, lease: str) -> None:
        pause_s = self._pause_s(self.ttl_s)
        while True:
            await asyncio.sleep(min(pause_s, max(0.0, self._end_s - self._now_s())))
            sent_s = self._now_s()
            left_s = self._end_s - sent_s
            if left_s <= 0:
                self._lose("its time was over before a keep-alive was answered")
                return
            try:
                async with asyncio.timeout(left_s):
                    ttl_s = await self._keep(lease, min(left_s, self.ttl_s / KEEP_ALIVES))
            except OperationError:
                pause_s = RETRY_SHARE * self.ttl_s
                continue
            except TimeoutError:
                continue  # its time is over
            except Exception as error:  # noqa: BLE001 - as in `KeepAlives`: there will be no keep-alive
                self._lose(str(error) or type(error).__name__)
                return
            if not ttl_s:
                self._lose("it has ended on the servers")
                return
            self._end_s = sent_s + ttl_s
            pause_s = self._pause_s(ttl_s)

    def _lose(self, why: str) -> None:
        assert self._lost is not None
        if not self._lost.done():
            self._lost.set_result(self._loss(why))

    def _loss(self, why: str) -> LeaseLost:
        return LeaseLost(f"the lease {self.id} is lost: {why}. Another client may hold what it stood for")

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() + self._asleep_s()
