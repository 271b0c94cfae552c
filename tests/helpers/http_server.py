"""Doubles of a Syncline server for tests of the client and the command: a scripted one, and one with keys in it."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from syncline.platform.network import Listener, ProtocolFactory
from tests.helpers.ports import free_block
from tests.helpers.steady_loop import new_steady_loop

JsonValue = object


@dataclass
class HttpRequest:
    """What a client sent."""

    method: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> dict[str, object]:
        found = json.loads(self.body or b"{}")
        assert isinstance(found, dict)
        return found


@dataclass
class Reply:
    """What the double answers. `raw` is sent as it is; `close` ends the connection after it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    close: bool = False


Handler = Callable[[HttpRequest], Awaitable[Reply]]
HANG = Reply(status=-1)
DROP = Reply(status=-2)


def json_reply(value: JsonValue, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def error_reply(status: int, code: str, outcome: str = "not_applied", message: str = "no", **more: JsonValue) -> Reply:
    return json_reply({"error": {"code": code, "message": message, "outcome": outcome, **more}}, status)


class HttpDouble:
    """An HTTP server that answers what its handler says. `requests` holds all that came."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[HttpRequest] = []
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self.open):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def stop_listening(self) -> None:
        """Take no further connection. Those that are open go on."""
        assert self._server is not None
        self._server.close()

    async def drop_connections(self) -> None:
        """Close every connection, as a server does with idle ones, and see it done."""
        for writer in list(self.open):
            writer.close()
            await writer.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open.add(writer)
        self.connections += 1
        number = self.connections
        try:
            while (request := await _read_request(reader, number)) is not None:
                self.requests.append(request)
                reply = await self.handler(request)
                if reply is HANG:
                    await reader.read()
                    return
                if reply is DROP:
                    return
                writer.write(_encode(reply))
                await writer.drain()
                if reply.close:
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            self.open.discard(writer)
            writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader, number: int) -> HttpRequest | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="surrogateescape"))
    return HttpRequest(method, path, parameters, headers, body, number)


def _encode(reply: Reply) -> bytes:
    if reply.raw is not None:
        return reply.raw
    lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in reply.headers.items())]
    return ("\r\n".join([*lines, f"Content-Length: {len(reply.body)}"]) + "\r\n\r\n").encode() + reply.body


def scripted(*replies: Reply) -> Handler:
    """Answers one after the other; the last one for ever."""
    left = list(replies)

    async def handler(_: HttpRequest) -> Reply:
        return left.pop(0) if len(left) > 1 else left[0]

    return handler


@dataclass
class StoredValue:
    value: bytes
    mod_revision: int
    create_revision: int
    version: int


class KeyDouble:
    """A handler with keys in it: `/key`, `/keys`, `/raft/status` in the documented shapes, without any consensus."""

    def __init__(self, *, page_limit: int = 1000, max_value_bytes: int = 1 << 20) -> None:
        self.keys: dict[bytes, StoredValue] = {}
        self.revision = 0
        self.page_limit = page_limit
        self.max_value_bytes = max_value_bytes
        self.status: dict[str, object] = {}
        self.answers: dict[str, Reply | Callable[[HttpRequest], Reply]] = {}
        """Answers for whole paths, before anything else."""

    async def __call__(self, request: HttpRequest) -> Reply:
        special = self.answers.get(request.path)
        if special is not None:
            return special if isinstance(special, Reply) else special(request)
        if request.path.startswith("/key/"):
            return self._key(request, unquote_to_bytes(request.path[len("/key/") :]))
        if request.path == "/key":
            return self._key(request, _parameter(request, "key"))
        if request.path == "/keys":
            return self._list(request)
        if request.path == "/batch":
            return self._batch(request)
        if request.path == "/raft/status":
            return json_reply(self.status)
        return error_reply(404, "unknown_route")

    def _key(self, request: HttpRequest, key: bytes) -> Reply:
        found = self.keys.get(key)
        if request.method == "GET":
            if found is None:
                return error_reply(404, "not_found", message=f"there is no key {key!r}")
            tag = f'"{found.mod_revision}"'
            return Reply(200, found.value, {"ETag": tag, "Syncline-Revision": str(self.revision)})
        current = found.mod_revision if found else 0
        if not _holds(request, current):
            return error_reply(412, "precondition_failed", details={"revision": current})
        if request.method == "DELETE":
            self.revision += found is not None
            self.keys.pop(key, None)
            return json_reply({"status": "success", "deleted": found is not None, "revision": self.revision})
        if len(request.body) > self.max_value_bytes:
            return error_reply(413, "too_large", message=f"the value is above {self.max_value_bytes} bytes")
        self.revision += 1
        created, version = (found.create_revision, found.version + 1) if found else (self.revision, 1)
        self.keys[key] = StoredValue(request.body, self.revision, created, version)
        return json_reply({"status": "success", "revision": self.revision})

    def _batch(self, request: HttpRequest) -> Reply:
        """A batch of puts and gets in MessagePack, as clients gather them."""
        results = []
        for operation in msgspec.msgpack.decode(request.body)["ops"]:
            key = operation["key"]
            if operation["op"] == "get":
                results.append(self._got(key))
                continue
            assert operation["op"] == "put", operation
            value = operation["value"]
            put = HttpRequest("PUT", "/key", {}, {}, value, request.connection)
            reply = self._key(put, key)
            results.append({**json.loads(reply.body), "status": reply.status, "op": "put"})
        fields = {"Content-Type": "application/msgpack", "Syncline-Revision": str(self.revision)}
        return Reply(200, msgspec.msgpack.encode({"results": results}), fields)

    def _got(self, key: bytes) -> dict[str, object]:
        found = self.keys.get(key)
        if found is None:
            return {"status": 200, "op": "get", "found": False}
        return {"status": 200, "op": "get", "found": True, "value": found.value, "mod_revision": found.mod_revision}

    def _list(self, request: HttpRequest) -> Reply:
        prefix = _parameter(request, "prefix")
        names = sorted(key for key in self.keys if key.startswith(prefix))
        if request.parameters.get("count") == "true":
            return json_reply({"revision": self.revision, "count": len(names)})
        if request.parameters.get("reverse") == "true":
            names.reverse()
        if "after" in request.parameters:
            after = _cursor(_parameter(request, "after"))
            names = [key for key in names if (key < after if "reverse" in request.parameters else key > after)]
        limit = min(self.page_limit, int(request.parameters.get("limit", "1000")))
        page, more = names[:limit], len(names) > limit
        items = [self._item(key, values="values" in request.parameters) for key in page]
        following = "base64:" + base64.urlsafe_b64encode(page[-1]).decode().rstrip("=") if more else None
        answer = {"revision": self.revision, "keys": items, "count": len(names), "more": more, "next": following}
        return json_reply(answer)

    def _item(self, key: bytes, *, values: bool) -> dict[str, object]:
        stored = self.keys[key]
        item: dict[str, object] = {
            "mod_revision": stored.mod_revision,
            "create_revision": stored.create_revision,
            "version": stored.version,
            "size_bytes": len(stored.value),
        }
        try:
            item["key"] = key.decode()
        except UnicodeDecodeError:
            item["key_base64"] = base64.b64encode(key).decode()
        if values:
            item["value_base64"] = base64.b64encode(stored.value).decode()
        return item


def _parameter(request: HttpRequest, name: str) -> bytes:
    return request.parameters.get(name, "").encode("utf-8", "surrogateescape")


def _cursor(text: bytes) -> bytes:
    if not text.startswith(b"base64:"):
        return text
    encoded = text[len(b"base64:") :]
    return base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))


def _holds(request: HttpRequest, current: int) -> bool:
    match = request.headers.get("if-match")
    if match is not None:
        return current > 0 if match == "*" else match.strip('"') == str(current)
    return request.headers.get("if-none-match") is None or current == 0


@contextmanager
def in_thread(*handlers: Handler) -> Iterator[list[HttpDouble]]:
    """Doubles on a loop and thread of their own: for tests of code that runs a loop itself."""
    doubles = [HttpDouble(handler) for handler in handlers]
    loop = new_steady_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        for double in doubles:
            asyncio.run_coroutine_threadsafe(double.start(), loop).result(10)
        yield doubles
    finally:
        for double in doubles:
            asyncio.run_coroutine_threadsafe(double.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def refused_url() -> str:
    """A URL where nobody listens: at a port that the system gives to none who asks for any."""
    return f"http://127.0.0.1:{free_block(1)}"


class LoopNetwork:
    """The real network by the loop's own dial, and a count of the dials."""

    def __init__(self) -> None:
        self.dials = 0

    async def listen(
        self, factory: ProtocolFactory, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> Listener:
        raise NotImplementedError

    async def connect(
        self,
        factory: ProtocolFactory,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        self.dials += 1
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().create_connection(factory, host, port, ssl=tls)
