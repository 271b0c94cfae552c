"""The same application for ASGI servers: mount a node's routes in Starlette, FastAPI, or serve them with uvicorn.

Slower than the server's own listener (a task and several coroutines per request), and otherwise the same. The
mounting application opens and closes the node; limits on headers and slow clients are the ASGI server's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import TypeAlias, cast
from urllib.parse import quote

from syncline.server.api.errors import RequestError
from syncline.server.api.site import Site
from syncline.server.http.fields import is_host
from syncline.server.http.large_answers import Making
from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import Deferred, Response
from syncline.server.http.stream import WRITE_BYTES, Stream

__all__ = ["AsgiApp"]

Scope: TypeAlias = MutableMapping[str, object]
Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Fields: TypeAlias = list[tuple[bytes, bytes]]


class AsgiApp:
    """An ASGI application over the routes of a server.

        server = await KvServer.open(ServerConfig(name="a", data_dir="data/a", http_listen=""))
        app.mount("/kv", AsgiApp(server.site))

    `max_body_bytes` limits the body of one request. The program opens and closes the server.
    """

    def __init__(self, site: Site, *, max_body_bytes: int = HttpLimits().max_body_bytes) -> None:
        self._site = site
        self._max_body_bytes = max_body_bytes
        self._making = Making()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; `lifespan` is answered with nothing to do.

        Raises:
            RuntimeError: the connection is of another kind, such as `websocket`.
        """
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"Syncline serves HTTP, not {scope['type']}")
        method = str(scope["method"])
        try:
            body = await self._body(receive)
            if body is None:
                return  # the client has gone
            _check_length(scope, body)
            client = _AsgiClient(scope, receive)
            request = _request(scope, method, body, client)
        except RequestError as refusal:
            response = refusal.response()
        else:
            async with contextlib.aclosing(client):
                answer = await self._answer(request, client)
            if answer is None:
                return  # it has left while the request waited
            response = answer
        if isinstance(response, Stream):
            await _stream(response, receive, send, wanted=method != "HEAD")
            return
        content = b"" if method == "HEAD" else response.body
        await send({"type": "http.response.start", "status": response.status, "headers": _fields(response)})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, request: Request, client: _AsgiClient) -> Response | None:
        """The answer; None if the client has left."""
        future: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        client.answer = future

        def respond(response: Response) -> None:
            if not future.done():
                future.set_result(response)
            elif isinstance(response, Stream):
                response.source.close()

        self._site(request, respond)
        try:
            response = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and isinstance(late := future.result(), Stream):
                late.source.close()
            raise
        if not isinstance(response, Deferred):
            return response
        if self._making.has_time:
            return self._making.make(response)
        waiting = _Waiting(self._making, response)
        self._making.later(waiting)
        return await waiting.made

    async def _body(self, receive: Receive) -> bytes | None:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = cast("bytes", message.get("body", b""))
            size += len(part)
            if size > self._max_body_bytes:
                limit = f"the body is above the limit of {self._max_body_bytes} bytes; nothing was stored"
                raise RequestError(limit, status=413, code="too_large")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


class _AsgiClient:
    """The client of one request. Whether it has left is looked at only while something asks to be told: a request that
    waits for others."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        address = scope.get("client")
        self.address: str = str(address[0]) if isinstance(address, list | tuple) and address else ""
        self.answer: asyncio.Future[Response | None] | None = None
        """Has no response any more if the client leaves."""
        self._receive = receive
        self._ends: dict[Callable[[], None], None] = {}
        self._watch: asyncio.Task[None] | None = None

    def when_left(self, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` once if the client leaves. Call what is returned when that is not needed any more."""
        self._ends[end] = None
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(_disconnected(self._receive, self._left))
        elif self._watch.done():
            asyncio.get_running_loop().call_soon(self._left)
        return partial(self._ends.pop, end, None)

    async def aclose(self) -> None:
        """Look no more."""
        self._ends.clear()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            if not self._watch.cancelled():
                self._watch.result()

    def _left(self) -> None:
        ends, self._ends = self._ends, {}
        for end in list(ends):
            end()
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)


class _Waiting:
    """A large answer that is made in a later turn of the loop."""

    def __init__(self, making: Making, answer: Deferred) -> None:
        self._making = making
        self._answer = answer
        self.flush_scheduled = False
        self.made: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def flush(self) -> None:
        """Make it, if the client is still there."""
        if not self.made.done():
            self.made.set_result(self._making.make(self._answer))


async def _stream(response: Stream, receive: Receive, send: Send, *, wanted: bool) -> None:
    """Send an answer in pieces, as fast as the server takes them, until its end or until the client leaves."""
    source, unyielded = response.source, 0
    woken = asyncio.Event()
    left = asyncio.ensure_future(_disconnected(receive, woken.set))
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": _fields(response)})
        if wanted:
            source.start(woken.set)
            while not left.done() and (piece := source.read()) is not None:
                if piece:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    unyielded += len(piece)
                    if unyielded > WRITE_BYTES:  # `send` need not wait: one client must not have the loop to itself
                        unyielded = 0
                        await asyncio.sleep(0)
                else:
                    await woken.wait()
                    woken.clear()
        if not left.done():
            await send({"type": "http.response.body", "body": b""})
    finally:
        source.close()
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left


async def _disconnected(receive: Receive, then: Callable[[], None]) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass  # parts of a body that was read already
    then()


def _check_length(scope: Scope, body: bytes) -> None:
    """Refuse a body that differs from its announced length: some ASGI servers lose it if the client offers an
    upgrade.
    """
    for name, value in cast("Fields", scope["headers"]):
        if name.lower() != b"content-length":
            continue
        if not value.isdigit() or int(value) != len(body):
            shown = value[:32].decode("ascii", "replace")
            raise RequestError(f"Content-Length is {shown}, the body has {len(body)} bytes; nothing was done")


def _request(scope: Scope, method: str, body: bytes, client: _AsgiClient) -> Request:
    """Make the request, from `raw_path` if the server has it: a key's bytes are not always text, and `/` is not
    always `%2F`.
    """
    raw = cast("bytes | None", scope.get("raw_path"))
    path = raw.partition(b"?")[0] if raw is not None else quote(str(scope["path"]), safe="/").encode()
    mount = quote(str(scope.get("root_path") or ""), safe="/").rstrip("/")
    root = mount.encode()
    if path == root or path.startswith(root + b"/"):
        path = path[len(root) :] or b"/"
    headers: dict[bytes, bytes] = {}
    for name, value in cast("Fields", scope["headers"]):
        name = name.lower()
        headers[name] = headers[name] + b", " + value if name in headers else value
    if not is_host(headers.get(b"host", b"")):
        raise RequestError("the Host field is not one host name or address, with a port or without")
    query = cast("bytes", scope.get("query_string", b""))
    return Request(method, path, query, headers, body, unusual=True, mount=mount, origin=client)


def _fields(response: Response) -> Fields:
    lines = response.head.split(b"\r\n")[1:-1]
    pairs = (line.split(b": ", 1) for line in lines)
    return [(name.lower(), value) for name, value in pairs]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
