"""Bytes to requests: the parsing half of a connection, without any I/O.

httptools does the parsing, strictly; this adds what it leaves open: limits on everything, one length per body, the
fields that HTTP/1.1 requires. What can't be taken raises `RequestRefused`, which carries the answer. The reader is
then done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httptools

from syncline.server.api.errors import internal_error, problem
from syncline.server.http.fields import is_host
from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.server.http.state import nothing

__all__ = ["BODY", "ENDED", "HEADER", "IDLE", "SLICE_BYTES", "START", "RequestRefused", "RequestReader"]

SLICE_BYTES: Final = 16 * 1024
"""How much to feed at a time: what one call can yield is bounded by it."""

# Where in a request the input stands. Plain integers: read for every event.
START: Final = 0  # nothing has arrived yet
IDLE: Final = 1  # between two requests
HEADER: Final = 2
BODY: Final = 3
ENDED: Final = 4  # the last request has been read, or the input was refused: more of it means nothing

_SCHEMES: Final = frozenset({b"http", b"https"})

_NO_PARSER: Final = httptools.HttpRequestParser(object())
"""Of a connection that has ended."""

NON_DATA_BYTES: Final = 64 * 1024
NON_DATA_FACTOR: Final = 8
"""Around a chunked body (sizes, extensions): so many bytes, and so many more for each byte of data. Chunks of one byte
need 5; what is above it wastes our time (Go refuses the same, CVE-2023-39326)."""

Claim = Callable[[int], bool]
"""Asked for each part of a body that does not come at once: is there room for so many bytes?"""

Take = Callable[[Request, bool, bool], None]
"""Receives each complete request, whether the connection ends with it, and whether it is HTTP/1.0."""


class RequestRefused(Exception):
    """The input can't be taken. `response` says why; nothing after it can be understood."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class RequestReader:
    """Reads the requests of one connection."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_claim",
        "_header_bytes",
        "_headers",
        "_limits",
        "_parser",
        "_take",
        "_unfinished_bytes",
        "_upgrade_offered",
        "_url",
        "continue_due",
        "http10",
        "messages",
        "phase",
        "wire_bytes",
    )

    def __init__(self, limits: HttpLimits, take: Take, claim: Claim) -> None:
        self._limits = limits
        self._take = take
        self._claim = claim
        self._parser = httptools.HttpRequestParser(self)
        self._upgrade_offered = False
        """The parser has stopped behind a header that offers another protocol; it has not seen the body."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._unfinished_bytes = 0
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self.wire_bytes: int = 0
        """Of the body under way, chunk sizes included, once it does not come at once with its header."""
        self.phase: int = START
        self.messages: int = 0
        """How many requests have begun: with `phase`, tells a slow one from a new one."""
        self.continue_due: bool = False
        """The client waits for `100 Continue` before it sends the body."""
        self.http10: bool = False

    def forget(self) -> None:
        """Nothing is read any more: forget what takes the requests, and the parser, which refers to this."""
        self._take, self._parser = nothing, _NO_PARSER

    def feed(self, data: bytes | memoryview) -> None:
        """Parse the next bytes; at most `SLICE_BYTES` keep the limits exact. Raises `RequestRefused`."""
        if self.phase <= IDLE:
            self.phase = HEADER
        elif self.phase == BODY:
            self.wire_bytes += len(data)
        before = self.messages
        rest: bytes | memoryview | None = data
        while rest is not None:
            rest = self._parse(rest)
        if self.phase == HEADER and self.messages == before:
            self._check_unfinished_header(len(data))
        elif self.phase == BODY and self.wire_bytes > NON_DATA_BYTES + (1 + NON_DATA_FACTOR) * self._body_bytes:
            self.phase = ENDED
            raise _bad_request("the chunks of the body are mostly something else than data")

    def _parse(self, data: bytes | memoryview) -> bytes | memoryview | None:
        """Give the parser `data`. Return what is left of it behind a header that offered an upgrade, else None."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._upgrade_offered:
                assert self.phase == ENDED, "CONNECT was taken as an ordinary request, and as the last"
                return None
            self._decline_upgrade()
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            self.phase, cause = ENDED, error.__context__
            raise (
                cause if isinstance(cause, RequestRefused) else RequestRefused(internal_error(cause or error))
            ) from None
        except httptools.HttpParserError as error:
            if self.phase != ENDED:  # else it only complains of bytes behind the last request
                self.phase = ENDED
                raise RequestRefused(problem(400, "bad_request", f"malformed HTTP: {error}{_hint(error)}")) from None
        return None

    def _decline_upgrade(self) -> None:
        """Go on in HTTP/1.1 behind a header that offered another protocol, as RFC 9110 (7.8) allows.

        httptools takes the message for finished there, without its body. So another parser gets a header that frames
        the same body and offers nothing, and then the bytes that follow.
        """
        self._upgrade_offered = False
        parser, headers = self._parser, self._headers
        framing = b""
        if b"transfer-encoding" in headers:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif b"content-length" in headers:
            framing = b"Content-Length: %d\r\n" % int(headers[b"content-length"])
        connection = b"keep-alive" if parser.should_keep_alive() else b"close"
        version = parser.get_http_version().encode()
        resumed = _Resumed(self)
        self._parser = httptools.HttpRequestParser(resumed)
        head = b"%s / HTTP/%s\r\nHost: resumed\r\nConnection: %s\r\n%s\r\n"
        self._parser.feed_data(head % (parser.get_method(), version, connection, framing))
        resumed.in_header = False

    def _check_unfinished_header(self, size: int) -> None:
        # The parser reports a name or a value when it has its end, and keeps what it has until then: bound that, too.
        limits = self._limits
        self._unfinished_bytes += size
        if self._unfinished_bytes > limits.max_url_bytes + limits.max_header_bytes + SLICE_BYTES:
            self.phase = ENDED
            raise self._header_too_large()

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        self.messages += 1
        self.phase = HEADER
        self._url = b""
        self._headers = {}
        self._header_bytes = 0
        self._unfinished_bytes = 0
        self._body = b""
        self._body_bytes = 0
        self.wire_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url
        if len(self._url) > self._limits.max_url_bytes:
            raise self._url_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        headers, limits = self._headers, self._limits
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > limits.max_header_bytes or len(headers) >= limits.max_headers:
            raise self._header_too_large()
        if self.phase == BODY:
            return  # a trailer: counted, never believed
        name = name.lower()
        if name in headers:
            if name == b"host":
                raise _bad_request("the Host field is given twice")
            self._header_bytes += len(headers[name])  # joining copies: it costs the sender as well
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        headers, version = self._headers, self._parser.get_http_version()
        self.http10 = version != "1.1"
        if self.http10:
            if version != "1.0":
                raise _bad_request(f"HTTP/{version} is not spoken here; HTTP/1.1 is")
        elif b"host" not in headers:
            raise _bad_request("the Host field is missing; HTTP/1.1 requires it")
        if not is_host(headers.get(b"host", b"")):
            raise _bad_request("the Host field is not a host name or address, with a port or without")
        self.phase = BODY
        if b"transfer-encoding" in headers:
            self._check_coding(headers)
        elif b"content-length" in headers:
            self._check_body_size(int(headers[b"content-length"]))
        if b"expect" in headers:
            self._expect(headers[b"expect"])
        self._upgrade_offered = self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"

    def on_body(self, part: bytes) -> None:
        self.continue_due = False
        self._body_bytes += len(part)
        self._check_body_size(self._body_bytes)
        if not self._body:
            self._body = part
            return
        new_bytes = len(part)
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
            new_bytes = self._body_bytes
        self._body += part  # into one piece: many small ones would take many times the memory
        if not self._claim(new_bytes):
            raise RequestRefused(
                problem(503, "overloaded", "too much is being sent and asked at once; nothing was stored")
            )

    def on_message_complete(self) -> None:
        if self._upgrade_offered:
            return  # the header is complete, not the message
        parser, announced = self._parser, self._headers.get(b"content-length")
        if announced is not None and int(announced) != self._body_bytes:
            raise _bad_request(f"Content-Length is {int(announced)}, the body has {self._body_bytes} bytes")
        content = self._body if isinstance(self._body, bytes) else bytes(self._body)
        path, _, query = self._url.partition(b"?")
        if path[:1] != b"/":
            path = self._path_of(path)
        if b"#" in self._url:
            raise _bad_request("a URL sent to a server has no fragment: write # as %23")
        request = Request(parser.get_method().decode(), path, query, self._headers, content, unusual=True)
        close = not parser.should_keep_alive() or parser.should_upgrade()
        self._body = b""  # the request's alone from here
        self.continue_due = False
        self.phase = ENDED if close else IDLE
        self._take(request, close, self.http10)

    def _path_of(self, target: bytes) -> bytes:
        """The path of a target that does not begin with one: `http://host/path`, as proxies send it, or `*`.

        The host in the target takes the place of the Host field (RFC 9112, 3.2.2).
        """
        scheme, mark, rest = target.partition(b"://")
        if not mark or scheme.lower() not in _SCHEMES:
            return target
        host, slash, path = rest.partition(b"/")
        if not host or not is_host(host):
            raise _bad_request("the URL of the request names no host, or one that is not a host name or address")
        self._headers[b"host"] = host
        if not slash and self._parser.get_method() == b"OPTIONS":
            return b"*"
        return slash + path or b"/"

    # --- checks

    def _check_coding(self, headers: dict[bytes, bytes]) -> None:
        # Two lengths, or a coding that one of two servers in a row does not know, is how requests are smuggled.
        if b"content-length" in headers or self.http10:
            raise _bad_request(
                "Transfer-Encoding beside Content-Length, or in HTTP/1.0, leaves the body's end in doubt"
            )
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise RequestRefused(problem(501, "not_supported", "the only transfer coding understood here is chunked"))

    def _check_body_size(self, size: int) -> None:
        limit = self._limits.max_body_bytes
        if size > limit:
            message = f"the body is above the limit of {limit} bytes; nothing was stored"
            raise RequestRefused(problem(413, "too_large", message))

    def _expect(self, expected: bytes) -> None:
        if expected.lower() != b"100-continue":
            raise RequestRefused(problem(417, "expectation_failed", "the only expectation met here is 100-continue"))
        self.continue_due = not self.http10

    def _url_too_large(self) -> RequestRefused:
        message = f"the URL is above the limit of {self._limits.max_url_bytes} bytes"
        return RequestRefused(problem(414, "too_large", message))

    def _header_too_large(self) -> RequestRefused:
        limits = self._limits
        message = f"the header is above a limit: {limits.max_header_bytes} bytes, {limits.max_headers} fields"
        return RequestRefused(problem(431, "too_large", message))


class _Resumed:
    """Callbacks of a parser that goes on for another one: the reader has the header already that this one is given."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader
        self.in_header = True
        self.on_body = reader.on_body
        self.on_message_complete = reader.on_message_complete

    def on_message_begin(self) -> None:
        if not self.in_header:
            self._reader.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.in_header:
            self._reader.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_header:
            self._reader.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.in_header:
            self._reader.on_headers_complete()


def _bad_request(message: str) -> RequestRefused:
    return RequestRefused(problem(400, "bad_request", message))


def _hint(error: httptools.HttpParserError) -> str:
    if isinstance(error, httptools.HttpParserInvalidURLError):
        return "; in a URL, bytes outside ASCII, spaces and control characters are percent-encoded"
    if "PRI" in str(error):
        return "; HTTP/2 is not spoken here, HTTP/1.1 is"
    return ""
