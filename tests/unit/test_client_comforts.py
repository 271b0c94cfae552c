"""`get_many`, `put_many`, `update`, JSON values and the readable transaction, on the real routes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from syncline.client import AsyncClient, Compare, GetOp, PutOp
from syncline.errors import ConfigError, DeadlineExceeded, Outcome, Rejected, RequestFailed, TooLarge
from tests.helpers.site_server import SiteServer


class Job(msgspec.Struct):
    name: str
    tries: int = 0


async def test_client_writes_and_reads_many_keys() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        values = {f"k{number:04}": b"%d" % number for number in range(2500)}
        written = await kv.put_many(values)
        assert [one.revision for one in written.values()] == list(range(1, 2501))
        found = await kv.get_many([*values, "nothing", b"k0001"])
        assert {key.decode(): one.value for key, one in found.items()} == values
        assert (found[b"k0002"].mod_revision, found[b"k0002"].revision) == (3, 2500)
        assert (await kv.get_many([]), await kv.put_many({})) == ({}, {})


async def test_client_reads_many_keys_above_what_one_batch_may_read() -> None:
    async with SiteServer(max_value_bytes=2 << 20) as site, AsyncClient(site.url) as kv:
        values = {b"k%02d" % number: bytes([number]) * (1 << 20) for number in range(20)}
        await kv.put_many(values, ttl=30)
        found = await kv.get_many(values)
        assert {key: one.value for key, one in found.items()} == values
        assert len(site.backend.store.leases) == 20


async def test_client_reports_the_key_of_many_that_is_refused() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        with pytest.raises(TooLarge):
            await kv.put_many({"a": "1", "b": "v" * 1001, "c": "3"})
        assert set(await kv.get_many(["a", "b", "c"])) == {b"a", b"c"}
        odd: Any = "abc"
        with pytest.raises(TypeError, match="keys must be a collection"):
            await kv.get_many(odd)
        with pytest.raises(ConfigError):
            await kv.put_many({"a": "1"}, ttl=0.5)


async def test_client_puts_many_keys_in_a_session_of_the_callers() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv, kv.session() as once:
        assert len(await once.put_many({"a": "1", "b": "2"})) == 2


async def test_update_by_several_tasks_loses_none() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:

        async def add() -> None:
            await kv.update("n", lambda value: b"%d" % (int(value or b"0") + 1))

        await asyncio.gather(*(add() for _ in range(12)))
        found = await kv.get("n")
        assert found is not None
        assert found.value == b"12"


async def test_update_creates_changes_keeps_and_deletes() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        seen: list[bytes | None] = []

        async def change(value: bytes | None) -> str | None:
            await asyncio.sleep(0)
            seen.append(value)
            return {None: "one", b"one": "two"}.get(value)

        created, changed = await kv.update("a", change), await kv.update("a", change)
        assert created is not None
        assert changed is not None
        assert (created.value, changed.value, changed.mod_revision) == (b"one", b"two", 2)
        assert await kv.update("a", lambda value: value) == await kv.get("a")
        assert (await kv.update("a", change), await kv.get("a")) == (None, None)
        assert await kv.update("a", lambda _: None) is None
        assert (seen, site.backend.store.revision) == ([None, b"one", b"two"], 3)


async def test_update_ends_at_its_deadline_and_by_the_error_of_its_function() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv, AsyncClient(site.url) as other:

        async def always_late(_: bytes | None) -> bytes:
            await other.increment("a")
            return b"x"

        with pytest.raises(DeadlineExceeded, match=r"another client|did not answer") as late:
            await kv.update("a", always_late, timeout=0.2)
        assert late.value.outcome is Outcome.NOT_APPLIED

        def failing(_: bytes | None) -> bytes:
            raise ZeroDivisionError

        revision = site.backend.store.revision
        with pytest.raises(ZeroDivisionError):
            await kv.update("b", failing)
        odd: Any = lambda _: 5  # noqa: E731
        with pytest.raises(TypeError, match="the new value"):
            await kv.update("b", odd)
        assert site.backend.store.revision == revision


async def test_json_values_are_read_as_the_type_that_is_named() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.put_json("job", Job("send", 2))
        job = await kv.get_json("job", type=Job)
        assert job == Job("send", 2)
        assert await kv.get_json("job") == {"name": "send", "tries": 2}
        assert await kv.get_json("job", dict[str, object]) == {"name": "send", "tries": 2}
        assert await kv.get_json("nothing", type=Job) is None
        with pytest.raises(Rejected):
            await kv.put_json("job", {}, if_absent=True)


async def test_json_that_can_not_be_read_or_written_is_a_clear_error() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.put("text", "no json")
        await kv.put_json("other", {"tries": "many"})
        for key, words in (("text", "not JSON"), ("other", "of the type Job")):
            with pytest.raises(RequestFailed, match=words) as bad:
                await kv.get_json(key, type=Job if key == "other" else None)
            assert (bad.value.code, bad.value.outcome) == ("bad_value", Outcome.NOT_APPLIED)
            assert key in str(bad.value)
        looped: list[object] = []
        looped.append(looped)
        not_finite = (float("nan"), [{"a": float("inf")}], {"b": (None, -float("inf"))}, Job("send", float("nan")))  # type: ignore[arg-type]
        for value in (object(), looped, {1j: 2}, *not_finite):
            with pytest.raises(TypeError):
                await kv.put_json("new", value)
        assert await kv.get("new") is None
        await kv.put_json("new", [None, {"null": 1e308}])
        assert await kv.get_json("new") == [None, {"null": 1e308}]


async def test_transaction_is_written_as_it_is_read() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        await kv.put("b", "1")
        seat = kv.transaction().if_absent("a").if_value("b", b"1").put("a", "x").increment("n", 2).else_get("a")
        first, second = await seat.commit(), await seat.commit()
        assert (first.succeeded, [one.op for one in first.results]) == (True, ["put", "increment"])
        assert (second.succeeded, second.results[0].value) == (False, b"x")


async def test_transaction_has_each_condition_and_operation() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        lease = await kv.grant_lease(30)
        await kv.put("a", "1", lease=lease.id)
        held = kv.transaction()
        held.if_present("a").if_not_value("a", "2").if_revision("a", 1).if_revision("b", 0).if_lease("a", lease.id)
        held.if_none_begin_with("job/").if_holds(Compare(b"a", target="version", number=1))
        held.get("a").put("t", "", ttl=30).delete("a").delete_prefix("job/").do(GetOp(b"b"), PutOp(b"c", b""))
        done = await held.commit()
        assert done.succeeded
        assert [one.op for one in done.results] == ["get", "put", "delete", "delete_range", "get", "put"]
        missed = kv.transaction().if_present("a").else_put("a", "2").else_delete("t").else_do(GetOp(b"c"))
        assert [one.op for one in (await missed.commit()).results] == ["put", "delete", "get"]


async def test_transaction_refuses_an_argument_where_it_is_given() -> None:
    async with SiteServer() as site, AsyncClient(site.url) as kv:
        begun: Any = kv.transaction()
        for name, arguments in (
            ("if_absent", (5,)),
            ("if_revision", ("a", "1")),
            ("put", ("a", None)),
            ("do", ("put",)),
            ("if_holds", ("a",)),
        ):
            with pytest.raises(TypeError):
                getattr(begun, name)(*arguments)
        with pytest.raises(ConfigError):
            begun.do(PutOp(b"a", b"", if_absent=True))
        assert not (await begun.commit()).results
