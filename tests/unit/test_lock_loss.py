"""What a holder of a lock is told of its loss, and how its block ends: in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.client.coordination.place import WATCH_AFTER_S
from syncline.errors import DeadlineExceeded, LockLost, UsageError
from tests.helpers.virtual_kv import VirtualStore, virtual

NAME = "printer"
PREFIX = b"locks/printer/"


def delete(store: VirtualStore, key: bytes) -> None:
    store.change(lambda revision: [store.delete(key, revision)])


def cancellations() -> int:
    """How often this task was cancelled, and none took it back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def test_lock_block_is_cancelled_when_the_lease_is_over() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        with pytest.raises(LockLost):  # noqa: PT012
            async with kv.lock(NAME, ttl=3) as held:
                kv.connect(False)
                await asyncio.sleep(60)
        assert asyncio.get_running_loop().time() < 3.1
        assert held.lost.is_set()
        assert cancellations() == 0
        await asyncio.sleep(0)
        kv.connect(True)

    virtual(scenario)


@pytest.mark.parametrize("how", ["deleted", "overwritten", "recreated", "restore"])
def test_lock_block_is_cancelled_when_its_key_is_gone(how: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        with pytest.raises(LockLost):  # noqa: PT012
            async with kv.lock(NAME, ttl=60) as held:
                await asyncio.sleep(2 * WATCH_AFTER_S)
                if how in ("deleted", "recreated"):
                    delete(store, held.key)
                if how == "recreated":
                    await kv.put(held.key, b"", lease=held.key[len(PREFIX) :].decode())
                if how == "overwritten":
                    await kv.put(held.key, b"")
                if how == "restore":
                    store.restore()
                await asyncio.sleep(60)
        assert asyncio.get_running_loop().time() < 2 * WATCH_AFTER_S + 0.5

    virtual(scenario)


def test_lock_whose_key_is_deleted_at_once_is_told() -> None:
    """Before the key is watched: the watch begins at the revision of the key."""

    async def scenario(store: VirtualStore) -> None:
        with pytest.raises(LockLost):  # noqa: PT012
            async with store.client().lock(NAME, ttl=60) as held:
                delete(store, held.key)
                await asyncio.sleep(60)
        assert asyncio.get_running_loop().time() < 2 * WATCH_AFTER_S

    virtual(scenario)


def test_lock_survives_a_cut_or_compacted_watch_of_its_key() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with kv.lock(NAME, ttl=30) as held:
            await asyncio.sleep(1)
            kv.cut()
            await asyncio.sleep(1)
            store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
            store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
            store.compact()
            await asyncio.sleep(1)
            assert kv.open_watches == 1
            held.check()
            assert not held.lost.is_set()

    virtual(scenario)


def test_lock_whose_client_is_closed_is_lost() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        lock = await kv.lock(NAME, ttl=30).acquire()
        kv.closed = True
        await asyncio.wait_for(lock.lost.wait(), 11)
        with pytest.raises(LockLost, match="the client is closed"):
            lock.check()
        with pytest.raises(LockLost):
            await lock.release()
        with pytest.raises(UsageError, match="the client is closed"):
            await kv.lock(NAME).acquire()

    virtual(scenario)


def test_lock_loss_leaves_other_cancellations_alone() -> None:
    """The task was cancelled for another reason, too: it stays cancelled."""

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()

        async def cancel_after(lost: asyncio.Event, task: asyncio.Task[None]) -> None:
            await lost.wait()
            task.cancel()

        async def work() -> None:
            async with kv.lock(NAME, ttl=60) as held:
                other = asyncio.create_task(cancel_after(held.lost, task))
                delete(store, held.key)
                try:
                    await asyncio.sleep(60)
                finally:
                    await other

        task = asyncio.create_task(work())
        await asyncio.wait([task])
        assert task.cancelled()

    virtual(scenario)


def test_lock_in_a_timeout_is_ended_by_the_timeout() -> None:
    async def scenario(store: VirtualStore) -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(1), store.client().lock(NAME):
                await asyncio.sleep(60)
        assert not isinstance(caught.value, DeadlineExceeded)
        assert not store.keys

    virtual(scenario)


def test_locks_in_one_another_are_lost_together() -> None:
    """Two cancellations, and each lock takes back its own."""

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        with pytest.raises(LockLost, match='"outer"'):  # noqa: PT012
            async with kv.lock("outer", ttl=3), kv.lock("inner", ttl=3):
                kv.connect(False)
                await asyncio.sleep(60)
        assert cancellations() == 0
        kv.connect(True)

    virtual(scenario)


def test_lock_in_a_lock_of_another_name_is_lost_alone() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with kv.lock("outer") as outer:
            with pytest.raises(LockLost, match='"inner"'):  # noqa: PT012
                async with kv.lock("inner") as inner:
                    delete(store, inner.key)
                    await asyncio.sleep(60)
            outer.check()

    virtual(scenario)


def test_lock_block_that_swallows_its_cancellation_is_told() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        with pytest.raises(LockLost):  # noqa: PT012
            async with kv.lock(NAME, ttl=60) as held:
                delete(store, held.key)
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
        assert cancellations() == 0

    virtual(scenario)


def test_lock_block_that_raises_after_the_loss_keeps_its_error() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        with pytest.raises(ValueError, match="mine"):  # noqa: PT012
            async with kv.lock(NAME, ttl=60) as held:
                delete(store, held.key)
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    raise ValueError("mine") from None
        assert cancellations() == 0

    virtual(scenario)


@given(st.floats(min_value=2.9, max_value=3.2))
@settings(max_examples=30, deadline=None)
def test_lock_block_that_ends_around_the_loss_is_consistent(hold_s: float) -> None:
    """It ends in peace, or with the loss: never with a cancellation that is left over."""

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        try:
            async with kv.lock(NAME, ttl=3) as held:
                kv.connect(False)
                await asyncio.sleep(hold_s - asyncio.get_running_loop().time())
        except LockLost:
            assert held.lost.is_set() or held.rest_s == 0.0
        assert cancellations() == 0
        await asyncio.sleep(0.01)
        kv.connect(True)

    virtual(scenario)


def test_lock_without_a_block_tells_its_loss_and_raises_at_release() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        lock = await kv.lock(NAME, ttl=60).acquire()
        lock.check()
        delete(store, lock.key)
        await lock.lost.wait()
        with pytest.raises(LockLost):
            lock.check()
        with pytest.raises(LockLost):
            await lock.release()
        await lock.release()

    virtual(scenario)
