"""What the client does with wrong arguments, and with answers of gateways and foreign servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from syncline.client import AsyncClient, Compare, DeleteOp, PutOp
from syncline.errors import ConfigError, DeadlineExceeded, OperationError, Outcome, RequestFailed, UsageError
from syncline.platform.world import World
from tests.helpers.async_tests import run
from tests.helpers.http_server import HttpDouble, LoopNetwork, Reply, error_reply, json_reply, scripted

IN_LOOP = World(network=LoopNetwork())


VALUE = Reply(200, b"v", {"ETag": '"3"', "Syncline-Revision": "9"})
DONE = json_reply({"status": "success", "revision": 7})
DELETED = json_reply({"status": "success", "revision": 7, "deleted": True})

NUMBER: Any = 5

Call = Callable[[AsyncClient], Awaitable[object]]


async def call_against(reply: Reply, call: Call, *, timeout_s: float = 0.5) -> tuple[object, HttpDouble]:
    """One call against a server that gives the same answer every time."""
    async with (
        HttpDouble(scripted(reply)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP, timeout=timeout_s) as kv,
    ):
        return await call(kv), double


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.put("x", 5),
        lambda kv: kv.put("x", None),
        lambda kv: kv.put("x", [1, 2]),
        lambda kv: kv.put(5, b"x"),
        lambda kv: kv.get(5),
        lambda kv: kv.delete(None),
        lambda kv: kv.list(5),
        lambda kv: kv.count(5),
        lambda kv: kv.get("x", timeout="5"),
        lambda kv: kv.get("x", timeout=True),
        lambda kv: kv.get("x", max_stale_s="1"),
        lambda kv: kv.put("x", "y", if_revision="3"),
        lambda kv: kv.put("x", "y", if_revision=True),
        lambda kv: kv.txn(then=[PutOp(key=b"a", value=NUMBER)]),
        lambda kv: kv.txn(then=[PutOp(key=NUMBER, value=b"")]),
        lambda kv: kv.txn(then=["delete a"]),
        lambda kv: kv.txn(compare=[Compare(key=NUMBER)]),
        lambda kv: kv.list(after=b"a"),
        lambda kv: kv.list(limit="5"),
        lambda kv: kv.list(limit=True),
        lambda kv: kv.get("x", consistency=5),
        lambda kv: kv.remove_member(5),
        lambda kv: kv.add_member("d", 5),
        lambda kv: kv.add_member("d", "h:1", node_id=5),
        lambda kv: kv.update_member("d", address=b"h:1"),
        lambda kv: kv.transfer_leadership(5),
    ],
)
async def test_client_argument_of_a_wrong_type_is_a_type_error(call: Call) -> None:
    """`bytes(5)` is five NUL bytes: without the check the client stored them."""
    async with (
        HttpDouble(scripted(DONE)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP) as kv,
    ):
        with pytest.raises(TypeError):
            await call(kv)
        assert double.requests == [], "nothing is sent"


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.get("x", timeout=0),
        lambda kv: kv.get("x", timeout=-1),
        lambda kv: kv.get("x", timeout=float("nan")),
        lambda kv: kv.get("x", timeout=float("inf")),
        lambda kv: kv.get("x", max_stale_s=0),
        lambda kv: kv.get("a\ud800b"),
        lambda kv: kv.put("a", "\udfff"),
        lambda kv: kv.put("x", "y", if_revision=-1),
        lambda kv: kv.delete("x", if_revision=0),
        lambda kv: kv.list(after="\ud800"),
        lambda kv: kv.list(limit=0),
        lambda kv: kv.get("x", consistency="strong"),
        lambda kv: kv.remove_member("\ud800"),
        lambda kv: kv.add_member("\ud800", "h:1"),
    ],
)
async def test_client_argument_without_a_meaning_is_a_config_error(call: Call) -> None:
    async with (
        HttpDouble(scripted(DONE)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP) as kv,
    ):
        with pytest.raises(ConfigError):
            await call(kv)
        assert double.requests == [], "nothing is sent"


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan"), float("inf"), 10**400, -(10**400)], ids=range(6))
def test_client_default_timeout_without_a_meaning_is_a_config_error(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match="timeout is"):
        AsyncClient("http://127.0.0.1:1", timeout=timeout_s)


@pytest.mark.parametrize(("given", "more"), [(5, {}), ([5], {}), (b"http://h:1", {}), ("https://h:1", {"tls": "x"})])
def test_client_endpoint_of_a_wrong_type_is_a_type_error(given: Any, more: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be"):
        AsyncClient(given, **more)


@pytest.mark.parametrize("value", [b"ab", bytearray(b"ab"), memoryview(b"ab"), "ab"])
async def test_client_takes_all_bytes_like_values(value: bytes) -> None:
    _, double = await call_against(DONE, lambda kv: kv.put(value, value))
    assert (double.requests[0].path, double.requests[0].body) == ("/key/ab", b"ab")


async def test_client_keys_of_a_transaction_may_be_text() -> None:
    answer = json_reply({"succeeded": True, "revision": 3, "results": []})
    # The annotations ask for bytes; text is taken all the same, as everywhere else.
    delete = DeleteOp(key="b")  # type: ignore[arg-type]
    _, double = await call_against(answer, lambda kv: kv.txn(then=[delete]))
    assert double.requests[0].json()["then"] == [{"op": "delete", "key": "b"}]


@pytest.mark.parametrize(
    ("call", "longest_s"),
    [
        (lambda kv: kv.put("k", "v", timeout=120), 60.0),
        (lambda kv: kv.get("k", timeout=120), 60.0),
        (lambda kv: kv.remove_member("b", timeout=700), 600.0),
    ],
)
async def test_client_never_asks_for_more_time_than_servers_take(call: Call, longest_s: float) -> None:
    async with HttpDouble(scripted(error_reply(412, "precondition_failed"))) as double:
        async with AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP) as kv:
            with pytest.raises(OperationError):
                await call(kv)
        assert 0 < float(double.requests[0].parameters["timeout"]) <= longest_s


async def test_client_write_goes_on_after_the_longest_time_of_a_server() -> None:
    """The server's time ended and the write was not applied: the rest of the caller's two minutes is used."""
    replies = [error_reply(504, "deadline_exceeded"), DONE]
    async with HttpDouble(scripted(*replies)) as double:
        async with AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP) as kv:
            assert (await kv.put("k", "v", timeout=120)).revision == 7
        assert len(double.requests) == 2


@pytest.mark.parametrize("max_stale_s", [0.0001, 0.0000001, 3])
async def test_client_short_max_stale_is_not_rounded_to_zero(max_stale_s: float) -> None:
    _, double = await call_against(VALUE, lambda kv: kv.get("k", consistency="stale", max_stale_s=max_stale_s))
    sent = double.requests[0].parameters["max_stale"]
    assert 0 < float(sent) <= max(max_stale_s, 0.000001)
    assert "e" not in sent, "the server reads plain decimals"


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(500, "internal", "unknown"),
        error_reply(503, "closed", "unknown"),
        Reply(502, b"<html>bad gateway</html>"),
        Reply(200, b"v"),
        Reply(206, b"v", {"ETag": '"3"', "Syncline-Revision": "9"}),
        Reply(raw=b"rubbish", close=True),
    ],
)
async def test_client_read_is_never_of_unknown_outcome(reply: Reply) -> None:
    async with (
        HttpDouble(scripted(reply)) as double,
        AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP, timeout=0.4) as kv,
    ):
        reads = [kv.get("k"), kv.list(), kv.count(), kv.status(), kv.members(), kv.upgrade_status()]
        errors = await asyncio.gather(*reads, anext(kv.scan()), return_exceptions=True)
    for error in errors:
        assert isinstance(error, OperationError), error
        assert error.outcome is Outcome.NOT_APPLIED


async def test_client_encoded_content_is_no_value() -> None:
    """A proxy that compresses what passes would change the value."""
    packed = Reply(200, b"\x1f\x8b", {"ETag": 'W/"3"', "Syncline-Revision": "9", "Content-Encoding": "gzip"})
    with pytest.raises(RequestFailed, match="encoded"):
        await call_against(packed, lambda kv: kv.get("k"))
    plain = Reply(200, b"v", {"ETag": '"3"', "Syncline-Revision": "9", "Content-Encoding": "Identity"})
    found, _ = await call_against(plain, lambda kv: kv.get("k"))
    assert getattr(found, "value", None) == b"v"


async def test_client_partial_content_is_no_value() -> None:
    partial = Reply(206, b"half", {"ETag": '"3"', "Syncline-Revision": "9", "Content-Range": "bytes 0-3/8"})
    with pytest.raises(RequestFailed, match="part of the content"):
        await call_against(partial, lambda kv: kv.get("k"))


async def test_client_weak_etag_gives_the_revision() -> None:
    found, _ = await call_against(Reply(200, b"v", {"ETag": 'W/"3"', "Syncline-Revision": "9"}), lambda kv: kv.get("k"))
    assert getattr(found, "mod_revision", None) == 3


async def test_client_answer_without_a_length_ends_with_the_connection() -> None:
    """RFC 9112, 6.3: gateways of HTTP/1.0 answer so."""
    raw = b'HTTP/1.0 200 OK\r\nETag: "3"\r\nSyncline-Revision: 9\r\n\r\nthe whole value'
    found, _ = await call_against(Reply(raw=raw, close=True), lambda kv: kv.get("k"))
    assert getattr(found, "value", None) == b"the whole value"


async def test_client_answer_shorter_than_its_length_is_no_answer() -> None:
    raw = b'HTTP/1.1 200 OK\r\nETag: "3"\r\nSyncline-Revision: 9\r\nContent-Length: 30\r\n\r\nhalf'
    with pytest.raises(OperationError):
        await call_against(Reply(raw=raw, close=True), lambda kv: kv.get("k"))


async def test_client_http_to_a_tls_port_names_https_and_applies_nothing() -> None:
    alert = Reply(raw=b"\x15\x03\x01\x00\x02\x02\x46", close=True)
    with pytest.raises(OperationError, match="https://") as caught:
        await call_against(alert, lambda kv: kv.put("k", "v"))
    assert caught.value.outcome is Outcome.NOT_APPLIED


def test_client_on_a_second_event_loop_is_refused_while_the_first_runs() -> None:
    async def scenario() -> None:
        async with (
            HttpDouble(scripted(VALUE)) as double,
            AsyncClient(double.url, retry_writes=False, batching=False, world=IN_LOOP) as kv,
        ):
            await kv.get("k")

            def elsewhere() -> None:
                asyncio.run(_one_get(kv))

            with pytest.raises(UsageError, match="one event loop"):
                await asyncio.to_thread(elsewhere)
            assert await kv.get("k") is not None, "the first loop's use goes on"

    run(scenario())


async def _one_get(kv: AsyncClient) -> None:
    await kv.get("k")


def test_client_goes_on_on_a_new_loop_after_the_first_has_ended() -> None:
    """A script that calls `asyncio.run` twice with one client: the connections of the first loop are gone with it."""

    async def first() -> AsyncClient:
        async with HttpDouble(scripted(VALUE)) as double:
            kv = AsyncClient(
                double.url, retry_writes=False, batching=False, world=IN_LOOP, timeout=0.3, retry_refused=False
            )
            await kv.get("k")
            await double.drop_connections()
            return kv

    async def second(kv: AsyncClient) -> None:
        with pytest.raises(OperationError) as caught:  # the server is gone too; what counts is which error it is
            await kv.get("k")
        assert not isinstance(caught.value, DeadlineExceeded | UsageError)
        await kv.close()

    asyncio.run(second(asyncio.run(first())))
