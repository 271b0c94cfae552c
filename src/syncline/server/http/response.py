"""Answers as bytes: built once, written as they are.

A `Response` holds the header block without `Date` and `Connection`, which only the connection knows, and without the
blank line. The routes that answer thousands of times a second build `head` by one formatting operation.
"""

from __future__ import annotations

import http
from typing import Final

import msgspec

from syncline.platform.texts import encode_json

__all__ = [
    "JSON",
    "NO_CACHE",
    "NO_STORE",
    "OCTETS",
    "TEXT",
    "Deferred",
    "Respond",
    "Response",
    "bare",
    "json_response",
    "status_line",
]

from collections.abc import Callable

JSON: Final = b"Content-Type: application/json\r\n"
OCTETS: Final = b"Content-Type: application/octet-stream\r\nX-Content-Type-Options: nosniff\r\n"
"""For stored values: a browser must never take one for a page of this site."""
NO_STORE: Final = b"Cache-Control: no-store\r\n"
"""For each answer but a value: a cache between client and server must not keep it."""
NO_CACHE: Final = b"Cache-Control: no-cache\r\n"
"""For a value: a cache may keep it, and must ask with its ETag before it gives it to another client."""
TEXT: Final = b"Content-Type: text/plain; charset=utf-8\r\n"

STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}


class Response(msgspec.Struct, eq=False, gc=False):
    """One answer. `head` ends with the last field's line end; `body` is dropped for HEAD."""

    status: int
    head: bytes
    body: bytes = b""
    code: str = ""
    """Of an error: its code."""


class Deferred(Response, kw_only=True, eq=False, gc=False):
    """An answer that may be large, and is made when it can be written: it takes no memory while it waits.

    `make` reads the state as it is by then, which is as new as when the request was confirmed, or newer.
    """

    make: Callable[[], Response]

    @classmethod
    def by(cls, make: Callable[[], Response]) -> Deferred:
        """The answer that `make` will give."""
        return cls(0, b"", make=make)


Respond = Callable[[Response], None]
"""Answers one request: to be called exactly once, at any time, on the event loop."""


def status_line(status: int) -> bytes:
    """The first line of an answer, line end included."""
    return STATUS_LINES[status]


def bare(status: int, fields: bytes, body: bytes) -> Response:
    """An answer with ready-made header fields (each line ended) and a body of any kind, that no cache may keep."""
    head = b"%s%s%sContent-Length: %d\r\n" % (STATUS_LINES[status], fields, NO_STORE, len(body))
    return Response(status, head, body)


def json_response(value: object, *, status: int = 200, fields: bytes = b"") -> Response:
    """`value` as JSON, by msgspec. The line feed keeps a terminal's prompt on a line of its own."""
    return bare(status, JSON + fields, encode_json(value) + b"\n")
