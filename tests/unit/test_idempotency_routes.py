"""`Idempotency-Key` and `/session`: a write that is sent again takes effect once and has the first answer."""

from __future__ import annotations

import json

import pytest

from syncline.errors import LimitReached
from syncline.server.api.errors import RequestError
from syncline.server.api.idempotency import parse_key
from syncline.sessions.entries import OnceKey
from tests.helpers.kv_node import KvWire, error_in

PUT_TXN = b'{"then":[{"op":"put","key":"a","value":"v"}]}'


async def opened(wire: KvWire) -> str:
    answer = await wire.ask("POST", "/session", b"")
    assert answer.status == 200
    body = json.loads(answer.body)
    assert body == {"status": "success", "id": body["id"], "ttl_s": 3600.0}
    session: str = body["id"]
    return session


@pytest.mark.parametrize("form", ["{session}/1", '"{session}/1"', "order-7", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("PUT", "/key/a", b"v"), ("POST", "/key/a", b"v"), ("DELETE", "/key/a", b""), ("POST", "/txn", PUT_TXN)],
)
async def test_idempotency_key_sent_again_has_the_first_answer(
    form: str, method: str, target: str, body: bytes
) -> None:
    wire = KvWire()
    field = f"Idempotency-Key: {form.format(session=await opened(wire))}"
    await wire.ask("PUT", "/key/a", b"before")
    first = await wire.ask(method, target, body, field)
    revision = wire.backend.store.revision
    await wire.ask("PUT", "/key/b", b"between")
    again = await wire.ask(method, target, body, field)
    assert (again.status, again.body) == (first.status, first.body) == (200, first.body)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["syncline-revision"] == first.headers["syncline-revision"] == str(revision)
    assert wire.backend.store.revision == revision + 1


async def test_idempotency_key_of_a_refused_write_has_the_first_refusal() -> None:
    """412 again, though the condition would hold by now."""
    wire = KvWire()
    fields = ("If-None-Match: *", "Idempotency-Key: order-7")
    await wire.ask("PUT", "/key/a", b"there")
    first = await wire.ask("PUT", "/key/a", b"v", *fields)
    await wire.ask("DELETE", "/key/a")
    again = await wire.ask("PUT", "/key/a", b"v", *fields)
    assert (first.status, again.status) == (412, 412)
    assert again.body == first.body
    assert again.headers["idempotency-replayed"] == "true"


async def test_idempotency_key_does_not_depend_on_the_time_limit() -> None:
    """A client asks with a shorter time limit from attempt to attempt."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a?timeout=5s", b"v", "Idempotency-Key: order-7")
    again = await wire.ask("PUT", "/key/a?timeout=3s", b"v", "Idempotency-Key: order-7")
    assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")


async def test_idempotency_key_of_another_write_is_422() -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v", "Idempotency-Key: order-7")
    answer = await wire.ask("PUT", "/key/a", b"w", "Idempotency-Key: order-7")
    assert (answer.status, error_in(answer)["code"]) == (422, "idempotency_mismatch")
    assert error_in(answer)["outcome"] == "not_applied"
    assert wire.backend.store.revision == 1


async def test_idempotency_key_of_an_ended_session_is_410() -> None:
    wire = KvWire()
    session = await opened(wire)
    assert json.loads((await wire.ask("DELETE", f"/session/{session}")).body) == {"status": "success", "ended": True}
    assert json.loads((await wire.ask("DELETE", f"/session/{session}")).body) == {"status": "success", "ended": False}
    answer = await wire.ask("PUT", "/key/a", b"v", f"Idempotency-Key: {session}/1")
    assert (answer.status, error_in(answer)["code"]) == (410, "session_expired")
    assert error_in(answer)["outcome"] == "unknown"
    assert wire.backend.store.revision == 0


async def test_idempotency_key_window_is_1024_below_the_highest() -> None:
    wire = KvWire()
    session = await opened(wire)
    for sequence in (1, 2, 1025):
        await wire.ask("PUT", "/key/a", b"v", f"Idempotency-Key: {session}/{sequence}")
    gone = await wire.ask("PUT", "/key/a", b"v", f"Idempotency-Key: {session}/1")
    kept = await wire.ask("PUT", "/key/a", b"v", f"Idempotency-Key: {session}/2")
    assert (gone.status, kept.status, kept.headers["idempotency-replayed"]) == (410, 200, "true")


async def test_idempotency_key_of_a_read_changes_nothing() -> None:
    """A client may send the field with each request: a read has no effect to repeat."""
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"v")
    assert (await wire.ask("GET", "/key/a", b"", "Idempotency-Key: x")).status == 200
    assert wire.backend.keys == []


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"00000000000000a1/7", OnceKey(0xA1, 7)),
        (b"00000000000000A1/7", OnceKey(0xA1, 7)),
        (b'"00000000000000a1/7"', OnceKey(0xA1, 7)),
        (b"00000000000000a1/9223372036854775807", OnceKey(0xA1, 2**63 - 1)),
        (b"a1/7", OnceKey(text=b"a1/7")),
        (b"x" * 128, OnceKey(text=b"x" * 128)),
        (b'"', OnceKey(text=b'"')),
        (b'""', OnceKey(text=b'""')),
    ],
)
def test_idempotency_key_is_read(raw: bytes, key: OnceKey) -> None:
    assert parse_key(raw) == key
    assert key.fault == ""


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x" * 129,
        b"a,b",
        b"a b",
        b"\xff",
        b"00000000000000a1/",
        b"00000000000000a1/0",
        b"00000000000000a1/-1",
        b"00000000000000a1/1/2",
        b"00000000000000a1/1x",
        b"00000000000000a1/9223372036854775808",
        b"00000000000000a1/99999999999999999999",
        b"0000000000000000/1",
        b"8000000000000000/1",
    ],
)
def test_idempotency_key_that_is_none_is_400(raw: bytes) -> None:
    """A mistake in the key of a session is no free text: that would be another promise."""
    with pytest.raises(RequestError, match=r"Idempotency-Key.*nothing was done"):
        parse_key(raw)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("POST", "/session", b"x", 400),
        ("POST", "/session?ttl=5s", b"", 400),
        ("DELETE", "/session/7", b"", 400),
        ("DELETE", "/session/0000000000000000", b"", 400),
        ("DELETE", "/session/ffffffffffffffff", b"", 400),
        ("DELETE", "/session/zzzzzzzzzzzzzzzz", b"", 400),
        ("DELETE", "/session/", b"", 404),
        ("GET", "/session", b"", 405),
    ],
)
async def test_session_route_with_bad_input_is_refused(method: str, target: str, body: bytes, status: int) -> None:
    answer = await KvWire().ask(method, target, body)
    assert answer.status == status


async def test_session_route_takes_an_empty_object() -> None:
    assert (await KvWire().ask("POST", "/session", b"{}")).status == 200


async def test_session_beyond_the_limit_is_asked_for_again_after_a_minute() -> None:
    """The leader counts for a minute. After the usual second the answer would be the same."""
    wire = KvWire()

    async def refused(timeout_s: float) -> int:
        raise LimitReached("1000 sessions were opened within 60 s: try again in a minute")

    wire.backend.open_session = refused  # type: ignore[method-assign]
    answer = await wire.ask("POST", "/session", b"")
    assert (answer.status, error_in(answer)["code"], answer.headers["retry-after"]) == (429, "limit", "60")
    assert error_in(answer)["outcome"] == "not_applied"
