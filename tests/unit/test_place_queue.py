"""The places of one name that the callers of one client share: one watch, and the same work for each release."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from syncline.client.coordination import place_queue
from syncline.client.coordination.place import FEW
from syncline.client.coordination.place_queue import PlaceQueue, queue_of
from syncline.client.results import KeyEvent, RevisionEvents
from syncline.errors import LockLost, OperationError, RequestFailed
from tests.helpers.virtual_kv import VirtualKv, VirtualStore, virtual
from tests.unit.test_locks import NAME, PREFIX, held_by_another, hold


async def _waiting(store: VirtualStore, kv: VirtualKv, count: int, order: list[int]) -> list[asyncio.Task[None]]:
    """So many callers of one client that wait, behind whatever is there."""
    tasks = []
    before = len(store.below(PREFIX))
    for number in range(count):
        tasks.append(asyncio.create_task(hold(kv.lock(NAME, ttl=600), order, 0.1)))
        await asyncio.sleep(0.02)  # virtual: a call takes 0.01 s
        assert len(store.below(PREFIX)) >= before + number
    await asyncio.sleep(1)
    return tasks


def _work_of_releases(count: int, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """What happens from the first release to the last one, with so many callers that wait."""
    work = dict.fromkeys(("events", "looks", "list", "revoke", "txn", "watch"), 0)
    order: list[int] = []

    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            tasks = await _waiting(store, kv, count, order)
            assert kv.open_watches == 1
            calls = len(kv.calls)
            inside.setattr(PlaceQueue, "_apply", _counting(PlaceQueue._apply, work, "events"))
            inside.setattr(PlaceQueue, "_look", _counting(PlaceQueue._look, work, "looks"))
        await asyncio.gather(*tasks)
        for name in kv.calls[calls:]:
            if name in work:
                work[name] += 1

    with patch.context() as inside:
        virtual(scenario)
    assert len(order) == count
    assert order == sorted(order)
    return work


def _counting(function: Callable[..., None], work: dict[str, int], name: str) -> Callable[..., None]:
    def counted(*given: Any) -> None:
        work[name] += 1
        function(*given)

    return counted


def test_lock_release_costs_the_same_with_many_waiters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waiter watched all places and read them at its turn: 2,000 of them took 12 ms for each release."""
    few, many = (_work_of_releases(count, monkeypatch) for count in (FEW + 4, 4 * FEW))
    for work, count in ((few, FEW + 4), (many, 4 * FEW)):
        assert work["list"] == work["revoke"] == count, "each reads its own key, and ends its lease"
        assert work["txn"] == work["watch"] == 0
        assert work["events"] <= count
        assert work["looks"] <= 2 * count


def test_lock_waiters_of_one_client_read_the_places_once() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            others = await _waiting(store, store.client(), FEW + 3, [])
            tasks = await _waiting(store, kv, 10, [])
            assert kv.calls.count("list") == 1
            assert kv.calls.count("watch") == 1
        await asyncio.gather(*others, *tasks)
        assert (id(kv), PREFIX) not in place_queue._queues, "an idle client is not kept"

    virtual(scenario)


@pytest.mark.parametrize("holders", [2, 3])
def test_semaphore_of_one_client_is_held_by_as_many_at_a_time(holders: int) -> None:
    async def scenario(store: VirtualStore) -> None:
        kv, held, most, order = store.client(), 0, 0, list[int]()

        async def work() -> None:
            nonlocal held, most
            async with kv.lock(NAME, ttl=600, holders=holders) as lock:
                held, most = held + 1, max(most, held + 1)
                order.append(lock.token)
                await asyncio.sleep(1)
                held -= 1

        tasks = []
        for _ in range(FEW + 8):
            tasks.append(asyncio.create_task(work()))
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
        assert (most, order) == (holders, sorted(order))

    virtual(scenario)


