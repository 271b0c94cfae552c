"""One end of a simulated connection, and the path of its bytes to the other end.

The observable behaviour of TCP is kept. Bytes arrive in order or not at all, in other pieces than they were written
in. A write is accepted until the buffers on the way are full. A lost packet delays all bytes behind it. A closed end
answers data with a reset, a dead machine does not answer.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Any, Final, Protocol, cast

__all__ = ["WINDOW_BYTES", "Pipe", "ControlSegment", "SimTransport", "Wire"]

WINDOW_BYTES: Final = 256 * 1024
"""On the way and not read by the other process: the buffers of both systems together."""

MAX_SEGMENT_BYTES: Final = 64 * 1024
HIGH_WATER_BYTES: Final = 64 * 1024
LOW_WATER_BYTES: Final = 16 * 1024


class ControlSegment(Enum):
    """Segments of a pipe that are no data."""

    OPEN = auto()
    FIN = auto()
    RESET = auto()


class Wire(Protocol):
    """The network, as a connection needs it."""

    def now(self) -> float: ...

    def later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle: ...

    def is_cut(self, source: str, target: str) -> bool: ...

    def is_up(self, host: str) -> bool: ...

    def transit_s(self, source: str, target: str) -> float:
        """How long the next packet is on its way."""
        ...

    def transmitted_s(self, source: str, target: str, size: int) -> float:
        """When the line has sent `size` more bytes, behind what all connections have given it before."""
        ...

    def window_bytes(self, source: str, target: str) -> int:
        """How much of one connection may be on the line."""
        ...

    def cut_off(self, size: int) -> int:
        """How many of `size` bytes go into the next packet."""
        ...

    def trace(self, source: str, target: str, event: str) -> None: ...

    def forget(self, end: SimTransport) -> None: ...


class Pipe:
    """The way of the bytes in one direction. Everything arrives in order; a cut holds it back, healing lets it go."""

    def __init__(self, wire: Wire, source: SimTransport, target: SimTransport) -> None:
        self.in_flight_bytes: int = 0
        self._wire = wire
        self._source = source
        self._target = target
        self._segments: deque[tuple[float, bytes | ControlSegment]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._arrival_s = 0.0  # of the last segment
        self._unconfirmed_bytes = 0
        self.late_s: float = 0.0
        """By how much longer what is sent from now on takes than on other connections of the same two hosts."""

    @property
    def window_bytes(self) -> int:
        return self._wire.window_bytes(self._source.host, self._target.host)

    def push(self, segment: bytes | ControlSegment) -> None:
        """Put a segment on its way."""
        source, target = self._source.host, self._target.host
        size = len(segment) if isinstance(segment, bytes) else 0
        self.in_flight_bytes += size
        sent_s = self._wire.transmitted_s(source, target, size)
        self._arrival_s = max(self._arrival_s, sent_s + self._wire.transit_s(source, target) + self.late_s)
        self._segments.append((self._arrival_s, segment))
        if len(self._segments) == 1:
            self._schedule()

    def consumed(self, size: int) -> None:
        """The receiving process has read `size` bytes: the sender may send as many more, once it hears of it."""
        self._unconfirmed_bytes += size
        self._confirm()

    def healed(self, delay_s: float) -> None:
        """A cut in either direction is over: what was lost is sent again after `delay_s`."""
        if self._segments and self._timer is None:
            due_s = self._wire.now() + delay_s
            held = [(max(arrival_s, due_s), segment) for arrival_s, segment in self._segments]
            self._segments = deque(held)
            self._arrival_s = max(self._arrival_s, due_s)
            self._schedule()
        self._confirm()

    def sped_up(self) -> None:
        """The line is slow no more: the bytes that waited for it arrive as if they were sent now."""
        if not self._segments:
            return
        latest_s = self._wire.now() + self._wire.transit_s(self._source.host, self._target.host) + self.late_s
        self._segments = deque((min(arrival_s, latest_s), segment) for arrival_s, segment in self._segments)
        self._arrival_s = min(self._arrival_s, latest_s)
        if self._timer is not None:
            self._timer.cancel()
            self._schedule()

    def stop(self) -> None:
        """Drop the bytes on their way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._segments.clear()

    def _confirm(self) -> None:
        if self._unconfirmed_bytes and not self._wire.is_cut(self._target.host, self._source.host):
            self.in_flight_bytes -= self._unconfirmed_bytes
            self._unconfirmed_bytes = 0
            self._source.wake()

    def _schedule(self) -> None:
        if self._wire.is_cut(self._source.host, self._target.host):
            self._timer = None  # `healed` starts it again
            return
        delay_s = max(0.0, self._segments[0][0] - self._wire.now())
        self._timer = self._wire.later(delay_s, self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        if self._wire.is_cut(self._source.host, self._target.host):
            return
        _, segment = self._segments.popleft()
        event = f"{len(segment)} bytes" if isinstance(segment, bytes) else segment.name
        self._wire.trace(self._source.host, self._target.host, event)
        self._target.arrived(segment)
        if self._segments and self._timer is None:
            self._schedule()


class SimTransport(asyncio.Transport):
    """One end. Its protocol is called in the context of the process that it belongs to."""

    def __init__(
        self,
        wire: Wire,
        host: str,
        address: tuple[str, int],
        remote: tuple[str, int],
        factory: Callable[[], asyncio.BaseProtocol],
        context: contextvars.Context,
    ) -> None:
        super().__init__({"peername": remote, "sockname": address})
        self.host = host
        self.lost: bool = False
        self.dead: bool = False
        self.output: Pipe | None = None
        self.input: Pipe | None = None
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._factory = factory
        self._context = context
        self._protocol: asyncio.Protocol | None = None
        self._on_open: Callable[[], None] | None = None
        self._outbox = bytearray()
        self._inbox: deque[bytes | ControlSegment] = deque()
        self._closing = False
        self._reading_paused = False
        self._writing_paused = False
        self._high_bytes = HIGH_WATER_BYTES
        self._low_bytes = LOW_WATER_BYTES

    # -- for the network

    def open(self, then: Callable[[], None] | None = None) -> None:
        """Establish this end: make the protocol and tell it, then call `then`."""
        self._on_open = then
        self.call(self._open)

    def arrived(self, segment: bytes | ControlSegment) -> None:
        """A packet came to the machine of this end."""
        if segment is ControlSegment.OPEN:
            self.open()
        elif self.lost or self.dead:
            if isinstance(segment, bytes) and self._wire.is_up(self.host) and self.output is not None:
                self.output.push(ControlSegment.RESET)  # this end is gone
        else:
            self._inbox.append(segment)
            self.call(self._read)

    def wake(self) -> None:
        """There may be room on the way again."""
        if not self.lost and not self.dead and (self._outbox or self._writing_paused):
            self.call(self._pump)

    def break_off(self, error: Exception | None) -> None:
        """The connection is gone, for the reason given; the other end does not notice."""
        if self.lost or self.dead:
            return
        self.lost = self._closing = True
        self._outbox.clear()
        self._inbox.clear()
        if self._protocol is not None:
            self.call(self._protocol.connection_lost, error)
        self._wire.forget(self)

    def die(self) -> None:
        """The process of this end is gone: it gets no more calls."""
        self.dead = True
        self._outbox.clear()
        self._inbox.clear()
        self._wire.forget(self)

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon(callback, *arguments, context=self._context)

    def _open(self) -> None:
        if self.lost or self.dead:
            return
        self._protocol = cast("asyncio.Protocol", self._factory())
        self._protocol.connection_made(self)
        if self._on_open is not None:
            self._on_open()

    def _read(self) -> None:
        while self._inbox and not self._reading_paused and not self.lost and self._protocol is not None:
            segment = self._inbox.popleft()
            if isinstance(segment, bytes):
                if not self._closing:  # a closing transport reads no more
                    self._protocol.data_received(segment)
                if self.input is not None:
                    self.input.consumed(len(segment))
            elif segment is ControlSegment.RESET:
                self.break_off(ConnectionResetError("the other end reset the connection"))
            elif not self._closing and not self._protocol.eof_received():
                self.close()

    def _pump(self) -> None:
        if self.lost or self.dead or self.output is None:
            return
        window = self.output.window_bytes
        while self._outbox and self.output.in_flight_bytes < window:
            size = min(len(self._outbox), MAX_SEGMENT_BYTES, window - self.output.in_flight_bytes)
            size = self._wire.cut_off(size)
            self.output.push(bytes(self._outbox[:size]))
            del self._outbox[:size]
        if self._writing_paused and len(self._outbox) <= self._low_bytes:
            self._writing_paused = False
            if self._protocol is not None:
                self._protocol.resume_writing()
        if self._closing and not self._outbox:
            self.output.push(ControlSegment.FIN)
            self.break_off(None)

    # -- asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing or self.dead or not data:
            return
        self._outbox += data
        self._pump()
        if len(self._outbox) > self._high_bytes and not self._writing_paused:
            self._writing_paused = True
            if self._protocol is not None:
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._pump()

    def abort(self) -> None:
        self.reset(None)

    def reset(self, error: Exception | None) -> None:
        """End it at once, for the reason given (None: by its own process); the other end is sent a reset."""
        if not self.lost and not self.dead:
            if self.output is not None:
                self.output.push(ControlSegment.RESET)
            self.break_off(error)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.call(self._read)

    def get_write_buffer_size(self) -> int:
        return len(self._outbox)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_bytes, self._high_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_bytes = HIGH_WATER_BYTES if high is None else high
        self._low_bytes = self._high_bytes // 4 if low is None else low

    def can_write_eof(self) -> bool:
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)
