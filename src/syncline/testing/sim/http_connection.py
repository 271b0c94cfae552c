"""A client's end of an HTTP connection in a simulation: plain bytes over the simulated network, answers in order.

It is no part of the product: it knows the messages of HTTP/1.1 that the server's routes send for keys and leases, and
reports everything else. It sends the same header with each request, as programs do, so the server's fast paths open.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from syncline.server.http.request import Request
from syncline.server.http.response import Response

__all__ = ["ANSWERS", "Answered", "HttpClientConnection", "request_bytes"]

ANSWERS: Final = "an HTTP connection answers each request once, in order"

Answered: TypeAlias = "asyncio.Future[Response | None]"
"""Ends with the answer to a request, or with None if the connection is lost before it came."""

_BLANK_LINE: Final = b"\r\n\r\n"
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [A-Za-z -]+").fullmatch
_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]+)(?:\r\n|$)").search
_CLOSES: Final = b"\r\nConnection: close"


class HttpClientConnection(asyncio.Protocol):
    """One connection. `broken` is called with bytes that are no answer to a request of this connection."""

    def __init__(self, life: int, broken: Callable[[str], None]) -> None:
        self.life: int = life
        """The life of the server to which it was dialled."""
        self.is_open: bool = True
        """Whether requests can be sent: it is not lost, and its server has not said that it closes it."""
        self._broken = broken
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._unsent = b""
        self._waiting: deque[Answered] = deque()
        self._loop = asyncio.get_running_loop()

    def ask(self, *requests: bytes, at_once: int | None = None) -> list[Answered]:
        """Send requests together; what each of them is answered.

        With a number `at_once` only so many bytes leave: the others are for `send_rest`, or go before the next request.
        """
        answers: list[Answered] = [self._loop.create_future() for _ in requests]
        if not self.is_open:
            for answer in answers:
                answer.set_result(None)
            return answers
        self._waiting.extend(answers)
        data = self._unsent + b"".join(requests)
        at_once = len(data) if at_once is None else len(self._unsent) + at_once
        self._unsent = data[at_once:]
        self._write(data[:at_once])
        return answers

    def send_rest(self) -> None:
        """Send what was kept back."""
        data, self._unsent = self._unsent, b""
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self, *, abort: bool) -> None:
        """Leave: with a reset, or in order."""
        self.is_open = False
        if self._transport is not None:
            (self._transport.abort if abort else self._transport.close)()

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the outcome is unknown in any case
        self.is_open = False
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            answer.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (response := self._next()) is not None:
            if not self._waiting:
                self._broken(f"an answer without a request: {response.head!r}")
                return
            self._waiting.popleft().set_result(response)

    def _next(self) -> Response | None:
        """The next whole answer, if it has come."""
        head, blank, rest = self._received.partition(_BLANK_LINE)
        if not blank:
            return None
        status, length = _STATUS_LINE(head.partition(b"\r\n")[0]), _LENGTH(head)
        if status is None or length is None:
            self._broken(f"no answer of the routes of keys and leases: {self._received!r}")
            self.close(abort=True)
            return None
        size = int(length[1])
        if len(rest) < size:
            return None
        self._received = rest[size:]
        if _CLOSES in head:
            self.is_open = False
        return Response(int(status[1]), head, rest[:size])


def request_bytes(request: Request, fields: bytes) -> bytes:
    """A request as bytes, with these header fields in front of its own."""
    target = b"%s?%s" % (request.path, request.query) if request.query else request.path
    own = b"".join(b"%s: %s\r\n" % (name.title(), value) for name, value in request.headers.items())
    if request.body:
        own += b"Content-Length: %d\r\n" % len(request.body)
    return b"%s %s HTTP/1.1\r\n%s%s\r\n%s" % (request.method.encode(), target, fields, own, request.body)
