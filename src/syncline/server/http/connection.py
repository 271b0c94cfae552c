"""One client connection: requests in, answers out, in order.

Each complete request becomes a `Slot` in a queue. It is given to the handler as soon as it may run, and the handler
answers now or later. Answers leave in the order of the requests.

    bytes ──> shortcut or parser ──> slots (in order) ──> handler
                                       │  answered, first in the queue
                                       └──> one write per turn ──> client

A connection is made of these parts; this file puts them together and connects them to the transport.

| file | part | what it does |
| --- | --- | --- |
| `state.py` | `Link`, `SlotQueue`, `HeldBytes` | the state, with its invariants |
| `parser.py` | `RequestReader` | bytes to requests |
| `shortcuts.py` | `FastGetLane`, `FastWriteLane`, `HeaderCache` | past the parser, for requests like those before |
| `input.py` | `Input` | parses as far as the limits allow, pauses the reading |
| `dispatch.py` | `Dispatcher` | starts requests in their order |
| `output.py` | `Output` | writes answers in their order, ends the connection |
| `time_limits.py` | `TimeLimits` | ends a connection whose client is too slow |

Phases. The parser's phase says how far the input is read. The stage (`state.py`) says how far the connection is on its
way to its end; it never goes back.

| phase or stage | what a client may do | ends with |
| --- | --- | --- |
| `START` | send its first request, or begin HTTP/2 | a byte; closed after `header_timeout_s` |
| `IDLE` | send a request, while others may be under way | a byte; closed after `idle_timeout_s` without a request |
| `HEADER`, `BODY` | send the rest of a request | its last byte; 408 if it is late |
| `ENDED` | read the answers that are still to come; what it sends is ignored | the end of the connection |
| `OPEN` | all that its input phase says | one of the next |
| `DRAINING` | read the answers to what it has asked | the last of them: closed |
| `REFUSED` | the same; the input is `ENDED` | the last answer, which says why: half-closed |
| `LINGERING` | read that answer | its own end; cut off after `linger_timeout_s` |

A connection is at rest in `START` or `IDLE` when no slot is left and reading is not paused. Only then may a shortcut
take a request, since nothing is before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from syncline.server.http.dispatch import Dispatcher, displaced, too_many_connections
from syncline.server.http.input import Input
from syncline.server.http.input_turns import FAST_COST, fast_cost, input_cost
from syncline.server.http.output import Output
from syncline.server.http.parser import ENDED, IDLE, SLICE_BYTES, START, RequestReader
from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.server.http.shared import Shared
from syncline.server.http.shortcuts import FastGetLane, FastWriteLane, LaneParts
from syncline.server.http.state import DRAINING, LINGERING, HeldBytes, Link, Slot, SlotQueue
from syncline.server.http.time_limits import TimeLimits
from syncline.server.http2.frames import PREFACE

__all__ = ["HttpConnection"]


class HttpConnection(asyncio.Protocol):
    """The protocol of one connection. Made by `HttpServer`; everything runs on the event loop.

    `register` tells the server of it, and returns whether there is room. `unregister` is called at its end.
    """

    __slots__ = (
        "_dispatcher",
        "_first",
        "_held",
        "_input",
        "_lane",
        "_link",
        "_output",
        "_queue",
        "_reader",
        "_register",
        "_shared",
        "_time_limits",
        "_unregister",
        "_write_lanes",
    )

    def __init__(
        self,
        shared: Shared,
        *,
        register: Callable[[HttpConnection], bool],
        unregister: Callable[[HttpConnection], None],
    ) -> None:
        self._shared = shared
        self._register = register
        self._unregister = unregister
        self._link = link = Link()
        self._queue = queue = SlotQueue()
        self._held = held = HeldBytes(shared.total)
        self._reader = reader = RequestReader(shared.limits, self._take, held.read)
        self._output = output = Output(shared, link, queue, held, reader, go_on=self._go_on)
        self._dispatcher = Dispatcher(shared, link, queue, held, answered=output.answered)
        self._input = Input(shared, link, queue, held, reader, self._dispatcher, output, again=self.data_received)
        self._time_limits = TimeLimits(shared.limits, link, queue, reader, now_s=shared.now_s, refuse=self._refuse)
        self._lane: FastGetLane | None = None
        self._write_lanes: tuple[FastWriteLane, ...] = ()
        """Each is opened by the first request that could have taken it."""
        self._first = b""
        """The first bytes, as long as they may become the preface of HTTP/2."""

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link.transport = transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's is one by its methods, not by its class
        if self._shared.closed:
            transport.abort()  # it came in while the port was being closed
        elif not self._register(self):
            self._refuse(too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a client may leave as it likes
        self._link.left()
        self._lane = None
        self._write_lanes = ()
        self._reader.phase = ENDED
        self._output.lost()
        self._queue.clear(self._shared.total)
        self._held.clear()
        self._forget()
        self._unregister(self)

    def eof_received(self) -> bool:
        """The client sends no more. What it has asked is still answered, as scripts with half-closed pipes expect.

        A live stream has no end, and a read may wait a minute. Most clients leave both like this: the connection ends.
        """
        link, slots = self._link, self._queue.slots
        if link.transport is None or link.stage == LINGERING or not slots or self._output.end_input():
            return False  # the transport closes itself
        if all(slot.request is not None and slot.request.is_long_poll for slot in slots):
            return False
        if link.transport.get_extra_info("sslcontext") is not None:
            return False  # TLS knows no half-closed connection
        self._reader.phase = ENDED
        slots[-1].close = True
        return True

    def pause_writing(self) -> None:
        link = self._link
        assert link.transport is not None
        link.write_paused = True
        self._held.set_unsent(link.transport.get_write_buffer_size())
        link.pause_reading()

    def resume_writing(self) -> None:
        self._link.write_paused = False
        self._held.set_unsent(0)
        self._output.flush()

    def data_received(self, data: bytes) -> None:
        reader, link, slots, turns = self._reader, self._link, self._queue.slots, self._shared.turns
        if reader.phase == START and not (data := self._http1(data)):
            return
        if reader.phase > IDLE or slots or link.read_paused:
            self._input.receive(data)
            return
        # At rest: a shortcut may take it. `shortcuts.py` has the table of the conditions.
        if turns.left < turns.enough:
            turns.refill()
            if turns.left <= 0:
                self._input.offer(data)  # it waits for a later turn, and comes back
                return
        lane = self._lane
        if lane is not None and data.endswith(lane.end) and lane.take(data):
            reader.messages += 1
            turns.left -= FAST_COST
            self._dispatcher.start_fast(lane)
            return
        request = None
        if len(data) <= SLICE_BYTES:
            for write_lane in self._write_lanes:
                if write_lane.take(data):
                    reader.messages += 1
                    turns.left -= fast_cost(len(data))
                    self._dispatcher.start_fast_write(write_lane)
                    return
            request = self._shared.header_cache.read(data)
        if request is None:
            self._input.offer(data)
            return
        turns.left -= input_cost(len(data), 1, is_body=True)  # its header is known, and takes no time
        reader.phase = IDLE
        reader.messages += 1
        slot = Slot(request, False, False, True)
        slots.append(slot)
        self._dispatcher.start(slot)
        if request.method == "GET":
            if lane is None and not request.query:
                self._open_get_lane(request, data)
        else:
            self._open_write_lane(data)
        if not self._dispatcher.has_room():
            link.pause_reading()

    def _http1(self, data: bytes) -> bytes:
        """The first bytes of a connection, if they are not those of HTTP/2; empty if they are, or may become them."""
        transport, begin = self._link.transport, self._shared.http2
        if begin is None or transport is None:
            return data
        data, self._first = self._first + data, b""
        if not data.startswith(PREFACE[: len(data)]):
            return data
        if len(data) < len(PREFACE):
            self._first = data
        elif self._link.is_extra:
            self._refuse(too_many_connections())
        else:
            begin(self, transport, data)
        return b""

    def leave(self) -> None:
        """Forget the transport: another protocol has it."""
        self._link.transport = None
        self._reader.phase = ENDED
        self._forget()

    def _forget(self) -> None:
        """Break the circles of references between this and its parts: so they are freed without a collection."""
        self._reader.forget()
        self._output.forget()
        self._input.forget()
        self._time_limits.forget()

    # --- what the parts ask of each other

    def _take(self, request: Request, close: bool, http10: bool) -> None:
        self._input.take(request, close, http10)

    def _go_on(self) -> None:
        self._input.go_on()

    def _refuse(self, response: Response) -> None:
        """Refuse all further input, outside of `Input.feed`."""
        self._output.refuse(response)
        self._output.flush()

    def _open_get_lane(self, request: Request, data: bytes) -> None:
        """What `data` says beside its target, others that follow on this connection will say as well."""
        route = self._shared.fast_get
        if route is None or self._link.is_extra:
            return
        if (end := FastGetLane.end_of(request, data)) is not None:
            self._lane = FastGetLane(route, self._lane_parts(self._output.found), end, request.headers)

    def _open_write_lane(self, data: bytes) -> None:
        for route in self._shared.fast_writes:
            if data.startswith(route.start) and not self._link.is_extra:
                if all(lane.start != route.start for lane in self._write_lanes):
                    parts = self._lane_parts(self._output.written)
                    self._write_lanes += (FastWriteLane(route, parts, self._shared.header_cache.find),)
                return

    def _lane_parts(self, found: Callable[[Slot, bytes, bytes], None]) -> LaneParts:
        shared = self._shared
        return LaneParts(self._link, self._output.answered, found, shared.limits.max_url_bytes, shared.total)

    # --- the server's side

    def limit_to_vital(self) -> None:
        """Take only requests of health, metrics, version or status, and close then: there are too many connections."""
        self._link.is_extra = True
        self._link.stage = DRAINING

    def rests(self, now_s: float) -> bool:
        """Whether nothing is under way, and was not at the last sweep: it may be closed to make room for another."""
        return self._time_limits.rests(now_s)

    def close_resting(self) -> None:
        """Close a connection that `rests`."""
        assert self._link.transport is not None
        self._link.transport.close()

    def is_unfinished(self, now_s: float) -> bool:
        """Whether a request that has not come whole is all that is under way: it may be given up to make room."""
        return self._time_limits.is_unfinished(now_s)

    def displace(self) -> None:
        """Give up a request that `is_unfinished`."""
        self._refuse(displaced())

    def drain(self, *, idle: bool = True) -> None:
        """Close as soon as everything that was asked is answered: now if nothing is, and `idle`."""
        self._output.drain(idle=idle)

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._link.transport is not None:
            self._link.transport.abort()

    def stalled_bytes(self) -> int:
        """What waits for a client that has read nothing since the last call; 0 if it reads, or nothing waits."""
        return self._time_limits.stalled_bytes()

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits as of `now_s`."""
        self._time_limits.sweep(now_s)

    def check(self) -> None:
        """Assert the invariants of the state, between two events, until the connection is lost."""
        if self._link.transport is None:
            return
        self._link.check()
        self._queue.check()
        self._held.check(self._queue)
        assert self._held.unparsed == len(self._link.unparsed), "input that waits is counted"
        self._output.check()
        if self._queue.unstarted and self._reader.phase != ENDED:  # at the end of the input nothing is read
            paused = self._link.read_paused or self._link.may_read_ahead
            assert paused, "no further requests are read while some wait, but for a little behind a live stream"
