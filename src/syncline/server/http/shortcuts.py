"""Three shortcuts past the strict parser, for requests that it has accepted before.

A client sends the same header with each of its requests; only the target and the body change. The strict parser
(`parser.py`) is the only judge of what a header may be. The shortcuts recognise, by comparing bytes, what it has
already accepted. Each is worth more than a tenth of a read's or a write's processor time (docs/performance.md).

`HttpConnection.data_received` asks them in this order, and only for a connection at rest: its parser is between two
requests, no answer is outstanding, and reading is not paused.

|  | fast path of reads (`FastGetLane.take`) | of writes (`FastWriteLane.take`) | header cache (`HeaderCache.read`) |
| --- | --- | --- | --- |
| takes | a GET of a key with the header that opened the lane | a PUT of a key, a keep-alive | any whole request |
| connection | at rest | at rest | at rest |
| size of the whole | at most `max_url_bytes` | as the header cache | at most `SLICE_BYTES`; target: `max_url_bytes` |
| method | GET | PUT or POST, by the route | GET, PUT, POST, DELETE |
| target | the route's start, then plain signs, no query | the same | begins with `/`; no byte that needs an escape |
| header | the lane's bytes | one that the header cache knows | bytes that were read twice, on any connection |
| body | none | as long as the header says | as long as the header says |
| memory and requests of all clients | below the limits | the same, with the body | checked when the request starts |
| gives | the key, to the route's function | the rest of the path, and the body | a `Request`, to the handler |

The strict parser takes all else, and gives a `Request` to the handler.

| phase | header cache, for one header | a fast path, for one connection |
| --- | --- | --- |
| unknown | not seen, or not kept | no lane |
| seen once | its bytes are kept | - |
| learned | plain: its fields are kept. Not plain: that is kept, and the parser reads it each time | - |
| open | - | the cache has read a request of the route. The lane of reads keeps what followed its target |

Invariant: a request by a shortcut is the one that the strict parser makes of the same bytes. Its answer is the one that
the ordinary route gives. Order, limits, counts and time limits are the same.
`tests/unit/test_http_header_cache.py`, `test_http_fast_same.py` and `test_http_fast_put.py` compare them with a
server that has no shortcut, for any bytes.

Why the cache reads the same. A header is kept only if it consists of plain lines, each with a name of its own. So both
see its end, and the body's, at the same byte. The parser must also have kept the connection, and no field may change
how the message is read. What the parser makes of such lines depends on nothing before them, since the request lines
that are taken here are all of one kind. Why the fast path answers the same: the lane's header is a cached one without a
condition or a body, and a plain target has no second reading. Another header or path may say more: then the route's
function gives the request to the handler.
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
from syncline.server.http.state import GIVEN, Slot, TotalBytes

__all__ = [
    "CONDITIONS",
    "FastGetLane",
    "FastLane",
    "FastRequest",
    "FastRoute",
    "FastWriteLane",
    "HeaderCache",
    "LaneParts",
    "is_plain",
]

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
_BLANK_LINE: Final = b"\r\n\r\n"

_PLAIN_LINES: Final = re.compile(rb"(?:[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?\r\n)*[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?")
_SPECIAL: Final = UNUSUAL_FIELDS | {b"transfer-encoding", b"trailer", b"expect", b"upgrade"}
"""Fields that change how a message is read, what follows it, or whether it is taken; and of `Connection` every value
but"""
_KEEP_ALIVE: Final = b"keep-alive"
"""which many clients send though it is what they get without it."""

CONDITIONS: Final = frozenset({b"if-match", b"if-none-match"})
"""Fields that change what a read answers: a GET with one of them opens no lane."""

_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/"
"""What stands in a path for itself (RFC 3986, 3.3)."""


# --- the header cache


class KnownHeader(msgspec.Struct, eq=False, gc=False):
    """A header that is kept."""

    fields: Mapping[bytes, bytes]
    body_bytes: int


class HeaderCache:
    """What the strict parser made of the headers that clients repeat. One for all connections of a server."""

    __slots__ = ("_known", "_knows_host", "_max_url_bytes", "_once", "find")

    def __init__(self, max_url_bytes: int, knows_host: Callable[[Mapping[bytes, bytes]], bool] = bool) -> None:
        self._max_url_bytes = max_url_bytes
        self._knows_host = knows_host
        """Whether a header names this server: those that name others are read by the strict parser, each time."""
        self._known: dict[bytes, KnownHeader | None] = {}
        """By their bytes, from the version in the request line to before the blank line. None: it is not plain."""
        self._once: set[bytes] = set()
        """Which came once."""
        self.find: Callable[[bytes], KnownHeader | None] = self._known.get
        """What is kept of a header, from the version in the request line to before the blank line."""

    def read(self, data: bytes) -> Request | None:
        """The request that `data` is, whole and alone, at the start of a message; None if that is not plain."""
        try:
            name, target, rest = data.split(b" ", 2)
        except ValueError:
            return None
        header, blank, body = rest.partition(_BLANK_LINE)
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
        header, _, body = data[len(before) :].partition(_BLANK_LINE)
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
        self._known[header] = KnownHeader(request.headers, len(body)) if plain else None


def _is_plain_header(header: bytes, fields: Mapping[bytes, bytes]) -> bool:
    version, _, lines = header.partition(b"\r\n")
    return (
        version == _VERSION
        and lines.count(b"\n") + 1 == len(fields)
        and _PLAIN_LINES.fullmatch(lines) is not None
        and fields.get(b"connection", _KEEP_ALIVE).lower() == _KEEP_ALIVE
        and _SPECIAL.isdisjoint(fields)
    )


# --- the fast paths


class FastRequest(Protocol):
    """One request, until it is answered: the connection's next one uses the same object. Answer it exactly once."""

    argument: bytes
    """What the path has behind the route's `start`."""
    headers: Mapping[bytes, bytes]
    """The fields."""
    body: bytes
    """Until the route's function returns."""
    origin: ClientOrigin | None
    respond: Respond

    def found(self, head: bytes, body: bytes, /) -> None:
        """Answer 200, with a head and a body as those of a `Response`."""
        ...

    def ordinary(self) -> tuple[Request, Respond]:
        """The request that the strict parser would have made, and where to answer it: for the ordinary way.

        Nothing of this object is used for it from then on. Metrics, traces and logs name the route that it has found.
        """
        ...


