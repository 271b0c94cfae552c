"""Receiving side of one HTTP/2 connection: bytes to frames, frames to streams, with a limit on everything.

A fault of one stream ends that stream (`StreamFault`); a fault of the connection ends the connection
(`ConnectionFault`), after a GOAWAY that says why. What a client may do without limit takes no memory and is answered
at once (PING), or is counted: resets, empty frames and the like have a budget, which comes back with time.

Frames for a stream that has ended are ignored, since they may have been on their way; they cost of the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import unpack
from typing import Final

from syncline.server.http.input_turns import InputTurns, message_cost
from syncline.server.http.state import Link, nothing
from syncline.server.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    FRAME_HEAD,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEAD_BYTES,
    HEADERS,
    LARGEST_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    ConnectionFault,
    StreamFault,
    frame,
)
from syncline.server.http2.header_blocks import HeaderDecoder, RequestHead
from syncline.server.http2.limits import PAUSE_COST, Http2Limits
from syncline.server.http2.output import FrameOutput
from syncline.server.http2.streams import ConnectionBytes, Http2Stream, StreamCall, StreamShare

__all__ = ["END_COST", "MADE_ROOM", "FrameInput", "OpenStream"]

OpenStream = Callable[[Http2Stream, RequestHead], None]
"""Gives a new stream to the application."""

MADE_ROOM: Final = (
    "too many connections or streams are open, and this one had no request so far: open it again when there is one"
)
"""Why a silent stream is ended."""

_UNPACK: Final = FRAME_HEAD.unpack_from
_SETTINGS_COST: Final = 8
"""Of the budget, for each frame of settings: a client has reason to send one or two."""
END_COST: Final = 8
"""Of ending a stream that its client has not ended: its tasks are cancelled, each in a turn of its own."""
_STREAMS_A_COST: Final = 32
"""Changing the windows of so many streams costs one more."""

_ENABLE_PUSH: Final = 2
_INITIAL_WINDOW: Final = 4
_MAX_FRAME: Final = 5


class FrameInput:
    """Reads the frames of one connection. `received` raises `ConnectionFault`; nothing may be read after it."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_s",
        "_block_stream",
        "_consumed_bytes",
        "_cost",
        "_decoder",
        "_greeted",
        "_held",
        "_limits",
        "_link",
        "_open",
        "_output",
        "_rest",
        "_turns",
        "_window",
        "budget",
        "draining",
        "frames",
        "last_stream",
        "requests",
        "share",
        "silent",
        "streams",
    )

    def __init__(
        self,
        limits: Http2Limits,
        link: Link,
        held: ConnectionBytes,
        output: FrameOutput,
        open_stream: OpenStream,
        turns: InputTurns,
    ) -> None:
        self._limits = limits
        self._turns = turns
        self._cost = 0
        """Of what was read in this call."""
        self._link = link
        self._held = held
        self._output = output
        self._open = open_stream
        self.share: StreamShare
        """Set before the first byte is read."""
        self._decoder = HeaderDecoder(limits.max_header_bytes)
        self._rest = b""
        self._greeted = False
        """The preface and the first settings have come."""
        self._block: bytearray | None = None
        """A header block that goes on in CONTINUATION frames."""
        self._block_stream = self._block_flags = 0
        self._block_s = 0.0
        """When it began."""
        self._window = limits.connection_window_bytes
        self._consumed_bytes = 0
        """What has come since the client's window was last widened."""
        self.streams: dict[int, Http2Stream] = {}
        self.silent: int = 0
        """How many of them have had no whole message yet."""
        self.requests: int = 0
        """How many others there were."""
        self.last_stream: int = 0
        """The highest number of a stream that was looked at."""
        self.draining: bool = False
        """New streams are ignored: the client was told so."""
        self.frames: int = 0
        """How many have come: tells a silent client."""
        self.budget: int = limits.abuse_budget

    @property
    def header_began_s(self) -> float | None:
        """When the first part of a header block came that is incomplete."""
        return None if self._block is None else self._block_s

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked: there is no stream, or none with a whole message."""
        return self.silent == len(self.streams)

    @property
    def has_rest(self) -> bool:
        """Whether whole frames were left for the next turn."""
        rest = self._rest
        if len(rest) < HEAD_BYTES or not self._greeted:
            return False
        return len(rest) >= HEAD_BYTES + int.from_bytes(rest[:3], "big")

    def received(self, data: bytes) -> None:
        """Read what has come, up to `PAUSE_COST` and while the turn has room. The rest is kept for the next call."""
        if self._rest:
            data = self._rest + data
        if not self._greeted:
            if len(data) < len(PREFACE):
                self._rest = data
                return
            if data[: len(PREFACE)] != PREFACE:
                raise ConnectionFault(PROTOCOL_ERROR, "HTTP/2 begins with another preface")
            data = data[len(PREFACE) :]
            self._greeted = True
        self._cost = 0
        try:
            at = self._read_frames(data, min(PAUSE_COST, self._turns.left))
        finally:
            self._turns.spend(self._cost)
        self._rest = data[at:] if at < len(data) else b""

    def _read_frames(self, data: bytes, most: int) -> int:
        """Read whole frames until their cost is `most`; where the rest begins."""
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES and self._cost < most:
            high, low, kind, flags, number = _UNPACK(data, at)
            size = high << 8 | low
            if size > FRAME_BYTES:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame has {size} bytes; the limit is {FRAME_BYTES}")
            stop = at + HEAD_BYTES + size
            if stop > end:
                break
            self._cost += 1
            try:
                if kind == DATA and self._block is None and self.frames:  # most frames are data of requests
                    self.frames += 1
                    self._data(flags, number & 0x7FFF_FFFF, data, at + HEAD_BYTES, stop)
                else:
                    self._frame(kind, flags, number & 0x7FFF_FFFF, data, at + HEAD_BYTES, stop)
            except StreamFault as fault:
                self._reset(number & 0x7FFF_FFFF, fault.code)
            at = stop
        return at

    def spend(self, cost: int = 1) -> None:
        """Take from the budget for what has no use. Raises `ConnectionFault` when it is spent."""
        self.budget -= cost
        if self.budget < 0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many resets, or frames without use")

    def _reset(self, number: int, code: int) -> None:
        self.spend()
        stream = self.streams.get(number)
        if stream is None:
            self._output.control(frame(RST_STREAM, 0, number, code.to_bytes(4, "big")))
            return
        call = stream.call
        self._output.reset(stream, code)
        self._call_lost(call)

    def _call_lost(self, call: StreamCall | None) -> None:
        if call is not None:
            self._cost += END_COST
            call.lost()

    def _frame(self, kind: int, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        self.frames += 1
        if self._block is not None and (kind != CONTINUATION or number != self._block_stream):
            raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted by another frame")
        if self.frames == 1 and (kind != SETTINGS or flags & ACK):
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == DATA:
            self._data(flags, number, data, at, stop)
        elif kind == HEADERS:
            self._headers(flags, number, data, at, stop)
        elif kind == WINDOW_UPDATE:
            self._window_update(number, data, at, stop)
        elif kind == RST_STREAM:
            self._rst_stream(number, stop - at)
        elif kind == SETTINGS:
            self._settings(flags, number, data[at:stop])
        elif kind == PING:
            if stop - at != 8 or number:
                raise ConnectionFault(FRAME_SIZE_ERROR if not number else PROTOCOL_ERROR, "PING is malformed")
            if not flags & ACK:
                self._output.control(frame(PING, ACK, 0, data[at:stop]))
        elif kind == CONTINUATION:
            self._continuation(flags, data[at:stop])
        else:
            self._other(kind, number, stop - at)

    def _other(self, kind: int, number: int, size: int) -> None:
        if kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "a client can't push")
        if kind == GOAWAY:
            if number:
                raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY belongs to no stream")
            return  # the client closes when it has its answers
        if kind == PRIORITY and not number:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY needs a stream")
        self.spend()  # an unknown frame has no meaning (4.1), and neither has PRIORITY
        if kind == PRIORITY and size != 5:
            raise StreamFault(FRAME_SIZE_ERROR)

    # --- requests

    def _headers(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        if not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a client's streams have odd numbers")
        if flags & PADDED:
            at, stop = _unpadded(data, at, stop)
        if flags & PRIORITY_FLAG:
            at += 5
        if at > stop:
            raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS is too short")
        if flags & END_HEADERS:
            self._header_block(flags, number, data[at:stop])
            return
        self._block, self._block_stream, self._block_flags = bytearray(data[at:stop]), number, flags
        self._block_s = self._output.now_s

    def _continuation(self, flags: int, data: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION continues nothing")
        self.spend()
        block += data
        if len(block) > self._limits.max_header_bytes:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the header is too large")
        if flags & END_HEADERS:
            self._block = None
            self._header_block(self._block_flags, self._block_stream, bytes(block))

    def _header_block(self, flags: int, number: int, block: bytes) -> None:
        head = self._decoder.decode(block)
        self._cost += self._decoder.cost
        stream = self.streams.get(number)
        if stream is not None:
            self._client_trailers(stream, flags)
            return
        if number <= self.last_stream:
            self.spend()
            return  # trailers of a stream that was answered already
        self.last_stream = number
        if self.draining:
            return
        output, most = self._output, self._limits.max_total_streams
        if self.share.is_full(most):
            self._cost += END_COST
            self.share.make_room(output.now_s, MADE_ROOM)
        if len(self.streams) >= self._limits.max_streams or self.share.is_full(most):
            raise StreamFault(REFUSED_STREAM)
        if head is None:
            raise StreamFault(PROTOCOL_ERROR)
        stream = Http2Stream(number, self._limits.stream_window_bytes, output.initial_window, output.now_s)
        self.streams[number] = stream
        self.share.add(1)
        if flags & END_STREAM:
            stream.remote_ended = True
            self.requests += 1
        else:
            self.silent += 1
            self.share.silent[stream] = None
        self._open(stream, head)
        if stream.call is not None:
            self._cost += stream.call.opening_cost
        if flags & END_STREAM:
            self._call_ended(stream)

    def _client_trailers(self, stream: Http2Stream, flags: int) -> None:
        if stream.remote_ended:
            raise StreamFault(STREAM_CLOSED)
        if not flags & END_STREAM:
            raise StreamFault(PROTOCOL_ERROR)
        self._ended(stream)

    def _ended(self, stream: Http2Stream) -> None:
        """The client has sent all: what it has sent is decoded now."""
        stream.remote_ended = True
        self._asked(stream)
        self._call_ended(stream)

    def _call_ended(self, stream: Http2Stream) -> None:
        if (call := stream.call) is not None:
            self._cost += message_cost(len(stream.body)) + call.asking_cost
            call.ended()

    def _asked(self, stream: Http2Stream) -> None:
        """A whole message has come, or there will be none."""
        if self._unsilence(stream):
            self.requests += 1

    def _unsilence(self, stream: Http2Stream) -> bool:
        """Count a stream among the silent ones no more; whether it was one."""
        if stream not in self.share.silent:
            return False
        del self.share.silent[stream]
        self.silent -= 1
        return True

    def _data(self, flags: int, number: int, data: bytes, at: int, stop: int) -> None:
        size = stop - at
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data came than the connection's window allows")
        self._consumed_bytes += size
        if self._consumed_bytes > self._limits.connection_window_bytes >> 1:
            more, self._consumed_bytes = self._consumed_bytes, 0
            self._window += more
            self._output.control(frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big")))
        stream = self.streams.get(number)
        if stream is None:
            if number > self.last_stream or not number & 1:
                raise ConnectionFault(PROTOCOL_ERROR, "DATA on a stream that was not opened")
            self.spend(1 if size < 1024 else 0)  # what was on its way to a stream that has ended
            return
        if stream.remote_ended:
            raise StreamFault(STREAM_CLOSED)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(FLOW_CONTROL_ERROR)
        if flags & PADDED:
            at, stop = _unpadded(data, at, stop)
        if at < stop:
            stream.part_received_bytes += stop - at
            if not stream.body or stream.part_received_bytes >= self._limits.least_received_bytes:
                stream.received_s, stream.part_received_bytes = self._output.now_s, 0
            if stream.body:
                if type(stream.body) is bytes:
                    stream.body = bytearray(stream.body)
                stream.body += data[at:stop]
            else:
                stream.body = data[at:stop]
            self._held.add(stream, stop - at)
        elif not flags & END_STREAM:
            self.spend()
        call = stream.call
        if call is None:
            return
        if not self._held.has_room:
            call.refuse("too much is being sent and asked at once; nothing was done")
            return
        if flags & END_STREAM:
            self._ended(stream)
            return
        call.data_received()
        if not call.silent:
            self._asked(stream)

    def _rst_stream(self, number: int, size: int) -> None:
        if size != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM is malformed")
        if not number or number > self.last_stream:
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM of a stream that was not opened")
        self.spend()
        stream = self.streams.pop(number, None)
        if stream is None:
            return
        self.share.add(-1)
        self._unsilence(stream)
        self._held.release(stream)
        call, stream.call = stream.call, None
        stream.remote_ended = True
        self._output.forget(stream)
        self._call_lost(call)

    def closed(self, stream: Http2Stream) -> None:
        """The output has ended a stream."""
        if self.streams.pop(stream.id, None) is not None:
            self.share.add(-1)
            self._unsilence(stream)
            self._held.release(stream)
        stream.call = None
        stream.body = b""

    def clear(self) -> None:
        """The connection has ended: end all streams, as many in a turn as it has room for.

        All that a client may have open would take the event loop for a second. The others stay counted until then.
        """
        self._rest, self._block = b"", None
        turns, streams = self._turns, self.streams
        while streams and turns.left > 0:
            turns.spend(END_COST)
            stream = streams[next(iter(streams))]
            call = stream.call
            self._output.forget(stream)
            self.closed(stream)
            if call is not None:
                call.lost()
        if streams:
            turns.wait(self.clear)
        elif self._link.transport is None:
            self._open = nothing  # as in `forget_connection`
            self._output.forget_connection()

    # --- the connection

    def _window_update(self, number: int, data: bytes, at: int, stop: int) -> None:
        if stop - at != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE is malformed")
        more = int.from_bytes(data[at:stop], "big") & 0x7FFF_FFFF
        if not number:
            if not more:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._output.widen(None, more)
            return
        if number > self.last_stream or not number & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that was not opened")
        stream = self.streams.get(number)
        if stream is None:
            return  # often the last frame of a stream that was answered
        if not more:
            raise StreamFault(PROTOCOL_ERROR)
        if stream.send_window + more > LARGEST_WINDOW:
            raise StreamFault(FLOW_CONTROL_ERROR)
        self._output.widen(stream, more)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS belongs to no stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS is malformed")
        if flags & ACK:
            return
        self.spend(_SETTINGS_COST)
        output = self._output
        first_window = output.initial_window
        for at in range(0, len(payload), 6):
            key, value = unpack(">HI", payload[at : at + 6])
            if key == _INITIAL_WINDOW:
                if value > LARGEST_WINDOW:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1")
                first_window = value  # the last of the frame: a frame has room for thousands
            elif key == _MAX_FRAME:
                if not FRAME_BYTES <= value < 1 << 24:  # else it is ignored: small frames are always right, and mix
                    raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE is not from 16384 to 16777215")
            elif key == _ENABLE_PUSH and value > 1:
                raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if first_window != output.initial_window:
            self._first_windows(first_window)
        output.control(frame(SETTINGS, ACK, 0))

    def _first_windows(self, value: int) -> None:
        """Another first window of streams: it changes those that are open, too (6.9.2)."""
        self.spend(len(self.streams) // _STREAMS_A_COST)
        output = self._output
        more, output.initial_window = value - output.initial_window, value
        for stream in tuple(self.streams.values()):
            if stream.send_window + more > LARGEST_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a stream's window is above 2^31-1")
            output.widen(stream, more)


def _unpadded(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Where the content of a padded frame begins and ends."""
    if at >= stop or at + 1 + data[at] > stop:
        raise ConnectionFault(PROTOCOL_ERROR, "a frame has more padding than bytes")
    return at + 1, stop - data[at]
