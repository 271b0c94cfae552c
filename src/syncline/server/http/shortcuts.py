"""Two shortcuts past the strict parser, for requests that it has accepted before.

A client sends the same header with each of its requests; only the target and the body change. The strict parser
(`parser.py`) is the only judge of what a header may be. The shortcuts recognise, by comparing bytes, what it has
already accepted. Each is worth more than a tenth of a read's processor time (docs/performance.md).

`HttpConnection.data_received` asks them in this order, and only for a connection at rest: its parser is between two
requests, no answer is outstanding, and reading is not paused.

|  | GET fast path (`FastGetLane.take`) | header cache (`HeaderCache.read`) | strict parser |
| --- | --- | --- | --- |
| takes | a GET of one key with the header that opened the lane | one whole request with a known header | all else |
| connection | at rest | at rest | any |
| size of the whole | at most `max_url_bytes` | at most `SLICE_BYTES`; its target at most `max_url_bytes` | any |
| method | GET | GET, PUT, POST, DELETE | any |
| target | the route's start, then plain signs, no query | begins with `/`; no byte that needs an escape | any |
| header | the lane's bytes | bytes that were read twice, on any connection | any; each field is checked |
| body | none | as long as the known header says | any |
| memory and requests of all clients | below the limits | checked when the request starts | checked when it starts |
| gives | the key, to the route's own function | a `Request`, to the handler | a `Request`, to the handler |

| phase | header cache, for one header | GET fast path, for one connection |
| --- | --- | --- |
| unknown | not seen, or not kept | no lane |
| seen once | its bytes are kept | - |
| learned | plain: its fields are kept. Not plain: that is kept, and the parser reads it each time | - |
| open | - | the cache has read a plain GET: the lane keeps what followed its target |

Invariant: a request by a shortcut is the one that the strict parser makes of the same bytes. Its answer is the one that
the ordinary route gives. Order, limits, counts and time limits are the same.
`tests/unit/test_http_header_cache.py` and `tests/unit/test_http_fast_get_same.py` compare both with a server that has
no shortcut, for any bytes.

Why the cache reads the same. A header is kept only if it consists of plain lines, each with a name of its own. So both
see its end, and the body's, at the same byte. The parser must also have kept the connection, and no field may change
how the message is read. What the parser makes of such lines depends on nothing before them, since the request lines
that are taken here are all of one kind. Why the fast path answers the same: the lane's header is a cached one without a
condition or a body, and a plain target has no second reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec

from syncline.server.http.fields import UNUSUAL_FIELDS
from syncline.server.http.limits import KIB
from syncline.server.http.request import ClientOrigin, Request
from syncline.server.http.response import Respond, Response
from syncline.server.http.state import Slot, TotalBytes

__all__ = ["CONDITIONS", "FastGet", "FastGetLane", "FastGetRequest", "HeaderCache", "is_plain"]

MAX_HEADERS: Final = 512
"""How many headers are remembered, and how many that came once: clients of one kind send one, and one for each length
of a body;"""
MAX_HEADER_BYTES: Final = KIB
"""none longer than this. With their fields as objects they come to a few megabytes."""

_METHODS: Final = {b"GET": "GET", b"PUT": "PUT", b"POST": "POST", b"DELETE": "DELETE"}
_VERSION: Final = b"HTTP/1.1"

_USUAL_TARGET: Final = re.compile(rb"/[A-Za-z0-9\-._~%!$&'()*+,;=:@/?]*").fullmatch
"""A path, and perhaps a query, of what RFC 3986 allows in them."""
_QUESTION_MARK: Final = ord("?")

_PLAIN_LINES: Final = re.compile(rb"(?:[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?\r\n)*[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?")
_SPECIAL: Final = UNUSUAL_FIELDS | {b"transfer-encoding", b"trailer", b"expect", b"upgrade"}
"""Fields that change how a message is read, what follows it, or whether it is taken; and of `Connection` every value
but"""
_KEEP_ALIVE: Final = b"keep-alive"
"""which many clients send though it is what they get without it."""

CONDITIONS: Final = frozenset({b"if-match", b"if-none-match"})
"""Fields that change what a route answers: a header with one of them opens no lane."""

_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/"
"""What stands in a path for itself (RFC 3986, 3.3)."""


# --- the header cache


class _Header(msgspec.Struct, eq=False, gc=False):
    fields: Mapping[bytes, bytes]
    body_bytes: int


class HeaderCache:
    """What the strict parser made of the headers that clients repeat. One for all connections of a server."""

    __slots__ = ("_known", "_knows_host", "_max_url_bytes", "_once")

    def __init__(self, max_url_bytes: int, knows_host: Callable[[Mapping[bytes, bytes]], bool] = bool) -> None:
        self._max_url_bytes = max_url_bytes
        self._knows_host = knows_host
        """Whether a header names this server: those that name others are read by the strict parser, each time."""
        self._known: dict[bytes, _Header | None] = {}
        """By their bytes, from the version in the request line to before the blank line. None: it is not plain."""
        self._once: set[bytes] = set()
        """Which came once."""

    def read(self, data: bytes) -> Request | None:
        """The request that `data` is, whole and alone, at the start of a message; None if that is not plain."""
        try:
            name, target, rest = data.split(b" ", 2)
        except ValueError:
            return None
        header, blank, body = rest.partition(b"\r\n\r\n")
        known, method = self._known.get(header), _METHODS.get(name)
        if known is None or method is None or not blank or len(body) != known.body_bytes:
            return None
        if len(target) > self._max_url_bytes or not _USUAL_TARGET(target):
            return None
        if _QUESTION_MARK in target:
            target, _, query = target.partition(b"?")
            return Request(method, target, query, known.fields, body)
        return Request(method, target, b"", known.fields, body)

    def learn(self, data: bytes, request: Request) -> None:
        """Remember the header of `data`, from which the strict parser has made this request, if it is plain and comes
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
        plain = _is_plain_header(header, request.headers) and self._knows_host(request.headers)
        self._known[header] = _Header(request.headers, len(body)) if plain else None


