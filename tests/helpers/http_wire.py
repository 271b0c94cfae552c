"""A client's end of an HTTP connection, in memory: bytes in, answers out, and a transport that does as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import httptools

from syncline.server.http.connection import HttpConnection
from syncline.server.http.limits import HttpLimits
from syncline.server.http.observing import Observe
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from syncline.server.http.server import HttpServer
from syncline.server.http.shared import Handler
from syncline.server.http.stream import Stream


@dataclass
class Answer:
    """One answer as a client sees it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    complete: bool = False


class _AnswerReader:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.answers.append(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode().lower()
        assert key not in self.answers[-1].headers, f"{key} is sent twice"
        self.answers[-1].headers[key] = value.decode()

    def on_headers_complete(self) -> None:
        self.answers[-1].status = self.parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        self.answers[-1].body += part

    def on_message_complete(self) -> None:
        answer = self.answers[-1]
        answer.status = self.parser.get_status_code()
        answer.keep_alive = self.parser.should_keep_alive()
        answer.complete = True


def parse_answers(data: bytes) -> list[Answer]:
    """Every answer in a byte stream; all of them must be whole."""
    reader = _AnswerReader()
    reader.parser.feed_data(data)
    assert all(answer.complete for answer in reader.answers), data
    return reader.answers


def answers_so_far(data: bytes) -> list[Answer]:
    """Every answer in a byte stream; the last one need not be whole."""
    reader = _AnswerReader()
    reader.parser.feed_data(data)
    return reader.answers


class PausedTransport(asyncio.Transport):
    """A transport whose reading is paused once, and then resumed once."""

    reading = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


class FakeTransport(PausedTransport):
    """Keeps what is written. Above `high_water` unread bytes it asks the protocol to pause, as a socket's would."""

    def __init__(self, protocol: HttpConnection, *, high_water: int = 64 * 1024) -> None:
        super().__init__()
        self._protocol = protocol
        self._high_water = high_water
        self._write_paused = False
        self.written: list[bytes] = []
        self.unread = 0
        self.closing = False
        self.closed = False
        self.aborted = False
        self.eof_written = False
        self.reads_all = True
        """Whether the client takes what is written at once."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written after close"
        assert not self.eof_written, "written after the end"
        self.written.append(bytes(data))
        if not self.reads_all:
            self.unread += len(data)
            if self.unread > self._high_water and not self._write_paused:
                self._write_paused = True
                self._protocol.pause_writing()

    def take(self, size: int) -> None:
        """The client reads `size` bytes."""
        self.unread = max(0, self.unread - size)
        if self._write_paused and self.unread <= self._high_water // 4:
            self._write_paused = False
            self._protocol.resume_writing()
        if self.closing and not self.unread:
            self._lose()

    def close(self) -> None:
        self.closing = True
        if not self.unread:
            self._lose()

    def abort(self) -> None:
        self.aborted = True
        self.closing = True
        self._lose()

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof_written = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def _lose(self) -> None:
        if not self.closed:
            self.closed = True
            self._protocol.connection_lost(None)


SMALL = HttpLimits(max_url_bytes=100, max_header_bytes=200, max_headers=5, max_body_bytes=50)
"""Limits that a test can pass."""


class Wire:
    """One connection to an `HttpServer`, with a clock that the test moves."""

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        limits: HttpLimits | None = None,
        observe: Observe | None = None,
        server: HttpServer | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.responds: list[Respond] = []
        self.now_s = 0.0
        self.server = server or HttpServer(
            handler or self.echo, limits=limits, observe=observe, clock=lambda: self.now_s, wall_time_s=lambda: 0.0
        )
        self.connection = self.server.connection()
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)

    def echo(self, request: Request, respond: Respond) -> None:
        """Answers at once, with what was asked."""
        self.requests.append(request)
        respond(bare(200, TEXT, b"%s %s %s" % (request.method.encode(), request.path, request.body)))

    def hold(self, request: Request, respond: Respond) -> None:
        """Answers when the test says so."""
        self.requests.append(request)
        self.responds.append(respond)

    def answer(self, position: int, text: bytes = b"ok") -> None:
        """Answer a held request."""
        self.responds[position](bare(200, TEXT, text))

    def send(self, data: bytes) -> None:
        if not self.transport.closed:
            self.connection.data_received(data)

    def advance(self, seconds: float, *, step: float = 0.5) -> None:
        """Let time pass, with a sweep at every step."""
        until = self.now_s + seconds
        while self.now_s < until:
            self.now_s += step
            self.server.sweep(self.now_s)

    async def settle(self) -> None:
        """Let the turns of the loop that are due run."""
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def received(self) -> bytes:
        return b"".join(self.transport.written)

    @property
    def answers(self) -> list[Answer]:
        return parse_answers(self.received)


def get(path: str = "/", *fields: str) -> bytes:
    """A GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", *fields, "", ""]
    return "\r\n".join(lines).encode()


def put(path: str, body: bytes, *fields: str) -> bytes:
    """A PUT request with a length."""
    lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(path: str, *chunks: bytes) -> bytes:
    """A PUT request in chunks."""
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def holding(**options: object) -> Wire:
    """A wire whose handler answers when told."""
    wire = Wire(**options)  # type: ignore[arg-type]
    wire.server.shared.handler = wire.hold
    return wire


def error_of(answer_body: bytes) -> dict[str, object]:
    found = json.loads(answer_body)["error"]
    assert isinstance(found, dict)
    return found


class Feed:
    """A source that a test fills."""

    def __init__(self) -> None:
        self.pieces: list[bytes | None] = []
        self.wake: Callable[[], None] | None = None
        self.reads = 0
        self.closed = 0

    def start(self, wake: Callable[[], None]) -> None:
        assert self.wake is None, "it starts once"
        self.wake = wake

    @property
    def has_more(self) -> bool:
        return bool(self.pieces)

    def read(self) -> bytes | None:
        assert self.wake is not None, "it is read after its start"
        assert not self.closed
        self.reads += 1
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        assert not self.closed, "it is closed once"
        self.closed += 1

    def give(self, *pieces: bytes | None) -> None:
        self.pieces += pieces
        if self.wake is not None:
            self.wake()

    def answer(self, *, live: bool = True) -> Stream:
        return Stream(200, b"HTTP/1.1 200 OK\r\nX-Kind: feed\r\n", source=self, live=live)
