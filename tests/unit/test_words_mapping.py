"""`kv.mapping`: a local copy that follows the cluster, never goes back, and is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from syncline.client import AsyncClient, LiveMapping, RevisionEvents
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.txn import DeleteOp, PutOp
from syncline.errors import ConfigError, DeadlineExceeded, LimitReached, Outcome, Unreachable, UsageError
from tests.helpers.site_server import SiteServer
from tests.helpers.words import client_of_site


async def test_mapping_shows_what_was_there_and_what_follows() -> None:
    async with client_of_site() as (kv, _):
        await kv.put("config/mode", "blue")
        await kv.put("other/key", "x")
        async with kv.mapping("config/") as config:
            assert dict(config) == {"mode": b"blue"}
            assert (config["mode"], config.get("size"), "mode" in config, len(config)) == (b"blue", None, True, 1)
            await kv.txn(then=[PutOp(b"config/size", b"3"), DeleteOp(b"config/mode")])
            change = await config.changed()
            assert change.items == {"size": b"3", "mode": None}
            assert (config.snapshot(), config.revision) == ({"size": b"3"}, change.revision)
        with pytest.raises(UsageError, match="closed"):
            config["size"]


async def test_mapping_set_returns_after_the_mapping_shows_it() -> None:
    async with client_of_site() as (kv, _), kv.mapping("config/") as config:
        for at in range(20):
            revision = await config.set("mode", str(at))
            assert config["mode"] == str(at).encode()
            assert config.revision >= revision
        assert await config.delete("mode")
        assert "mode" not in config
        assert not await config.delete("mode")


async def test_mapping_changes_are_merged_for_a_slow_reader() -> None:
    async with client_of_site() as (kv, _), kv.mapping("c/") as config:
        await config.set("a", "1")
        await config.set("a", "2")
        await config.set("short", "lived")
        await config.delete("short")
        assert (await config.changed()).items == {"a": b"2"}
        with pytest.raises(DeadlineExceeded) as caught:
            await config.changed(timeout=0.01)
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_mapping_changes_of_two_readers_are_apart() -> None:
    async with client_of_site() as (kv, _), kv.mapping("c/") as config:
        changes = config.changes()
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await config.set("a", "1")
        assert (await first).items == {"a": b"1"}
        assert (await config.changed()).items == {"a": b"1"}
        await changes.aclose()  # type: ignore[attr-defined]


class HeldWatches(AsyncClient):
    """Its watches give nothing while `flowing` is not set, and then go on with a new request, as after an outage."""

    flowing: asyncio.Event

    async def watch(self, *, prefix: bytes, from_revision: int) -> AsyncIterator[RevisionEvents]:  # type: ignore[override]
        while True:
            async for change in super().watch(prefix=prefix, from_revision=from_revision):
                if not self.flowing.is_set():
                    break
                from_revision = change.revision + 1
                yield change
            await self.flowing.wait()


async def test_mapping_after_a_compaction_reads_again_and_tells_the_difference() -> None:
    async with SiteServer() as site, HeldWatches(site.url) as kv:
        kv.flowing = asyncio.Event()
        kv.flowing.set()
        async with LiveMapping(cast("KeyValueCalls", kv), "c/") as config:
            for name in ("stays", "goes", "changes"):
                await config.set(name, "1")
            await config.changed()
            kv.flowing.clear()
            seen = config.revision
            await kv.delete("c/goes")
            await kv.put("c/changes", "2")
            last = await kv.put("c/new", "2")
            await kv.compact(last.revision)
            assert (config.revision, len(config)) == (seen, 3)
            kv.flowing.set()
            change = await config.changed()
            assert change.items == {"goes": None, "changes": b"2", "new": b"2"}
            assert config.snapshot() == {"stays": b"1", "changes": b"2", "new": b"2"}
            assert config.revision == last.revision
            await config.set("new", "3")


async def test_mapping_above_its_limits_fails_and_never_shows_a_part() -> None:
    async with client_of_site() as (kv, _):
        await kv.put("c/a", "1")
        await kv.put("c/b", "1")
        with pytest.raises(LimitReached, match="max_keys=1"):
            async with kv.mapping("c/", max_keys=1):
                raise AssertionError
        async with kv.mapping("c/", max_keys=2) as config:
            with pytest.raises(LimitReached, match="max_keys=2"):
                await config.set("c", "1")
            with pytest.raises(LimitReached):
                len(config)
            assert await kv.get("c/c") is not None
        async with kv.mapping("c/", max_bytes=2_000) as config:
            with pytest.raises(LimitReached, match="max_bytes=2000"):
                await config.set("a", b"x" * 5_000)


async def test_mapping_refresh_shows_each_write_that_was_acknowledged() -> None:
    async with client_of_site() as (kv, _), kv.mapping("c/") as config:
        written = await kv.put("c/a", "1")
        assert await config.refresh() >= written.revision
        assert config["a"] == b"1"
        await config.set("b", "2")  # the watch goes on behind the read
        assert dict(config) == {"a": b"1", "b": b"2"}


async def test_mapping_waits_end_when_it_is_closed() -> None:
    async with client_of_site() as (kv, _):
        async with kv.mapping("c/") as config:
            waiting = asyncio.ensure_future(config.changed())
            await asyncio.sleep(0)
        with pytest.raises(UsageError, match="closed"):
            await waiting


async def test_mapping_with_keys_that_are_no_text_escapes_them() -> None:
    async with client_of_site() as (kv, _):
        await kv.put(b"c/\xff", "1")
        async with kv.mapping("c/") as config:
            [key] = config
            assert config[key] == b"1"
            await config.set(key, "2")
            assert (await kv.get(b"c/\xff")).value == b"2"  # type: ignore[union-attr]


async def test_mapping_with_bad_arguments_says_what_is_wrong() -> None:
    async with client_of_site() as (kv, _):
        for argument in (5, None):
            with pytest.raises(TypeError, match="prefix must be bytes or str"):
                kv.mapping(argument)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="max_keys is 0"):
            kv.mapping("c/", max_keys=0)
        config = kv.mapping("c/")
        with pytest.raises(UsageError, match="not open yet"):
            len(config)
        async with config:
            with pytest.raises(TypeError, match="key of a mapping must be a str"):
                await config.set(b"a", "1")  # type: ignore[arg-type]
            with pytest.raises(KeyError):
                config["\ud800"]
        with pytest.raises(UsageError, match="one block"):
            async with config:
                raise AssertionError


class CutWatches(AsyncClient):
    """Its first watches reach no server."""

    cuts = 2

    async def watch(self, *, prefix: bytes, from_revision: int) -> AsyncIterator[RevisionEvents]:  # type: ignore[override]
        if self.cuts:
            self.cuts -= 1
            raise Unreachable("no server")
        async for change in super().watch(prefix=prefix, from_revision=from_revision):
            yield change


async def test_mapping_survives_an_outage_between_its_read_and_its_watch() -> None:
    async with SiteServer() as site, CutWatches(site.url) as kv:
        async with LiveMapping(cast("KeyValueCalls", kv), "c/") as config:
            await kv.put("c/a", "1")
            assert (await config.changed()).items == {"a": b"1"}
        assert not kv.cuts
