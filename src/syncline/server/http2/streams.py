"""Streams of one HTTP/2 connection, and what the application does with each of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from syncline.server.http.state import TotalBytes
from syncline.server.http2.header_blocks import RequestHead

__all__ = ["Application", "ConnectionBytes", "Http2Stream", "StreamCall", "StreamTotal"]


class StreamCall(Protocol):
    """The application's part of one stream. Called on the event loop, while the stream is open."""

    @property
    def opening_cost(self) -> int:
        """What it has taken of the turn to open it, with all that follows without a message (`InputTurns`)."""
        ...

    @property
    def asking_cost(self) -> int:
        """What `ended` takes of the turn, with the answer, beside the bytes of the message."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether the client may be silent now: no part of a message is due, and no time limit holds for the answer."""
        ...

    @property
    def silent(self) -> bool:
        """Whether no whole message has come so far: such a stream makes room for others (`release`)."""
        ...

    def data_received(self) -> None:
        """`body` of the stream has grown."""
        ...

    def ended(self) -> None:
        """The client has sent all. It is called once, after the last `data_received`."""
        ...

    def refuse(self, reason: str) -> None:
        """Answer that too much is asked at once."""
        ...

    def time_out(self, reason: str) -> None:
        """Answer that the client sends too slowly."""
        ...

    def release(self, reason: str) -> None:
        """End a call that is `silent`, so that its client may begin it again."""
        ...

    def stop(self) -> None:
        """The server stops: end a call that has no end of its own."""
        ...

    def lost(self) -> None:
        """The client has reset the stream, or the connection is lost. Nothing more is called, or sent."""
        ...


class Http2Stream:
    """One request and its answer."""

    __slots__ = (
        "body",
        "call",
        "held",
        "id",
        "local_ended",
        "moved_s",
        "part_received_bytes",
        "part_sent_bytes",
        "pending",
        "pending_bytes",
        "receive_window",
        "received_s",
        "remote_ended",
        "send_window",
        "trailers",
        "untold_bytes",
        "waiter",
    )

    def __init__(self, stream_id: int, receive_window: int, send_window: int, now_s: float) -> None:
        self.id: int = stream_id
        self.call: StreamCall | None = None
        """Set when the application has taken the stream; None again when the stream is closed."""
        self.body: bytes | bytearray = b""
        """What was received and not taken."""
        self.held: int = 0
        """Its part of the connection's bytes."""
        self.receive_window: int = receive_window
        self.untold_bytes: int = 0
        """What was taken, and not added to the window yet."""
        self.send_window: int = send_window
        self.pending: deque[bytes | memoryview] | None = None
        """What waits for the client's window, or for room in the send buffer."""
        self.pending_bytes: int = 0
        self.trailers: bytes | None = None
        """The last header block, once it waits behind `pending`."""
        self.remote_ended: bool = False
        self.local_ended: bool = False
        """Nothing more is sent: the answer is complete, or the stream was reset."""
        self.received_s: float = now_s
        """When the message that is under way began, or its last part had come (`Http2Limits.least_received_bytes`)."""
        self.part_received_bytes: int = 0
        """What has come of the next part."""
        self.moved_s: float = now_s
        """When `pending` began to wait, or the client had taken the last part of it."""
        self.part_sent_bytes: int = 0
        """What it has taken of the next part."""
        self.waiter: asyncio.Future[None] | None = None
        """Done when `pending` is below the mark, or the stream is closed."""

    def wake(self) -> None:
        """Let the sender go on."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class StreamTotal:
    """Open streams of all connections of a server, and by the network of the client (`network_of`)."""

    __slots__ = ("_shares", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._shares: dict[str, StreamShare] = {}

    def join(self, network: str) -> StreamShare:
        """A connection of this network begins."""
        share = self._shares.get(network)
        if share is None:
            share = self._shares[network] = StreamShare(self, network)
        share.connections += 1
        return share

    def leave(self, share: StreamShare) -> None:
        """It has ended, with all its streams."""
        share.connections -= 1
        if not share.connections:
            self._shares.pop(share.network, None)


class StreamShare:
    """Open streams of the connections of one network.

    A network may have as many streams as are free. So one alone has half of all at most, a second one half of the rest,
    and each newcomer gets some, whatever the others hold.
    """

    __slots__ = ("connections", "count", "network", "silent", "total")

    def __init__(self, total: StreamTotal, network: str) -> None:
        self.total: StreamTotal = total
        self.network: str = network
        self.count: int = 0
        self.connections: int = 0
        self.silent: dict[Http2Stream, None] = {}
        """Those of them on which no whole message has come yet, the oldest first."""

    def is_full(self, limit: int) -> bool:
        """Whether no further stream may be opened, of `limit` in all."""
        return self.count >= limit - self.total.count

    def make_room(self, now_s: float, reason: str) -> None:
        """End the oldest silent stream, if it was silent at the last sweep (`now_s`): its message is not on its way."""
        stream = next(iter(self.silent), None)
        if stream is not None and stream.call is not None and stream.received_s < now_s:
            stream.call.release(reason)

    def add(self, count: int) -> None:
        """Count more streams (or, if it is negative, less)."""
        self.count += count
        self.total.count += count


class ConnectionBytes:
    """Requests and answers of one connection in memory. Each change is a change of the server's total."""

    __slots__ = ("bytes", "limit_bytes", "total")

    def __init__(self, total: TotalBytes, limit_bytes: int) -> None:
        self.total: TotalBytes = total
        self.limit_bytes: int = limit_bytes
        self.bytes: int = 0

    def add(self, stream: Http2Stream, size_bytes: int) -> None:
        """Count more (or, if it is negative, less) for a stream."""
        stream.held += size_bytes
        self.bytes += size_bytes
        self.total.bytes += size_bytes

    def release(self, stream: Http2Stream) -> None:
        """Count nothing for a stream any more."""
        self.bytes -= stream.held
        self.total.bytes -= stream.held
        stream.held = 0

    @property
    def has_room(self) -> bool:
        """Whether another request, or part of one, may be taken."""
        return self.bytes <= self.limit_bytes and self.total.bytes <= self.total.limit_bytes


