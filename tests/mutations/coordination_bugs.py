"""Bugs of locks: what users of other systems have met, planted into the words of coordination."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import pytest

from syncline.client.coordination.place import Place
from syncline.client.coordination.place_queue import PlaceQueue, WaitingCaller
from syncline.client.coordination.queue_claim import ItemClaim, QueueItem
from syncline.client.held_lease import HeldLease, KeepAlives
from syncline.client.txn import Compare, DeleteOp, Operation
from syncline.errors import LeaseLost

__all__ = [
    "cancelled_acquire_leaves_its_key",
    "lost_claim_finishes_its_item",
    "lock_granted_after_its_lease_has_ended",
    "lock_taken_without_reading",
    "release_deletes_the_first_key",
    "time_counted_from_the_answer",
]

Result = TypeVar("Result")


def lock_granted_after_its_lease_has_ended(patch: pytest.MonkeyPatch) -> None:
    """A waiter whose lease has ended in the queue takes the lock when those before it are gone."""

    async def unless_lost(_: Place, work: Awaitable[Result]) -> Result:
        return await work

    async def read_own(_: Place) -> None:
        return None

    def look(self: PlaceQueue, key: bytes, waiting: WaitingCaller) -> None:
        if len(self.ahead(waiting.revision, waiting.places)) < waiting.places and not waiting.woken.done():
            waiting.woken.set_result(None)

    def remove(self: PlaceQueue, key: bytes, created: int) -> None:
        plain(self, key, created)
        for other, waiting in self._waiting.items():  # also at those that have no place any more
            self._look(other, waiting)

    plain = PlaceQueue._remove
    patch.setattr(Place, "unless_lost", unless_lost)
    patch.setattr(Place, "_read_own", read_own)
    patch.setattr(PlaceQueue, "_look", look)
    patch.setattr(PlaceQueue, "_remove", remove)


def lock_taken_without_reading(patch: pytest.MonkeyPatch) -> None:
    """A waiter that sees a key deleted takes it for that of the holder, and reads nothing."""
    departures = Place._departures

    async def await_turn(self: Place, places: int, patient: bool) -> None:
        await self.write(patient=patient)
        if patient and len(self.ahead) >= places:
            await departures(self, len(self.ahead))  # any of them is enough
            self.ahead = []

    patch.setattr(Place, "_await_turn", await_turn)


def time_counted_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """A lease has its time from the moment at which the answer to a keep-alive is read."""
    original = KeepAlives.keep

    async def keep_late(self: KeepAlives, lease: str, timeout_s: float) -> float:
        sent_s = asyncio.get_running_loop().time()
        ttl_s = await original(self, lease, timeout_s)
        return ttl_s and ttl_s + asyncio.get_running_loop().time() - sent_s

    patch.setattr(KeepAlives, "keep", keep_late)


def release_deletes_the_first_key(patch: pytest.MonkeyPatch) -> None:
    """A holder that lost the lock deletes the key of the one that has it now, because that is the first."""
    original = Place.leave

    async def leave(self: Place) -> None:
        begun = self._begun and not self._ended
        lost = self.loss is not None or self._lease.is_lost
        await original(self)
        if begun and lost:
            page = await self._kv.list(self._prefix)
            if page.items:
                first = min(page.items, key=lambda item: item.create_revision)
                await self._kv.txn([], [DeleteOp(first.key)])

    patch.setattr(Place, "leave", leave)


def lost_claim_finishes_its_item(patch: pytest.MonkeyPatch) -> None:
    """A claimer that was away finishes its item, because the item is still there."""

    async def settle(self: QueueItem, operations: Sequence[Operation], outcome: str, timeout: float | None) -> int:
        there = Compare(self._keys.items + self.id.encode("ascii"), target="version", op=">", number=0)
        answer = await self._kv.txn([there], operations, timeout=timeout)
        if not answer.succeeded:
            raise LeaseLost(f"the item {self.id} is gone")
        self._over = outcome
        return answer.revision

    async def watch(_: ItemClaim, lease: HeldLease) -> None:
        await lease.lost()

    patch.setattr(QueueItem, "_settle", settle)
    patch.setattr(QueueItem, "check", lambda _: None)
    patch.setattr(ItemClaim, "_watch", watch)


def cancelled_acquire_leaves_its_key(patch: pytest.MonkeyPatch) -> None:
    """A task that is cancelled while it waits ends, and its lease is kept alive."""
    original = Place.leave

    async def leave(self: Place) -> None:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            await original(self)

    patch.setattr(Place, "leave", leave)
