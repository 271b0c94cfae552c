"""The close of a client ends what is open: terms, locks, registrations, claims. Their holders are told before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from syncline import Store
from syncline.client import AsyncClient, Client
from syncline.client.coordination.place import WATCH_AFTER_S
from syncline.errors import LeaseLost, LockLost, UsageError
from tests.helpers.site_server import SiteServer, site_in_thread
from tests.helpers.store_node import one_store

LIMIT_S = 10.0

Opened: TypeAlias = AsyncClient | Store


async def elect(kv: Opened) -> None:
    async for _ in kv.elect("master"):
        break


async def lock(kv: Opened) -> None:
    await kv.lock("printer").acquire()


async def register(kv: Opened) -> None:
    await kv.register("api", "10.0.0.1:80").__aenter__()


async def claim(kv: Opened) -> None:
    await kv.queue("mail").put(b"hello")

    async def begin() -> None:
        await kv.queue("mail").claim().__aenter__()

    await asyncio.create_task(begin())  # a loss cancels the task in the block


OPEN: dict[bytes, Callable[[Opened], Awaitable[None]]] = {
    b"elections/": elect,
    b"locks/": lock,
    b"services/": register,
    b"queues/mail/claims/": claim,
}


async def keys(url: str, prefix: bytes) -> list[bytes]:
    async with AsyncClient(url) as kv:
        return [item.key for item in (await kv.list(prefix)).items]


@pytest.mark.parametrize("prefix", OPEN)
async def test_client_close_ends_what_is_open(prefix: bytes) -> None:
    """The program may end in the next moment: without this the key would stay for a whole TTL."""
    async with SiteServer() as site:
        async with AsyncClient(site.url) as kv:
            await OPEN[prefix](kv)
        assert await keys(site.url, prefix) == []


async def test_client_close_ends_a_place_in_line() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as holder:
        await lock(holder)
        async with AsyncClient(site.url) as kv:
            waiting = asyncio.create_task(kv.lock("printer").acquire())
            async for change in holder.watch(prefix=b"locks/", from_revision=1):
                if change.revision >= 2:  # of the second place
                    break
        assert len(await keys(site.url, b"locks/")) == 1
        with pytest.raises((LockLost, UsageError)):
            await asyncio.wait_for(waiting, LIMIT_S)


async def test_client_close_tells_the_holders_before_others_get_the_lock() -> None:
    async with SiteServer() as site:
        kv = AsyncClient(site.url)
        held = await kv.lock("printer").acquire()
        async with AsyncClient(site.url) as other:
            next_one = asyncio.create_task(other.lock("printer").acquire())
            next_one.add_done_callback(lambda _: told.append(held.lost.is_set()))
            told: list[bool] = []
            await kv.close()
            with pytest.raises(LockLost, match="the client was closed"):
                held.check()
            await (await asyncio.wait_for(next_one, LIMIT_S)).release()
            assert told == [True]


async def test_client_close_in_the_block_of_its_own_lock_ends_it() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        with pytest.raises(LockLost):  # noqa: PT012
            async with kv.lock("printer"):
                await kv.close()
                await asyncio.sleep(LIMIT_S)
        await kv.close()
        assert await keys(site.url, b"locks/") == []


async def test_client_lease_in_its_block_is_lost_with_the_close() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        with pytest.raises(LeaseLost):  # noqa: PT012
            async with kv.lease(30) as lease:
                await kv.close()
                assert "closed" in str(await asyncio.wait_for(lease.lost(), LIMIT_S))
        with pytest.raises(UsageError):
            async with kv.lease(30):
                pass


@pytest.mark.parametrize("word", [elect, lock, register, claim])
async def test_word_on_a_closed_client_is_a_usage_error(word: Callable[[Opened], Awaitable[None]]) -> None:
    async with SiteServer() as site:
        kv = AsyncClient(site.url)
        await kv.close()
        with pytest.raises(UsageError):
            await asyncio.wait_for(word(kv), LIMIT_S)


async def test_closed_async_client_refuses_a_block_at_once() -> None:
    """The block would do half of its work before its first call fails."""
    kv = AsyncClient("http://127.0.0.1:1")
    await kv.close()
    with pytest.raises(UsageError, match="the client is closed"):
        await kv.__aenter__()


def test_closed_blocking_client_refuses_a_block_at_once() -> None:
    kv = Client("http://127.0.0.1:1")
    with kv:
        pass
    with pytest.raises(UsageError, match="the client is closed: make another one"):
        kv.__enter__()


async def test_closed_store_refuses_a_block_at_once(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        await store.close()
        with pytest.raises(UsageError, match="this store is closed"):
            await store.__aenter__()


@pytest.mark.parametrize("word", [elect, lock, register, claim])
async def test_word_on_a_closed_store_is_a_usage_error(
    word: Callable[[Opened], Awaitable[None]], tmp_path: Path
) -> None:
    async with one_store(tmp_path) as store:
        await store.close()
        with pytest.raises(UsageError):
            await asyncio.wait_for(word(store), LIMIT_S)


async def test_store_close_ends_what_is_open(tmp_path: Path) -> None:
    async with one_store(tmp_path) as store:
        for word in OPEN.values():
            await word(store)
        await store.close()
    async with one_store(tmp_path) as store:
        for prefix in OPEN:
            assert not (await store.list(prefix)).items, prefix


async def test_client_close_leaves_no_failed_task_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A task that watches the key of a lock meets the closed client: that is no failure."""
    async with SiteServer() as site:
        kv = AsyncClient(site.url)
        for name in ("a", "b"):
            await kv.lock(name).acquire()
        await elect(kv)
        await asyncio.sleep(2 * WATCH_AFTER_S)
        await kv.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        places = [task for task in others if task.get_name().startswith(("place", "lease"))]
        if places:
            await asyncio.wait(places, timeout=LIMIT_S)
        assert all(task.done() and (task.cancelled() or task.exception() is None) for task in places)


def test_blocking_client_close_tells_holders_in_other_threads() -> None:
    """A thread that works until `held.lost` is set would work without the lock for ever."""
    with site_in_thread() as site:
        kv = Client(site.url)
        held = kv.lock("printer").acquire()
        told = threading.Event()

        def work() -> None:
            if held.lost.wait(LIMIT_S):
                told.set()

        worker = threading.Thread(target=work)
        worker.start()
        for _ in kv.elect("master"):
            break
        kv.close()
        worker.join(LIMIT_S)
        assert told.is_set()
        with Client(site.url) as other:
            assert [item.key for item in other.list(b"").items] == []
