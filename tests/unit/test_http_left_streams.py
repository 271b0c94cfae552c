"""Clients that leave an idle stream, on real sockets and both event loops, whatever they have sent behind it."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from syncline.platform.network import TcpNetwork
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from syncline.server.http.server import HttpServer
from syncline.server.http.state import AHEAD_BYTES
from tests.helpers.http_wire import FakeTransport, Feed, get, put
from tests.unit.test_http_streams import FeedWire

NOTICED_S = 0.9
"""Less than a sweep of the server's time limits, which is not to be needed."""

BEHIND = {
    "nothing": b"",
    "a write": put("/a", b"v"),
    "two writes, one in parts": put("/a", b"v") + put("/b", bytes(20_000))[:-7],
    "reads above the limit": get("/a") * 70,
    "writes of many KiB": put("/a", bytes(1000)) * 10,
    "more than is kept": put("/a", bytes(1000)) * 40,
}


class SeenFeed(Feed):
    """A source that tells of its end."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    def close(self) -> None:
        super().close()
        self.left.set()


@pytest.mark.usefixtures("loop_factory")
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_stream_of_a_client_that_leaves_ends_at_once(behind: bytes, reset: bool) -> None:
    """Reading was paused behind a stream that has no end, so nothing told the server that the client had left."""
    feed = SeenFeed()

    def route(request: Request, respond: Respond) -> None:
        respond(feed.answer() if request.path == b"/feed" else bare(200, TEXT, b"ok"))

    server = HttpServer(route)
    loop = asyncio.get_running_loop()
    client = socket.create_connection(await server.start(TcpNetwork(), "127.0.0.1", 0))
    client.setblocking(False)
    with client:
        await loop.sock_sendall(client, get("/feed") + behind)
        while not await loop.sock_recv(client, 1000):
            pass
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        async with asyncio.timeout(NOTICED_S):
            await feed.left.wait()
    finally:
        await server.close(drain_s=0)


async def test_stream_ends_when_more_waits_behind_it_than_is_kept() -> None:
    """What is read is limited, and a client that is not read can't be seen leaving."""
    wire = FeedWire()
    wire.send(get("/feed") + put("/a", b"v"))
    await wire.settle()
    wire.connection.check()
    wire.send(put("/b", bytes(AHEAD_BYTES - 200)))
    await wire.settle()
    wire.connection.check()
    assert wire.feeds[0].closed == 0
    wire.feeds[0].give(b"piece")
    await wire.settle()
    for number in range(3):
        wire.send(put(f"/c{number}", b"w"))
    wire.send(put("/d", bytes(300)))
    await wire.settle()
    wire.connection.check()
    assert wire.feeds[0].closed == 1
    assert [answer.status for answer in wire.answers] == [200] * 7
    assert wire.answers[0].body == b"piece"
    assert [request.path for request in wire.requests] == [b"/a", b"/b", b"/c0", b"/c1", b"/c2", b"/d"]
    assert wire.transport.reading
    assert wire.server.held_bytes == 0


async def test_requests_behind_a_stream_are_answered_when_it_ends() -> None:
    """They come while it is under way, in many pieces."""
    wire = FeedWire()
    wire.send(get("/feed") + put("/a", b"v"))
    await wire.settle()
    data = put("/b", bytes(3000)) + get("/c") + put("/d", b"w")
    for start in range(0, len(data), 100):
        wire.send(data[start : start + 100])
        await wire.settle()
        wire.connection.check()
    assert wire.requests == []
    wire.feeds[0].give(None)
    await wire.settle()
    wire.connection.check()
    assert [request.path for request in wire.requests] == [b"/a", b"/b", b"/c", b"/d"]
    assert wire.transport.reading


async def test_body_that_waits_behind_a_stream_is_not_late() -> None:
    """It has come, and is parsed when the stream has ended."""
    wire = FeedWire()
    body = bytes(30_000)
    wire.send(get("/feed") + put("/a", b"v") + put("/b", body)[:-10_000])
    await wire.settle()
    wire.advance(100)
    wire.connection.check()
    wire.send(body[-10_000:])
    wire.feeds[0].give(None)
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 200, 200]


async def test_input_that_waits_behind_a_stream_is_counted() -> None:
    """Thousands of connections hold 16 KiB each, and more for a moment."""
    wire = FeedWire()
    wire.send(get("/feed") + put("/a", b"v"))
    await wire.settle()
    before = wire.server.held_bytes
    ahead = put("/b", bytes(9000))
    for part in (ahead[:4000], ahead[4000:]):
        wire.send(part)
        await wire.settle()
    wire.connection.check()
    assert wire.server.held_bytes == before + len(ahead)
    wire.feeds[0].give(None)
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 200, 200]
    assert wire.server.held_bytes == 0
    wire.send(get("/feed") + put("/a", b"v") + ahead)
    await wire.settle()
    assert wire.server.held_bytes > 9000
    wire.transport.abort()
    assert wire.server.held_bytes == 0


async def test_stream_that_can_not_be_written_keeps_no_other_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is told while a command is applied: the watches behind this one had to wait for the next change."""
    first, second = FeedWire(), FeedWire()
    second.server = first.server
    second.connection = first.server.connection()
    second.transport = FakeTransport(second.connection)
    second.connection.connection_made(second.transport)

    def gone(_: bytes) -> None:
        raise OSError(107, "not connected")

    for wire in (first, second):
        wire.send(get("/feed"))
        await wire.settle()
    monkeypatch.setattr(first.transport, "write", gone)
    for feed in first.feeds:
        feed.give(b"piece")
    first.server.write_streams()
    assert second.received.endswith(b"piece\r\n")
