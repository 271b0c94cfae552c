"""The usual request, read at once.

A client sends the same header with each of its requests; only the target and the body change. So what the strict reader
(`parser.py`) made of a header is remembered under its very bytes, and the next request with the same header is taken
apart by a few searches. What is not plainly such a request is the strict reader's: an unknown header, a part of a
request or more than one, another version, an odd target. It stays the only judge of what a header may be.

Why both read the same. A header is kept only where it consists of plain lines with a name of its own each, so that both
see its end, and the body's, at the same byte; and only if the reader kept the connection, and no field changes how the
message is read. What the reader makes of such lines depends on nothing before them, since the request lines that are
taken here are all of one kind. `tests/unit/test_http_header_cache.py` compares the two, for whatever bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from syncline.server.http.fields import UNUSUAL_FIELDS
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request

__all__ = ["UsualRequests"]

MAX_HEADERS: Final = 512
"""How many headers are remembered, and how many that came once: clients of one kind send one, and one for each length
of a body;"""
MAX_HEADER_BYTES: Final = KIB
"""none longer than this. With their fields as objects they come to a few megabytes."""

_METHODS: Final = {b"GET": "GET", b"PUT": "PUT", b"POST": "POST", b"DELETE": "DELETE"}
_VERSION: Final = b"HTTP/1.1"

_ODD: Final = re.compile(rb"[^A-Za-z0-9\-._~%!$&'()*+,;=:@/?]").search
"""Finds in a target what RFC 3986 does not allow in a path and a query."""
_QUESTION_MARK: Final = ord("?")

_PLAIN_LINES: Final = re.compile(rb"(?:[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?\r\n)*[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?")
_SPECIAL: Final = UNUSUAL_FIELDS | {b"transfer-encoding", b"trailer", b"expect", b"upgrade"}
"""Fields that change how a message is read, what follows it, or whether it is taken; and of `Connection` every value
but"""
_KEEP_ALIVE: Final = b"keep-alive"
"""which many clients send though it is what they get without it."""


class _ParsedHeader(msgspec.Struct, eq=False, gc=False):
    fields: Mapping[bytes, bytes]
    body_bytes: int


class UsualRequests:
    """The headers that the connections of one server have in common."""

    __slots__ = ("_known", "_knows_host", "_max_url_bytes", "_once")

    def __init__(self, max_url_bytes: int, knows_host: Callable[[Mapping[bytes, bytes]], bool] = bool) -> None:
        self._max_url_bytes = max_url_bytes
        self._knows_host = knows_host
        """Whether a header names this server: those that name others are the strict reader's, each time."""
        self._known: dict[bytes, _ParsedHeader | None] = {}
        """By their bytes, from the version in the request line to before the blank line. None: it is not plain."""
        self._once: set[bytes] = set()
        """Which came once."""

    def read(self, data: bytes) -> Request | None:
        """The request that `data` is, whole and alone, at the start of a message; None where that is not plain."""
        parts = data.split(b" ", 2)
        if len(parts) != 3:
            return None
        name, target, rest = parts
        header, blank, body = rest.partition(b"\r\n\r\n")
        known, method = self._known.get(header), _METHODS.get(name)
        if known is None or method is None or not blank or len(body) != known.body_bytes:
            return None
        if target[:1] != b"/" or len(target) > self._max_url_bytes or _ODD(target):
            return None
        path, query = target, b""
        if _QUESTION_MARK in target:
            path, _, query = target.partition(b"?")
        return Request(method, path, query, known.fields, body)

    def learn(self, data: bytes, request: Request) -> None:
        """Remember the header of `data`, from which the strict reader has made this request, if it is plain and comes
        for the second time: one that always differs is not worth a closer look."""
        target = b"%s?%s" % (request.path, request.query) if request.query else request.path
        before = b"%s %s " % (request.method.encode(), target)
        header, _, body = data[len(before) :].partition(b"\r\n\r\n")
        if not data.startswith(before) or body != request.body:
            return  # it is not alone, or its target is not written as it is read: this says nothing of the header
        if len(header) > MAX_HEADER_BYTES or header in self._known:
            return
        if header not in self._once:
            if len(self._once) >= MAX_HEADERS:
                self._once.clear()
            self._once.add(header)
            return
        self._once.discard(header)
        if len(self._known) >= MAX_HEADERS:
            self._known.clear()
        plain = _is_plain(header, request.headers) and self._knows_host(request.headers)
        self._known[header] = _ParsedHeader(request.headers, len(body)) if plain else None


def _is_plain(header: bytes, fields: Mapping[bytes, bytes]) -> bool:
    version, _, lines = header.partition(b"\r\n")
    return (
        version == _VERSION
        and lines.count(b"\n") + 1 == len(fields)
        and _PLAIN_LINES.fullmatch(lines) is not None
        and fields.get(b"connection", _KEEP_ALIVE).lower() == _KEEP_ALIVE
        and _SPECIAL.isdisjoint(fields)
    )
