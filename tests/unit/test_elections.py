"""Elections in virtual time: one leads, the next one follows, and a lost term ends its block."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import pytest

from syncline.errors import ConfigError, LockLost, Unreachable
from tests.helpers.virtual_kv import REFUSED, VirtualKv, VirtualStore, virtual

NAME = "master"


def delete(store: VirtualStore, key: bytes) -> None:
    store.change(lambda revision: [store.delete(key, revision)])


def test_election_has_one_leader_after_the_other() -> None:
    async def scenario(store: VirtualStore) -> None:
        tokens: list[int] = []
        leading = 0

        async def campaign(value: str) -> None:
            nonlocal leading
            kv = store.client()
            async for term in kv.elect(NAME, value=value):
                async with term:
                    leading += 1
                    assert leading == 1
                    tokens.append(term.token)
                    leader = await kv.leader(NAME)
                    assert leader is not None
                    assert (leader.value, leader.token, leader.key) == (value.encode(), term.token, term.key)
                    await asyncio.sleep(1)
                    leading -= 1
                break

        await asyncio.gather(*(campaign(f"node {at}") for at in range(4)))
        assert tokens == sorted(tokens)
        assert len(set(tokens)) == 4
        await asyncio.sleep(0.1)
        assert await store.client().leader(NAME) is None

    virtual(scenario)


def test_election_resigns_with_break_and_exception() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async for term in kv.elect(NAME):
            assert term.rest_s > 9
            break
        await asyncio.sleep(0.1)
        assert not store.keys
        with pytest.raises(ValueError, match="mine"):  # noqa: PT012
            async for _ in kv.elect(NAME):
                raise ValueError("mine")
        gc.collect()
        await asyncio.sleep(0.1)
        assert not store.keys

    virtual(scenario)


def test_election_resigns_at_once_when_it_is_closed() -> None:
    async def scenario(store: VirtualStore) -> None:
        async with aclosing(store.client().elect(NAME)) as terms:
            async for _ in terms:
                break
        assert not store.keys

    virtual(scenario)


def test_election_next_step_resigns_and_goes_behind_the_others() -> None:
    async def scenario(store: VirtualStore) -> None:
        order: list[str] = []

        async def campaign(name: str) -> None:
            async for _ in store.client().elect(NAME):
                order.append(name)
                await asyncio.sleep(0.5)
                if order.count(name) == 2:
                    break

        await asyncio.gather(campaign("a"), campaign("b"))
        assert order == ["a", "b", "a", "b"]

    virtual(scenario)


@pytest.mark.parametrize("how", ["deleted", "cut off"])
def test_election_lost_term_ends_its_block_quietly(how: str) -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        tokens: list[int] = []
        async for term in kv.elect(NAME, ttl=3):
            tokens.append(term.token)
            if len(tokens) == 2:
                break
            async with term:
                if how == "deleted":
                    delete(store, term.key)
                else:
                    kv.connect(False)
                await asyncio.sleep(60)
                raise AssertionError
            assert term.lost.is_set()
            with pytest.raises(LockLost):
                term.check()
            kv.connect(True)
        assert tokens == sorted(set(tokens))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert asyncio.get_running_loop().time() < 8

    virtual(scenario)


def test_election_block_that_begins_after_the_loss_is_cancelled() -> None:
    async def scenario(store: VirtualStore) -> None:
        async for term in store.client().elect(NAME):
            delete(store, term.key)
            await term.lost.wait()
            async with term:
                await asyncio.sleep(60)
                raise AssertionError
            break
        assert asyncio.get_running_loop().time() < 2

    virtual(scenario)


def test_election_check_in_the_block_ends_it_quietly() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async for term in kv.elect(NAME):
            async with term:
                delete(store, term.key)
                while True:
                    term.check()
                    try:
                        await asyncio.sleep(0.1)
                    except asyncio.CancelledError:
                        continue  # a block that ignores its cancellation
            break

    virtual(scenario)


def test_election_keeps_the_errors_of_its_block() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        async with aclosing(kv.elect(NAME)) as terms, aclosing(kv.elect("other")) as others:
            async for term in terms:
                async for other in others:
                    delete(store, other.key)
                    await other.lost.wait()
                    with pytest.raises(LockLost, match="other"):
                        async with term:
                            other.check()
                    break
                with pytest.raises(ValueError, match="mine"):
                    async with term:
                        raise ValueError("mine")
                break

    virtual(scenario)


def test_election_without_a_server_at_the_begin_fails() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        kv.faults = [("grant", REFUSED)]
        with pytest.raises(Unreachable):
            await anext(kv.elect(NAME))

    virtual(scenario)


def test_election_goes_on_after_errors_and_losses_while_it_waits() -> None:
    async def scenario(store: VirtualStore) -> None:
        first, second = store.client(), store.client()
        async with aclosing(first.elect(NAME, ttl=60)) as terms:
            await anext(terms)
            waiting = asyncio.create_task(anext(second.elect(NAME, ttl=4)))
            await asyncio.sleep(1)
            second.connect(False)  # its lease ends, and the next campaigns find no server
            await asyncio.sleep(30)
            second.connect(True)
            await asyncio.sleep(5)
            assert not waiting.done()
            assert len(store.below(b"elections/")) == 2
        term = await waiting
        assert store.keys[term.key].create_revision == term.token
        gc.collect()

    virtual(scenario)


def test_election_of_another_form_of_key_has_no_leader() -> None:
    async def scenario(store: VirtualStore) -> None:
        kv = store.client()
        await kv.put("elections/master/me", b"x")
        assert await kv.leader(NAME) is None

    virtual(scenario)


def test_election_arguments_that_cannot_be_used_are_refused() -> None:
    """When it is called, and not when the loop begins."""
    kv: VirtualKv = VirtualStore().client()
    for name, ttl, kind in (("", 10, ConfigError), (NAME, 0, ConfigError), (NAME, 1, ConfigError), (7, 10, TypeError)):
        with pytest.raises(kind):
            kv.elect(name, ttl=ttl)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="value"):
        kv.elect(NAME, value=5)  # type: ignore[arg-type]
