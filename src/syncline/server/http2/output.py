"""Sending side of one HTTP/2 connection: frames, flow control, one write at the end of each turn.

An answer that fits into the client's windows leaves at once, as three frames in one piece. All else waits in its
stream (`Http2Stream.pending`) until the client opens its windows, or has read what was written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from syncline.server.http.input_turns import InputTurns, message_cost
from syncline.server.http.state import Link, nothing
from syncline.server.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    FRAME_HEAD,
    HEADERS,
    LARGEST_WINDOW,
    NO_ERROR,
    RST_STREAM,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
)
from syncline.server.http2.limits import Http2Limits
from syncline.server.http2.streams import ConnectionBytes, Http2Stream

__all__ = ["FrameOutput"]

FIRST_WINDOW: Final = 65_535
"""Each window, until the other end says otherwise (RFC 9113, 6.9.2)."""

WRITE_BYTES: Final = 256 * 1024
"""When so much was made in one turn, it is written, and the rest waits for the next turn."""

STREAM_MESSAGE_COST: Final = 12
"""Of a turn, to carry out what a message of a stream asks, beside its bytes: to make a watch takes 150 us."""

TELL_BYTES: Final = 32 * 1024
"""When so much of a stream was taken, its client is told. The window is wider than the longest message by more."""

_PACK: Final = FRAME_HEAD.pack
_END: Final = END_STREAM | END_HEADERS


class FrameOutput:
    """Writes the frames of one connection.

    `flush_later` calls `flush` at the end of the turn. `closed` is told of each stream that has ended. `go_on` is
    called after a flush, when reading may go on.
    """

    __slots__ = (
        "_blocked",
        "_closed",
        "_deferred",
        "_deferred_bytes",
        "_flush_later",
        "_go_on",
        "_held",
        "_limits",
        "_link",
        "_made_bytes",
        "_parts",
        "_ready",
        "_turns",
        "_waiters",
        "ended",
        "flush_scheduled",
        "initial_window",
        "now_s",
        "window",
        "written_bytes",
    )

    def __init__(
        self,
        limits: Http2Limits,
        link: Link,
        held: ConnectionBytes,
        turns: InputTurns,
        *,
        flush_later: Callable[[FrameOutput], None],
        closed: Callable[[Http2Stream], None],
        go_on: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._link = link
        self._held = held
        self._turns = turns
        self._flush_later = flush_later
        self._closed = closed
        self._go_on = go_on
        self._parts: list[bytes] = []
        self._made_bytes = 0
        self._deferred: deque[tuple[Callable[[], None], int]] = deque()
        """Makers of answers for which there was no room, and what each keeps in memory."""
        self._deferred_bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        """Senders of streams that wait for room."""
        self._blocked: dict[Http2Stream, None] = {}
        """Streams whose client does not take what waits for it."""
        self._ready: dict[Http2Stream, None] = {}
        """Those of them whose own window is open, in their turn: they wait for the connection's, or for room."""
        self.flush_scheduled: bool = False
        self.ended: bool = False
        """The last frame was written."""
        self.window: int = FIRST_WINDOW
        """What the client takes on all streams together."""
        self.initial_window: int = FIRST_WINDOW
        """What it takes on a new stream."""
        self.now_s: float = 0.0
        self.written_bytes: int = 0
        """All frames so far: what of it is not in the send buffer has left."""

    # --- the application's side

    def respond(self, stream: Http2Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole answer."""
        size, number = len(data), stream.id
        if stream.local_ended:
            return
        if (
            size <= self.window
            and size <= stream.send_window
            and size <= FRAME_BYTES
            and not (self._link.write_paused or stream.pending or self._made_bytes > WRITE_BYTES)
        ):
            self.window -= size
            self._write(
                b"".join(
                    (
                        _PACK(0, len(head), HEADERS, END_HEADERS, number),
                        head,
                        _PACK(size >> 8, size & 0xFF, DATA, 0, number),
                        data,
                        _PACK(0, len(trailers), HEADERS, _END, number),
                        trailers,
                    )
                )
            )
            self._close(stream)
            return
        self.begin(stream, head)
        self.send(stream, data)
        self.finish(stream, trailers)

    def when_room(self, answer: Callable[[], None], size_bytes: Callable[[], int]) -> bool:
        """Call `answer` when the connection has room for what it sends: now or later. False: too much waits already.

        `size_bytes`: what it keeps in memory until then, asked for if there is no room.
        """
        if self._held.has_room and not self._deferred:
            answer()
            return True
        limits, more = self._limits, size_bytes()
        if len(self._deferred) >= limits.max_deferred:
            return False
        if self._deferred and self._deferred_bytes + more > limits.max_held_bytes:
            return False
        self._deferred.append((answer, more))
        self._deferred_bytes += more
        return True

    @property
    def has_room(self) -> bool:
        """Whether a message of a stream may be made."""
        return self._held.has_room

    async def room(self) -> None:
        """Wait until a message may be made: one sender goes on in a turn, so that the next one sees what it sent."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def begin(self, stream: Http2Stream, head: bytes) -> None:
        """Send the header block of an answer that goes on."""
        if not stream.local_ended:
            self._write(frame(HEADERS, END_HEADERS, stream.id, head))

    def send(self, stream: Http2Stream, data: bytes) -> bool:
        """Send data; whether the sender may go on without waiting for `drained`."""
        if stream.local_ended:
            return True
        if stream.pending is None:
            stream.pending = deque()
        if not stream.pending:
            stream.moved_s, stream.part_sent_bytes = self.now_s, 0
        stream.pending.append(memoryview(data) if len(data) > FRAME_BYTES else data)
        stream.pending_bytes += len(data)
        self._held.add(stream, len(data))
        self._send_pending(stream)
        return not self._must_wait(stream)

    async def drained(self, stream: Http2Stream) -> None:
        """Wait until the client has taken enough for more to be sent, or the stream is closed."""
        while self._must_wait(stream) and not stream.local_ended:
            if stream.waiter is None:
                stream.waiter = asyncio.get_running_loop().create_future()
            await stream.waiter

    def _must_wait(self, stream: Http2Stream) -> bool:
        limits = self._limits
        return stream.pending_bytes > (limits.high_water_bytes if self._held.has_room else 0)

    def finish(self, stream: Http2Stream, trailers: bytes) -> None:
        """End an answer with its trailers: or, without a head before, with the only header block."""
        if stream.local_ended:
            return
        if stream.pending:
            stream.trailers = trailers
            return
        self._write(frame(HEADERS, _END, stream.id, trailers))
        self._close(stream)

    def reset(self, stream: Http2Stream, code: int) -> None:
        """End a stream with an error."""
        if not stream.local_ended:
            self._write(frame(RST_STREAM, 0, stream.id, code.to_bytes(4, "big")))
            stream.remote_ended = True
            self._close(stream)

    def taken(self, stream: Http2Stream, size_bytes: int) -> None:
        """Bytes of the stream's body were taken: the client may send as many more."""
        if stream.local_ended:
            return
        self._held.add(stream, -size_bytes)
        stream.received_s, stream.part_received_bytes = self.now_s, 0  # what is behind it is another message
        stream.untold_bytes += size_bytes
        if stream.untold_bytes >= TELL_BYTES and not stream.remote_ended:
            more, stream.untold_bytes = stream.untold_bytes, 0
            stream.receive_window += more
            self._write(frame(WINDOW_UPDATE, 0, stream.id, more.to_bytes(4, "big")))

    async def turn_for(self, size_bytes: int) -> None:
        """Wait until a message of this size may be decoded."""
        await self._turns.read(STREAM_MESSAGE_COST + message_cost(size_bytes))

    def hold(self, stream: Http2Stream, more_bytes: int) -> bool:
        """Count more (or, if it is negative, less) in memory for what the stream has asked; whether there is room."""
        if not stream.local_ended:
            self._held.add(stream, more_bytes)
        return self._held.has_room

    # --- the connection's side

    def control(self, data: bytes) -> None:
        """Send a frame of the connection, such as an acknowledgement."""
        self._write(data)

    def forget(self, stream: Http2Stream) -> None:
        """The stream is closed: the client has reset it, or the connection is lost."""
        stream.local_ended = True
        if stream.pending is None:
            return  # nothing has waited
        self._blocked.pop(stream, None)
        self._ready.pop(stream, None)
        stream.pending.clear()
        stream.pending_bytes = 0
        stream.wake()

    def widen(self, stream: Http2Stream | None, more: int) -> None:
        """The client takes more: on a stream, or (None) on all. Raises `ConnectionFault`."""
        if stream is None:
            self.window += more
            if self.window > LARGEST_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the window of the connection is above 2^31-1")
            if self._ready:
                self.schedule()
            return
        stream.send_window += more
        if stream in self._blocked:
            self._send_pending(stream)

    @property
    def blocked(self) -> tuple[Http2Stream, ...]:
        """The streams whose client does not take what waits for it."""
        return tuple(self._blocked)

    def lost(self) -> None:
        """The connection is lost: forget what was to be sent."""
        self._parts.clear()
        self._deferred.clear()
        self._waiters.clear()  # their tasks are cancelled

    def forget_connection(self) -> None:
        """All streams of a lost connection have ended: forget the connection, which refers to this."""
        self._closed = self._go_on = nothing

    def look_again(self) -> None:
        """Make answers that have waited, if other connections have made room: called at intervals."""
        if self._deferred or self._waiters:
            self.schedule()

    def schedule(self) -> None:
        """Call `flush` at the end of the turn."""
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self._flush_later(self)

    def flush(self) -> None:
        """Write what was made; then let streams go on that had to wait, and the reading."""
        link = self._link
        if link.transport is None or link.transport.is_closing() or self.ended:
            self._parts.clear()
            return
        if self._parts:
            parts, self._parts = self._parts, []
            data = b"".join(parts)
            self.written_bytes += len(data)
            link.transport.write(data)
        self._made_bytes = 0
        ready = self._ready
        for _ in range(len(ready)):
            if link.write_paused or self.window <= 0 or not ready:
                break
            if self._made_bytes > WRITE_BYTES:
                self.schedule()
                break
            stream = next(iter(ready))
            del ready[stream]  # to the end: the others are next
            self._send_pending(stream)
        deferred = self._deferred
        while deferred and self._held.has_room and not link.write_paused:
            if self._made_bytes > WRITE_BYTES:
                self.schedule()
                break
            answer, size_bytes = deferred.popleft()
            self._deferred_bytes -= size_bytes
            answer()
        if self._waiters:
            self._wake_one()
        self._go_on()

    def _wake_one(self) -> None:
        waiters = self._waiters
        while waiters and self._held.has_room and not self._link.write_paused:
            waiter = waiters.popleft()
            if not waiter.done():  # else its call was cancelled
                waiter.set_result(None)
                break
        if waiters and self._held.has_room:
            self.schedule()

    def write_stream(self) -> bool:
        """Part of `FlushedOutput`: `flush` at the end of the turn is as good."""
        return False

    def _write(self, data: bytes) -> None:
        self._parts.append(data)
        self._made_bytes += len(data)
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self._flush_later(self)

    def _send_pending(self, stream: Http2Stream) -> None:
        """Send what waits in a stream, as far as the windows and the turn allow."""
        pending, link = stream.pending, self._link
        while pending:
            data = pending[0]
            size = min(len(data), self.window, stream.send_window, FRAME_BYTES)
            if size <= 0 and data:
                break
            if link.write_paused:
                break
            if self._made_bytes > WRITE_BYTES:
                self.schedule()
                break
            if size == len(data):
                pending.popleft()
            else:
                pending[0] = data[size:]
                data = data[:size]
            self.window -= size
            stream.send_window -= size
            stream.pending_bytes -= size
            stream.part_sent_bytes += size
            if stream.part_sent_bytes >= self._limits.least_taken_bytes:
                stream.moved_s, stream.part_sent_bytes = self.now_s, 0
            self._held.add(stream, -size)
            self._write(_PACK(size >> 8, size & 0xFF, DATA, 0, stream.id) + data)
        if pending:
            self._blocked[stream] = None
            if stream.send_window > 0:
                self._ready[stream] = None
            else:
                self._ready.pop(stream, None)
            if stream.waiter is not None and not self._must_wait(stream):
                stream.wake()
            return
        self._blocked.pop(stream, None)
        self._ready.pop(stream, None)
        if stream.trailers is not None:
            self._write(frame(HEADERS, _END, stream.id, stream.trailers))
            self._close(stream)
        elif stream.waiter is not None:
            stream.wake()

    def _close(self, stream: Http2Stream) -> None:
        """The answer is complete. A client that still sends is told that nothing reads it."""
        if not stream.remote_ended:
            self._write(frame(RST_STREAM, 0, stream.id, NO_ERROR.to_bytes(4, "big")))
        self.forget(stream)
        self._closed(stream)
