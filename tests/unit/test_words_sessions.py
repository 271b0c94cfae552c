"""`kv.sessions` and `kv.counter`: what they store, what a lost session is, and what they refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from syncline.client import AsyncClient
from syncline.errors import ConfigError, Rejected
from tests.helpers.words import client_of_site

DATA: Any = [b"", b"\0\1", b'{"a":1}', {}, {"user": "ada", "cart": [1, {"b": None}], "π": 1.5}]


@pytest.mark.parametrize("data", DATA, ids=repr)
async def test_session_holds_bytes_and_dicts_as_they_were_given(data: Any) -> None:
    async with client_of_site() as (kv, _):
        sessions = kv.sessions(ttl=60)
        session = await sessions.create(data)
        assert (len(session), await sessions.get(session)) == (32, data)
        await sessions.set("s.1", data)
        assert await sessions.get("s.1") == data


async def test_session_that_is_gone_is_none_and_false() -> None:
    async with client_of_site() as (kv, _):
        sessions = kv.sessions(ttl=60)
        session = await sessions.create({"user": "ada"})
        assert await sessions.touch(session)
        assert await sessions.delete(session)
        assert await sessions.get(session) is None
        assert not await sessions.touch(session)
        assert not await sessions.delete(session)
        assert not await sessions.set(session, {"user": "ada"}, if_present=True), "a late request brings none back"
        assert await sessions.update(session, lambda data: data) is None
        assert await sessions.get(session) is None


async def test_session_gets_its_full_time_with_set_update_and_touch() -> None:
    async with client_of_site() as (kv, site):
        sessions = kv.sessions(ttl=60)
        session = await sessions.create({})
        [lease] = site.backend.store.leases.records()
        assert lease.ttl_ms == 60_000
        longer = kv.sessions(ttl=120)
        for renew in (
            longer.touch(session),
            longer.set(session, {"n": 1}),
            longer.update(session, lambda data: {**data, "n": 2}),
        ):
            assert await renew
            [lease] = site.backend.store.leases.records()
            assert lease.ttl_ms == 120_000
            await sessions.touch(session)


async def test_session_updates_at_the_same_time_lose_nothing() -> None:
    async with client_of_site() as (kv, _):
        sessions = kv.sessions(ttl=60)
        session = await sessions.create({"n": 0})

        def add(data: Any) -> dict[str, object]:
            return {"n": data["n"] + 1}

        await asyncio.gather(*(sessions.update(session, add) for _ in range(10)))
        assert await sessions.get(session) == {"n": 10}


async def test_session_written_by_other_means_is_bytes() -> None:
    async with client_of_site() as (kv, _):
        await kv.put("sessions/a", "[1]")
        assert await kv.sessions().get("a") == b"[1]"


async def test_session_errors_say_what_is_wrong_and_show_no_id() -> None:
    kv = AsyncClient("http://127.0.0.1:1")
    sessions = kv.sessions()
    for wrong in ("", "a/b", "a b", "é", "x" * 129):
        with pytest.raises(ConfigError, match="1 to 128 letters") as caught:
            await sessions.get(wrong)
        assert wrong == "" or wrong not in str(caught.value)
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        await sessions.touch(b"abc")  # type: ignore[arg-type]
    for data, text in (("text", "bytes or a dict, not str"), ({1: 2}, "keys must be str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=text):
            await sessions.set("a", data)  # type: ignore[arg-type]
    loop: dict[str, object] = {}
    loop["loop"] = loop
    for broken in ({"a": object()}, loop):
        with pytest.raises(ConfigError, match="can't be written as JSON"):
            await sessions.set("a", broken)
    for ttl in (0, 1.9, float("inf")):
        with pytest.raises(ConfigError, match="ttl"):
            kv.sessions(ttl=ttl)
    await kv.close()


async def test_counter_adds_and_reads() -> None:
    async with client_of_site() as (kv, _):
        visits = kv.counter("visits")
        assert await visits.value() == 0
        assert await asyncio.gather(*(visits.add() for _ in range(5))) == [1, 2, 3, 4, 5]
        assert await visits.add(-7) == -2
        await visits.reset(40)
        assert (await visits.add(2), await visits.value()) == (42, 42)
        assert (await kv.get("counters/visits")).value == b"42"  # type: ignore[union-attr]


async def test_counter_refuses_what_is_no_number() -> None:
    async with client_of_site() as (kv, _):
        visits = kv.counter("visits")
        await visits.reset(2**63 - 1)
        with pytest.raises(Rejected) as caught:
            await visits.add()
        assert caught.value.code == "not_a_number"
        await kv.put(visits.key, "many")
        for call in (visits.add(), visits.value()):
            with pytest.raises(Rejected) as caught:
                await call
            assert caught.value.code == "not_a_number"
        with pytest.raises(TypeError, match="by must be an int"):
            await visits.add(1.5)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="64 bits"):
            await visits.reset(2**63)
        with pytest.raises(ConfigError, match="is empty"):
            kv.counter("")
