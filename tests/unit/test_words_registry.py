"""`kv.register`, `kv.discover` and `kv.services`: instances of services, and how they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from syncline.client import AsyncClient, RegistrationState
from syncline.errors import ConfigError, DeadlineExceeded, TooLarge, UsageError
from tests.helpers.words import client_of_site


async def test_registration_is_found_while_its_block_runs() -> None:
    async with client_of_site() as (kv, _):
        async with kv.register("api", "10.0.0.1:80", meta={"zone": "a"}) as one, kv.register("api", "10.0.0.2:80"):
            first, second = await kv.discover("api")
            assert (first.id, first.address, first.meta) == (one.id, "10.0.0.1:80", {"zone": "a"})
            assert (second.address, second.meta) == ("10.0.0.2:80", {})
            assert first.created < second.created
        assert await kv.discover("api") == ()
        with pytest.raises(UsageError, match="not registered"):
            one.id  # noqa: B018


async def test_discover_counts_keys_of_exactly_the_form_of_instances() -> None:
    """A name may hold a slash, and other programs may write below it."""
    async with client_of_site() as (kv, _), kv.register("api/v2", "b:1"), kv.register("api", "a:1") as one:
        await kv.put("services/api/note", "x")
        await kv.put("services/api/00000000000000ff", '{"address":"no lease"}')
        granted = await kv.grant_lease(30)
        await kv.put(f"services/api/{granted.id}", "no JSON", lease=granted.id)
        await kv.put("services/api/00000000000000fe", '{"address":"another lease"}', lease=granted.id)
        assert [found.id for found in await kv.discover("api")] == [one.id]
        async with kv.services("api") as api:
            assert list(api) == [one.id]


async def test_registration_that_was_lost_registers_again_and_tells_it() -> None:
    async with client_of_site() as (kv, _), kv.register("api", "a:1", ttl=2, meta={"zone": "a"}) as registration:
        states = registration.states()
        assert (await anext(states)).registered
        before = registration.id
        await kv.revoke_lease(before)
        lost = await anext(states)
        if not lost.registered:
            assert (lost.losses, "lost" in lost.reason) == (1, True)
            again = await anext(states)
        else:
            again = lost  # the state in between was merged with this one
        assert (again.registered, again.losses, again.reason) == (True, 1, "")
        [found] = await kv.discover("api")
        assert (found.id, found.address, found.meta) == (registration.id, "a:1", {"zone": "a"})
        assert found.id != before


async def test_registration_update_keeps_its_id() -> None:
    async with client_of_site() as (kv, _), kv.register("api", "a:1") as registration:
        await registration.update(meta={"load": "3"})
        await registration.update(address="a:2")
        [found] = await kv.discover("api")
        assert (found.id, found.address, found.meta) == (registration.id, "a:2", {"load": "3"})
        assert found.revision > found.created


async def test_registration_states_end_with_the_block() -> None:
    async with client_of_site() as (kv, _):
        async with kv.register("api", "a:1") as registration:
            rest = asyncio.ensure_future(_all(registration.states()))
            await asyncio.sleep(0)
        assert [state.registered for state in await rest] == [True, False]
        with pytest.raises(UsageError, match="one block"):
            async with registration:
                raise AssertionError
        with pytest.raises(UsageError, match="not registered"):
            await registration.update(meta={})


async def _all(states: AsyncIterator[RegistrationState]) -> list[RegistrationState]:
    return [state async for state in states]


async def test_registration_that_the_cluster_refuses_raises_at_the_begin() -> None:
    async with client_of_site(max_value_bytes=100) as (kv, site):
        with pytest.raises(TooLarge):
            async with kv.register("api", "a" * 200):
                raise AssertionError
        assert not list(site.backend.store.leases.records()), "nothing is held"


async def test_services_follow_what_is_registered() -> None:
    async with client_of_site() as (kv, _), kv.services("api") as api:
        assert (len(api), api.instances) == (0, ())
        with pytest.raises(DeadlineExceeded):
            await api.wait(1, timeout=0.01)
        async with kv.register("api", "a:1") as one:
            [found] = await api.wait(1)
            assert (api[one.id], found.address) == (found, "a:1")
            await api.changed()
            await one.update(meta={"load": "1"})
            assert (await api.changed())[0].meta == {"load": "1"}
        assert await api.changed() == ()
        assert dict(api) == {}


async def test_services_with_bad_arguments_say_what_is_wrong() -> None:
    kv = AsyncClient("http://127.0.0.1:1")
    for wrong, text in (("", "is empty"), ("x" * 5000, "5000 bytes")):
        with pytest.raises(ConfigError, match=text):
            kv.services(wrong)
        with pytest.raises(ConfigError, match=text):
            kv.register(wrong, "a:1")
        with pytest.raises(ConfigError, match=text):
            await kv.discover(wrong)
    for ttl in (0, 1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="ttl"):
            kv.register("api", "a:1", ttl=ttl)
    with pytest.raises(ConfigError, match="address has 0 characters"):
        kv.register("api", "")
    with pytest.raises(TypeError, match="address must be a str"):
        kv.register("api", 80)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"meta\['load'\] must be a str"):
        kv.register("api", "a:1", meta={"load": 3})  # type: ignore[dict-item]
    with pytest.raises(UsageError):
        len(kv.services("api"))
    await kv.close()


async def test_words_of_a_closed_client_fail_and_wait_for_nothing() -> None:
    kv = AsyncClient("http://127.0.0.1:1")
    await kv.close()
    for use in (kv.register("api", "a:1"), kv.services("api"), kv.mapping("c/"), kv.queue("mail").claim()):
        with pytest.raises(UsageError, match="closed"):
            async with use:
                raise AssertionError


async def test_registration_of_a_client_that_is_closed_ends_with_its_reason() -> None:
    async with client_of_site() as (_, site):
        kv = AsyncClient(site.url)
        async with kv.register("api", "a:1", ttl=2) as registration:
            await kv.close()
            with pytest.raises(UsageError, match="closed"):
                async for _state in registration.states():
                    pass
            assert not registration.state.registered
