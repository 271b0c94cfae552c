"""A place in the queue of a name: a key with a lease of its own. Those with the first places have the turn.

This is the recipe of etcd's `concurrency` package: the key is the prefix and the lease's id, and the order of places
is that of the keys' create revisions. So its clients and these exclude each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import shown
from syncline.client.coordination.place_queue import places_in, queue_of, read_places
from syncline.client.coordination.waiting import PAUSE_S, closing, passes, to_its_end
from syncline.client.held_lease import HeldLease
from syncline.client.results import KeyInfo
from syncline.client.txn import Compare, GetOp, ListOp, PutOp
from syncline.errors import LeaseLost, LockLost, OperationError, Rejected, UsageError
from syncline.platform.loss import LossScope

__all__ = ["Place"]

Result = TypeVar("Result")

FEW: Final = 16
"""So many places are read in the transaction that takes one: it runs on every node. More are read by themselves."""

WATCH_AFTER_S: Final = 0.25
"""A key is watched when it has been held for so long: most locks are held for less, and a watch is a connection."""

_DELETED: Final = "its key was deleted or overwritten"


class Place:
    """One place, from `take` to `leave`. It is kept alive by itself; `loss` says that it is lost, and why."""

    def __init__(self, kv: KeyValueCalls, prefix: bytes, ttl_s: float, *, value: bytes, what: str) -> None:
        """`what` stands in the text of errors: `the lock "printer"`."""
        self._kv = kv
        self._prefix = prefix
        self._value = value
        self._what = what
        self._lease: HeldLease = kv.lease(ttl_s)
        self._guards: list[asyncio.Task[None]] = []
        self._told: list[Callable[[], None]] = []
        self._begun = False
        self._ended = False
        self._known: tuple[int, Sequence[KeyInfo]] | None = None
        """The keys below the prefix as they were read, and the revision of this state: until the wait begins."""
        self._joins = False
        """The queue of the client's other callers is used, if there is one, in place of reading the places."""
        self.key: bytes = b""
        self.revision: int = 0
        """The create revision of the key; 0 before it is written."""
        self.loss: LockLost | None = None
        self.ahead: list[bytes] = []
        """The keys before this one, in their order, as they were read: all, or the first ones that hold it up."""

    @property
    def rest_s(self) -> float:
        """How many seconds the place surely lasts without another keep-alive; 0 if it is lost."""
        return 0.0 if self.loss is not None or self._ended or not self._begun else self._lease.rest_s

    def check(self) -> None:
        """Raise `LockLost` if the place may be lost."""
        if self.loss is not None:
            raise LockLost(str(self.loss), key=self.key)
        if self._lease.is_lost:
            raise self._lost("its time was over before a keep-alive was answered")

    def tell(self, callback: Callable[[], None]) -> None:
        """Call it when the place is lost: from the event loop, never from the task that holds the place."""
        self._told.append(callback)

    async def take(self) -> None:
        """Grant the lease. Whatever comes of it, `leave` must follow."""
        await self._lease.__aenter__()
        self._begun = True
        self.key = self._prefix + self._lease.id.encode()
        self._guard(self._watch_lease())

    async def turn(self, places: int, *, patient: bool = True) -> bool:
        """Write the key, and wait until fewer than so many are ahead. Not `patient`: look once whether it is so.

        Raises:
            LockLost: the place was lost meanwhile.
            OperationError: the servers refused it; if not `patient`, also if they could not be reached.
        """
        await self.unless_lost(self._await_turn(places, patient))
        return len(self.ahead) < places

    async def unless_lost(self, work: Awaitable[Result]) -> Result:
        """Await it in this task, and cancel it when the place is lost. Raises `LockLost` then, or its own error."""
        scope = LossScope()
        self.tell(scope.fire)
        scope.enter()
        try:
            if self.loss is not None:
                asyncio.get_running_loop().call_soon(scope.fire)
            result = await work
        except BaseException as error:
            if scope.leave(type(error)):
                self.check()
            raise
        scope.leave(None)
        self.check()
        return result

    async def write(self, *, patient: bool = True) -> None:
        """Write the key, and read the places. For `unless_lost`."""
        await self._trying(self._write, patient)

    async def _await_turn(self, places: int, patient: bool) -> None:
        self._joins = patient
        await self.write(patient=patient)
        while patient and (self._joins or len(self.ahead) >= places):
            await self._departures(places)
            await self._trying(self._read_own, patient=True)
        self._known = None

    def watch_over(self) -> None:
        """Notice from now on if the key is deleted. Before, `turn` notices it."""
        self._guard(self._watch_key())

    async def leave(self) -> None:
        """End the lease, which deletes the key: within seconds, or it ends by itself. It may be called again."""
        if self._ended:
            return
        self._ended = True
        for guard in self._guards:
            guard.cancel()
        if self._begun:
            await to_its_end(self._end())

    async def _end(self) -> None:
        await asyncio.wait(self._guards)
        with suppress(LeaseLost):
            await self._lease.__aexit__(None, None, None)

    async def _trying(self, work: Callable[[], Awaitable[None]], patient: bool) -> None:
        """Try again after errors that pass, for as long as the lease lasts: its loss cancels this."""
        while True:
            try:
                return await work()
            except OperationError as error:
                if not patient or not passes(error):
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _write(self) -> None:
        """Write the key unless it is there, and read the places. To do it twice is as good as once.

        If the outcome of one try is unknown, the next one finds the key, or writes it: never a second key.
        """
        reading = (GetOp(self.key), ListOp(prefix=self._prefix, limit=FEW))
        put = PutOp(self.key, self._value, lease=self._lease.id)
        absent = Compare(self.key, target="version", number=0)
        try:
            result = await self._kv.txn([absent], [put, *reading], reading, idempotent=True)
        except Rejected as error:
            if error.code != "lease_not_found":
                raise
            raise self._lost_meanwhile("its lease has ended on the servers") from error
        own, listing = result.results[-2:]
        if own.lease != self._lease.id:
            raise self._lost_meanwhile(_DELETED)
        self.revision = own.create_revision
        if len(listing.items) == listing.count:
            known: tuple[int, Sequence[KeyInfo]] = result.revision, listing.items
        elif self._joins and queue_of(self._kv, self._prefix).is_followed:
            return
        else:
            known = await read_places(self._kv, self._prefix)
        self._known, self._joins = known, False
        self.see(known[1])

    def see(self, items: Iterable[KeyInfo]) -> None:
        """Take the places as they are among these keys. Raises `LockLost` if this one is not there."""
        places = places_in(items, self._prefix)
        order = [item.key for item in places]
        if not any(item.key == self.key and item.create_revision == self.revision for item in places):
            raise self._lost_meanwhile(_DELETED)
        self.ahead = order[: order.index(self.key)]

    async def _departures(self, places: int) -> None:
        """Wait for the turn, or until the own key is gone: by the queue that the client's callers share."""
        queue = queue_of(self._kv, self._prefix)
        if self._joins:
            self.ahead = queue.ahead(self.revision, places)
        self._joins = False
        known, self._known = self._known, None
        self.ahead = await queue.turn(self.key, self.revision, places, known)

    async def _read_own(self) -> None:
        """Read the own key, linearizably. Those ahead are gone for good: a new key has a later revision."""
        page = await self._kv.list(self.key, limit=1)
        if not any(self._is_own(item) for item in page.items):
            raise self._lost_meanwhile(_DELETED)

    async def _watch_lease(self) -> None:
        self._lose(str(await self._lease.lost()))

    async def _watch_key(self) -> None:
        """Until the key is deleted, or overwritten. If the servers can't be reached, the lease decides."""
        await asyncio.sleep(WATCH_AFTER_S)
        seen = self.revision
        while True:
            try:
                async with closing(self._kv.watch(self.key, from_revision=seen + 1)) as changes:
                    async for change in changes:
                        seen = change.revision
                        if any(event.type == "delete" or event.lease != self._number for event in change.events):
                            return self._lose(_DELETED)
            except OperationError:
                await asyncio.sleep(PAUSE_S)  # whatever it was: below it is looked at in another way
            except UsageError:
                return None  # the client is closed: its lease is lost
            try:
                page = await self._kv.list(self.key, limit=1)
            except OperationError:
                continue
            except UsageError:
                return None
            if not any(self._is_own(item) for item in page.items):
                return self._lose(_DELETED)
            seen = max(seen, page.revision)

    def _is_own(self, item: KeyInfo) -> bool:
        """Whether this is the key of the place, as it was written."""
        return item.key == self.key and item.create_revision == self.revision and item.lease == self._number

    @property
    def _number(self) -> int:
        return int(self._lease.id, 16)

    def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        self._guards.append(asyncio.create_task(work, name=f"place {shown(self.key)}"))

    def _lose(self, why: str) -> None:
        if self.loss is None:
            self.loss = self._lost(why)
            for callback in self._told:
                callback()

    def _lost_meanwhile(self, why: str) -> LockLost:
        """The loss, noticed by the task that holds the place: nothing is to be told."""
        self.loss = self.loss or self._lost(why)
        return LockLost(str(self.loss), key=self.key)

    def _lost(self, why: str) -> LockLost:
        return LockLost(f"{self._what} is lost, with its key {shown(self.key)}: {why}", key=self.key)
