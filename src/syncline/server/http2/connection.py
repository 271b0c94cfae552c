"""One HTTP/2 connection: puts its parts together and connects them to the transport.

    bytes ──> FrameInput ──> streams ──> application
                                            │ answers
    bytes <── FrameOutput <── streams <─────┘

| file | part | what it does |
| --- | --- | --- |
| `frames.py` | | numbers and forms of frames |
| `header_blocks.py` | `HeaderDecoder` | HPACK to the head of a request |
| `input.py` | `FrameInput` | bytes to frames to streams, within the limits |
| `output.py` | `FrameOutput` | frames within the client's windows, one write a turn |
| `streams.py` | `Http2Stream` | one request and its answer; what the application does with it |

`HttpConnection` recognises the preface of HTTP/2 and passes its transport to this protocol (`begin`). If a client does
not read, nothing is read from it either. A fault of the connection is answered with GOAWAY, which says why; what still
arrives is then thrown away for a few seconds, since to close with unread input would lose that answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from syncline.server.http.input_turns import InputTurns
from syncline.server.http.networks import network_of
from syncline.server.http.shared import FlushedOutput
from syncline.server.http.state import LINGERING, Link, TotalBytes
from syncline.server.http2.frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
    goaway,
    settings,
)
from syncline.server.http2.header_blocks import RequestHead
from syncline.server.http2.input import END_COST, MADE_ROOM, FrameInput
from syncline.server.http2.limits import Http2Limits
from syncline.server.http2.output import FIRST_WINDOW, FrameOutput
from syncline.server.http2.streams import Application, ConnectionBytes, Http2Stream, StreamCall, StreamTotal

__all__ = ["Http2Connection", "Http2Shared"]

_log = logging.getLogger("syncline.server.http2")

_MAX_STREAMS: Final = 3
_INITIAL_WINDOW: Final = 4
_MAX_HEADER_BYTES: Final = 6
"""Settings that the server announces (RFC 9113, 6.5.2)."""

LEAST_TAKEN_BYTES: Final = 1024
"""Between two sweeps: a client that takes less, such as one byte a second, counts as one that reads nothing."""

LINGER_BYTES: Final = 16 << 20
"""After GOAWAY: what is read and thrown away at most."""


class Http2Shared:
    """What the HTTP/2 connections of one server have in common."""

    __slots__ = ("application", "flush_later", "greeting", "limits", "streams", "total", "turns")

    def __init__(
        self,
        application: Application,
        limits: Http2Limits,
        total: TotalBytes,
        flush_later: Callable[[FlushedOutput], None],
        turns: InputTurns,
    ) -> None:
        self.application: Application = application
        self.limits: Http2Limits = limits
        self.total: TotalBytes = total
        self.flush_later: Callable[[FlushedOutput], None] = flush_later
        self.streams: StreamTotal = StreamTotal()
        self.turns: InputTurns = turns
        wider = limits.connection_window_bytes - FIRST_WINDOW
        self.greeting: bytes = settings(
            {
                _MAX_STREAMS: limits.max_streams,
                _INITIAL_WINDOW: limits.stream_window_bytes,
                _MAX_HEADER_BYTES: limits.max_header_bytes,
            }
        ) + frame(WINDOW_UPDATE, 0, 0, wider.to_bytes(4, "big"))
        """What the server sends first."""


class Http2Connection(asyncio.Protocol):
    """The protocol of one connection. `unregister` is called at its end."""

    __slots__ = (
        "_address",
        "_held",
        "_input",
        "_limits",
        "_linger_left",
        "_link",
        "_makes_room",
        "_output",
        "_progress",
        "_requests",
        "_rests_since_s",
        "_shared",
        "_since_s",
        "_swept_bytes",
        "_taken_bytes",
        "_unregister",
        "_waits_for_turn",
    )

    def __init__(self, shared: Http2Shared, *, now_s: float, unregister: Callable[[Http2Connection], None]) -> None:
        limits = shared.limits
        self._shared = shared
        self._limits = limits
        self._unregister = unregister
        self._link = link = Link()
        self._held = held = ConnectionBytes(shared.total, limits.max_held_bytes)
        self._output = FrameOutput(
            limits,
            link,
            held,
            shared.turns,
            flush_later=shared.flush_later,
            closed=self._stream_closed,
            go_on=self._go_on,
        )
        self._output.now_s = now_s
        self._input = FrameInput(limits, link, held, self._output, self._open, shared.turns)
        self._address = ""
        self._linger_left = LINGER_BYTES
        self._waits_for_turn = self._makes_room = False
        self._since_s = self._rests_since_s = now_s
        self._requests = 0
        """Those that had come at the last sweep."""
        self._progress: tuple[object, ...] = ()
        self._swept_bytes = self._taken_bytes = 0

    # --- the transport's side

    def begin(self, transport: asyncio.Transport, data: bytes) -> None:
        """Take over a connection whose first bytes (`data`) are those of HTTP/2."""
        self._link.transport = transport
        self._address = self._link.address
        self._input.share = self._shared.streams.join(network_of(self._address))
        transport.set_protocol(self)
        self._output.control(self._shared.greeting)
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        link = self._link
        if link.transport is None:
            return
        if link.stage == LINGERING:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                link.transport.abort()
            return
        try:
            self._input.received(data)
        except ConnectionFault as fault:
            self._end(fault.code, fault.reason)
        except Exception as error:  # noqa: BLE001 - one connection's fault must not end the others'
            _log.error("an HTTP/2 connection is ended by a fault of the server", exc_info=error)
            self._end(INTERNAL_ERROR, "the server failed on this input; its log says why")
        else:
            if self._input.has_rest:
                link.pause_reading()
                self._wait_for_turn()

    def _go_on(self) -> None:
        """Read again after a pause, if nothing is in the way."""
        link = self._link
        if not link.read_paused or link.write_paused or link.transport is None:
            return
        if self._input.has_rest:
            self._wait_for_turn()
        else:
            link.resume_reading()

    def _wait_for_turn(self) -> None:
        """Read the rest in a later turn of the event loop, after the connections that wait already."""
        if not self._waits_for_turn:
            self._waits_for_turn = True
            self._shared.turns.wait(self._turn)

    def _turn(self) -> None:
        """Read the rest, or a part of it. While the client does not read, `_go_on` follows when it does."""
        self._waits_for_turn = False
        if self._link.transport is None or self._link.write_paused or not self._input.has_rest:
            return
        self.data_received(b"")
        self._go_on()

    def eof_received(self) -> bool:
        return False  # a client of HTTP/2 that sends no more has left

    def pause_writing(self) -> None:
        self._link.write_paused = True
        self._link.pause_reading()

    def resume_writing(self) -> None:
        self._link.write_paused = False
        self._output.schedule()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a client may leave as it likes
        self._link.transport = None
        self._input.clear()
        self._output.lost()
        self._shared.streams.leave(self._input.share)
        self._unregister(self)

    # --- streams

    def _open(self, stream: Http2Stream, head: RequestHead) -> None:
        stream.call = self._shared.application(stream, head, self._output, self._address, self)

    def _stream_closed(self, stream: Http2Stream) -> None:
        self._input.closed(stream)
        if self._input.draining and not self._input.streams:
            self._close()

    # --- the end

    def _end(self, code: int, reason: str) -> None:
        """End the connection with an error: GOAWAY, and nothing after it."""
        link = self._link
        transport = link.transport
        if transport is None or link.stage == LINGERING:
            return
        last = self._input.last_stream
        self._input.clear()
        link.stage = LINGERING
        self._output.control(goaway(last, code, reason))
        self._output.flush()
        self._output.ended = True
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # the client has reset the connection, and the loop has not told of it yet
                transport.abort()
                return
            link.resume_reading()
        else:
            transport.close()  # TLS: what is buffered is still sent

    def _close(self) -> None:
        """Close when all that was asked is answered."""
        transport = self._link.transport
        if transport is not None and self._link.stage != LINGERING:
            self._output.flush()
            transport.close()

    # --- the server's side

    def rests(self, now_s: float) -> bool:
        """Whether nothing is under way, and was not at the last sweep: it may be closed to make room for another.

        Pings do not change that, and neither do streams without a message.
        """
        link, input_ = self._link, self._input
        if self._makes_room or input_.draining or link.stage == LINGERING:
            return False  # it is closed already
        return input_.is_idle and self._rests_since_s < now_s and not link.write_paused

    def close_resting(self) -> None:
        """Close a connection that `rests`."""
        self._close_idle(MADE_ROOM)

    def is_unfinished(self, now_s: float) -> bool:
        """Whether it has to be told that it makes room. None has: streams without a message are no reason."""
        del now_s
        return False

    def displace(self) -> None:
        """Never called: see `is_unfinished`."""
        self.close_resting()

    def _close_idle(self, reason: str) -> None:
        """Close a connection on which nothing is asked."""
        if not self._makes_room:
            self._makes_room = True
            streams = deque(self._input.streams.values())
            self._end_calls(streams, lambda call: call.release(reason), self.drain)

    def drain(self, *, idle: bool = True) -> None:
        """End as soon as everything that was asked is answered. Calls without an end of their own are ended."""
        input_ = self._input
        if self._link.transport is None or self._link.stage == LINGERING:
            return
        if not input_.draining:
            input_.draining = True
            self._output.control(goaway(input_.last_stream, NO_ERROR, "this node stops or makes room"))
            self._end_calls(deque(input_.streams.values()), lambda call: call.stop(), lambda: None)
        if idle and not input_.streams:
            self._close()

    def _end_calls(
        self, streams: deque[Http2Stream], end: Callable[[StreamCall], None], ended: Callable[[], None]
    ) -> None:
        """End the calls of these streams, as many in a turn as it has room for; then call `ended`."""
        turns = self._shared.turns
        while streams and turns.left > 0:
            if (call := streams.popleft().call) is not None:
                turns.spend(END_COST)
                end(call)
        if streams:
            turns.wait(lambda: self._end_calls(streams, end, ended))
        else:
            ended()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._link.transport is not None:
            self._link.transport.abort()

    def stalled_bytes(self) -> int:
        """What waits for a client that has taken next to nothing since the last call; 0 if it reads."""
        before, taken = self._swept_bytes, self._taken_bytes
        transport = self._link.transport
        buffered = 0 if transport is None else transport.get_write_buffer_size()
        self._swept_bytes, self._taken_bytes = self._unsent_bytes(), self._output.written_bytes - buffered
        return min(before, self._swept_bytes) if self._taken_bytes - taken < LEAST_TAKEN_BYTES else 0

    def _unsent_bytes(self) -> int:
        transport = self._link.transport
        waiting = sum(stream.pending_bytes for stream in self._output.blocked)
        return waiting + (transport.get_write_buffer_size() if transport is not None else 0)

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits as of `now_s`; it is called about once a second."""
        limits, link, input_ = self._limits, self._link, self._input
        transport = link.transport
        if transport is None:
            return
        self._output.now_s = now_s
        self._output.look_again()
        input_.budget = min(limits.abuse_budget, input_.budget + limits.abuse_refill_per_s)
        progress: tuple[object, ...] = (link.stage, input_.frames, len(input_.streams))
        if link.write_paused:
            progress = (link.stage, int(transport.get_write_buffer_size() / limits.least_taken_bytes))
        if progress != self._progress:
            self._progress, self._since_s = progress, now_s
        if input_.requests != self._requests or not input_.is_idle:
            self._requests, self._rests_since_s = input_.requests, now_s
        waited_s = now_s - self._since_s
        header_s = input_.header_began_s
        if link.stage == LINGERING or transport.is_closing():
            if waited_s > limits.linger_timeout_s:
                transport.abort()
        elif link.write_paused:
            if waited_s > limits.write_timeout_s:
                transport.abort()
        elif header_s is not None:
            if now_s - header_s > limits.header_timeout_s:
                self._end(ENHANCE_YOUR_CALM, f"a header took more than {limits.header_timeout_s:g} s to arrive")
        elif input_.is_idle and waited_s > limits.idle_timeout_s:
            self._close_idle(f"nothing came on this connection for {limits.idle_timeout_s:g} s: open the stream again")
        else:
            self._sweep_streams(now_s)

    def _sweep_streams(self, now_s: float) -> None:
        limits = self._limits
        for stream in tuple(self._input.streams.values()):
            call = stream.call
            if call is None or call.lasting:
                continue
            if not stream.remote_ended and now_s - stream.received_s > limits.body_timeout_s:
                rate = f"{limits.least_bytes_per_s} bytes per second, over {limits.body_timeout_s:g} s"
                call.time_out(f"the message arrives more slowly than {rate}; nothing of it was done")
            elif stream.pending and now_s - stream.moved_s > limits.write_timeout_s:
                self._output.reset(stream, CANCEL)
                call.lost()