class FastRoute(msgspec.Struct, frozen=True):
    """A route that has a fast path."""

    start: bytes
    """Method and path, up to the argument."""
    request: Request
    """Stands for each of its requests: method and route."""
    handler: Callable[[FastRequest], None]
    """Answers one, now or later. Runs on the event loop and must not block."""


class LaneParts(msgspec.Struct, frozen=True):
    """What the lanes of a connection use of it."""

    origin: ClientOrigin
    respond: Callable[[Slot, Response], None]
    found: Callable[[Slot, bytes, bytes], None]
    max_url_bytes: int
    total: TotalBytes


class FastLane:
    """The fast path of one connection to one route. It takes one request at a time: others meanwhile take the ordinary
    way."""

    __slots__ = (
        "_begin",
        "_max_url_bytes",
        "_parts",
        "_path",
        "_request",
        "_total",
        "argument",
        "body",
        "found",
        "handler",
        "headers",
        "origin",
        "respond",
        "slot",
        "start",
    )

    def __init__(self, route: FastRoute, parts: LaneParts) -> None:
        self.start: bytes = route.start
        self._begin = len(route.start)
        """Where the argument begins in the data."""
        self._path = route.start.partition(b" ")[2]
        """What the path has before the argument."""
        self._parts = parts
        self._max_url_bytes = parts.max_url_bytes
        self._total = parts.total
        self.handler: Callable[[FastRequest], None] = route.handler
        self.argument: bytes = b""
        self.body: bytes = b""
        self.headers: Mapping[bytes, bytes] = {}
        self.origin: ClientOrigin | None = parts.origin
        self._request = msgspec.structs.replace(route.request)
        self._new_slot()

    def _new_slot(self) -> None:
        self.slot: Slot = Slot(self._request, False, False, True, GIVEN)  # until `take`: nothing may answer it
        self.respond: Respond = partial(self._parts.respond, self.slot)
        self.found: Callable[[bytes, bytes], None] = partial(self._parts.found, self.slot)

    def ordinary(self) -> tuple[Request, Respond]:
        """The request that the strict parser would have made, and its `Respond`. It keeps the slot, as any request has
        one of its own: the router may find another route, and a second answer must not meet a later request.
        """
        path = self._path + self.argument
        request = Request(self._request.method, path, b"", self.headers, self.body, origin=self.origin)
        respond, self.slot.request = self.respond, request
        self._new_slot()
        return request, respond


class FastGetLane(FastLane):
    """The fast path of reads. `end` is what follows the argument: the end of the request line, and the header. It is
    the same for each request of the lane."""

    __slots__ = ("_argument", "end")

    def __init__(self, route: FastRoute, parts: LaneParts, end: bytes, headers: Mapping[bytes, bytes]) -> None:
        super().__init__(route, parts)
        self.headers: Mapping[bytes, bytes] = headers
        self._request.headers = headers
        self.end: bytes = end
        self._argument = slice(self._begin, -len(end))
        """Where it stands in the data."""

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
        if not data.startswith(self.start) or len(data) > self._max_url_bytes:
            return False
        argument = data[self._argument]
        total = self._total
        if not is_plain(argument) or total.bytes > total.limit_bytes or total.requests >= total.max_requests:
            return False
        self.argument = self._request.argument = argument
        self.slot.answer = None
        return True


class FastWriteLane(FastLane):
    """The fast path of a route that may have a body. `find` is that of the header cache: a client has a header for each
    length of a body."""

    __slots__ = ("_find",)

    def __init__(self, route: FastRoute, parts: LaneParts, find: Callable[[bytes], KnownHeader | None]) -> None:
        super().__init__(route, parts)
        self._find = find

    def take(self, data: bytes) -> bool:
        """Whether `data`, at most `SLICE_BYTES`, is a request of this lane; then `argument` is what follows the route's
        start, and `body` its body.

        The connection is at rest.
        """
        if not data.startswith(self.start):
            return False
        end = data.find(b" ", self._begin)  # as `HeaderCache.read` splits it
        blank = data.find(_BLANK_LINE, end)
        known = self._find(data[end + 1 : blank])
        if known is None or blank < 0:  # a header without its end is a known one and one more byte, by chance
            return False
        body, argument = data[blank + 4 :], data[self._begin : end]
        if len(body) != known.body_bytes or end > self._max_url_bytes or not is_plain(argument):
            return False
        total = self._total
        if total.bytes + len(body) > total.limit_bytes or total.requests >= total.max_requests:
            return False
        self.argument = self._request.argument = argument
        self.headers: Mapping[bytes, bytes] = known.fields
        self._request.headers = known.fields
        self.body = body
        self.slot.answer = None
        return True


def is_plain(argument: bytes) -> bool:
    """Whether it is there, and means itself."""
    return bool(argument) and not argument.translate(None, _PLAIN)
