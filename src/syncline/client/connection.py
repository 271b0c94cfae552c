"""One HTTP/1.1 connection to one server: a request goes out, its answer comes back, and the connection is kept.

Requests are not pipelined: a lost connection then leaves exactly one request in doubt.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

import httptools
import msgspec

from syncline.client.tls import describe_failure
from syncline.platform.tls import is_refusal

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_HEADER_BYTES",
    "BadAnswer",
    "ClientConnection",
    "ConnectionLost",
    "NotHttp",
    "TlsRefused",
    "ClientResponse",
]

MAX_HEADER_BYTES: Final = 64 * 1024
"""Bytes of one answer's header. A Syncline server sends a few hundred; more is not one of ours."""

MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""Bytes of one answer's body. Far above any value limit in use, so that it only stops an answer without an end."""

TLS_ALERT: Final = b"\x15\x03"
"""How a TLS server begins its answer to bytes that are no TLS handshake (RFC 8446, 5.1 and 6)."""

_INFORMATIONAL: Final = 200
"""Statuses below it announce an answer and are none themselves."""


class ConnectionLost(Exception):
    """The connection ended before the answer was complete. The request may have been carried out."""


class TlsRefused(Exception):
    """The server has refused the TLS handshake, by its alert: it has read nothing of the request."""


class BadAnswer(Exception):
    """The answer is no HTTP answer, or is beyond a limit. The request may have been carried out."""


class NotHttp(BadAnswer):
    """A TLS server answered a plain request: it can't have read the request, so it had no effect."""


class ClientResponse(msgspec.Struct, frozen=True):
    """An answer. Header names are in lower case; of a repeated header the last one counts."""

    status: int
    headers: dict[str, str]
    body: bytes


class ClientConnection(asyncio.Protocol):
    """A protocol for `Network.connect`. Belongs to one request at a time."""

    def __init__(self) -> None:
        self.last_used_s: float = 0.0
        """When the last answer was complete, on the loop's clock: old idle connections are not trusted."""
        self.tls_refusal: TlsRefused | None = None
        """The server has refused the handshake, which was over at this end."""
        self._transport: asyncio.Transport | None = None
        self._by_tls = False
        self._aborted = False
        self._answer: asyncio.Future[ClientResponse] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._body_bytes = 0
        self._header_bytes = 0
        self._in_header = True

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return self._transport is not None and not self._transport.is_closing() and self._answer is None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self._transport is not None

    async def request(self, head: bytes, body: bytes) -> ClientResponse:
        """Send one request and wait for its answer. Cancelling it ends the connection.

        Raises `ConnectionLost` and `BadAnswer`; in both cases it is unknown whether the request was carried out.
        """
        assert self.usable, "one request at a time, on an open connection"
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._header_bytes = 0
        self._in_header = True
        self._answer = asyncio.get_running_loop().create_future()
        if self._by_tls:  # each piece would be a record of its own
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body) if body else (head,))
        try:
            return await self._answer
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer = None

    def abort(self) -> None:
        """Drop the connection at once, also one that is still being made, with the request under way on it."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended (after `abort`)."""
        if self._transport is not None:
            await asyncio.shield(self._ended)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods, not by its class
        self._by_tls = transport.get_extra_info("sslcontext") is not None
        if self._aborted:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # an answer without a request: don't use this server's connection
            self.abort()
            return
        if self._in_header:
            if self._header_bytes == 0 and data.startswith(TLS_ALERT):
                self._fail(NotHttp("the server speaks TLS on this port: use https:// in the endpoint"))
                return
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BadAnswer("the server answered with an upgrade to another protocol"))
        except httptools.HttpParserError as error:
            self._fail(BadAnswer(f"the answer is not HTTP ({error}); is this the address of a Syncline server?"))
        else:
            if self._in_header and self._header_bytes > MAX_HEADER_BYTES:
                self._fail(BadAnswer(f"the answer's header is above {MAX_HEADER_BYTES} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        # An abort from here on would make asyncio report the loss a second time, with a traceback: it does so if the
        # transport was closing with a request that was not sent completely.
        self._transport = None
        if not self._ended.done():
            self._ended.set_result(None)
        if exc is None and self._ends_with_close():
            self._complete(keep=False)
        if isinstance(exc, ssl.SSLError) and is_refusal(exc) and self._header_bytes == 0:
            self.tls_refusal = TlsRefused(describe_failure(exc, "HOST"))
            self._fail(self.tls_refusal)
        self._fail(ConnectionLost(f"the connection was lost before the answer{f' ({exc})' if exc else ''}"))

    def _ends_with_close(self) -> bool:
        """Whether the answer under way has no length: the end of the connection is its end (RFC 9112, 6.3)."""
        if self._in_header or self._answer is None or self._answer.done() or self._aborted:
            return False
        return not {"content-length", "transfer-encoding"} & self._headers.keys()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._headers = {}
        self._chunks = []
        self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_header = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._fail(BadAnswer(f"the answer's body is above {MAX_BODY_BYTES} bytes"))
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < _INFORMATIONAL:
            self._in_header = True
            return
        if self._answer is None or self._answer.done() or self._transport is None:
            self.abort()  # a second answer to one request
            return
        self._complete(keep=self._parser.should_keep_alive())

    def _complete(self, *, keep: bool) -> None:
        assert self._answer is not None
        if not keep and self._transport is not None:
            self._transport.close()
        self.last_used_s = asyncio.get_running_loop().time()
        status = self._parser.get_status_code()
        self._answer.set_result(ClientResponse(status=status, headers=self._headers, body=b"".join(self._chunks)))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()
