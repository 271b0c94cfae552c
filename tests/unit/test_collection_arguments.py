"""Collections, versions and names of files of a wrong kind: each error names the argument, and nothing is done."""

from __future__ import annotations

import array
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from syncline import Store
from syncline.client import AsyncClient, Client
from syncline.errors import ConfigError
from syncline.node.settings.toml_file import read_settings_file

NOT_MANY: Final[tuple[Any, ...]] = (None, 5, "ab", b"ab", memoryview(b"ab"), object())

COLLECTIONS: Final[dict[str, Callable[[Any, Any], Awaitable[object]]]] = {
    "keys": lambda kv, value: kv.get_many(value),
    "leases": lambda kv, value: kv.keep_alive(value),
    "operations": lambda kv, value: kv.batch(value),
    "compare": lambda kv, value: kv.txn(value),
    "then": lambda kv, value: kv.txn(then=value),
    "else_": lambda kv, value: kv.txn(else_=value),
    "values": lambda kv, value: kv.put_many(value),
}


@pytest.mark.parametrize("argument", COLLECTIONS)
async def test_client_and_store_collection_of_a_wrong_type_is_named(argument: str) -> None:
    """A text has characters, but it is one key. The client has no server: it sends nothing."""
    async with AsyncClient("http://127.0.0.1:9") as client, Store.open("memory:") as store:
        for kv in (client, store):
            for value in NOT_MANY:
                with pytest.raises(TypeError, match=rf"^{argument} must be a (collection|mapping), such as a "):
                    await COLLECTIONS[argument](kv, value)


async def test_queue_values_of_a_wrong_type_are_named() -> None:
    async with Store.open("memory:") as store:
        for value in NOT_MANY:
            with pytest.raises(TypeError, match=r"^values must be a collection"):
                await store.queue("mail").put_many(value)


async def test_session_data_may_be_a_memoryview() -> None:
    async with Store.open("memory:") as store:
        sessions = store.sessions()
        session = await sessions.create(memoryview(b"abcd")[::2])  # type: ignore[arg-type]
        assert await sessions.get(session) == b"ac"


async def test_json_value_that_is_not_contiguous_is_a_type_error() -> None:
    async with Store.open("memory:") as store:
        with pytest.raises(TypeError, match="the value of key 'k' has no JSON form"):
            await store.put_json("k", memoryview(array.array("I", [1, 2, 3]))[::2])


async def test_engine_version_of_a_wrong_type_is_named_as_on_raft() -> None:
    async with Store.open("memory:") as store:
        replica: Any = store.replica
        for value in (None, "2", 2.0, True):
            with pytest.raises(TypeError, match=r"^version must be an int"):
                await replica.reach_machine_version(value)
            with pytest.raises(TypeError, match=r"^level must be an int"):
                await replica.reach_level(value)
        assert await replica.reach_machine_version(1)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_settings_file_of_an_impossible_name_is_a_config_error(path: str) -> None:
    with pytest.raises(ConfigError, match="no file has such a name"):
        read_settings_file(path)


UNSENDABLE: Final[dict[str, Callable[[AsyncClient], Awaitable[object]]]] = {
    "password": lambda kv: kv.add_user("ann", "secret\ud800"),
    "role": lambda kv: kv.add_user("ann", roles=["\ud800"]),
    "access": lambda kv: kv.allow("reader", "\ud800", key="k"),  # type: ignore[arg-type]
    "key": lambda kv: kv.allow("reader", "read", key="\ud800"),
    "operation": lambda kv: kv.disallow("reader", operation="\ud800"),  # type: ignore[arg-type]
    "ttl": lambda kv: kv.new_token("ann", ttl=10**400),
}
WRONG: Final[dict[str, Callable[[Any], Awaitable[object]]]] = {
    "roles": lambda kv: kv.add_user("ann", roles=None),
    "admin": lambda kv: kv.add_user("ann", admin="no"),
    "prefix": lambda kv: kv.allow("reader", "read", prefix=5),
    "ttl": lambda kv: kv.new_token("ann", ttl=None),
    "learner": lambda kv: kv.add_member("d", "127.0.0.1:7104", learner="no"),
    "force": lambda kv: kv.remove_member("d", force="no"),
}


@pytest.mark.parametrize("argument", UNSENDABLE)
async def test_client_argument_without_utf8_form_is_a_config_error(argument: str) -> None:
    async with AsyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(ConfigError, match=f"^{argument} ") as caught:
            await UNSENDABLE[argument](client)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("argument", WRONG)
async def test_client_argument_of_a_wrong_type_is_named(argument: str) -> None:
    """`force="no"` counted as True."""
    async with AsyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(TypeError, match=f"^{argument} must be "):
            await WRONG[argument](client)


def test_client_world_and_endpoints_of_a_wrong_type_are_named() -> None:
    for kind in (AsyncClient, Client):
        with pytest.raises(TypeError, match=r"^world must be"):
            kind("http://127.0.0.1:9", world=True)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="endpoint"):
            kind(None)  # type: ignore[arg-type]
