"""gRPC requests to calls of etcd's interface: finds the method, the token and the time that the client waits.

service = GrpcService(http.shared.total, http.limits, observe=telemetry.observe)
http.offer_http2(service.application)
service.serve(face)                        # until then each call is answered UNAVAILABLE
await service.close()
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Final

from syncline.server.etcd.errors import HTTP_STATUS, INTERNAL, UNAVAILABLE, UNIMPLEMENTED
from syncline.server.etcd.face import EtcdCaller
from syncline.server.etcd.grpc.calls import CallHead, CallParts, Face, StreamingGrpc, UnaryGrpc
from syncline.server.etcd.grpc.places import CallPlaces
from syncline.server.etcd.grpc.wire import error_block, http_error_block, parse_timeout
from syncline.server.etcd.methods import METHODS, WAITING, Method
from syncline.server.http.limits import HttpLimits
from syncline.server.http.observing import ObserveFailures
from syncline.server.http.state import TotalBytes
from syncline.server.http2.header_blocks import RequestHead, field
from syncline.server.http2.streams import Http2Stream, StreamOutput

__all__ = ["GrpcService"]

_log = logging.getLogger("syncline.server.grpc")

LONGEST_S: Final = 7.0
"""The time of a call that waits for no other client: etcd ends one after 5 s and two elections."""

_OBSERVE: Final = "/v3electionpb.Election/Observe"
"""It waits for a first leader, as long as there is none."""

_NO_ENCODINGS: Final = field(b"grpc-accept-encoding", b"identity")


class GrpcService:
    """The application of HTTP/2 connections. Everything runs on the event loop.

    Its calls count in `total` with the requests of HTTP/1.1, within `limits`. `observe` counts each call: by "POST "
    and the method's name, as a status of HTTP, with its seconds by `clock`.
    """

    def __init__(
        self,
        total: TotalBytes,
        limits: HttpLimits,
        *,
        observe: Callable[[str, int, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._places = CallPlaces(total, limits.vital_requests)
        self._observe = observe
        self._failures = ObserveFailures()
        self._clock = clock
        self._parts: CallParts | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._routes = {name: f"POST {name}" for name in METHODS}

    def serve(self, face: Face) -> None:
        """Carry out calls by this face from now on."""
        self._parts = CallParts(face, self._spawn, self._clock, self._observed, self._places)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def application(
        self, stream: Http2Stream, head: RequestHead, output: StreamOutput, address: str, owner: object
    ) -> UnaryGrpc | StreamingGrpc | None:
        """Take a new stream; None if it was answered at once."""
        known = head.found
        if known is None:
            head.found = known = _known(head)
        if not isinstance(known, CallHead):
            assert isinstance(known, bytes)
            output.finish(stream, known)
            return None
        parts = self._parts
        if parts is None:
            output.finish(stream, error_block(UNAVAILABLE, "etcdserver: the node is starting: it is not open yet"))
            return None
        caller = EtcdCaller(known.timeout_s, known.token, address, owner)
        return (StreamingGrpc if known.method.streams else UnaryGrpc)(stream, output, known, caller, parts)

    def _observed(self, method: Method, code: int, began_s: float) -> None:
        if (observe := self._observe) is not None:
            status, took_s = HTTP_STATUS[code] if code else 200, self._clock() - began_s
            try:
                observe(self._routes[method.name], status, took_s)
            except Exception as error:  # noqa: BLE001 - the answer must be sent all the same
                self._failures.note(error)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the call %s failed", task.get_name(), exc_info=error)


def _known(head: RequestHead) -> CallHead | bytes:
    """What the head says, or the header block that refuses it."""
    fields = head.fields
    kind = fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind not in (b"application/grpc", b"application/grpc+proto"):
        text = b"HTTP/2 is for etcd's clients (gRPC) here: use HTTP/1.1 for all other routes"
        return http_error_block(415, field(b"syncline-error", text))
    if head.method != "POST":
        return http_error_block(405, field(b"allow", b"POST"))
    if fields.get(b"grpc-encoding", b"identity") != b"identity":
        shown = fields[b"grpc-encoding"][:40].decode("latin-1")
        text_ = f"grpc: Decompressor is not installed for grpc-encoding {shown!r}"
        return error_block(UNIMPLEMENTED, text_, extra=_NO_ENCODINGS)
    method = METHODS.get(head.path)
    if method is None:
        return error_block(UNIMPLEMENTED, _unknown_path(head.path))
    timeout_s = None
    if (raw := fields.get(b"grpc-timeout")) is not None and (timeout_s := parse_timeout(raw)) is None:
        return error_block(INTERNAL, f"malformed grpc-timeout: {raw[:40].decode('latin-1')!r}")
    token = fields.get(b"token") or fields.get(b"authorization", b"")
    call_s = LONGEST_S if timeout_s is None else min(timeout_s, LONGEST_S)
    return CallHead(method, token, call_s, timeout_s, method.name in WAITING or method.name == _OBSERVE)


def _unknown_path(path: str) -> str:
    service, _, name = path[1:201].rpartition("/")
    if any(known.startswith(f"/{service}/") for known in METHODS):
        return f"unknown method {name} for service {service}"
    return f"unknown service {service}"
