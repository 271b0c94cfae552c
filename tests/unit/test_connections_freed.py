"""The objects of a connection are freed when it ends: else they wait for a full garbage collection, which stops a node.

Clients that open a connection for each request leave many of them.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest

from syncline.server.http2.connection import Http2Connection
from syncline.server.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, settings
from syncline.server.http2.header_blocks import field
from tests.helpers.etcd_wire import EtcdWire
from tests.helpers.http2_wire import RANGE, FakeFace, Http2Wire, SwitchedTransport, framed
from tests.helpers.http_wire import FakeTransport
from tests.helpers.kv_node import KvWire
from tests.helpers.watches import settle

CONNECTIONS = 10

HEAD = b"Host: x\r\n"
REQUESTS = {
    "nothing": b"",
    "a part": b"GET /key/a HT",
    "a part of a body": b"PUT /key/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\n\r\nab",
    "a read": b"GET /key/a HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a write": b"PUT /key/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\nab",
    "a watch": b"GET /watch?key=a HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a wait": b"GET /key/a?wait=30s HTTP/1.1\r\n" + HEAD + b"\r\n",
    "no request": b"\0\1\2\r\n\r\n",
    "an upgrade": b"GET /key/a HTTP/1.1\r\n" + HEAD + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n",
}


def _objects() -> Counter[str]:
    """Those of the connections: instances of the server's classes, and parsers."""
    return Counter(
        kind.__name__
        for kind in map(type, gc.get_objects())
        if kind.__module__.startswith(("syncline.server.http", "httptools"))
    )


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collection runs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS)
async def test_http_connection_that_ends_frees_its_objects_without_a_collection(data: bytes) -> None:
    site = KvWire()
    before: Counter[str] = Counter()
    for number in range(CONNECTIONS + 1):
        connection = site.server.connection()
        transport = FakeTransport(connection)
        connection.connection_made(transport)
        for _ in range(2):
            if data and not transport.closing:
                connection.data_received(data)
            await settle()
        transport.abort()
        await settle()
        del connection, transport
        if number == 0:  # the first one has left what the server keeps
            before = _objects()
    assert _objects() - before == Counter()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("how", ["idle", "called"])
async def test_http2_connection_that_ends_frees_its_objects_without_a_collection(how: str) -> None:
    wire = Http2Wire(cast("FakeFace", EtcdWire().face))
    head = b"\x83\x86" + field(b":path", RANGE.encode()) + field(b"content-type", b"application/grpc")
    before: Counter[str] = Counter()
    for number in range(CONNECTIONS + 1):
        connection = wire.server.connection()
        transport = SwitchedTransport(connection)
        connection.connection_made(transport)
        connection.data_received(PREFACE + settings({}))
        if how == "called":
            data = frame(HEADERS, END_HEADERS, 1, head) + frame(DATA, END_STREAM, 1, framed(b""))
            transport.protocol.data_received(data)
        await settle()
        assert isinstance(transport.protocol, Http2Connection)
        transport.abort()
        await settle()
        del connection, transport
        if number == 0:
            before = _objects()
    assert _objects() - before == Counter()
