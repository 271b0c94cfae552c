"""Calls of gRPC on their streams: a message in and one out (`UnaryGrpc`), or streams of them (`StreamingGrpc`)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Final, Protocol

import msgspec

from syncline.server.etcd.errors import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    EtcdError,
)
from syncline.server.etcd.face import EtcdCaller, Finished, Send
from syncline.server.etcd.grpc.places import TOO_MANY, CallPlaces
from syncline.server.etcd.grpc.wire import (
    MAX_MESSAGE_BYTES,
    OK,
    PREFIX_BYTES,
    RESPONSE_HEAD,
    error_block,
    message,
    trailers_of,
)
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import Method
from syncline.server.etcd.protobuf import DecodeError, decode, encode
from syncline.server.http.state import nothing
from syncline.server.http2.streams import Http2Stream, StreamOutput

__all__ = ["CallParts", "Face", "CallHead", "StreamingGrpc", "UnaryGrpc"]

MESSAGE_BYTES: Final = 400
"""What a message takes beside its keys and values: a dict and some numbers."""

UNARY_COST: Final = 8
"""Of a turn (`InputTurns`), to carry out a call with one message and one answer: a read takes 60 us, a write 100."""
WAITING_COST: Final = 32
"""The same if it waits for other clients: it has tasks, and a lock or an election writes."""
PREPARING_COST: Final = 24
"""Beside it, if the face is not prepared for the call: to look for the user of a wrong token, and to refuse it, takes
150 to 300 us."""
STREAM_COST: Final = 10
"""To open a stream of messages: its tasks begin before the first one."""

UNCOUNTED_BYTES: Final = 256
"""A request of this size takes some KiB as a message, and no more."""

TOO_MUCH: Final = EtcdError(
    RESOURCE_EXHAUSTED, "etcdserver: too much is being sent and asked at once; nothing was done"
)

STOPPED: Final = EtcdError(UNAVAILABLE, "etcdserver: server stopped")


class Face(Protocol):
    """What carries the calls out: `EtcdFace`."""

    def start(self, method: Method, request: Message, caller: EtcdCaller, finished: Finished) -> None: ...

    async def call(self, method: Method, request: Message, caller: EtcdCaller) -> Message: ...

    def is_prepared(self, method: Method, caller: EtcdCaller) -> bool: ...

    async def stream(self, method: Method, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None: ...


class CallHead(msgspec.Struct, frozen=True):
    """What the head of a request says: kept with the head, since clients repeat it."""

    method: Method
    token: bytes
    timeout_s: float
    """The time of a call that waits for no other client."""
    deadline_s: float | None
    """Seconds that the client waits, if its head names them."""
    waits: bool
    """The method waits for other clients, so it is ended when its client leaves, and is not counted as in work."""


class CallParts(msgspec.Struct, frozen=True):
    """What the calls of one server have in common."""

    face: Face
    spawn: Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]
    """Runs a coroutine as a task."""
    clock: Callable[[], float]
    observe: Callable[[Method, int, float], None]
    """Told of each call that has ended: the code of its status, and when it began by `clock`."""
    places: CallPlaces


def _message_bytes(body: bytes | bytearray) -> int | None:
    """The length of the first message, with its prefix; None if the prefix is incomplete. Raises `EtcdError`."""
    if len(body) < PREFIX_BYTES:
        return None
    if body[0]:
        if body[0] == 1:
            raise EtcdError(UNIMPLEMENTED, "grpc: the message is compressed, and no compression is offered here")
        raise EtcdError(INTERNAL, f"grpc: received unexpected payload format {body[0]}")
    size = int.from_bytes(body[1:PREFIX_BYTES], "big")
    if size > MAX_MESSAGE_BYTES:
        raise EtcdError(RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})")
    return size + PREFIX_BYTES


def _has_message(body: bytes | bytearray) -> bool:
    """Whether the first message is whole. False for one that can't be read: the code that reads it says why."""
    try:
        size = _message_bytes(body)
    except EtcdError:
        return False
    return size is not None and size <= len(body)


def _decoded(method: Method, data: bytes | bytearray) -> Message:
    try:
        return decode(method.request, data)
    except DecodeError as error:
        raise EtcdError(INTERNAL, f"grpc: error unmarshalling request: {error}") from None


def _kept_bytes(message: object) -> int:
    """What a message that is not encoded takes, about; keys and values are the store's."""
    match message:
        case dict():
            return MESSAGE_BYTES + sum(map(_kept_bytes, message.values()))
        case list():
            return sum(map(_kept_bytes, message))
        case _:
            return 0


def _preparing_cost(parts: CallParts, known: CallHead, caller: EtcdCaller) -> int:
    return 0 if parts.face.is_prepared(known.method, caller) else PREPARING_COST


class _EndedByServer(ABC):
    """Ends a call that the server gives up, with the status of its reason."""

    __slots__ = ()

    def refuse(self, reason: str) -> None:
        self._end(RESOURCE_EXHAUSTED, reason)

    def time_out(self, reason: str) -> None:
        self._end(DEADLINE_EXCEEDED, reason)

    def release(self, reason: str) -> None:
        self._end(UNAVAILABLE, reason)

    @abstractmethod
    def _end(self, code: int, reason: str) -> None: ...


