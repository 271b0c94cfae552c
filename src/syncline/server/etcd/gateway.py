"""etcd's JSON gateway: `POST /v3/…` with JSON, on the server's own port.

A route of a method that streams answers with `{"result": …}` messages, each in a chunk of its own. Clients read such an
answer chunk by chunk, and some parse each chunk by itself.

A lock or campaign ends when its client leaves, and waits `LONGEST_WAIT_S` at most. If a client's machine or network has
failed, nothing tells so until something is written to it: without an end the call would take a lock that is of no use.

`/v3beta/…` and `/v3alpha/…` are older names of the same routes; clients ask for them when they find an older version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from functools import partial
from http import HTTPStatus
from typing import Final, cast

import msgspec

from syncline.server.api.router import Router
from syncline.server.etcd.errors import HTTP_STATUS, INTERNAL, UNAVAILABLE, EtcdError, etcd_error
from syncline.server.etcd.face import EtcdCaller, EtcdFace
from syncline.server.etcd.gateway_stream import StreamBridge
from syncline.server.etcd.json_codec import decode, decode_stream, encode
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS, WAITING, Method
from syncline.server.http.request import ClientOrigin, Request
from syncline.server.http.response import JSON, NO_STORE, TEXT, Respond, Response, bare, status_line
from syncline.server.tasks import Tasks

__all__ = ["JsonGateway"]

PREFIXES: Final = ("/v3/", "/v3beta/", "/v3alpha/")

LONGEST_WAIT_S: Final = 60.0
"""Of a call that waits for other clients: as long as a read of the own routes may wait for a change."""

_OK: Final = b"%s%s%sContent-Length: %%d\r\n" % (status_line(200), JSON, NO_STORE)
_OPTIONS: Final = Response(204, b"%s%sAllow: OPTIONS, POST\r\n" % (status_line(204), NO_STORE))


class JsonGateway:
    """Translates requests to calls of the face, and answers back."""

    def __init__(self, face: EtcdFace, tasks: Tasks) -> None:
        self._face = face
        self._tasks = tasks
        self._routes: dict[bytes, tuple[Method, str]] = {}
        """By path: the method, and how metrics name the route."""
        for method in METHODS.values():
            for path in (method.route, *method.aliases):
                for prefix in PREFIXES:
                    self._routes[path.replace("/v3/", prefix, 1).encode()] = (method, f"POST {path}")

    def add_to(self, router: Router) -> None:
        """Take all requests below the prefixes."""
        for prefix in PREFIXES:
            router.mount(prefix, self.handle)

    def handle(self, request: Request, respond: Respond) -> None:
        """Answer one request."""
        found = self._routes.get(request.path)
        if found is None:
            respond(bare(404, TEXT, b"Not Found\n"))
            return
        method, request.route = found
        if request.method != "POST":
            respond(_OPTIONS if request.method == "OPTIONS" else _not_allowed())
            return
        owner = cast("Hashable", request.origin)  # a connection is told by its identity
        caller = EtcdCaller(
            token=request.headers.get(b"authorization", b""),
            address=request.address,
            owner=owner,
            request_bytes=len(request.body),
        )
        if method.streams:
            self._stream(method, request, caller, respond)
            return
        try:
            message = decode(method.request, request.body)
        except EtcdError as error:
            respond(_refusal(error))
            return
        if method.name in WAITING:
            self._tasks.spawn(self._wait(method, message, caller, request.origin, respond), name=method.name)
            return
        self._face.start(method, message, caller, partial(_answer, method, respond))

    async def _wait(
        self, method: Method, message: Message, caller: EtcdCaller, origin: ClientOrigin | None, respond: Respond
    ) -> None:
        """Carry out a call that waits for other clients. At the end of its time, or if its client leaves, it gives up
        its place."""
        task = asyncio.current_task()
        assert task is not None

        def leave() -> None:
            task.cancel()

        stay = origin.when_left(leave) if origin is not None else None
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                answer = await self._face.call(method, message, caller)
        except EtcdError as error:
            _answer(method, respond, None, error)
        except TimeoutError:
            _answer(method, respond, None, EtcdError(UNAVAILABLE, "etcdserver: request timed out"))
        else:
            _answer(method, respond, answer, None)
        finally:
            if stay is not None:
                stay()

    def _stream(self, method: Method, request: Request, caller: EtcdCaller, respond: Respond) -> None:
        try:
            messages = decode_stream(method.request, request.body)
        except EtcdError as error:
            respond(_refusal(error))
            return
        bridge = StreamBridge(
            respond,
            write=partial(_result, method),
            refuse=_refusal,
            error=_stream_error,
            live=method.name.endswith(("/Watch", "/Observe")),
        )
        work = self._face.stream(method, bridge.inbox(messages), bridge.send, caller)
        self._tasks.spawn(bridge.run(work), name=method.name)


def _answer(method: Method, respond: Respond, answer: Message | None, error: EtcdError | None) -> None:
    if error is not None:
        respond(_refusal(error))
        return
    assert answer is not None
    try:
        body = encode(method.response, answer)
    except Exception as fault:  # noqa: BLE001 - the request must not be left without an answer
        respond(_refusal(etcd_error(fault)))
        return
    respond(Response(200, _OK % len(body), body))


def _refusal(error: EtcdError) -> Response:
    """An error in the form of etcd's gateway."""
    body = msgspec.json.encode({"error": error.text, "message": error.text, "code": error.code})
    return bare(HTTP_STATUS.get(error.code, 500), JSON, body)


def _result(method: Method, message: Message) -> bytes:
    return b'{"result":%b}\n' % encode(method.response, message)


def _stream_error(error: EtcdError) -> bytes:
    """The last message of a stream that has ended with an error."""
    status = HTTP_STATUS.get(error.code, HTTP_STATUS[INTERNAL])
    told = {
        "grpc_code": error.code,
        "http_code": status,
        "message": error.text,
        "http_status": HTTPStatus(status).phrase,
    }
    return msgspec.json.encode({"error": told}) + b"\n"


def _not_allowed() -> Response:
    return bare(405, TEXT + b"Allow: OPTIONS, POST\r\n", b"Method Not Allowed\n")