def test_lock_waiter_among_many_whose_key_is_deleted_is_told() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with held_by_another(store):
            tasks = await _waiting(store, kv, FEW + 2, [])
            lock = kv.lock(NAME, ttl=600)
            last = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0.5)
            asked_s = asyncio.get_running_loop().time()
            store.change(lambda revision: [store.delete(lock.key, revision)])
            with pytest.raises(LockLost, match="deleted or overwritten"):
                await last
            assert asyncio.get_running_loop().time() < asked_s + 0.2
        await asyncio.gather(*tasks)

    virtual(scenario)


@pytest.mark.parametrize("how", ["compacted", "cut"])
def test_lock_waiters_go_on_after_their_watch_has_ended(how: str) -> None:
    """What was missed is read. One that comes meanwhile waits with the others."""

    async def scenario(store: VirtualStore) -> None:
        kv, order = store.client(), list[int]()
        async with held_by_another(store):
            tasks = await _waiting(store, kv, FEW + 2, order)
            store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
            if how == "cut":
                kv.cut()
            else:
                store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
                store.compact()
            tasks += await _waiting(store, kv, 2, order)
            assert not order
        await asyncio.gather(*tasks)
        assert (len(order), order) == (FEW + 4, sorted(order))

    virtual(scenario)


def test_lock_waiters_are_all_told_of_an_error_that_lasts() -> None:
    class Forbidden(VirtualKv):
        async def watch(self, *given: Any, **more: Any) -> AsyncIterator[RevisionEvents]:
            def refuse() -> RevisionEvents:
                raise RequestFailed("no role allows it", status=403)

            yield await self._call("watch", refuse, None)

    async def scenario(store: VirtualStore) -> None:
        async with held_by_another(store):
            kv = Forbidden(store)
            tasks = [asyncio.create_task(kv.lock(NAME).acquire()) for _ in range(3)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [RequestFailed] * 3
            with pytest.raises(OperationError):
                await kv.lock(NAME).acquire()

    virtual(scenario)


def _event(key: bytes, created: int, lease: int) -> KeyEvent:
    return KeyEvent("put" if created else "delete", key, b"", created, 1 if created else 0, lease)


@pytest.mark.parametrize("seed", range(20))
def test_place_queue_wakes_exactly_those_whose_turn_has_come(seed: int) -> None:
    """Compared with all places, sorted, after each event: for callers that wait for different numbers of places."""
    rng = random.Random(seed)

    async def scenario(store: VirtualStore) -> None:
        queue = queue_of(store.client(), PREFIX)
        forever = asyncio.create_task(queue.turn(PREFIX + b"f" * 9, 1 << 40, 1, (1, ())))
        places: dict[bytes, int] = {}
        callers: dict[bytes, tuple[int, int, asyncio.Task[list[bytes]]]] = {}
        for revision in range(2, 150):
            lease = rng.randrange(1, 30)
            key = PREFIX + b"%x" % lease
            if key in places or rng.random() < 0.1:
                created = 0 if rng.random() < 0.8 else places.get(key, 0)  # deleted, or it is no place any more
                places.pop(key, None)
                queue._revision = revision
                queue._apply(_event(key, created, 0))
            else:
                places[key] = revision
                count = rng.choice((1, 1, 1, 2, 5))
                if key not in callers:
                    task = asyncio.create_task(queue.turn(key, revision, count, None))
                    callers[key] = revision, count, task
                    await asyncio.sleep(0)
                queue._revision = revision
                queue._apply(_event(key, revision, lease))
            for _ in range(3):
                await asyncio.sleep(0)
            for name, (at, count, task) in list(callers.items()):
                ahead = sorted(places, key=places.__getitem__)
                ahead = [other for other in ahead if places[other] < at]
                has_turn = places.get(name) != at or len(ahead) < count
                assert task.done() is has_turn, (revision, name)
                if has_turn:
                    assert task.result() == ahead[:count]
                    del callers[name]
        tasks = [forever, *(task for _, _, task in callers.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual(scenario)
