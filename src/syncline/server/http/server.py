"""The HTTP front door: listens, keeps the connections, watches the clock for all of them, closes in order.

One timer per server, not per request, enforces every time limit: a sweep over the connections about once a second.
So a limit of ten seconds ends between the tenth and the eleventh.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import formatdate
from typing import Final, Protocol

from syncline.platform.network import Listener, Network
from syncline.platform.tls import TlsContext
from syncline.server.http.connection import HttpConnection
from syncline.server.http.limits import HttpLimits
from syncline.server.http.observing import Observe
from syncline.server.http.pressure import PRESSURE, relieve
from syncline.server.http.shared import FlushedOutput, Handler, Http2Candidate, Shared
from syncline.server.http.shortcuts import FastRoute
from syncline.server.http.tls import TlsDoor
from syncline.server.http2.connection import Http2Connection, Http2Shared
from syncline.server.http2.frames import HTTP_1_1_REQUIRED, goaway, settings
from syncline.server.http2.limits import Http2Limits
from syncline.server.http2.streams import Application
from syncline.transport.notices import Notices

__all__ = ["HttpServer"]

_log = logging.getLogger("syncline.server.http")

SWEEP_S: Final = 1.0
"""How often the time limits are enforced; also how exact the `Date` field is."""

SWEEP_PART: Final = 256
"""Of so many connections the time limits are enforced in one turn of the event loop: to end one takes 20 us, and
thousands may have come at the same time."""

ROOM_LOOK: Final = 64
"""Of so many connections one is looked for that makes room, when there are too many."""


class ServedConnection(Protocol):
    """A connection of either protocol, as far as the server needs it."""

    def rests(self, now_s: float) -> bool: ...

    def close_resting(self) -> None: ...

    def is_unfinished(self, now_s: float) -> bool: ...

    def displace(self) -> None: ...

    def drain(self, *, idle: bool = True) -> None: ...

    def abort(self) -> None: ...

    def stalled_bytes(self) -> int: ...

    def sweep(self, now_s: float) -> None: ...


class HttpServer:
    """Serves `handler` to any number of connections, on the event loop that runs it.

    `observe` is called for every answer and must be cheap. `clock` times requests for it (the loop's own is too coarse
    for that on uvloop); `wall_time_s` is for the `Date` field alone. Both are replaced under the simulator.
    `knows_host` says whether the handler takes a header's `Host`: then the header is checked once only.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: HttpLimits | None = None,
        observe: Observe | None = None,
        knows_host: Callable[[Mapping[bytes, bytes]], bool] = bool,  # any name
        clock: Callable[[], float] = time.perf_counter,
        wall_time_s: Callable[[], float] = time.time,
    ) -> None:
        self.shared: Shared = Shared(
            handler,
            limits or HttpLimits(),
            observe=observe,
            knows_host=knows_host,
            clock=clock,
            flush_later=self._flush_later,
            speaks_tls=self._speaks_tls,
        )
        """What the connections use of the server."""
        self._wall_time_s = wall_time_s
        self._connections: dict[ServedConnection, None] = {}
        """All that are open."""
        self._vital: dict[ServedConnection, None] = {}
        """Those of them above the limit that are for health checks."""
        self._refused: dict[ServedConnection, None] = {}
        """Those that read why they are refused, the oldest first."""
        self._to_flush: list[FlushedOutput] = []
        self._listener: Listener | None = None
        self._door: TlsDoor | None = None
        self._notices = Notices(_log, logging.INFO)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._tell_date()

    def serve(self, handler: Handler, fast_get: FastRoute | None = None, fast_writes: Sequence[FastRoute] = ()) -> None:
        """From now on, give requests to this handler, and those that take a fast path to its route."""
        self.shared.handler = handler
        self.shared.fast_get = fast_get
        self.shared.fast_writes = fast_writes

    def offer_http2(self, application: Application, limits: Http2Limits | None = None) -> None:
        """From now on, give the streams of clients that speak HTTP/2 to this application."""
        shared = self.shared
        http2 = Http2Shared(application, limits or Http2Limits(), shared.total, self._flush_later, shared.turns)

        def begin(candidate: Http2Candidate, transport: asyncio.Transport, data: bytes) -> None:
            assert isinstance(candidate, HttpConnection)
            made = Http2Connection(http2, now_s=self.shared.now_s, unregister=self._unregister)
            del self._connections[candidate]
            self._connections[made] = None
            candidate.leave()
            made.begin(transport, data)

        self.shared.http2 = begin

    def explain_http2(self, reason: str) -> None:
        """From now on, end connections of HTTP/2 with this reason, which is logged too."""

        def explain(_candidate: Http2Candidate, transport: asyncio.Transport, _data: bytes) -> None:
            remote = transport.get_extra_info("peername")
            host, port = remote[:2] if isinstance(remote, tuple) else ("an unknown address", 0)
            self._notices.warn(f"http2 {host}", f"closed the client at {host}:{port}", reason, self.shared.now_s)
            transport.write(settings({}) + goaway(0, HTTP_1_1_REQUIRED, reason))
            transport.close()

        self.shared.http2 = explain

    # --- life

    async def start(self, network: Network, host: str, port: int, *, tls: TlsContext | None = None) -> tuple[str, int]:
        """Listen; gives host and port as bound. Raises `OSError` where the address can't be bound."""
        assert self._loop is None, "a server starts once"
        self._loop = asyncio.get_running_loop()
        if tls is not None:
            self._door = TlsDoor(tls, self.connection)
        self._listener = await network.listen(self._door.accept if self._door else self.connection, host, port)
        self._tick()
        return self._listener.address

    def connection(self) -> HttpConnection:
        """The protocol for a new connection."""
        return HttpConnection(self.shared, register=self._register, unregister=self._unregister)

    async def close(self, *, drain_s: float, grace_s: float = 0.0) -> None:
        """Stop listening, answer what has been asked, close. Whatever is not done after `drain_s` is cut off.

        A connection without a request stays open for `grace_s`: one may be on its way to us, and its client would not
        know whether it was carried out.
        """
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()
        self.shared.closed = True
        if self._door is not None:
            await self._door.close()
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            self._drain(idle=not grace_s)
            if grace_s:
                await asyncio.wait([self._empty], timeout=min(grace_s, drain_s))
                self._drain(idle=True)
            await asyncio.wait([self._empty], timeout=drain_s)
            for connection in tuple(self._connections):
                connection.abort()
            await self._empty  # connection_lost follows an abort in the next turn
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drain(self, *, idle: bool) -> None:
        for connection in tuple(self._connections):
            connection.drain(idle=idle)

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def limits(self) -> HttpLimits:
        """Its limits."""
        return self.shared.limits

    @property
    def held_bytes(self) -> int:
        """Bodies and answers of all connections in memory."""
        return self.shared.total.bytes

    @property
    def requests(self) -> int:
        """Requests that are started and not answered."""
        return self.shared.total.requests

    # --- the connections' side

    def _speaks_tls(self, transport: asyncio.Transport | None) -> None:
        """A client began TLS on a port without it. It can't read its answer, so the log names the fault."""
        remote = transport.get_extra_info("peername") if transport is not None else None
        host, port = remote[:2] if isinstance(remote, tuple) else ("an unknown address", 0)
        fault = "it speaks TLS on a port for plain HTTP: its URL must begin with http://, or this node needs TLS"
        self._notices.warn(f"tls {host}", f"closed the client at {host}:{port}", fault, self.shared.now_s)

    def _register(self, connection: HttpConnection) -> bool:
        """Take a new connection; False if there are too many already, and none of them makes room.

        Some above the limit are for health checks, which come by connections of their own.
        """
        limits, count = self.shared.limits, len(self._connections) - len(self._vital) - len(self._refused)
        room = count < limits.max_connections or self._make_room(self._connections)
        self._connections[connection] = None
        if room:
            return True
        if len(self._vital) < limits.vital_connections or self._make_room(self._vital):
            self._vital[connection] = None
            connection.limit_to_vital()
            return True
        self._refuses(connection)
        return False

    def _make_room(self, among: dict[ServedConnection, None]) -> bool:
        """Close one that rests, or else one whose request is incomplete, the oldest first; whether there was one."""
        now_s = self.shared.now_s
        unfinished: ServedConnection | None = None
        for connection in tuple(itertools.islice(among, ROOM_LOOK)):
            if among is not self._vital and connection in self._vital:
                pass  # its place is none of those that all have
            elif connection.rests(now_s):
                connection.close_resting()
                return True
            elif unfinished is None and connection.is_unfinished(now_s):
                unfinished = connection
            del among[connection]  # to the end: the next look begins behind it
            among[connection] = None
        if unfinished is not None:
            self._refuses(unfinished)
            unfinished.displace()
        return unfinished is not None

    def _refuses(self, connection: ServedConnection) -> None:
        """A connection is being told that there is no room: the oldest such one has had the time to read it."""
        if len(self._refused) >= self.shared.limits.refused_connections:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            oldest.abort()
        self._vital.pop(connection, None)
        self._refused[connection] = None

    def _unregister(self, connection: ServedConnection) -> None:
        self._connections.pop(connection, None)
        self._vital.pop(connection, None)
        self._refused.pop(connection, None)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def _flush_later(self, output: FlushedOutput) -> None:
        """Write a connection's finished answers at the end of the turn, together with all others'."""
        if not self._to_flush:
            (self._loop or asyncio.get_running_loop()).call_soon(self._flush_all)
        self._to_flush.append(output)

    def write_streams(self) -> None:
        """Write at once what live streams have; the other connections are flushed at the end of the turn."""
        left: list[FlushedOutput] = []
        for output in self._to_flush:
            try:
                if output.write_stream():
                    continue
            except Exception as error:  # noqa: BLE001 - the other clients must get the change
                _tell_fault(error)
            left.append(output)
        self._to_flush = left

    def _flush_all(self) -> None:
        outputs, self._to_flush = self._to_flush, []
        for output in outputs:
            output.flush_scheduled = False
            try:
                output.flush()
            except Exception as error:  # noqa: BLE001 - one connection's fault must not keep back the others' answers
                _tell_fault(error)

    # --- time

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits as of `now_s`."""
        for _ in self._parts_of_sweep(now_s):
            pass

    def _parts_of_sweep(self, now_s: float) -> Iterator[None]:
        self._tell_date()
        for count, connection in enumerate(tuple(self._connections), 1):
            try:
                connection.sweep(now_s)
            except Exception as error:  # noqa: BLE001 - nor their time limits
                _tell_fault(error)
            if count % SWEEP_PART == 0:
                yield
        self.shared.now_s = now_s  # last: until then those that are still to be looked at do not rest
        relieve(tuple(self._connections), self.held_bytes - PRESSURE * self.shared.limits.max_total_held_bytes)

    def _tick(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(SWEEP_S, self._tick)  # first: a sweep that fails must not be the last
        self._sweep_on(self._parts_of_sweep(self._loop.time()))

    def _sweep_on(self, parts: Iterator[None]) -> None:
        """Sweep the next part, and the others in later turns."""
        assert self._loop is not None
        for _ in parts:
            self._loop.call_soon(self._sweep_on, parts)
            return

    def _tell_date(self) -> None:
        date = b"Date: %s\r\n" % formatdate(self._wall_time_s(), usegmt=True).encode()
        self.shared.tail = date + b"\r\n"
        self.shared.tail_close = date + b"Connection: close\r\n\r\n"
        self.shared.tail_http10 = date + b"Connection: keep-alive\r\n\r\n"


def _tell_fault(error: Exception) -> None:
    if isinstance(error, OSError):  # the client has left at this moment: nothing to tell an operator
        _log.debug("the answers of one client can't be written: %s", error)
    else:
        _log.error("the answers of one client can't be written", exc_info=error)
