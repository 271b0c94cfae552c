"""Locks and semaphores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from syncline.client.calls import Key
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import checked_number_of, checked_wait_s, needed_ttl_s, shown, word_key
from syncline.client.coordination.place import Place
from syncline.errors import DeadlineExceeded, Outcome, UsageError
from syncline.platform.loss import LossScope

__all__ = ["Lock"]

SHOWN_HOLDERS = 3


class Lock:
    """A lock, for one use. `AsyncClient.lock` makes it.

        async with kv.lock("printer", ttl=10) as held:
            await printer.write(page, fence=held.token)

    It is renewed by itself. When it is lost, the task in the block is cancelled, and the block ends with `LockLost`.
    Without a block: `await lock.acquire()`, and `await lock.release()` in a `finally`; then look at `lost`, or call
    `check`.

    `holders` above 1 makes it a semaphore: the first so many have it at a time. The locks of a name should agree about
    the number: each waits for its turn by its own.

    It is fair: the order is that in which the locks were asked for. It is not re-entrant: a second lock of the name
    waits, in the same task, too.
    """

    def __init__(
        self, kv: KeyValueCalls, name: Key, *, ttl: float = 10.0, holders: int = 1, wait: float | None = None
    ) -> None:
        """See `AsyncClient.lock`."""
        prefix = word_key(b"locks", name, "a lock") + b"/"
        self._what = f'the lock "{shown(prefix[len(b"locks/") : -1])}"'
        self._holders = checked_number_of(holders, "holders")
        self._wait_s = checked_wait_s(wait)
        self._place = Place(kv, prefix, needed_ttl_s(ttl, "a lock"), value=b"", what=self._what)
        self._scope = LossScope()
        self._state = "new"
        self.lost: asyncio.Event = asyncio.Event()
        """Set when the lock is lost while it is held: another client may hold it."""

    @property
    def token(self) -> int:
        """The fencing token, larger than that of each holder before. Raises `UsageError` if it was not acquired."""
        if self._state not in ("held", "over"):
            raise UsageError(f"{self._what} is not acquired: it has no token")
        return self._place.revision

    @property
    def key(self) -> bytes:
        """The key that stands for this holder; empty before it was asked for."""
        return self._place.key

    @property
    def rest_s(self) -> float:
        """How many seconds it surely is held without another keep-alive; 0 if it is not held."""
        return self._place.rest_s if self._state == "held" else 0.0

    def check(self) -> None:
        """Make sure that the lock is held: call it before each step that relies on it.

            held.check()

        Raises:
            LockLost: it may be lost.
            UsageError: it was not acquired, or is released.
        """
        if self._state != "held":
            raise UsageError(f"{self._what} is not held: it is {_STATES[self._state]}")
        self._place.check()

    async def acquire(self) -> Self:
        """Wait for the lock. If this is cancelled, or fails, its key is deleted.

            lock = await kv.lock("printer").acquire()

        Raises:
            DeadlineExceeded: it did not become free within `wait`. Outcome `not_applied`.
            LockLost: the place in the queue was lost: its lease ended, or its key was deleted.
            Unreachable: no server could be reached.
            OperationError: the cluster refused it, or could not do it.
            UsageError: it was acquired before: make another one.
        """
        if self._state != "new":
            raise UsageError(f"{self._what} is {_STATES[self._state]}: a lock is for one use, call `kv.lock` again")
        self._state = "waiting"
        try:
            await self._acquire_in_time()
        except BaseException:
            self._state = "failed"
            await self._place.leave()
            raise
        self._state = "held"
        self._on_loss(self.lost.set)
        self._place.watch_over()
        return self

    async def release(self) -> None:
        """Give the lock back. A second time nothing happens.

            await lock.release()

        It waits for some seconds at most: if no server answers, the lock ends with its TTL.

        Raises:
            LockLost: it was lost before: another client may have held it meanwhile.
            UsageError: it was never acquired.
        """
        if self._state in ("over", "failed"):
            return
        if self._state != "held":
            raise UsageError(f"{self._what} is {_STATES[self._state]}: only a lock that is held can be released")
        await self._release(quiet=False)

    async def __aenter__(self) -> Self:
        await self.acquire()
        self._on_loss(self._scope.fire)
        self._scope.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled_here = self._scope.leave(kind)
        await self._release(quiet=not (cancelled_here or error is None))

    def _on_loss(self, callback: Callable[[], None]) -> None:
        """Call it when the lock is lost."""
        self._place.tell(callback)

    async def _release(self, *, quiet: bool) -> None:
        if self._state != "held":
            return
        self._state = "over"
        try:
            if not quiet:
                self._place.check()
        finally:
            await self._place.leave()

    async def _acquire_in_time(self) -> None:
        limit = asyncio.timeout(self._wait_s or None)
        try:
            async with limit:
                await self._place.take()
                if await self._place.turn(self._holders, patient=self._wait_s != 0):
                    return
        except TimeoutError:
            if not limit.expired():
                raise
        raise DeadlineExceeded(self._not_free(), outcome=Outcome.NOT_APPLIED)

    def _not_free(self) -> str:
        waited = f"it did not become free within {self._wait_s:g} s" if self._wait_s else "it is not free"
        ahead = self._place.ahead[: min(self._holders, SHOWN_HOLDERS)]
        if not ahead:
            return f"{self._what} was not acquired within {self._wait_s:g} s: the servers have not answered in time"
        more = ", …" if self._holders > len(ahead) else ""
        return f"{self._what} is held by {', '.join(map(shown, ahead))}{more}: {waited}"


_STATES = {
    "new": "not acquired yet",
    "waiting": "being acquired",
    "failed": "given up: it could not be acquired",
    "held": "held",
    "over": "released",
}
