"""An HTTP/2 client in memory (`h2`, which is not ours) on a server's connection, and a face for gRPC's calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from syncline.server.etcd.errors import EtcdError
from syncline.server.etcd.face import EtcdCaller, Finished, Send
from syncline.server.etcd.grpc.service import GrpcService
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS, Method
from syncline.server.etcd.protobuf import decode, encode
from syncline.server.http.connection import HttpConnection
from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from syncline.server.http.server import HttpServer
from syncline.server.http2.frames import GOAWAY
from syncline.server.http2.limits import Http2Limits
from tests.helpers.http_wire import FakeTransport

RANGE = "/etcdserverpb.KV/Range"
PUT = "/etcdserverpb.KV/Put"
WATCH = "/etcdserverpb.Watch/Watch"
LOCK = "/v3lockpb.Lock/Lock"


class SwitchedTransport(FakeTransport):
    """A transport whose protocol may be replaced."""

    def __init__(self, protocol: HttpConnection) -> None:
        super().__init__(protocol)
        self.protocol: asyncio.Protocol = protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol
        self._protocol = protocol  # type: ignore[assignment]


class FakeFace:
    """Carries calls out by functions of the test. Without one, a call is answered with an empty message."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Message, EtcdCaller]] = []
        self.held: list[Finished] = []
        self.holds = False
        self.prepared = True
        self.answers: dict[str, Callable[[Message], Message]] = {}
        self.streams: dict[str, Callable[[AsyncIterator[Message], Send], Awaitable[None]]] = {}
        self.cancelled: list[str] = []
        self._changed = asyncio.Condition()

    async def all_cancelled(self, count: int) -> None:
        """Wait until so many calls were cancelled."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.cancelled) >= count)

    async def _note_cancelled(self, name: str) -> None:
        self.cancelled.append(name)
        async with self._changed:
            self._changed.notify_all()

    def is_prepared(self, method: Method, caller: EtcdCaller) -> bool:
        del method, caller
        return self.prepared

    def start(self, method: Method, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        self.calls.append((method.name, request, caller))
        if self.holds:
            self.held.append(finished)
            return
        try:
            answer = self.answers.get(method.name, _empty)(request)
        except EtcdError as error:
            finished(None, error)
        else:
            finished(answer, None)

    async def call(self, method: Method, request: Message, caller: EtcdCaller) -> Message:
        self.calls.append((method.name, request, caller))
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await self._note_cancelled(method.name)
            raise
        return {}

    async def stream(self, method: Method, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        self.calls.append((method.name, {}, caller))
        try:
            await self.streams[method.name](inbox, send)
        except asyncio.CancelledError:
            await self._note_cancelled(method.name)
            raise


@dataclass
class StreamView:
    """What the client has received on one stream."""

    head: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int((self.trailers or self.head)["grpc-status"])

    @property
    def text(self) -> str:
        return (self.trailers or self.head).get("grpc-message", "")

    def messages(self, kind: str) -> list[Message]:
        found, data = [], self.data
        while data:
            size = int.from_bytes(data[1:5], "big")
            assert data[0] == 0
            found.append(decode(kind, data[5 : 5 + size]))
            data = data[5 + size :]
        return found


class Http2Wire:
    """One connection of a client to a server. `settle` carries bytes both ways until nothing moves."""

    def __init__(
        self,
        face: FakeFace | None = None,
        *,
        limits: Http2Limits | None = None,
        http_limits: HttpLimits | None = None,
        server: HttpServer | None = None,
        observe: Callable[[str, int, float], None] | None = None,
    ) -> None:
        self.face = face or FakeFace()
        self.now_s = 0.0
        self.server = server or HttpServer(
            echo_http1, limits=http_limits, clock=lambda: self.now_s, wall_time_s=lambda: 0.0
        )
        self.service = GrpcService(self.server.shared.total, self.server.limits, observe=observe)
        self.service.serve(self.face)
        if server is None:
            self.server.offer_http2(self.service.application, limits)
        connection = self.server.connection()
        self.transport = SwitchedTransport(connection)
        connection.connection_made(self.transport)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.views: dict[int, StreamView] = {}
        self.terminated: ConnectionTerminated | None = None
        self.acknowledge = True
        """Whether the client opens its windows again."""
        self._taken = 0

    def send_raw(self, data: bytes) -> None:
        if not self.transport.closed:
            self.transport.protocol.data_received(data)

    async def settle(self) -> None:
        for _ in range(50):
            data = self.client.data_to_send()
            if data:
                self.send_raw(data)
            for _ in range(5):
                await asyncio.sleep(0)
            new = b"".join(self.transport.written[self._taken :])
            self._taken = len(self.transport.written)
            if new:
                for event in self.client.receive_data(new):
                    self._note(event)
            elif not data:
                return

    def _note(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            return
        stream_id = getattr(event, "stream_id", None)
        if not stream_id:
            return
        view = self.views.setdefault(stream_id, StreamView())
        if isinstance(event, ResponseReceived):
            view.head = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, TrailersReceived):
            view.trailers = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, DataReceived):
            view.data += event.data
            if self.acknowledge and event.flow_controlled_length:
                self.client.acknowledge_received_data(event.flow_controlled_length, stream_id)
        elif isinstance(event, StreamEnded):
            view.ended = True
        elif isinstance(event, StreamReset):
            view.reset = int(event.error_code)

    def open(self, path: str, *, end: bool = False, fields: tuple[tuple[str, str], ...] = ()) -> int:
        """Begin a call."""
        stream = self.client.get_next_available_stream_id()
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "127.0.0.1"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *fields,
        ]
        self.client.send_headers(stream, head, end_stream=end)
        self.views[stream] = StreamView()
        return stream

    def give(self, stream: int, kind: str, message: Message, *, end: bool = False) -> None:
        """Send one message."""
        self.client.send_data(stream, framed(encode(kind, message)), end_stream=end)

    async def call(self, path: str, message: Message, *, fields: tuple[tuple[str, str], ...] = ()) -> StreamView:
        """A whole call with one message."""
        stream = self.open(path, fields=fields)
        self.give(stream, kind_of(path), message, end=True)
        await self.settle()
        return self.views[stream]

    @property
    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Type, flags, stream and payload of all that the server has sent."""
        data, found = b"".join(self.transport.written), []
        while data:
            size = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        return found

    def of(self, kind: int) -> list[tuple[int, bytes]]:
        """Stream and payload of the frames of one type."""
        return [(stream, payload) for found, _, stream, payload in self.frames if found == kind]

    @property
    def goaway(self) -> tuple[int, str] | None:
        """The error code and the text of the last GOAWAY."""
        found = self.of(GOAWAY)
        return (int.from_bytes(found[-1][1][4:8], "big"), found[-1][1][8:].decode()) if found else None

    def advance(self, seconds: float, *, step: float = 0.5) -> None:
        """Let time pass, with a sweep at every step."""
        until = self.now_s + seconds
        while self.now_s < until:
            self.now_s += step
            self.server.sweep(self.now_s)

    @property
    def held_bytes(self) -> int:
        return self.server.held_bytes


def framed(data: bytes) -> bytes:
    """A message with gRPC's prefix."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def kind_of(path: str) -> str:
    """The kind of a method's request."""
    return METHODS[path].request


def _empty(_request: Message) -> Message:
    return {}


def echo_http1(request: Request, respond: Respond) -> None:
    respond(bare(200, TEXT, b"%s %s" % (request.method.encode(), request.path)))
