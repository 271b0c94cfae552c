"""Batches with an `Idempotency-Key` as a whole, by users: each key and its answer belong to one user."""

from __future__ import annotations

import json

import pytest

from syncline.kv.auth.commands import UserRoleChange
from tests.helpers.auth_site import AuthWire, apply, bearer, grant
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import error_in

S = (b"s/", b"s0")
INCREMENT = {"op": "increment", "key": "s/n"}
LEASED = {"op": "put", "key": "s/t", "value": "", "ttl": "30s"}


async def two_users() -> AuthWire:
    """ann and bob may read and write `s/`."""
    wire = AuthWire()
    grant(wire.backend, reads=[S], writes=[S])
    apply(wire.backend, UserRoleChange("bob", "some", True))
    return wire


async def whole(wire: AuthWire, user: str, key: str, *ops: object) -> Answer:
    body = json.dumps({"ops": ops}).encode()
    return await wire.ask("POST", "/batch", body, bearer(user), f"Idempotency-Key: {key}")


async def key_of(wire: AuthWire, form: str) -> str:
    if form == "text":
        return "order-7"
    opened = await wire.ask("POST", "/session", b"", bearer("ann"))
    return f"{json.loads(opened.body)['id']}/1"


@pytest.mark.parametrize("form", ["text", "session"])
@pytest.mark.parametrize("ops", [[INCREMENT], [INCREMENT, LEASED]], ids=["plain", "with a new lease"])
async def test_user_batch_with_a_key_has_the_first_answer_again(form: str, ops: list[object]) -> None:
    wire = await two_users()
    key = await key_of(wire, form)
    first, again = [await whole(wire, "ann", key, *ops) for _ in range(2)]
    assert (first.status, again.status, again.headers["idempotency-replayed"]) == (200, 200, "true")
    assert (first.body, json.loads(first.body)["results"][0]["status"]) == (again.body, 200)
    found = wire.backend.store.get(b"s/n")
    assert found is not None
    assert found.value == b"1"


async def test_user_batch_text_key_is_not_the_one_of_another_user() -> None:
    """The same free text of two users is two keys."""
    wire = await two_users()
    first, other = [await whole(wire, user, "order-7", INCREMENT) for user in ("ann", "bob")]
    assert ("idempotency-replayed" in other.headers, other.status) == (False, 200)
    assert [json.loads(one.body)["results"][0]["value"] for one in (first, other)] == [1, 2]


async def test_user_batch_session_key_is_not_answered_to_another_user() -> None:
    wire = await two_users()
    key = await key_of(wire, "session")
    assert (await whole(wire, "ann", key, INCREMENT)).status == 200
    other = await whole(wire, "bob", key, INCREMENT)
    assert (other.status, error_in(other)["code"]) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("form", ["text", "session"])
async def test_user_batch_key_of_another_batch_is_a_mismatch(form: str) -> None:
    wire = await two_users()
    key = await key_of(wire, form)
    assert (await whole(wire, "ann", key, INCREMENT)).status == 200
    other = await whole(wire, "ann", key, {"op": "put", "key": "s/a", "value": "1"})
    assert (other.status, error_in(other)["code"]) == (422, "idempotency_mismatch")
    assert wire.backend.store.get(b"s/a") is None


async def test_user_batch_with_a_key_is_repeated_after_users_have_changed() -> None:
    """The command holds the auth revision, which may rise between two attempts."""
    wire = await two_users()
    first = await whole(wire, "ann", "order-7", INCREMENT)
    apply(wire.backend, UserRoleChange("bob", "some", False))
    again = await whole(wire, "ann", "order-7", INCREMENT)
    assert (again.status, again.body) == (200, first.body)