Application: TypeAlias = Callable[[Http2Stream, RequestHead, "StreamOutput", str, object], StreamCall | None]
"""Takes a new stream: with its head, the output, the client's address, and the connection as an owner of limits. It
returns its part of the stream, or None if it has answered already."""


class StreamOutput(Protocol):
    """The sending side of a connection, for the application."""

    def respond(self, stream: Http2Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole answer: header block, data, trailers."""
        ...

    def when_room(self, answer: Callable[[], None], size_bytes: Callable[[], int]) -> bool:
        """Call `answer` when the connection has room for what it sends: now or later. False: too much waits already.

        `size_bytes`: what it keeps in memory until then, asked for if there is no room.
        """
        ...

    @property
    def has_room(self) -> bool:
        """Whether a message of a stream may be made."""
        ...

    async def room(self) -> None:
        """Wait until a message of a stream may be made."""
        ...

    def begin(self, stream: Http2Stream, head: bytes) -> None:
        """Send the header block of an answer that goes on."""
        ...

    def send(self, stream: Http2Stream, data: bytes) -> bool:
        """Send data; whether the sender may go on without waiting (`drained`)."""
        ...

    async def drained(self, stream: Http2Stream) -> None:
        """Wait until the client has taken enough for more to be sent, or the stream is closed."""
        ...

    def finish(self, stream: Http2Stream, trailers: bytes) -> None:
        """End an answer with its trailers: or, without a head before, with the only header block."""
        ...

    def reset(self, stream: Http2Stream, code: int) -> None:
        """End a stream with an error."""
        ...

    def taken(self, stream: Http2Stream, size_bytes: int) -> None:
        """Bytes of `body` were taken: the client may send as many more."""
        ...

    async def turn_for(self, size_bytes: int) -> None:
        """Wait until a message of this size may be decoded: many in one turn would hold up the event loop."""
        ...

    def hold(self, stream: Http2Stream, more_bytes: int) -> bool:
        """Count more (or, if it is negative, less) in memory for what the stream has asked; whether there is room."""
        ...