def _is_plain_header(header: bytes, fields: Mapping[bytes, bytes]) -> bool:
    version, _, lines = header.partition(b"\r\n")
    return (
        version == _VERSION
        and lines.count(b"\n") + 1 == len(fields)
        and _PLAIN_LINES.fullmatch(lines) is not None
        and fields.get(b"connection", _KEEP_ALIVE).lower() == _KEEP_ALIVE
        and _SPECIAL.isdisjoint(fields)
    )


# --- the GET fast path


class FastGetRequest(Protocol):
    """One request, until it is answered: the connection's next one uses the same object. Answer it exactly once."""

    argument: bytes
    """What the path has behind the pattern's fixed part."""
    headers: Mapping[bytes, bytes]
    """The fields, which are the same for each request of a lane."""
    origin: ClientOrigin | None
    respond: Respond

    def found(self, head: bytes, body: bytes, /) -> None:
        """Answer 200, with a head and a body as those of a `Response`."""
        ...


class FastGet(msgspec.Struct, frozen=True):
    """The route that has a fast path."""

    start: bytes
    """Method and path, up to the argument."""
    request: Request
    """Stands for each of its requests: method and route."""
    handler: Callable[[FastGetRequest], None]
    """Answers one, now or later. Runs on the event loop and must not block."""


class FastGetLane:
    """The fast path of one connection. It takes one request at a time: others meanwhile take the ordinary way."""

    __slots__ = (
        "_argument",
        "_max_url_bytes",
        "_request",
        "_start",
        "_total",
        "argument",
        "end",
        "found",
        "handler",
        "headers",
        "origin",
        "respond",
        "slot",
    )

    def __init__(
        self,
        fast_get: FastGet,
        end: bytes,
        *,
        headers: Mapping[bytes, bytes],
        origin: ClientOrigin | None,
        respond: Callable[[Slot, Response], None],
        found: Callable[[Slot, bytes, bytes], None],
        max_url_bytes: int,
        total: TotalBytes,
    ) -> None:
        self._start = fast_get.start
        self._argument = slice(len(fast_get.start), -len(end))
        """Where it stands in the data."""
        self._max_url_bytes = max_url_bytes
        self._total = total
        self.handler: Callable[[FastGetRequest], None] = fast_get.handler
        self.argument: bytes = b""
        self.headers: Mapping[bytes, bytes] = headers
        self.origin: ClientOrigin | None = origin
        self.end: bytes = end
        """What follows the argument: the end of the request line, and the header."""
        self._request = msgspec.structs.replace(fast_get.request)
        self.slot: Slot = Slot(self._request, False, False, True)
        self.respond: Respond = partial(respond, self.slot)
        self.found: Callable[[bytes, bytes], None] = partial(found, self.slot)

    @staticmethod
    def end_of(request: Request, data: bytes) -> bytes | None:
        """The `end` of a lane that this GET opens; None if it opens none. The header cache has read it."""
        if not request.body and CONDITIONS.isdisjoint(request.headers):
            return data[data.index(b" ", len("GET ")) :]
        return None

    def take(self, data: bytes) -> bool:
        """Whether `data`, which ends with `end`, is a request of this lane; then `argument` is its key.

        The connection is at rest.
        """
        if not data.startswith(self._start) or len(data) > self._max_url_bytes:
            return False
        argument = data[self._argument]
        total = self._total
        if not is_plain(argument) or total.bytes > total.limit_bytes or total.requests >= total.max_requests:
            return False
        self.argument = self._request.argument = argument
        self.slot.answer = None
        return True


def is_plain(argument: bytes) -> bool:
    """Whether it is there, and means itself."""
    return bool(argument) and not argument.translate(None, _PLAIN)
