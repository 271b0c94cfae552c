"""What metrics, traces and logs are told of requests that took a fast path, or began with one."""

from __future__ import annotations

import json
from typing import TypeAlias

import pytest

from syncline.server.http.request import Request
from tests.helpers.auth_site import AuthWire, bearer, grant
from tests.helpers.http2_wire import PUT, Http2Wire
from tests.helpers.http_lanes import Lane
from tests.helpers.http_wire import get, put
from tests.helpers.kv_node import KvWire

LEASE = "00000000000000a1"
IDS = json.dumps({"ids": [LEASE]}).encode()
Told: TypeAlias = tuple[str, int, str, str, bytes, dict[bytes, bytes]]


def told_by(wire: KvWire) -> list[Told]:
    """What the server of this connection tells of its answers, from now on."""
    told: list[Told] = []

    def observe(route: str, status: int, _: float, request: Request | None, code: str) -> None:
        assert request is not None
        told.append((route, status, code, request.method, request.argument, dict(request.headers)))

    wire.server.shared.observe = observe
    return told


def failing(*_: object) -> None:
    raise ValueError("no such label")


@pytest.mark.parametrize("fast", [True, False])
async def test_request_whose_observing_fails_is_answered(fast: bool, caplog: pytest.LogCaptureFixture) -> None:
    """By both ways, at once and in a pipeline, and a refusal too. Each answer fails, and one line says it."""
    lane = Lane(fast=fast, observe=failing)
    lane.open()
    for _ in range(2):
        lane.send(get("/key/a"))
        lane.send(get("/key/a") + get("/key/b"))
        lane.send(put("/key/a", b"x"))
    lane.send(b"NO REQUEST\r\n\r\n")
    await lane.settle()
    written = b"".join(lane.transport.written)
    assert written.count(b"HTTP/1.1 200 ") == 8
    assert written.count(b"HTTP/1.1 400 ") == 1
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["no such label"]


async def test_grpc_call_whose_observing_fails_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    wire = Http2Wire(observe=failing)
    wire.face.answers[PUT] = lambda _: {"header": {"revision": 7}}
    for _ in range(2):
        view = await wire.call(PUT, {"key": b"a", "value": b"1"})
        assert (view.status, view.ended) == (0, True)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["no such label"]


CASES = {
    "a key": ("PUT", "/key/a", b"abc"),
    "a key of slashes": ("PUT", "/key/a/b/touch", b"abc"),
    "a long key": ("PUT", "/key/" + "k" * 101, b"abc"),
    "a long value": ("PUT", "/key/a", bytes(1001)),
    "a read": ("GET", "/key/a", b""),
    "a read of no key": ("GET", "/key/none", b""),
    "a read of a long key": ("GET", "/key/" + "k" * 101, b""),
    "a keep-alive": ("POST", f"/lease/{LEASE}/keepalive", b""),
    "a keep-alive of no lease": ("POST", f"/lease/{'f' * 16}/keepalive", b""),
    "many keep-alives": ("POST", "/lease/keepalive", IDS),
    "a lease with a wrong method": ("POST", f"/lease/{LEASE}", b""),
    "no route": ("POST", "/lease/a/b/c", b""),
}


@pytest.mark.parametrize("case", CASES)
async def test_fast_request_is_told_as_by_the_ordinary_way(case: str) -> None:
    """Routes, too: a path below `/lease/` is not always that of a keep-alive."""
    method, path, body = CASES[case]
    told = []
    for fast in (True, False):
        wire = KvWire()
        if not fast:
            wire.server.serve(wire.site)
        await wire.ask("POST", "/lease", json.dumps({"ttl": "30s", "id": LEASE}).encode())
        told.append(told_by(wire))
        for _ in range(5):
            await wire.ask(method, path, body, "traceparent: 00-1-2-03")
        await wire.ask("PUT", "/key/a", b"x", "traceparent: 00-1-2-03")
        assert all(one[-1][b"traceparent"] == b"00-1-2-03" for one in told[-1])
    known = slice(4) if "a keep-alive" in case else slice(6)  # the fast path does not take its argument apart
    assert [one[known] for one in told[0]] == [one[known] for one in told[1]]


@pytest.mark.parametrize("user", ["ann", "bob", "nobody"])
async def test_fast_request_of_a_user_is_told_as_by_the_ordinary_way(user: str) -> None:
    told = []
    for fast in (True, False):
        wire = AuthWire()
        if not fast:
            wire.server.serve(wire.site)
        grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
        told.append(told_by(wire))
        for method, path, body in CASES.values():
            for _ in range(4):
                await wire.ask(method, path, body, bearer(user))
    assert [one[:4] for one in told[0]] == [one[:4] for one in told[1]]
