"""A request that offers another protocol is read as HTTP/1.1, with its body, which has the announced length."""

from __future__ import annotations

import httptools
import pytest

from syncline.server.http.parser import RequestReader, RequestRefused
from tests.helpers.http_wire import Wire, get, put

OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")

CHUNKED = put("/a", b"", *OFFER, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")


def bodies(wire: Wire) -> list[bytes]:
    return [request.body for request in wire.requests]


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (put("/a", b"hello", *OFFER), b"hello"),
        (put("/a", b"", *OFFER), b""),
        (get("/a", *OFFER), b""),
        (CHUNKED + b"5\r\nhello\r\n3;x=y\r\n!!!\r\n0\r\nT: u\r\n\r\n", b"hello!!!"),
        (put("/a", b"hello", *OFFER, "Expect: 100-continue"), b"hello"),
    ],
)
async def test_http_upgrade_offer_is_declined_and_the_body_is_read(sent: bytes, body: bytes) -> None:
    """Java's HttpClient offers HTTP/2 with its first request, bodies included. However the bytes are cut."""
    for cut in range(1, len(sent)):
        wire = Wire()
        wire.send(sent[:cut])
        wire.send(sent[cut:] + get("/b") + sent)
        await wire.settle()
        assert bodies(wire) == [body, b"", body]
        assert all(b"upgrade" in request.headers for request in wire.requests[::2])
        statuses = [answer.status for answer in wire.answers if answer.status != 100]
        assert statuses == [200, 200, 200]
        assert not wire.transport.closing


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
async def test_http_upgrade_offer_with_close_ends_the_connection(version: bytes) -> None:
    wire = Wire()
    sent = put("/a", b"hello", "Upgrade: h2c", "Connection: close, upgrade").replace(b"HTTP/1.1", version)
    wire.send(sent + get("/b"))
    assert bodies(wire) == [b"hello"]
    assert wire.transport.closed


async def test_http_upgrade_offers_in_one_read_are_all_answered() -> None:
    """Each starts another parser: neither the depth of the stack nor the order of the answers suffers."""
    wire = Wire()
    wire.send(put("/a", b"x", "Upgrade: h2c", "Connection: upgrade") * 400)
    for _ in range(60):
        await wire.settle()
    assert bodies(wire) == [b"x"] * 400
    assert len(wire.answers) == 400


async def test_http_upgrade_body_above_the_limit_is_413() -> None:
    wire = Wire()
    wire.send(put("/a", b"x" * 10, *OFFER).replace(b"Content-Length: 10", b"Content-Length: 99999999"))
    assert [answer.status for answer in wire.answers] == [413]
    assert wire.requests == []


async def test_http_connect_is_the_last_request_of_its_connection() -> None:
    """What follows CONNECT is another protocol's."""
    wire = Wire()
    wire.send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + get("/b"))
    assert len(wire.requests) == 1
    assert wire.transport.closed


class LosingParser:
    """A parser that ends each message with its header, as httptools does if an upgrade is offered."""

    def __init__(self, callbacks: RequestReader) -> None:
        self._callbacks = callbacks

    def get_method(self) -> bytes:
        return b"PUT"

    def get_http_version(self) -> str:
        return "1.1"

    def should_keep_alive(self) -> bool:
        return True

    def should_upgrade(self) -> bool:
        return False

    def feed_data(self, data: bytes) -> None:
        callbacks = self._callbacks
        callbacks.on_message_begin()
        callbacks.on_url(b"/a")
        for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            name, _, value = line.partition(b": ")
            callbacks.on_header(name, value)
        callbacks.on_headers_complete()
        try:
            callbacks.on_message_complete()
        except RequestRefused as refusal:
            raise httptools.HttpParserCallbackError("the callback raised") from refusal


async def test_http_body_that_the_parser_loses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is not as long as announced is never taken, whatever the parser says."""
    monkeypatch.setattr("syncline.server.http.parser.httptools.HttpRequestParser", LosingParser)
    wire = Wire()
    monkeypatch.undo()
    wire.send(put("/a", b"hello"))
    assert wire.requests == []
    assert [answer.status for answer in wire.answers] == [400]
    assert "Content-Length is 5, the body has 0 bytes" in wire.answers[0].body.decode()
