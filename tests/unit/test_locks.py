"""Locks and semaphores, in virtual time: who has the turn, and what is left of those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from syncline.client.coordination.lock import Lock
from syncline.client.coordination.place import FEW
from syncline.client.txn import PutOp
from syncline.errors import ConfigError, DeadlineExceeded, LockLost, Outcome, UsageError
from tests.helpers.virtual_kv import LOST_ANSWER, LOST_REQUEST, REFUSED, VirtualKv, VirtualStore, virtual

NAME = "printer"
PREFIX = b"locks/printer/"


def keys(store: VirtualStore) -> list[bytes]:
    return [item.key for item in store.below(b"")]


async def hold(lock: Lock, order: list[int], hold_s: float = 1.0) -> None:
    async with lock as held:
        order.append(held.token)
        await asyncio.sleep(hold_s)
        held.check()


@asynccontextmanager
async def held_by_another(store: VirtualStore) -> AsyncIterator[Lock]:
    async with store.client().lock(NAME) as lock:
        yield lock


def test_lock_is_held_by_one_in_the_order_of_the_calls() -> None:
    async def scenario(store: VirtualStore) -> None:
        order: list[int] = []
        tasks = []
        for _ in range(4):
            tasks.append(asyncio.create_task(hold(store.client().lock(NAME), order)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
        assert order == sorted(order)
        assert len(set(order)) == 4
        assert keys(store) == []
        assert 4.0 <= asyncio.get_running_loop().time() < 4.5

    virtual(scenario)


def test_lock_token_is_the_create_revision_of_its_key() -> None:
    async def scenario(store: VirtualStore) -> None:
        async with store.client().lock(NAME) as held:
            [item] = store.below(PREFIX)
            assert (item.key, item.create_revision) == (held.key, held.token)
            assert item.lease == int(item.key[len(PREFIX) :], 16)
            assert 9.0 < held.rest_s <= 10.0
        assert held.rest_s == 0.0

    virtual(scenario)


def test_lock_costs_two_calls_and_one_to_release() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with kv.lock(NAME):
            assert kv.calls == ["grant", "txn"]
        assert kv.calls == ["grant", "txn", "revoke"]

    virtual(scenario)


def test_lock_waiter_does_not_poll() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            task = asyncio.create_task(hold(kv.lock(NAME, ttl=60), []))
            await asyncio.sleep(15)
            assert kv.calls == ["grant", "txn", "watch"]
        await task
        assert kv.calls.count("list") == 1

    virtual(scenario)


def test_lock_of_a_dead_holder_is_free_after_its_ttl() -> None:
    async def scenario(store: VirtualStore) -> None:
        dead = store.client()
        await dead.lock(NAME, ttl=5).acquire()
        dead.connect(False)
        began_s = asyncio.get_running_loop().time()
        async with store.client().lock(NAME):
            assert 4.9 < asyncio.get_running_loop().time() - began_s < 5.5
        dead.connect(True)
        await asyncio.sleep(1)

    virtual(scenario)


@pytest.mark.parametrize("holders", [2, 3])
def test_semaphore_is_held_by_as_many_as_it_has_holders(holders: int) -> None:
    async def scenario(store: VirtualStore) -> None:
        now = most = 0
        tokens: list[int] = []

        async def work() -> None:
            nonlocal now, most
            async with store.client().lock(NAME, holders=holders) as held:
                now, most = now + 1, max(most, now + 1)
                tokens.append(held.token)
                await asyncio.sleep(1)
                now -= 1

        await asyncio.gather(*(work() for _ in range(7)))
        assert most == holders
        assert len(set(tokens)) == 7
        assert tokens == sorted(tokens)

    virtual(scenario)


def test_semaphore_with_different_numbers_counts_all_that_came_before() -> None:
    """A holder of one number is ahead of those that came later, whatever their number is."""

    async def scenario(store: VirtualStore) -> None:
        async with store.client().lock(NAME, holders=3), store.client().lock(NAME, holders=2):
            with pytest.raises(DeadlineExceeded):
                await store.client().lock(NAME, holders=1, wait=0).acquire()
            with pytest.raises(DeadlineExceeded):
                await store.client().lock(NAME, holders=2, wait=0).acquire()
            async with store.client().lock(NAME, holders=3, wait=0):
                pass

    virtual(scenario)


@pytest.mark.parametrize("wait", [0, 0.5])
def test_lock_that_is_not_free_in_time_names_the_holder(wait: float) -> None:
    async def scenario(store: VirtualStore) -> None:
        async with held_by_another(store) as holder:
            before = keys(store)
            with pytest.raises(
                DeadlineExceeded, match=f'the lock "printer" is held by {holder.key.decode()}'
            ) as caught:
                async with store.client().lock(NAME, wait=wait):
                    raise AssertionError
            assert caught.value.outcome is Outcome.NOT_APPLIED
            assert keys(store) == before
            assert asyncio.get_running_loop().time() < wait + 0.1

    virtual(scenario)


def test_lock_that_the_servers_do_not_answer_in_time_leaves_no_key() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        kv.faults = [("txn", LOST_ANSWER)]
        with pytest.raises(DeadlineExceeded, match="have not answered in time"):
            await kv.lock(NAME, wait=1).acquire()
        assert keys(store) == []
        assert not store.leases

    virtual(scenario)


@pytest.mark.parametrize("after_s", [0.002, 0.007, 0.012, 0.017, 0.1])
def test_lock_whose_acquire_is_cancelled_leaves_no_key(after_s: float) -> None:
    """Whatever it was doing: granting the lease, writing the key, waiting."""

    async def scenario(store: VirtualStore) -> None:
        async with held_by_another(store):
            before = keys(store)
            task = asyncio.create_task(store.client().lock(NAME, ttl=2).acquire())
            await asyncio.sleep(after_s)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert keys(store) == before
        await asyncio.sleep(3)
        assert not store.leases

    virtual(scenario)


def test_lock_whose_acquire_is_cancelled_twice_still_leaves_no_key() -> None:
    async def scenario(store: VirtualStore) -> None:
        async with held_by_another(store):
            task = asyncio.create_task(store.client().lock(NAME).acquire())
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0.1)
            assert len(keys(store)) == 1

    virtual(scenario)


def test_lock_that_is_cut_off_while_cleaning_up_ends_by_itself() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            task = asyncio.create_task(kv.lock(NAME, ttl=30).acquire())
            await asyncio.sleep(0.1)
            kv.connect(False)
            began_s = asyncio.get_running_loop().time()
            task.cancel()
            await asyncio.wait([task])
            assert 4.9 < asyncio.get_running_loop().time() - began_s < 5.1
            assert len(keys(store)) == 2
            kv.connect(True)
            await asyncio.sleep(31)
            assert len(keys(store)) == 1

    virtual(scenario)


@pytest.mark.parametrize("fault", [LOST_ANSWER, LOST_REQUEST, REFUSED])
def test_lock_whose_put_has_an_unknown_outcome_is_read_back(fault: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        kv.faults = [("txn", fault)]
        async with kv.lock(NAME, ttl=30) as held:
            assert keys(store) == [held.key]
            assert held.token == store.keys[held.key].create_revision

    virtual(scenario)


def test_lock_whose_lease_ends_before_the_put_is_lost() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        lock = kv.lock(NAME)
        task = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0.012)  # granted, and the put is on its way
        for lease in list(store.leases):
            store.revoke(lease)
        with pytest.raises(LockLost, match="its lease has ended on the servers"):
            await task
        assert keys(store) == []

    virtual(scenario)


def test_lock_waiter_whose_key_is_deleted_is_told() -> None:
    async def scenario(store: VirtualStore) -> None:
        async with held_by_another(store):
            lock = store.client().lock(NAME)
            task = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0.5)
            store.change(lambda revision: [store.delete(lock.key, revision)])
            with pytest.raises(LockLost, match="deleted or overwritten") as caught:
                await task
            assert caught.value.key == lock.key
            assert asyncio.get_running_loop().time() < 0.7

    virtual(scenario)


def test_lock_waiter_whose_lease_is_revoked_is_told() -> None:
    async def scenario(store: VirtualStore) -> None:
        async with held_by_another(store):
            lock = store.client().lock(NAME)
            task = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0.5)
            store.revoke(int(lock.key[len(PREFIX) :], 16))
            with pytest.raises(LockLost):
                await task
            assert asyncio.get_running_loop().time() < 0.7

    virtual(scenario)


def test_lock_waiter_that_is_cut_off_is_told_when_its_lease_is_over() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            task = asyncio.create_task(kv.lock(NAME, ttl=4).acquire())
            await asyncio.sleep(0.5)
            kv.connect(False)
            with pytest.raises(LockLost, match="before a keep-alive was answered"):
                await task
            assert asyncio.get_running_loop().time() < 4.5
            kv.connect(True)

    virtual(scenario)


@pytest.mark.parametrize("how", ["compacted", "cut"])
def test_lock_waiter_goes_on_after_its_watch_has_ended(how: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        order: list[int] = []
        async with held_by_another(store):
            task = asyncio.create_task(hold(kv.lock(NAME), order))
            await asyncio.sleep(0.5)
            if how == "cut":
                kv.cut()
            else:
                store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
                store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
                store.compact()
            await asyncio.sleep(0.5)
            assert not order
        await task
        assert len(order) == 1

    virtual(scenario)


def test_lock_does_not_wait_for_keys_that_are_no_places() -> None:
    """Keys of longer names, of other forms, and of other leases than their own."""

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with kv.lock("printer/left"):
            for key in (b"readme", b"0000000000000001", b"00000000000000zz", b"", b"00000000000000011"):
                await kv.put(PREFIX + key, b"")
            other = await kv.grant_lease(60)
            await kv.put(PREFIX + b"00000000000000ff", b"", lease=other.id)
            async with kv.lock(NAME, wait=0):
                pass

    virtual(scenario)


def test_lock_and_etcds_lock_exclude_each_other() -> None:
    """etcd's clients write the lease's id without leading zeros."""

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        store.grant(0xABC, 60)
        await kv.txn(then=[PutOp(PREFIX + b"abc", b"", lease=0xABC.__format__("016x"))])
        with pytest.raises(DeadlineExceeded, match="held by locks/printer/abc"):
            await kv.lock(NAME, wait=0).acquire()
        store.revoke(0xABC)
        async with kv.lock(NAME, wait=0):
            pass

    virtual(scenario)


def test_lock_waiter_passes_a_key_that_loses_its_lease() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        store.grant(0xABC, 60)
        await kv.put(PREFIX + b"0000000000000abc", b"", lease="0000000000000abc")
        task = asyncio.create_task(hold(kv.lock(NAME), []))
        await asyncio.sleep(0.5)
        await kv.put(PREFIX + b"0000000000000abc", b"no lease")
        await task

    virtual(scenario)


def test_lock_with_many_waiters_reads_them_all() -> None:
    async def scenario(store: VirtualStore) -> None:
        count = FEW + 5
        order: list[int] = []
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(hold(store.client().lock(NAME, ttl=60), order, 0.1)))
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        assert order == sorted(order)
        assert len(order) == count

    virtual(scenario)


def test_lock_release_without_an_answer_takes_seconds_at_most() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        lock = await kv.lock(NAME, ttl=60).acquire()
        kv.connect(False)
        began_s = asyncio.get_running_loop().time()
        await lock.release()
        assert asyncio.get_running_loop().time() - began_s < 5.1
        kv.connect(True)

    virtual(scenario)


def test_lock_is_for_one_use() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        lock = kv.lock(NAME)
        for use in (lambda: lock.token, lock.check):
            with pytest.raises(UsageError, match="not acquired"):
                use()
        with pytest.raises(UsageError, match="only a lock that is held"):
            await lock.release()
        async with lock:
            with pytest.raises(UsageError, match="for one use"):
                await lock.acquire()
        with pytest.raises(UsageError, match="for one use"):
            await lock.acquire()
        with pytest.raises(UsageError, match="not held"):
            lock.check()
        await lock.release()
        assert lock.token == 1

    virtual(scenario)


def test_lock_released_in_its_block_ends_in_peace() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with kv.lock(NAME) as held:
            await held.release()
            assert keys(store) == []

    virtual(scenario)


BAD: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"ttl": None}, ConfigError, "needs a TTL"),
    ({"ttl": 0}, ConfigError, "needs a TTL"),
    ({"ttl": 1.9}, ConfigError, "from 2 to"),
    ({"ttl": -1}, ConfigError, "positive"),
    ({"ttl": float("nan")}, ConfigError, "positive"),
    ({"ttl": float("inf")}, ConfigError, "positive"),
    ({"ttl": "10"}, TypeError, "number of seconds"),
    ({"ttl": True}, TypeError, "number of seconds"),
    ({"holders": 0}, ConfigError, "at least 1"),
    ({"holders": -1}, ConfigError, "at least 1"),
    ({"holders": 1.0}, TypeError, "int"),
    ({"holders": True}, TypeError, "int"),
    ({"wait": -1}, ConfigError, "positive"),
    ({"wait": float("nan")}, ConfigError, "positive"),
    ({"wait": float("inf")}, ConfigError, "give None"),
    ({"wait": False}, TypeError, "number of seconds"),
    ({"name": ""}, ConfigError, "is empty"),
    ({"name": b""}, ConfigError, "is empty"),
    ({"name": "x" * 5000}, ConfigError, "at most"),
    ({"name": "\ud800"}, ConfigError, "UTF-8"),
    ({"name": None}, TypeError, "bytes or str"),
    ({"name": 7}, TypeError, "bytes or str"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=lambda value: str(value)[:40])
def test_lock_arguments_that_cannot_be_used_are_refused(
    arguments: dict[str, object], kind: type[Exception], text: str
) -> None:
    kv: VirtualKv = VirtualStore().client()
    with pytest.raises(kind, match=text):
        kv.lock(**{"name": NAME, **arguments})  # type: ignore[arg-type]
