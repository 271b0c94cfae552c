"""The leadership of one node on a log backend: a lease with a fencing token, renewed while some block needs it.

The node counts the lease from the moment before it asked. So it stops leading before the backend lets another node.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

from syncline.engines.backend import BackendLost, LogBackend, LogReplaced
from syncline.engines.contact import Contact
from syncline.errors import Closed, LeadershipLost, NodeFailed, NotLeader, Outcome, SynclineError
from syncline.node.futures import ApplyFuture
from syncline.node.leadership import LeaderTerm
from syncline.node.role import Role
from syncline.node.running import Running
from syncline.platform.loss import LossScope

__all__ = ["LEASE_S", "LeaseHolder"]

LEASE_S: Final = 6.0
"""How long a leadership lasts without a word from its node."""

RENEW_S: Final = LEASE_S / 4
RELEASE_S: Final = 1.0
"""How long `close` waits for the backend."""

R_co = TypeVar("R_co", covariant=True)


class LeaseHolder:
    """Holds the leadership for all blocks of one node. `told` gets the role when it changes."""

    def __init__(
        self, backend: LogBackend, contact: Contact, running: Running, holder: str, told: Callable[[Role], None]
    ) -> None:
        self._backend = backend
        self._contact = contact
        self._running = running
        self._holder = holder
        self._told = told
        self._users = 0
        self._work: asyncio.Task[None] | None = None
        self._ends_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.token: int = 0
        """The newest fencing token that this node got."""

    @property
    def leads(self) -> bool:
        """Whether this node leads, as far as it knows."""
        running = self._running
        return self.token != 0 and running.loop.time() < self._ends_s and not running.stopped

    @contextlib.asynccontextmanager
    async def leadership(
        self, apply: Callable[..., ApplyFuture[R_co]], timeout_s: float | None
    ) -> AsyncIterator[LeaderTerm[R_co]]:
        """See `Engine.leadership`."""
        self._begin()
        try:
            number = await self._led(timeout_s)

            def leads() -> bool:
                return self.leads and self.token == number

            watch = _LossWatch(self._running, leads)
            watch.begin()
            ended: BaseException | None = None
            try:
                yield LeaderTerm(number, leads, apply)
            except BaseException as error:
                ended = error
                watch.end()
                if not watch.scope.leave(type(error)):
                    raise
            else:
                watch.end()
                watch.scope.leave(None)
            if ended is not None or not leads():
                raise self._lost(number)
        finally:
            await self._end()

    async def _led(self, timeout_s: float | None) -> int:
        running = self._running
        deadline_s = None if timeout_s is None else running.loop.time() + timeout_s
        while True:
            running.check()
            if self.leads:
                return self.token
            now_s = running.loop.time()
            if deadline_s is not None and now_s >= deadline_s:
                why = f": {trouble}" if (trouble := self._contact.trouble) else ""
                raise NotLeader(f"this node did not lead before the deadline{why}")
            await running.wait(now_s + RENEW_S if deadline_s is None else min(deadline_s, now_s + RENEW_S))

    def _begin(self) -> None:
        self._users += 1
        if self._work is None:
            self._work = self._running.loop.create_task(self._hold())

    async def _end(self) -> None:
        self._users -= 1
        if self._users or self._work is None:
            return
        work, self._work = self._work, None
        work.cancel()
        await asyncio.wait([work])
        await self._give_back()

    async def _give_back(self) -> None:
        if self._users or not self.leads:
            return  # another block has begun meanwhile, with the same leadership
        self._over()
        with contextlib.suppress(BackendLost, LogReplaced):  # the lease ends by itself
            await self._contact.attempt(self._backend.release(self.token))

    async def _hold(self) -> None:
        """Take the leadership, and renew it, while blocks need it."""
        loop = self._running.loop
        while True:
            begun_s = loop.time()
            try:
                await self._ask(begun_s)
            except BackendLost as error:
                await self._contact.pause(error)
            except LogReplaced as error:  # the task that reads the log stops the node for it
                await self._contact.pause(BackendLost(str(error), sent=False))
            else:
                await asyncio.sleep(max(0.0, begun_s + RENEW_S - loop.time()))

    async def _ask(self, begun_s: float) -> None:
        if self.leads:
            if await self._contact.attempt(self._backend.keep(self.token, LEASE_S)):
                self._held(self.token, begun_s + LEASE_S)
                return
            self._over()
        token = await self._contact.attempt(self._backend.acquire(self._holder, LEASE_S))
        if token:
            self._held(token, begun_s + LEASE_S)

    def _held(self, token: int, ends_s: float) -> None:
        begins = not self._ends_s
        self.token, self._ends_s = token, ends_s
        if begins:
            self._timer = self._running.loop.call_at(ends_s, self._look)
            self._told("leader")
            self._running.wake()

    def _look(self) -> None:
        """The lease may be over. There is one timer while it is held."""
        if self._running.loop.time() >= self._ends_s:
            self._over()
        else:
            self._timer = self._running.loop.call_at(self._ends_s, self._look)

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ends_s:
            self._ends_s = 0.0
            self._told("follower")
            self._running.wake()

    async def close(self) -> None:
        """Give the leadership back. The blocks of the node have been cancelled."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait([work])
        if self._running.loop.time() < self._ends_s:
            self._over()
            with contextlib.suppress(BackendLost, LogReplaced):  # the lease ends by itself
                await self._contact.attempt(self._backend.release(self.token), RELEASE_S)

    def _lost(self, number: int) -> SynclineError:
        stopped_by = self._running.stopped_by
        if stopped_by is None:
            return LeadershipLost(f"this node does not hold the leadership {number} any more: another node may")
        text = f"{stopped_by}, and with it its leadership {number} has ended"
        if isinstance(stopped_by, NodeFailed):
            return NodeFailed(text, outcome=Outcome.UNKNOWN)
        return Closed(text, outcome=Outcome.UNKNOWN)


class _LossWatch:
    """Cancels the task of a block at the first change after which the node does not lead."""

    def __init__(self, running: Running, leads: Callable[[], bool]) -> None:
        self._running = running
        self._leads = leads
        self._changed: asyncio.Future[None] | None = None
        self.scope: LossScope = LossScope()

    def begin(self) -> None:
        self.scope.enter()
        self._wait()

    def end(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.cancel()

    def _wait(self) -> None:
        self._changed = self._running.changed()
        self._changed.add_done_callback(self._look)

    def _look(self, _: asyncio.Future[None]) -> None:
        if self._changed is None:
            return
        if self._leads():
            self._wait()
        else:
            self.scope.fire()
