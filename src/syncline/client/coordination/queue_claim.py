"""The claim of one item of a queue, for the time of a block: finish it, or give it back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import shown
from syncline.client.coordination.place import Place
from syncline.client.coordination.queue_keys import QueueKeys
from syncline.client.coordination.queue_search import QueueSearch, TakenItem, bury, claimed_by
from syncline.client.coordination.waiting import PAUSE_S, passes, to_its_end
from syncline.client.held_lease import HeldLease
from syncline.client.txn import DeleteOp, Operation
from syncline.errors import DeadlineExceeded, LeaseLost, LockLost, OperationError, Outcome, UsageError
from syncline.platform.loss import LossScope

__all__ = ["ItemClaim", "QueueItem"]

CONFLICTS: Final = 2
"""How often others may be faster before a claimer stands in line: from then on one claimer asks at a time."""

NO_LIMIT: Final = 1_000_000

LINE_TTL_S: Final = 5.0
"""A claimer that dies at the head of the line keeps the others waiting for so long at most."""


class QueueItem:
    """An item that is claimed. `Queue.claim` gives it.

    async with mail.claim() as item:
        await item.done(PutOp(b"sent/7", item.value))
    """

    def __init__(
        self,
        kv: KeyValueCalls,
        keys: QueueKeys,
        item: TakenItem,
        lease: HeldLease,
        most: int,
        lose: Callable[[], None],
    ) -> None:
        """`most`: deliveries after which an item that is given back is dead. `lose` is called if the claim is lost."""
        self._kv = kv
        self._keys = keys
        self._item = item
        self._lease = lease
        self._most = most
        self._over = ""
        self.id: str = item.id
        """32 hexadecimal digits."""
        self.value: bytes = item.value
        self.deliveries: int = item.deliveries
        """How often it was claimed, this time included: 1 at the first time."""
        self.token: int = item.token
        """Fencing token: the revision of the claim. A later claim has a larger one."""
        self.lost: asyncio.Event = asyncio.Event()
        """Set when the claim is lost."""
        self._lose = lose

    @property
    def is_over(self) -> bool:
        """Whether it is done, given back or lost."""
        return bool(self._over)

    def check(self) -> None:
        """Make sure that the claim is not lost: call it before each step that relies on it.

            item.check()

        Raises:
            LeaseLost: it may be lost.
            UsageError: the item is done or given back.
        """
        if self._over:
            raise UsageError(f"the item {self.id} is {self._over}")
        if self.lost.is_set() or self._lease.is_lost:
            raise _loss(self.id)

    async def done(self, *operations: Operation, timeout: float | None = None) -> int:
        """Finish the item now, and carry out `operations` in the same transaction: both, or neither.

            await item.done(PutOp(b"sent/7", b"yes"))

        So what it leads to in this store takes effect exactly once. Returns the revision. If it was not called, the end
        of the block does the same, without operations.

        Raises:
            LeaseLost: the claim was lost: nothing was changed.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an operation can't be used; nothing was sent.
            UsageError: the item is done or given back.
        """
        self.check()
        name, keys = self.id.encode("ascii"), self._keys
        removed = [DeleteOp(keys.items + name), DeleteOp(keys.claims + name), DeleteOp(keys.tries + name)]
        return await self._settle([*removed, *operations], "done", timeout)

    async def give_back(self, *, timeout: float | None = None) -> None:
        """Give the item back now: it is the first one that is free.

            await item.give_back()

        Raises:
            LeaseLost, DeadlineExceeded, OperationError, UsageError: as `done`.
        """
        self.check()
        if self.deliveries < self._most:
            await self._settle([DeleteOp(self._keys.claims + self.id.encode("ascii"))], "given back", timeout)
        elif not await bury(self._kv, self._keys, self._item, timeout):
            self._lose()
            raise _loss(self.id)
        else:
            self._over = "given back, for the last time: it is among the dead letters"

    async def _settle(self, operations: Sequence[Operation], outcome: str, timeout: float | None) -> int:
        """Carry out operations that end the claim, if it still stands. Returns the revision."""
        answer = await self._kv.txn([claimed_by(self._keys, self._item)], operations, timeout=timeout)
        if not answer.succeeded:
            self._lose()
            raise _loss(self.id)
        self._over = outcome
        return answer.revision


class ItemClaim:
    """An item for the time of a block. `Queue.claim` makes it."""

    def __init__(self, kv: KeyValueCalls, keys: QueueKeys, *, ttl_s: float, wait_s: float | None, most: int) -> None:
        """`most`: deliveries after which an item that is not done is dead."""
        self._kv = kv
        self._keys = keys
        self._search = QueueSearch(kv, keys, ttl_s=ttl_s, most=most)
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._most = most
        self._what = f'the queue "{shown(keys.name)}"'
        self._item: QueueItem | None = None
        self._scope = LossScope()
        self._watching: asyncio.Task[None] | None = None
        self._entered = False
        self._told: list[Callable[[], None]] = []

    async def __aenter__(self) -> QueueItem:
        if self._entered:
            raise UsageError("a claim is for one block: call `queue.claim` again")
        self._entered = True
        try:
            taken = await self._within()
        except BaseException:
            await to_its_end(self._search.release())
            raise
        self._item = item = QueueItem(self._kv, self._keys, taken, self._search.lease, self._most, self._lose)
        self._watching = asyncio.create_task(self._watch(self._search.lease), name=f"claim {item.id}")
        self._scope.enter()
        return item

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._item is not None
        assert self._watching is not None
        cancelled_here = self._scope.leave(kind)
        self._watching.cancel()
        try:
            if cancelled_here:
                raise _loss(self._item.id) from error
            await self._settle(self._item, failed=error is not None)
        finally:
            await to_its_end(self._search.release())

    async def _settle(self, item: QueueItem, *, failed: bool) -> None:
        if item.is_over:
            return
        if not failed:
            await item.done()
        else:
            with suppress(OperationError):  # the end of the lease gives it back, too
                await item.give_back()

    async def _watch(self, lease: HeldLease) -> None:
        await lease.lost()
        self._lose()
        self._scope.fire()

    def tell(self, callback: Callable[[], None]) -> None:
        """Call a function when the claim is lost, on the event loop: at once if it is.

            claim.tell(stop.set)

        The item's own `lost` is set then, too.
        """
        self._told.append(callback)
        if self._item is not None and self._item.lost.is_set():
            callback()

    def _lose(self) -> None:
        if self._item is not None and not self._item.lost.is_set():
            self._item.lost.set()
            for callback in self._told:
                callback()

    async def _within(self) -> TakenItem:
        limit = asyncio.timeout(self._wait_s or None)
        try:
            async with limit:
                found = await self._search.attempt(CONFLICTS)
                if isinstance(found, TakenItem):
                    return found
                if self._wait_s != 0:
                    return await self._wait()
        except TimeoutError:
            if not limit.expired():
                raise
        text = f"{self._what} had no free item within {self._wait_s:g} s"
        raise DeadlineExceeded(text, outcome=Outcome.NOT_APPLIED)

    async def _wait(self) -> TakenItem:
        """The first item that is free, as soon as there is one. The claimers that wait stand in line."""
        while True:
            line = Place(self._kv, self._keys.line, min(self._ttl_s, LINE_TTL_S), value=b"", what=self._what)
            try:
                await line.take()
                await line.turn(1)
                return await self._ask()
            except LockLost:
                continue  # the place in the line; a lost claim is no `LockLost`
            except OperationError as error:
                if not passes(error):
                    raise
                await self._search.release()
                await asyncio.sleep(PAUSE_S)
            finally:
                await line.leave()

    async def _ask(self) -> TakenItem:
        while isinstance(found := await self._search.attempt(NO_LIMIT), int):
            await self._search.freed(found + 1)
        return found


def _loss(item: str) -> LeaseLost:
    return LeaseLost(f"the claim of the item {item} is lost: another claimer may have it, or has finished it")