class UnaryGrpc(_EndedByServer):
    """A call with one message and one answer."""

    __slots__ = (
        "_began_s",
        "_caller",
        "_checked",
        "_has_place",
        "_known",
        "_output",
        "_parts",
        "_stream",
        "_task",
        "lasting",
    )

    def __init__(
        self, stream: Http2Stream, output: StreamOutput, known: CallHead, caller: EtcdCaller, parts: CallParts
    ) -> None:
        self._stream = stream
        self._output = output
        self._known = known
        self._caller = caller
        self._parts = parts
        self._began_s = parts.clock()
        self._task: asyncio.Task[None] | None = None
        self._checked = self._has_place = False
        self.lasting: bool = False

    @property
    def opening_cost(self) -> int:
        return 0

    @property
    def asking_cost(self) -> int:
        return (WAITING_COST if self._known.waits else UNARY_COST) + _preparing_cost(
            self._parts, self._known, self._caller
        )

    def data_received(self) -> None:
        if self._checked or len(self._stream.body) < PREFIX_BYTES:
            return
        self._checked = True
        try:
            _message_bytes(self._stream.body)
        except EtcdError as error:
            self._finished(None, error)

    def ended(self) -> None:
        stream, known, parts = self._stream, self._known, self._parts
        body, stream.body = stream.body, b""
        self._caller.request_bytes = len(body)
        if not known.waits:
            if not parts.places.take(known.method.name):
                self._finished(None, TOO_MANY)
                return
            self._has_place = True
        try:
            if _message_bytes(body) != len(body):
                raise EtcdError(INTERNAL, "grpc: the request is not one whole message")
            request = _decoded(known.method, body[PREFIX_BYTES:])
            if len(body) > UNCOUNTED_BYTES and not self._output.hold(stream, _kept_bytes(request)):
                raise TOO_MUCH
        except EtcdError as error:
            self._finished(None, error)
            return
        if known.waits:
            self.lasting = True
            self._task = parts.spawn(self._run(request), known.method.name)
        else:
            parts.face.start(known.method, request, self._caller, self._finished)

    async def _run(self, request: Message) -> None:
        try:
            async with asyncio.timeout(self._known.deadline_s):
                answer = await self._parts.face.call(self._known.method, request, self._caller)
        except EtcdError as error:
            self._finished(None, error)
        except TimeoutError:
            self._finished(None, EtcdError(DEADLINE_EXCEEDED, "context deadline exceeded"))
        else:
            self._finished(answer, None)

    def _finished(self, answer: Message | None, error: EtcdError | None) -> None:
        """Send the answer or the error, unless the client has left."""
        stream, method, parts = self._stream, self._known.method, self._parts
        if self._has_place:
            self._has_place = False
            parts.places.leave()
        if stream.local_ended:
            return
        if error is not None:
            parts.observe(method, error.code, self._began_s)
            self._output.finish(stream, error_block(error.code, error.text))
            return
        assert answer is not None
        if not self._output.when_room(partial(self._answer, answer), partial(_kept_bytes, answer)):
            self._finished(None, EtcdError(RESOURCE_EXHAUSTED, "etcdserver: too many answers wait for this client"))

    def _answer(self, answer: Message) -> None:
        stream, method, parts = self._stream, self._known.method, self._parts
        if not stream.local_ended:
            parts.observe(method, 0, self._began_s)
            self._output.respond(stream, RESPONSE_HEAD, message(encode(method.response, answer)), OK)

    @property
    def silent(self) -> bool:
        return not self._stream.remote_ended

    def _end(self, code: int, reason: str) -> None:
        self._finished(None, EtcdError(code, f"etcdserver: {reason}"))
        self.lost()

    def stop(self) -> None:
        if self._known.waits:
            self._finished(None, STOPPED)
            self.lost()

    def lost(self) -> None:
        if self._task is not None:
            self._task.cancel()


