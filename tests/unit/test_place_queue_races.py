"""The shared places of a name when a watch lags behind, a task is cancelled, or an event loop has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from syncline.client.results import RevisionEvents
from syncline.errors import LockLost
from tests.helpers.virtual_kv import LOST_ANSWER, VirtualKv, VirtualStore, virtual
from tests.unit.test_locks import NAME, PREFIX, held_by_another

PATIENCE_S: Final = 30.0
"""A lock that is free is given within this time, or never."""


class LaggingKv(VirtualKv):
    """A client whose watches show nothing while `lets` is not set: their node is behind."""

    def __init__(self, store: VirtualStore) -> None:
        super().__init__(store)
        self.lets = asyncio.Event()
        self.lets.set()

    async def watch(self, *given: Any, **more: Any) -> AsyncIterator[RevisionEvents]:
        changes = super().watch(*given, **more)
        try:
            async for change in changes:
                await self.lets.wait()
                yield change
        finally:
            await changes.aclose()  # type: ignore[attr-defined]


def _delete_all(store: VirtualStore) -> None:
    """As an operator does that frees a lock."""
    found = [item.key for item in store.below(PREFIX)]
    store.change(lambda revision: [store.delete(key, revision) for key in found])


def test_lock_key_that_was_written_twice_takes_its_later_place() -> None:
    """The first write's answer is lost, and its key is deleted: the second write is behind another client's lock.

    The watch lags behind: it shows the end of the first key when no other place is there.
    """

    async def scenario(store: VirtualStore) -> None:
        kv = LaggingKv(store)
        holder = await store.client().lock(NAME, ttl=600).acquire()
        follower = asyncio.create_task(kv.lock(NAME, ttl=600).acquire())
        await asyncio.sleep(1)
        kv.faults.append(("txn", LOST_ANSWER))
        lock = kv.lock(NAME, ttl=600)
        late = asyncio.create_task(lock.acquire())
        await asyncio.sleep(1)
        kv.lets.clear()
        assert len(store.below(PREFIX)) == 3
        _delete_all(store)
        async with store.client().lock(NAME) as held:
            await asyncio.sleep(10)
            assert {item.key for item in store.below(PREFIX)} == {held.key, lock.key}
            kv.lets.set()
            await asyncio.sleep(5)
            assert not late.done(), "two hold it"
        await late
        assert lock.token > held.token
        await lock.release()
        for lost in (follower, asyncio.create_task(holder.release())):
            with pytest.raises(LockLost):
                await lost

    virtual(scenario)


def test_lock_waits_go_on_if_their_watch_is_cancelled_from_outside() -> None:
    """A program may cancel all tasks that it finds, but those that it knows."""

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            tasks = [asyncio.create_task(kv.lock(NAME, ttl=600).acquire()) for _ in range(2)]
            await asyncio.sleep(1)
            [follower] = [task for task in asyncio.all_tasks() if task.get_name().startswith("places of")]
            follower.cancel()
            await asyncio.wait([follower])
        async with asyncio.timeout(PATIENCE_S):
            for task in tasks:
                await (await task).release()
        assert kv.open_watches == 0

    virtual(scenario)


def test_lock_on_a_second_loop_does_not_join_callers_of_the_first() -> None:
    """A loop that stops with callers that wait leaves their queue. Nothing tells it of the places any more."""
    store = VirtualStore()
    kv = store.client()

    async def begun() -> asyncio.Task[Any]:
        await store.client().lock(NAME, ttl=600).acquire()
        waiting = asyncio.create_task(kv.lock(NAME, ttl=600).acquire())
        async with asyncio.timeout(PATIENCE_S):
            while not kv.open_watches:  # noqa: ASYNC110 - it is asked for
                await asyncio.sleep(0)
        return waiting

    async def waits() -> None:
        async with asyncio.timeout(PATIENCE_S):
            async with held_by_another(store):
                waiting = asyncio.create_task(kv.lock(NAME, ttl=600).acquire())
                while len(store.below(PREFIX)) < 2:  # noqa: ASYNC110 - it is asked for
                    await asyncio.sleep(0)
            await (await waiting).release()

    async def ended(waiting: asyncio.Task[Any]) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert waiting in tasks
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    first = asyncio.new_event_loop()
    try:
        waiting = first.run_until_complete(begun())
        store.keys.clear()
        store.watches.clear()
        asyncio.run(waits())
        store.leases.clear()
        first.run_until_complete(ended(waiting))
    finally:
        first.close()
