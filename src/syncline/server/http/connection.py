"""One client connection: requests in, answers out, in order.

Theory of operation. The reader parses; each complete request becomes a `Slot` in a queue and is handed to the handler
as soon as it may run, which answers now or later. Answers leave in the order of the requests: a finished slot waits
until it is the first. Whatever is finished by the end of a turn of the event loop leaves in one write. Most connections
have one request at a time, like others before it: it is read at once (`header_cache.py`), and its answer leaves when
given.

    bytes ──> parser ──> slots (in order) ──> handler
                           │  answered, first in the queue
                           └──> one write per turn ──> client

Order. Requests that are sent one behind the other take effect in that order. So only safe ones run beside each other
(RFC 9112, 9.3.2): any other starts when all before it are answered, and what is behind it when it is answered. Those
that may not start yet are `_unstarted`, and so are all behind them. `flush` looks at them again, and one is due when
nothing runs any more: the first of the queue has then been answered. It starts them in a loop, a share per turn; within
the answer before them each would start some frames deeper than the last.

Bounds. At most `max_in_flight` requests are started and `max_held_bytes` of bodies and answers held. An answer that may
be large is `Deferred`: it is made when it is the first, and the client has read those before it. Until then its request
counts as running, so that no later write overtakes it. Beyond the bounds, while the client does not read, and while a
request waits for those before it, further ones stay unstarted (at most one slice of input and the body that ends in
it), the rest of the input stays unparsed, and reading is paused. So a client holds no more memory than it was granted.
All together hold `max_total_held_bytes`; above it requests are refused (503). Health and metrics have their own share.

A refusal (malformed input, a limit, a time-out) is an answer like any other, in its turn, and the last: the connection
then half-closes and discards what still arrives for a few seconds, so that the client can read why.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from syncline.server.api.errors import internal_error, problem
from syncline.server.http.fast_get import CONDITIONS, Express, is_plain
from syncline.server.http.fields import SAFE_METHODS
from syncline.server.http.large_answers import TURN_BYTES
from syncline.server.http.pace import parts_left, parts_read, why_late
from syncline.server.http.parser import ENDED, IDLE, SLICE_BYTES, START, RequestReader, RequestRefused
from syncline.server.http.request import Request
from syncline.server.http.response import Deferred, Respond, Response
from syncline.server.http.slots import GIVEN, Lane, Slot

if TYPE_CHECKING:
    from syncline.server.http.server import HttpServer

__all__ = ["Handler", "HttpConnection"]

logger: logging.Logger = logging.getLogger("syncline.server")

Handler = Callable[[Request, Respond], None]
"""Takes a request and sees to it that it is answered, exactly once. Runs on the event loop and must not block."""

LINGER_BYTES: Final = 64 << 20
"""After the last request: what is read and thrown away at most, for a client that sends before it reads."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection(asyncio.Protocol):
    """The protocol of one connection. Made by `HttpServer`; everything runs on the event loop."""

    __slots__ = (
        "_draining",
        "_feeding",
        "_held_bytes",
        "_in_flight",
        "_lane",
        "_last_method",
        "_linger_left",
        "_lingering",
        "_offered",
        "_progress",
        "_read_paused",
        "_reader",
        "_reading_bytes",
        "_refused",
        "_server",
        "_since_s",
        "_slots",
        "_swept_bytes",
        "_transport",
        "_turn_starts",
        "_unparsed",
        "_unsent_bytes",
        "_unstarted",
        "_waiting_bytes",
        "_write_paused",
        "flush_scheduled",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._reader = RequestReader(server.limits, self._take, self._claim)
        self._transport: asyncio.Transport | None = None
        self._slots: deque[Slot] = deque()
        self._unstarted: deque[Slot] = deque()
        self._unparsed = b""
        self._offered = b""
        """What is being parsed, where it may be one whole request, to be learned from."""
        self._lane: Lane | None = None
        """Known once a request could have been an express one."""
        self._in_flight = 0
        self._last_method = ""
        """Of the request that was started last: found out only where another might have to wait for it."""
        self._turn_starts = 0
        """How many requests of one long piece of input were started as they were read."""
        self._held_bytes = 0
        self._waiting_bytes = 0
        """Bodies of requests that are not started yet. They are not held against them: they would never start."""
        self._reading_bytes = 0
        """Of the body that is being read, once it does not come at once."""
        self._unsent_bytes = 0
        """Of answers that the client does not read,"""
        self._swept_bytes = 0
        """and what was left of them at the last sweep."""
        self._feeding = False
        self._read_paused = False
        self._write_paused = False
        self._draining = False
        self._refused = False
        self._lingering = False
        self._linger_left = LINGER_BYTES
        self._since_s = server.now_s
        self._progress: tuple[object, ...] = ()
        self.flush_scheduled: bool = False

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's is one by its methods, not by its class
        if self._server.closed:
            transport.abort()  # it came in while the port was being closed
        elif not self._server.register(self):
            self._refuse(problem(503, "overloaded", "too many connections; try again, or another node"))
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a client may leave as it likes
        self._transport = None
        self._lane = None
        self._reader.phase = ENDED
        self._slots.clear()
        self._unstarted.clear()
        self._unparsed = b""
        self._server.held_bytes -= self._held_bytes + self._waiting_bytes + self._reading_bytes + self._unsent_bytes
        self._held_bytes = self._waiting_bytes = self._reading_bytes = self._unsent_bytes = 0
        self._server.unregister(self)

    def eof_received(self) -> bool:
        """The client sends no more. What it has asked is still answered, as scripts with half-closed pipes expect."""
        transport = self._transport
        if transport is None or self._lingering or not self._slots:
            return False  # the transport closes itself
        if transport.get_extra_info("sslcontext") is not None:
            return False  # TLS knows no half-closed connection
        self._reader.phase = ENDED
        self._slots[-1].close = True
        return True

    def pause_writing(self) -> None:
        self._write_paused = True
        assert self._transport is not None
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._server.held_bytes += self._unsent_bytes
        self._pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._server.held_bytes -= self._unsent_bytes
        self._unsent_bytes = 0
        self.flush()

    def data_received(self, data: bytes) -> None:
        reader, lane = self._reader, self._lane
        if (
            lane is not None
            and data.endswith(lane.end)
            and reader.phase == IDLE
            and not (self._slots or self._unparsed or self._write_paused)
            and self._take_express(lane, data)
        ):
            return
        if reader.phase == ENDED:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.abort()
        elif self._unparsed:  # a transport may still deliver what it held when it was paused
            self._unparsed += data
        elif reader.phase > IDLE or self._slots or self._write_paused or len(data) > SLICE_BYTES:
            self._feed(data)
        elif (request := self._server.usual.read(data)) is None:
            self._offered = data
            self._feed(data)
            self._offered = b""
        else:  # as `_feed` would do it, for one whole request on a connection that is at rest
            reader.phase = IDLE
            reader.messages += 1
            slot = Slot(request, False, False, True)
            self._slots.append(slot)
            self._start(slot)
            limits = self._server.limits
            if self._in_flight >= limits.max_in_flight or self._held_bytes > limits.max_held_bytes:
                self._pause_reading()
            elif lane is None and request.method == "GET" and self._server.express is not None:
                self._open_lane(self._server.express, request, data)

    # --- input

    def _open_lane(self, express: Express, request: Request, data: bytes) -> None:
        """What `data` says beside its target, others that follow on this connection will say as well."""
        if not request.body and CONDITIONS.isdisjoint(request.headers):
            self._lane = Lane(self, self._server, express, data[data.index(b" ", len("GET ")) :])

    def _take_express(self, lane: Lane, data: bytes) -> bool:
        """Start the request that `data` is, if it is an express one. The connection is at rest."""
        server = self._server
        limits, express = server.limits, server.express
        assert express is not None, "there is a lane"
        if not data.startswith(express.start) or len(data) > limits.max_url_bytes:
            return False
        argument = data[len(express.start) : -len(lane.end)]
        if not is_plain(argument) or server.held_bytes > limits.max_total_held_bytes:
            return False
        slot = lane.slot
        slot.answer, slot.held_bytes = None, 0
        lane.argument = argument
        self._slots.append(slot)
        self._in_flight += 1
        self._reader.messages += 1
        slot.started_s = server.clock()
        try:
            express.handler(lane)
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the others'
            _handler_failed(slot, lane.respond, error)
        if self._in_flight >= limits.max_in_flight:
            self._pause_reading()
        return True

    def _feed(self, data: bytes) -> None:
        self._feeding = True
        try:
            if len(data) <= SLICE_BYTES and not self._unstarted:
                self._reader.feed(data)
            else:
                self._feed_slices(memoryview(data))
        except RequestRefused as refusal:
            self._refuse(refusal.response)
        self._feeding = False
        if self._unparsed:
            self._pause_reading()
            self._schedule_flush()  # goes on in the next turn: one client must not have the loop to itself
            return
        if self._unstarted or not self._has_room():
            self._pause_reading()
        self.flush()

    def _feed_slices(self, data: memoryview) -> None:
        self._turn_starts = 0
        reader, most = self._reader, self._server.limits.max_in_flight
        for start in range(0, len(data), SLICE_BYTES):
            if reader.phase == ENDED:
                break
            if self._turn_starts > most or self._unstarted or not self._has_room():
                self._unparsed = bytes(data[start:])
                break
            reader.feed(data[start : start + SLICE_BYTES])

    def _claim(self, size_bytes: int) -> bool:
        """Count a part of a body that is being read; whether there is room for it."""
        server = self._server
        self._reading_bytes += size_bytes
        server.held_bytes += size_bytes
        return server.held_bytes <= server.limits.max_total_held_bytes

    def _take(self, request: Request, close: bool, http10: bool) -> None:
        """A request is complete."""
        if self._reading_bytes:
            self._server.held_bytes -= self._reading_bytes
            self._reading_bytes = 0
        if self._offered and not close:
            self._server.usual.learn(self._offered, request)
        slot = Slot(request, close, http10, plain=not (close or http10 or request.method == "HEAD"))
        if self._in_flight and not self._unstarted:
            last = self._slots[-1].request
            assert last is not None, "nothing is read after a refusal"
            self._last_method = last.method
        self._slots.append(slot)
        if self._unstarted or not self._may_start(request):
            self._unstarted.append(slot)
            slot.held_bytes = len(request.body)
            self._waiting_bytes += slot.held_bytes
            self._server.held_bytes += slot.held_bytes
        else:
            self._turn_starts += 1
            self._start(slot)

    def _refuse(self, response: Response) -> None:
        """Give up on the input: this answer is the last."""
        if self._transport is None or self._refused:
            return
        slot = Slot(None, True, False, plain=False)
        self._refused = True
        self._reader.phase = ENDED
        self._reader.continue_due = False
        self._slots.append(slot)
        self.answered(slot, response)
        if (observe := self._server.observe) is not None:
            observe("", response.status, 0.0)

    # --- requests and answers

    def _may_start(self, request: Request) -> bool:
        """Whether the next request may run now. Safe ones change nothing, so their order makes no difference. An unsafe
        one runs alone: if one runs, it is the last that started."""
        if self._in_flight and not (request.method in SAFE_METHODS and self._last_method in SAFE_METHODS):
            return False
        return self._has_room()

    def _has_room(self) -> bool:
        """Whether the limits let another request run."""
        limits = self._server.limits
        return (
            self._in_flight < limits.max_in_flight
            and self._held_bytes <= limits.max_held_bytes
            and not self._write_paused
        )

    def _start(self, slot: Slot) -> None:
        request = slot.request
        assert request is not None
        self._in_flight += 1
        server = self._server
        if request.body:
            slot.held_bytes = len(request.body)
            self._held_bytes += slot.held_bytes
            server.held_bytes += slot.held_bytes
        slot.started_s = server.clock()
        respond = partial(self.answered, slot)
        if server.held_bytes > server.limits.max_total_held_bytes and not server.has_share(request.path):
            respond(problem(503, "overloaded", "too much is being sent and asked at once; nothing was done"))
            return
        try:
            server.handler(request, respond)
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the others'
            _handler_failed(slot, respond, error)

    def let_go(self, slot: Slot) -> asyncio.Transport | None:
        """The request's end, where its answer can be written at once: where to; else None, and nothing is done."""
        slots = self._slots
        if len(slots) != 1 or slots[0] is not slot or not self._is_free():
            return None
        slots.popleft()
        self._in_flight -= 1
        slot.answer = GIVEN
        return self._transport

    def _is_free(self) -> bool:
        """Whether nothing waits for the answer to be given, but the client."""
        return self._reader.phase == IDLE and not (
            self._feeding or self._write_paused or self._read_paused or self._draining
        )

    def answered(self, slot: Slot, answer: Response) -> None:
        """The `Respond` of a slot's request."""
        if slot.answer is not None:
            logger.error("a request was answered twice; the second answer (%d) is dropped", answer.status)
            return
        transport, slots, server = self._transport, self._slots, self._server
        if transport is None:
            slot.answer = GIVEN
            return  # the client has gone
        if type(answer) is Deferred:
            if slots[0] is not slot or self._write_paused:
                slot.answer = answer  # `flush` makes it when it is its turn
                return
            if not server.making.has_time:
                slot.answer = answer
                server.making.later(self)
                return
            answer = server.making.make(answer)
        slot.answer = answer
        if slot.request is not None:
            self._in_flight -= 1
            if server.observe is not None:
                server.observe(slot.request.route, answer.status, server.clock() - slot.started_s)
        if slot.plain and len(slots) == 1 and self._is_free():  # nothing is before it or behind it
            slots.popleft()
            slot.answer = GIVEN
            if slot.held_bytes:
                self._held_bytes -= slot.held_bytes
                server.held_bytes -= slot.held_bytes
            transport.write(b"".join((answer.head, server.tail, answer.body)))
            return
        size = len(answer.head) + len(answer.body)
        slot.held_bytes += size
        self._held_bytes += size
        server.held_bytes += size
        if not self._feeding and slots[0] is slot:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self._server.schedule_flush(self)

    def flush(self) -> None:
        """Write every answer whose turn it is, in one write; then go on with input that had to wait."""
        if self._transport is None or self._write_paused:
            return
        slots, server, closing = self._slots, self._server, False
        parts: list[bytes] = []
        size_bytes = 0
        while slots and not closing:
            slot = slots[0]
            answer = slot.answer
            if answer is None:
                break
            if isinstance(answer, Deferred):
                if size_bytes > TURN_BYTES or not server.making.has_time:
                    server.making.later(self)  # unless the client is found not to read
                    break
                answer = self._make(slot, answer)
            size_bytes += len(answer.body)
            slots.popleft()
            slot.answer = GIVEN
            self._held_bytes -= slot.held_bytes
            server.held_bytes -= slot.held_bytes
            closing = slot.close or (self._draining and not slots)
            parts.append(answer.head)
            parts.append(server.tail_close if closing else server.tail_http10 if slot.http10 else server.tail)
            if slot.request is None or slot.request.method != "HEAD":
                parts.append(answer.body)
        if self._reader.continue_due and not slots and not closing:
            self._reader.continue_due = False
            parts.append(CONTINUE)
        if parts:
            self._transport.write(b"".join(parts))
        if closing:
            self._end()
        elif self._unstarted or self._unparsed or self._read_paused:
            self._go_on()

    def _make(self, slot: Slot, answer: Deferred) -> Response:
        """Make an answer whose turn it is."""
        request, server = slot.request, self._server
        assert request is not None, "a refusal is there at once"
        made = server.making.make(answer)
        self._in_flight -= 1
        if server.observe is not None:
            server.observe(request.route, made.status, server.clock() - slot.started_s)
        return made

    def _go_on(self) -> None:
        """Start what had to wait, parse what was not parsed, read again: as far as the limits allow."""
        self._start_waiting()
        if self._unstarted or not self._has_room() or self._transport is None:
            return
        if self._unparsed:
            data, self._unparsed = self._unparsed, b""
            self._feed(data)
        elif self._read_paused:
            self._resume_reading()

    def _start_waiting(self) -> None:
        server, unstarted = self._server, self._unstarted
        for _ in range(server.limits.max_in_flight):
            if not unstarted:
                return
            slot = unstarted[0]
            assert slot.request is not None
            if not self._may_start(slot.request):
                return
            unstarted.popleft()
            self._waiting_bytes -= slot.held_bytes
            server.held_bytes -= slot.held_bytes
            self._last_method = slot.request.method
            self._start(slot)
        if unstarted:
            self._schedule_flush()  # the rest is for the next turn: one client must not have the loop to itself

    def _pause_reading(self) -> None:
        if not self._read_paused and not self._lingering and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()

    # --- the end

    def _end(self) -> None:
        """The last answer has been written."""
        transport = self._transport
        if transport is None:
            return
        self._reader.phase = ENDED
        self._unparsed = b""
        if not (self._refused and transport.can_write_eof()):
            transport.close()  # what is buffered is still sent
            return
        # Closing with unread input would reset the connection, and the client could lose the answer that explains it.
        self._lingering = True
        transport.write_eof()
        self._resume_reading()

    def rests(self, now_s: float) -> bool:
        """Whether nothing is under way, and was not at the last sweep: it may be closed to make room for another."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._slots or self._reader.phase > IDLE:
            return False
        return self._since_s < now_s and not self._write_paused

    def close_resting(self) -> None:
        """Close a connection that `rests`."""
        assert self._transport is not None
        self._transport.close()

    def drain(self, *, idle: bool = True) -> None:
        """Close as soon as everything that was asked is answered: now if nothing is, and `idle`."""
        self._draining = True
        if idle and self._transport is not None and not self._slots and (self._reader.phase <= IDLE or self._lingering):
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def stalled_bytes(self) -> int:
        """What waits for a client that has read nothing since the last call; 0 if it reads, or nothing waits."""
        before, self._swept_bytes = self._swept_bytes, 0
        if self._write_paused and self._transport is not None:
            self._swept_bytes = self._transport.get_write_buffer_size()
        return before if before == self._swept_bytes else 0

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits. A stage that is the same as at the last sweep has lasted since it was first seen."""
        reader, transport = self._reader, self._transport
        if transport is None:
            return
        stuck = self._write_paused or transport.is_closing()
        limits = self._server.limits
        moved = parts_read(limits, reader.wire_bytes)
        if stuck:
            moved = parts_left(limits, transport.get_write_buffer_size())
        busy = reader.phase == IDLE and bool(self._slots)
        progress = (stuck, moved, busy, self._lingering, self._read_paused, reader.phase, reader.messages)
        if progress != self._progress:
            self._progress = progress
            self._since_s = now_s
            return
        waited_s = now_s - self._since_s
        if stuck:
            if waited_s > limits.write_timeout_s:
                transport.abort()
        elif self._lingering:
            if waited_s > limits.linger_timeout_s:
                transport.abort()
        elif not self._read_paused:  # while it is we who do not read, the client is not late
            self._check_reader(waited_s)

    def _check_reader(self, waited_s: float) -> None:
        limits, phase = self._server.limits, self._reader.phase
        assert self._transport is not None
        if why := why_late(limits, phase, waited_s):
            self._refuse(problem(408, "request_timeout", why))
            self.flush()
        elif (phase == START and waited_s > limits.header_timeout_s) or (
            phase == IDLE and not self._slots and waited_s > limits.idle_timeout_s
        ):
            self._transport.close()


def _handler_failed(slot: Slot, respond: Respond, error: Exception) -> None:
    if slot.answer is None:
        respond(internal_error(error))
    else:
        logger.error("a handler failed after its answer", exc_info=error)