class Inbox:
    """The messages of a client, in their order: an asynchronous iterator that ends when the client sends no more.

    What was not taken stays in bytes, and the client's window stays as much smaller: that is the limit.
    """

    __slots__ = ("_idle", "_kept_bytes", "_method", "_output", "_stream", "_waiter")

    def __init__(self, stream: Http2Stream, output: StreamOutput, method: Method, *, idle: Callable[[], None]) -> None:
        """`idle` is called when a message is waited for."""
        self._idle = idle
        self._stream = stream
        self._output = output
        self._method = method
        self._kept_bytes = 0
        """What the last message takes, if it was counted."""
        self._waiter: asyncio.Future[None] | None = None

    def end(self) -> None:
        """Nothing waits for a message any more: forget the call, which refers to this."""
        self._idle = nothing

    def wake(self) -> None:
        """Something has come, or the client sends no more."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Message:
        stream = self._stream
        if self._kept_bytes:
            self._output.hold(stream, -self._kept_bytes)
            self._kept_bytes = 0
        while True:
            size = _message_bytes(stream.body)
            if size is not None and size <= len(stream.body):
                await self._output.turn_for(size)
                if stream.local_ended:
                    raise StopAsyncIteration
                return self._take(size)
            if stream.remote_ended or stream.local_ended:
                if stream.body:
                    raise EtcdError(INTERNAL, "grpc: the stream ends within a message")
                raise StopAsyncIteration
            self._idle()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _take(self, size: int) -> Message:
        stream, body = self._stream, self._stream.body
        data = body[PREFIX_BYTES:size]
        if size == len(body):
            stream.body = b""
        else:
            if isinstance(body, bytes):
                stream.body = body = bytearray(body)
            del body[:size]  # a bytearray does not move what is left
        self._output.taken(stream, size)
        message = _decoded(self._method, data)
        if size > UNCOUNTED_BYTES:
            self._kept_bytes = _kept_bytes(message)
            if not self._output.hold(stream, self._kept_bytes):
                raise TOO_MUCH
        return message


class StreamingGrpc(_EndedByServer):
    """A call whose answer is a stream of messages, and perhaps its request too."""

    __slots__ = (
        "_began_s",
        "_begun",
        "_caller",
        "_has_place",
        "_inbox",
        "_known",
        "_output",
        "_parts",
        "_started",
        "_stream",
        "_task",
    )

    def __init__(
        self, stream: Http2Stream, output: StreamOutput, known: CallHead, caller: EtcdCaller, parts: CallParts
    ) -> None:
        self._stream = stream
        self._output = output
        self._known = known
        self._caller = caller
        self._parts = parts
        self._began_s = parts.clock()
        self._started = self._has_place = False
        self._inbox = Inbox(stream, output, known.method, idle=self._leave)
        self._begun = False
        self._task: asyncio.Task[None] | None = parts.spawn(self._run(), known.method.name)
        """Until it ends, or is cancelled. A task that was cancelled refers to all that it has run, so to this: without
        an end such circles wait for a full garbage collection, which stops a node with many streams."""

    @property
    def opening_cost(self) -> int:
        return STREAM_COST + _preparing_cost(self._parts, self._known, self._caller)

    @property
    def asking_cost(self) -> int:
        return 0  # each message has its own, when it is taken

    async def _run(self) -> None:
        known = self._known
        try:
            async with asyncio.timeout(known.deadline_s):
                await self._parts.face.stream(known.method, self._inbox, self._send, self._caller)
        except EtcdError as error:
            self._fail(error)
        except TimeoutError:
            self._fail(EtcdError(DEADLINE_EXCEEDED, "context deadline exceeded"))
        else:
            if not self._stream.local_ended:
                self._parts.observe(known.method, 0, self._began_s)
                self._output.finish(self._stream, OK if self._begun else RESPONSE_HEAD + OK)
        finally:
            self._leave()
            self._forget()

    async def _send(self, answer: Message) -> None:
        stream, output = self._stream, self._output
        self._leave()
        if not (stream.local_ended or output.has_room):
            await output.room()  # many streams of one client could send the same large event
        if stream.local_ended:
            return
        data = message(encode(self._known.method.response, answer))
        if not self._begun:
            self._begun = True
            output.begin(stream, RESPONSE_HEAD)
        if not output.send(stream, data):
            await output.drained(stream)

    def _fail(self, error: EtcdError) -> None:
        if self._stream.local_ended:
            return
        code, text = error.code, error.text
        self._parts.observe(self._known.method, code, self._began_s)
        self._output.finish(self._stream, trailers_of(code, text) if self._begun else error_block(code, text))

    def _leave(self) -> None:
        """Give the place back: the stream has begun, and waits from now on, or has ended."""
        if self._has_place:
            self._has_place = False
            self._parts.places.leave()

    def data_received(self) -> None:
        if not self._started and _has_message(self._stream.body):
            self._started = True
            known, places = self._known, self._parts.places
            if not known.waits:
                if not places.take(known.method.name):
                    self._fail(TOO_MANY)
                    self._cancel()
                    return
                self._has_place = True
        self._inbox.wake()

    def ended(self) -> None:
        if self._stream.body:
            self.data_received()
        else:
            self._inbox.wake()

    @property
    def lasting(self) -> bool:
        """A client may open a stream of requests and ask later, or keep it without asking: etcd's do."""
        stream = self._stream
        if stream.remote_ended:
            return True
        if stream.body:
            return _has_message(stream.body)
        return self._started or self._known.method.takes_stream

    @property
    def silent(self) -> bool:
        return not self._started

    def _end(self, code: int, reason: str) -> None:
        self._fail(EtcdError(code, f"etcdserver: {reason}"))
        self._cancel()

    def stop(self) -> None:
        self._fail(STOPPED)
        self._cancel()

    def lost(self) -> None:
        self._inbox.wake()
        self._cancel()

    def _cancel(self) -> None:
        self._leave()  # a task that has not begun never comes to its end
        if (task := self._forget()) is not None:
            task.cancel()

    def _forget(self) -> asyncio.Task[None] | None:
        """Break the circles of references: the end of this call frees its objects at once. Return its task."""
        task, self._task = self._task, None
        self._inbox.end()
        return task
