"""One connection: answers in every legal form, and what is not an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.client import connection as module
from syncline.client.connection import BadAnswer, ClientConnection, ClientResponse, ConnectionLost
from tests.helpers.http_server import DROP, HANG, HttpDouble, Reply, scripted

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def dialled(*replies: Reply) -> AsyncIterator[tuple[ClientConnection, HttpDouble]]:
    async with HttpDouble(scripted(*replies)) as double:
        port = int(double.url.rsplit(":", 1)[1])
        _, connection = await asyncio.get_running_loop().create_connection(ClientConnection, "127.0.0.1", port)
        try:
            yield connection, double
        finally:
            connection.abort()
            await connection.wait_closed()


async def ask(*replies: Reply) -> ClientResponse:
    async with dialled(*replies) as (connection, _):
        return await connection.request(HEAD, b"")


async def test_an_answer_brings_status_headers_and_body() -> None:
    response = await ask(Reply(201, b"\x00\xff", {"ETag": '"7"', "X-Many": "a b"}))
    assert response.status == 201
    assert response.body == b"\x00\xff"
    assert (response.headers["etag"], response.headers["x-many"]) == ('"7"', "a b")


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with dialled(Reply(body=b"one"), Reply(body=b"two")) as (connection, double):
        assert (await connection.request(HEAD, b"")).body == b"one"
        assert connection.usable
        assert (await connection.request(HEAD, b"")).body == b"two"
        assert double.connections == 1


async def test_a_connection_that_the_server_will_close_is_not_kept() -> None:
    async with dialled(Reply(headers={"Connection": "close"}, close=True)) as (connection, _):
        assert (await connection.request(HEAD, b"")).status == 200
        assert not connection.usable


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n', b""),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_every_legal_framing_is_read(raw: bytes, body: bytes) -> None:
    assert (await ask(Reply(raw=raw, close=True))).body == body


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000
    assert (await ask(Reply(body=body))).body == body


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x02\x00\x01", b"HTTP/1.1 abc\r\n\r\n"])
async def test_what_is_not_http_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(BadAnswer, match="not HTTP"):
        await ask(Reply(raw=raw, close=True))


@given(st.binary(min_size=1, max_size=200))
async def test_random_bytes_end_the_request_one_way_or_the_other(raw: bytes) -> None:
    try:
        response = await ask(Reply(raw=raw, close=True))
    except (BadAnswer, ConnectionLost):
        return
    assert response.status >= 200


async def test_a_header_without_an_end_is_cut_off() -> None:
    with pytest.raises(BadAnswer, match="header"):
        await ask(Reply(raw=b"HTTP/1.1 200 OK\r\n" + b"X-Fill: y\r\n" * 10_000))


async def test_a_body_above_the_limit_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 1000)
    with pytest.raises(BadAnswer, match="body"):
        await ask(Reply(body=b"x" * 1001))


@pytest.mark.parametrize("reply", [DROP, Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", close=True)])
async def test_a_connection_lost_before_the_whole_answer_is_told(reply: Reply) -> None:
    with pytest.raises(ConnectionLost):
        await ask(reply)


async def test_a_cancelled_request_ends_the_connection() -> None:
    async with dialled(HANG) as (connection, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.request(HEAD, b"")
        assert not connection.usable


async def test_answer_without_a_request_ends_the_connection() -> None:
    two = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2
    async with dialled(Reply(raw=two)) as (connection, _):
        assert (await connection.request(HEAD, b"")).status == 200
        assert not connection.usable


def test_it_works_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask(Reply(body=b"x" * 100_000))).body == b"x" * 100_000
        with pytest.raises(ConnectionLost):
            runner.run(ask(DROP))
