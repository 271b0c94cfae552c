"""What the connections of one server have in common: made and changed by `HttpServer`, used by each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from syncline.server.http.input_turns import InputTurns
from syncline.server.http.large_answers import Flushable, Making
from syncline.server.http.limits import HttpLimits
from syncline.server.http.observing import Observe, guarded
from syncline.server.http.request import Request
from syncline.server.http.response import Respond
from syncline.server.http.shortcuts import FastRoute, HeaderCache
from syncline.server.http.state import TotalBytes

__all__ = ["FlushedOutput", "Handler", "Http2Candidate", "Shared"]

Handler: TypeAlias = Callable[[Request, Respond], None]
"""Takes a request and sees to it that it is answered, exactly once. Runs on the event loop and must not block."""


class FlushedOutput(Flushable, Protocol):
    """A connection's output, as far as the server needs it."""

    def write_stream(self) -> bool: ...


class Http2Candidate(Protocol):
    """A connection that turns out to be HTTP/2."""

    def leave(self) -> None: ...


class Shared:
    """Limits, handler, memory, caches and the time, for all connections of one server."""

    __slots__ = (
        "clock",
        "closed",
        "fast_get",
        "fast_writes",
        "flush_later",
        "handler",
        "header_cache",
        "http2",
        "limits",
        "making",
        "now_s",
        "observe",
        "speaks_tls",
        "tail",
        "tail_close",
        "tail_http10",
        "total",
        "turns",
    )

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        *,
        observe: Observe | None,
        knows_host: Callable[[Mapping[bytes, bytes]], bool],
        clock: Callable[[], float],
        flush_later: Callable[[FlushedOutput], None],
        speaks_tls: Callable[[asyncio.Transport | None], None],
    ) -> None:
        self.speaks_tls: Callable[[asyncio.Transport | None], None] = speaks_tls
        """Told of a client that began with a TLS handshake, where plain HTTP is spoken."""
        self.handler: Handler = handler
        self.limits: HttpLimits = limits
        self.observe: Observe | None = None if observe is None else guarded(observe)
        self.clock: Callable[[], float] = clock
        """Times the requests, for `observe`."""
        self.flush_later: Callable[[FlushedOutput], None] = flush_later
        """Flushes a connection at the end of the turn, together with all others."""
        self.header_cache: HeaderCache = HeaderCache(limits.max_url_bytes, knows_host)
        self.fast_get: FastRoute | None = None
        self.fast_writes: Sequence[FastRoute] = ()
        """The routes with a fast path, if the handler has some: set together with it."""
        self.http2: Callable[[Http2Candidate, asyncio.Transport, bytes], None] | None = None
        """Takes over a connection whose first bytes are the preface of HTTP/2, if that is offered or explained."""
        self.making: Making = Making()
        self.total: TotalBytes = TotalBytes(limits.max_total_held_bytes, limits.max_requests)
        self.turns: InputTurns = InputTurns()
        self.now_s: float = 0.0
        """The loop's time at the last sweep: exact enough for limits of seconds, and free to read."""
        self.closed: bool = False
        """No connection is taken any more."""
        self.tail: bytes = b""
        self.tail_close: bytes = b""
        self.tail_http10: bytes = b""
        """What ends a header: `Date`, `Connection` if it must be said, and the blank line."""
