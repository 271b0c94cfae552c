# ruff: noqa: PT012 - the blocks that raise are what is tested
"""`kv.queue`: order, claims on leases, what comes back, and what a lost claimer can't do."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest

from syncline.client import AsyncClient
from syncline.client.txn import PutOp
from syncline.errors import ConfigError, DeadlineExceeded, LeaseLost, Outcome, UsageError
from tests.helpers.process_cluster import eventually
from tests.helpers.site_server import SiteServer
from tests.helpers.words import client_of_site


async def test_queue_gives_items_in_the_order_of_their_puts() -> None:
    async with client_of_site() as (kv, site):
        mail = kv.queue("mail")
        ids = [await mail.put(str(at)) for at in range(3)]
        ids += await mail.put_many([str(at) for at in range(3, 20)])
        assert (await mail.size(), [entry.value for entry in await mail.peek(2)]) == (20, [b"0", b"1"])
        tokens = []
        for at in range(20):
            async with mail.claim() as item:
                assert (item.id, item.value, item.deliveries) == (ids[at], b"%d" % at, 1)
                item.check()
                tokens.append(item.token)
        assert tokens == sorted(set(tokens))
        assert await mail.size() == 0
        assert await kv.count("") == 0, "nothing is left behind"
        assert not site.backend.store.leases.records()


async def test_queue_item_is_given_back_when_its_block_raises() -> None:
    async with client_of_site() as (kv, _):
        mail = kv.queue("mail")
        await mail.put_many(["a", "b"])
        for deliveries in (1, 2, 3):
            with pytest.raises(ZeroDivisionError):
                async with mail.claim() as item:
                    assert (item.value, item.deliveries) == (b"a", deliveries)
                    raise ZeroDivisionError
        async with mail.claim() as item, mail.claim() as other:
            assert (item.value, item.deliveries, other.value) == (b"a", 4, b"b")
            assert [(entry.claimed, entry.deliveries) for entry in await mail.peek()] == [(True, 4), (True, 1)]
            counts = await mail.counts()
            assert (counts.waiting, counts.claimed, counts.dead) == (0, 2, 0)
            await other.give_back()
            assert [entry.claimed for entry in await mail.peek()] == [True, False]
            with pytest.raises(UsageError, match="given back"):
                await other.done()


async def test_queue_claimer_that_lost_its_claim_can_not_finish_it() -> None:
    """The end of a lease, as after a crash: another claimer has the item, with a larger token."""
    async with client_of_site() as (kv, _):
        mail = kv.queue("mail")
        await mail.put("a")
        with pytest.raises(LeaseLost):
            async with mail.claim(ttl=60) as item:
                await _end_claim(kv, item.id)
                async with mail.claim(wait=0) as other:
                    assert (other.id, other.deliveries) == (item.id, 2)
                    assert other.token > item.token
                    with pytest.raises(LeaseLost, match=item.id):
                        await item.done(PutOp(b"sent", b"1"))
                    assert await kv.get("sent") is None
                    await other.done(PutOp(b"sent", b"2"))
        assert (await kv.get("sent")).value == b"2"  # type: ignore[union-attr]
        assert await mail.size() == 0


async def _end_claim(kv: AsyncClient, item: str) -> None:
    """End the lease of a claim, as its time does."""
    page = await kv.list(f"queues/mail/claims/{item}")
    await kv.revoke_lease(page.items[0].lease)


async def test_queue_claim_that_is_lost_cancels_its_block() -> None:
    async with client_of_site() as (kv, _):
        mail = kv.queue("mail")
        await mail.put("a")
        with pytest.raises(LeaseLost):
            async with mail.claim(ttl=2) as item:
                await _end_claim(kv, item.id)
                await asyncio.Event().wait()
        assert item.lost.is_set()
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0


async def test_queue_claim_waits_for_an_item_that_is_put_or_given_back() -> None:
    async with client_of_site() as (kv, _):
        mail = kv.queue("mail")
        held, release = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with mail.claim(wait=0):
                held.set()
                await release.wait()
                raise ZeroDivisionError

        async def work() -> tuple[bytes, int]:
            async with mail.claim() as item:
                return item.value, item.deliveries

        await mail.put("a")
        holder = asyncio.create_task(hold())
        await held.wait()
        waiting = [asyncio.create_task(work()) for _ in range(3)]
        await mail.put("b")
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [(b"b", 1)]
        release.set()
        with pytest.raises(ZeroDivisionError):
            await holder
        await mail.put("c")
        assert sorted(await asyncio.gather(*waiting)) == [(b"a", 2), (b"b", 1), (b"c", 1)]
        assert await mail.size() == 0


async def test_queue_claim_without_an_item_ends_at_its_limit() -> None:
    async with client_of_site() as (kv, site):
        mail = kv.queue("mail")
        for wait in (0, 0.05):
            with pytest.raises(DeadlineExceeded, match="no free item") as caught:
                async with mail.claim(wait=wait):
                    raise AssertionError
            assert caught.value.outcome is Outcome.NOT_APPLIED
        await mail.put("a")
        async with mail.claim(wait=0):
            with pytest.raises(DeadlineExceeded):
                async with mail.claim(wait=0):
                    raise AssertionError
        assert not site.backend.store.leases.records(), "nothing is held"


async def test_queue_item_that_is_never_done_becomes_a_dead_letter() -> None:
    async with client_of_site() as (kv, _):
        mail = kv.queue("mail", max_deliveries=2)
        await mail.put_many(["poison", "good"])
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                async with mail.claim() as item:
                    assert item.value == b"poison"
                    raise ZeroDivisionError
        async with mail.claim(wait=0) as item:
            assert item.value == b"good"
        [dead] = await mail.dead_letters()
        assert (dead.value, dead.deliveries) == (b"poison", 2)
        assert await mail.restore(dead.id)
        assert not await mail.restore(dead.id)
        async with mail.claim(wait=0) as item:
            assert (item.value, item.deliveries) == (b"poison", 1)
        assert not await mail.discard(dead.id)


async def test_queue_item_whose_claimers_die_becomes_a_dead_letter() -> None:
    async with client_of_site() as (kv, _):
        mail = kv.queue("mail", max_deliveries=2)
        await mail.put_many(["poison", "good"])
        for _ in range(2):
            with pytest.raises(LeaseLost):
                async with mail.claim() as item:
                    assert item.value == b"poison"
                    await _end_claim(kv, item.id)
        async with mail.claim(wait=0) as item:
            assert item.value == b"good"
        [dead] = await mail.dead_letters()
        assert await mail.discard(dead.id)
        assert (await mail.counts()).dead == 0


async def test_queue_with_many_workers_gives_each_item_once() -> None:
    async with client_of_site() as (kv, site):
        mail = kv.queue("mail")
        found: list[bytes] = []

        async def work() -> None:
            while True:
                async with mail.claim(wait=30) as item:
                    found.append(item.value)
                    if item.value == b"end":
                        return

        workers = [asyncio.create_task(work()) for _ in range(6)]
        await mail.put_many([b"%d" % at for at in range(40)])
        await mail.put_many(["end"] * 6)
        await asyncio.gather(*workers)
        assert sorted(found) == sorted([*(b"%d" % at for at in range(40)), *([b"end"] * 6)])
        assert not site.backend.store.leases.records()


async def test_queue_names_may_hold_each_other() -> None:
    async with client_of_site() as (kv, _):
        outer, inner = kv.queue("a"), kv.queue("a/items")
        await inner.put("inner")
        assert await outer.peek() == ()
        with pytest.raises(DeadlineExceeded):
            async with outer.claim(wait=0):
                raise AssertionError
        await outer.put("outer")
        async with outer.claim(wait=0) as item:
            assert item.value == b"outer"


async def test_queue_with_bad_arguments_says_what_is_wrong() -> None:
    kv = AsyncClient("http://127.0.0.1:1")
    mail = kv.queue("mail")
    with pytest.raises(ConfigError, match="is empty"):
        kv.queue("")
    with pytest.raises(ConfigError, match="max_deliveries is 0"):
        kv.queue("mail", max_deliveries=0)
    with pytest.raises(TypeError, match="value must be bytes or str"):
        await mail.put(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="values must be a collection"):
        await mail.put_many("abc")
    for values in ([], ["x"] * 101):
        with pytest.raises(ConfigError, match="1 to 100"):
            await mail.put_many(values)
    for ttl in (0, 1, float("nan")):
        with pytest.raises(ConfigError, match="ttl"):
            mail.claim(ttl=ttl)
    for wait in (-1, float("inf")):
        with pytest.raises(ConfigError, match="wait"):
            mail.claim(wait=wait)
    with pytest.raises(ConfigError, match="1 to 50"):
        await mail.peek(51)
    with pytest.raises(ConfigError, match="32 hexadecimal digits"):
        await mail.discard("x")
    await kv.close()


async def test_queue_requests_of_waiting_claimers_grow_with_their_number_only() -> None:
    """If each of them asked at each put, 24 claimers would take about 300 looks. They stand in line."""
    async with client_of_site() as (kv, site):
        mail = kv.queue("mail")

        async def work() -> bytes:
            async with mail.claim() as item:
                return item.value

        waiting = [asyncio.create_task(work()) for _ in range(24)]

        async def all_wait() -> bool:
            return await kv.count("queues/mail/line/") == 24

        async def all_done() -> bool:
            return not await kv.count("queues/mail/items/")

        await eventually("all stand in line", all_wait)
        before = site.backend.index
        for at in range(24):
            await mail.put(str(at))
            await eventually("the item is done", all_done)
        assert len(set(await asyncio.gather(*waiting))) == 24
        assert (site.backend.index - before) / 24 < 9, "entries of the log for each item"


async def test_queue_put_whose_answer_is_lost_puts_one_item() -> None:
    """The connection is cut when the put has been carried out: the client sends it again, and it takes effect once."""
    async with SiteServer() as site, CutProxy(site.url) as proxy, AsyncClient(proxy.url) as kv:
        mail = kv.queue("mail")
        await mail.put("first")
        proxy.cut_after = b"/txn"
        await mail.put("second")
        assert proxy.cuts == 1
        assert [entry.value for entry in await mail.peek()] == [b"first", b"second"]


class CutProxy:
    """Passes bytes on. After a request with `cut_after` in it, it cuts the connection in place of the answer, once."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._tasks: list[asyncio.Task[None]] = []
        self._cutting = False
        self.cut_after = b""
        self.cuts = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._tasks.append(asyncio.create_task(self._pass(reader, back, asked=True)))
        self._tasks.append(asyncio.create_task(self._pass(there, writer, asked=False)))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asked: bool) -> None:
        cutting = False
        try:
            while data := await source.read(65536):
                if asked and self.cut_after and self.cut_after in data:
                    self.cut_after, self.cuts = b"", self.cuts + 1
                    self._cutting = True
                if not asked and self._cutting:
                    self._cutting, cutting = False, True
                    break
                sink.write(data)
                await sink.drain()
        finally:
            sink.transport.abort() if cutting else sink.close()
