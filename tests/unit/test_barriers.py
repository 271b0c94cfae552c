"""Barriers in virtual time: so many parties go on together, and one that gives up counts for nothing."""

from __future__ import annotations

import asyncio

import pytest

from syncline.errors import ConfigError, DeadlineExceeded, LockLost, Outcome
from tests.helpers.virtual_kv import LOST_ANSWER, VirtualStore, virtual

NAME = "start"
PREFIX = b"barriers/start/"


def places(store: VirtualStore) -> list[bytes]:
    return [item.key for item in store.below(PREFIX) if item.lease]


async def until_places(store: VirtualStore, count: int) -> None:
    changed = asyncio.Event()
    store.watches.add(changed)
    while len(places(store)) != count:
        changed.clear()
        await changed.wait()
    store.watches.discard(changed)


@pytest.mark.parametrize("parties", [1, 2, 5, 20])
def test_barrier_lets_its_parties_through_together(parties: int) -> None:
    async def scenario(store: VirtualStore) -> None:
        passed: list[float] = []

        async def party(after_s: float) -> None:
            await asyncio.sleep(after_s)
            await store.client().barrier(NAME, parties).wait()
            passed.append(asyncio.get_running_loop().time())

        await asyncio.gather(*(party(at) for at in range(parties)))
        assert min(passed) >= parties - 1
        assert max(passed) - min(passed) < 0.5
        assert not places(store)

    virtual(scenario)


def test_barrier_serves_the_next_round_with_the_same_object() -> None:
    async def scenario(store: VirtualStore) -> None:
        rounds: list[list[int]] = [[], [], []]

        async def party(number: int) -> None:
            barrier = store.client().barrier(NAME, 3)
            for at in range(3):
                await asyncio.sleep(number * 0.3)
                await barrier.wait()
                rounds[at].append(number)
                assert all(len(done) == 3 for done in rounds[:at])

        await asyncio.gather(*(party(number) for number in range(3)))
        assert all(sorted(done) == [0, 1, 2] for done in rounds)

    virtual(scenario)


@pytest.mark.parametrize("timeout", [0, 1])
def test_barrier_party_that_gives_up_is_not_counted(timeout: float) -> None:
    async def scenario(store: VirtualStore) -> None:
        with pytest.raises(DeadlineExceeded, match="fewer than 2 parties") as caught:
            await store.client().barrier(NAME, 2).wait(timeout=timeout)
        assert caught.value.outcome is Outcome.NOT_APPLIED
        assert not places(store)
        with pytest.raises(DeadlineExceeded):
            await store.client().barrier(NAME, 2).wait(timeout=1)

    virtual(scenario)


def test_barrier_last_party_needs_no_time() -> None:
    async def scenario(store: VirtualStore) -> None:
        task = asyncio.create_task(store.client().barrier(NAME, 2).wait())
        await until_places(store, 1)
        await store.client().barrier(NAME, 2).wait(timeout=0)
        await task

    virtual(scenario)


@pytest.mark.parametrize(("one_s", "other_s"), [(0.01, 0.01), (0.02, 0.01), (0.005, 0.02), (0.02, 0.005)])
def test_barrier_opens_for_both_or_for_none(one_s: float, other_s: float) -> None:
    """One gives up around the moment at which the other comes: before, after, and at each step between."""
    for step in range(40):
        opens_for_both_or_for_none(0.92 + step * 0.004, one_s, other_s)


def opens_for_both_or_for_none(timeout: float, one_s: float, other_s: float) -> None:

    async def scenario(store: VirtualStore) -> None:
        async def party(timeout_s: float, delay_s: float) -> Outcome | None:
            kv = store.client()
            kv.delay_s = delay_s
            try:
                await kv.barrier(NAME, 2).wait(timeout=timeout_s)
            except DeadlineExceeded as error:
                return error.outcome
            return None

        first = asyncio.create_task(party(timeout, one_s))
        await asyncio.sleep(1 - 2 * other_s)
        second = asyncio.create_task(party(3, other_s))
        outcomes = {await first, await second}
        assert outcomes in ({None}, {Outcome.NOT_APPLIED})

    virtual(scenario)


def test_barrier_party_that_dies_is_not_counted_after_its_ttl() -> None:
    async def scenario(store: VirtualStore) -> None:
        dead = store.client()
        task = asyncio.create_task(dead.barrier(NAME, 2, ttl=2).wait())
        await until_places(store, 1)
        dead.connect(False)
        with pytest.raises(LockLost, match='the place at the barrier "start"'):
            await task
        await asyncio.sleep(1)
        with pytest.raises(DeadlineExceeded):
            await store.client().barrier(NAME, 2).wait(timeout=1)
        dead.connect(True)

    virtual(scenario)


def test_barrier_party_whose_key_is_deleted_is_told() -> None:
    async def scenario(store: VirtualStore) -> None:
        task = asyncio.create_task(store.client().barrier(NAME, 2).wait())
        await until_places(store, 1)
        store.change(lambda revision: [store.delete(places(store)[0], revision)])
        with pytest.raises(LockLost):
            await task

    virtual(scenario)


def test_barrier_opens_though_the_last_party_dies_at_once() -> None:
    """Its key is there until its lease ends; the others let themselves through."""

    async def scenario(store: VirtualStore) -> None:
        task = asyncio.create_task(store.client().barrier(NAME, 2).wait())
        await until_places(store, 1)
        kv = store.client()
        last = asyncio.create_task(kv.barrier(NAME, 2).wait())
        await until_places(store, 2)
        kv.connect(False)
        last.cancel()
        await task
        kv.connect(True)
        await asyncio.wait([last])

    virtual(scenario)


@pytest.mark.parametrize("how", ["cut", "compacted", "lost answers"])
def test_barrier_opens_after_errors_that_pass(how: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        if how == "lost answers":
            kv.faults = [("txn", LOST_ANSWER), ("list", LOST_ANSWER)]
        task = asyncio.create_task(kv.barrier(NAME, 2, ttl=60).wait())
        await asyncio.sleep(1)
        if how == "cut":
            kv.cut()
        if how == "compacted":
            for _ in range(2):
                store.change(lambda revision: [store.put(b"x", b"", 0, revision)])
            store.compact()
        await store.client().barrier(NAME, 2, ttl=60).wait()
        await task

    virtual(scenario)


def test_barrier_that_is_left_by_a_cut_off_party_says_unknown() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        task = asyncio.create_task(kv.barrier(NAME, 2, ttl=60).wait(timeout=1))
        await until_places(store, 1)
        kv.connect(False)
        with pytest.raises(DeadlineExceeded, match="no server says") as caught:
            await task
        assert caught.value.outcome is Outcome.UNKNOWN
        kv.connect(True)

    virtual(scenario)


def test_barrier_party_with_another_number_is_refused() -> None:
    async def scenario(store: VirtualStore) -> None:
        task = asyncio.create_task(store.client().barrier(NAME, 2).wait())
        await until_places(store, 1)
        with pytest.raises(ConfigError, match="parties is 3: another party waits at the barrier"):
            await store.client().barrier(NAME, 3).wait()
        await store.client().barrier(NAME, 2).wait()
        await task

    virtual(scenario)


def test_barrier_arguments_that_cannot_be_used_are_refused() -> None:
    kv = VirtualStore().client()
    for parties in (0, -1, True, 1.5, None):
        with pytest.raises((ConfigError, TypeError)):
            kv.barrier(NAME, parties)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a barrier needs a TTL"):
        kv.barrier(NAME, 2, ttl=0)
    with pytest.raises(ConfigError, match="is empty"):
        kv.barrier("", 2)
