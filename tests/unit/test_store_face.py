"""`Store` has the methods of `AsyncClient`, with the same parameters. Each deliberate difference is named here."""

from __future__ import annotations

import inspect
from typing import Final

import pytest

from syncline import Store
from syncline.client import AsyncClient
from syncline.client.cluster import ClusterCalls
from syncline.client.coordination.calls import KeyValueCalls, TimedCalls
from syncline.client.users import UserCalls

OF_USERS: Final = frozenset(name for name in vars(UserCalls) if not name.startswith("_"))
OF_THE_CLUSTER: Final = frozenset(name for name in vars(ClusterCalls) if not name.startswith("_"))
"""`Store.raft` has these calls, and more: there is one node to ask, and it is this one."""

ONLY_CLIENT: Final = {
    "endpoints": "a store has no connections",
    **dict.fromkeys(OF_THE_CLUSTER, "see `Store.raft`"),
    **dict.fromkeys(OF_USERS, "users are for clients of servers: a store is the process itself"),
}
ONLY_STORE: Final = {
    "open": "a client connects at its first call, a node is started",
    "join": "a client joins no cluster",
    "raft": "the node of Raft",
    "replica": "the node, on each engine",
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


SHARED: Final = sorted(public(Store) & public(AsyncClient))


def test_store_has_the_methods_of_a_client() -> None:
    client = public(AsyncClient) | {"endpoints"}  # an attribute of each object
    assert client - public(Store) == set(ONLY_CLIENT)
    assert public(Store) - client == set(ONLY_STORE)
    assert len(SHARED) > 25


@pytest.mark.parametrize("name", SHARED)
def test_store_method_has_the_parameters_of_the_client(name: str) -> None:
    ours, theirs = getattr(Store, name), getattr(AsyncClient, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction):
        assert test(ours) is test(theirs)


@pytest.mark.parametrize(
    "name", sorted(name for name in SHARED if getattr(Store, name) is not getattr(AsyncClient, name))
)
def test_store_method_says_what_it_does_as_the_client_does(name: str) -> None:
    """The first line is the same, so that a reader of one knows the other."""
    ours, theirs = inspect.getdoc(getattr(Store, name)), inspect.getdoc(getattr(AsyncClient, name))
    assert ours is not None
    assert theirs is not None
    if name not in {"close", "grant_lease", "session"}:
        assert ours.splitlines()[0] == theirs.splitlines()[0]


def test_store_and_client_are_what_the_words_need() -> None:
    """For the type checkers: they compare each signature."""

    def takes(kv: KeyValueCalls, timed: TimedCalls) -> None: ...

    def given(store: Store, client: AsyncClient) -> None:
        takes(store, store)
        takes(client, client)

    assert given.__annotations__
