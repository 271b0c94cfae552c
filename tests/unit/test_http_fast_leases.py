"""The fast path of keep-alives: which requests it takes, and that they are answered as by a server that has none."""

from __future__ import annotations

import asyncio
import json
from typing import NoReturn

import pytest

from syncline.errors import Dropped, NotLeader
from syncline.kv.lease_caller import LeaseCaller
from syncline.server.http.request import Request
from syncline.server.http.response import Respond
from tests.helpers.auth_site import AuthWire, bearer, grant
from tests.helpers.kv_node import KvWire, error_in

LEASE = "00000000000000a1"
GONE = "00000000000000ff"
KEEP = f"/lease/{LEASE}/keepalive"


async def granted(*fields: str, fast: bool = True) -> KvWire:
    """A store with one lease, and a connection that has renewed it, with and without this field."""
    wire = KvWire()
    if not fast:
        wire.server.serve(wire.site)
    assert (await wire.ask("POST", "/lease", json.dumps({"ttl": "30s", "id": LEASE}).encode())).status == 200
    for _ in range(4):
        assert (await wire.ask("POST", KEEP)).status == 200
        await wire.ask("POST", KEEP, b"", *fields)
    assert bool(wire.connection._write_lanes) == fast
    return wire


def without_handler(wire: KvWire) -> None:
    """Answer what no fast path takes with 500."""

    def handler(_: Request, __: Respond) -> NoReturn:
        raise AssertionError("an ordinary request")

    wire.server.shared.handler = handler


async def test_keep_alive_of_a_lease_takes_the_fast_path() -> None:
    wire = await granted()
    without_handler(wire)
    answer = await wire.ask("POST", KEEP)
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "success", "id": LEASE, "ttl_s": 30})
    absent = await wire.ask("POST", f"/lease/{GONE}/keepalive")
    assert (absent.status, error_in(absent)["code"]) == (404, "lease_not_found")
    assert (await wire.ask("POST", f"{KEEP}?timeout=1s")).status == 500, "the ordinary way"
    assert (wire.server.held_bytes, wire.server.shared.total.requests) == (0, 0)


CASES = {
    "a lease": (KEEP, b"", ()),
    "no such lease": (f"/lease/{GONE}/keepalive", b"", ()),
    "id 0": (f"/lease/{0:016x}/keepalive", b"", ()),
    "an id above the limit": (f"/lease/{'f' * 16}/keepalive", b"", ()),
    "a short id": ("/lease/a1/keepalive", b"", ()),
    "a long id": (f"/lease/0{LEASE}/keepalive", b"", ()),
    "an id in upper case": (f"/lease/{LEASE.upper()}/keepalive", b"", ()),
    "an id with an escape": (f"/lease/%30{LEASE[1:]}/keepalive", b"", ()),
    "no id": ("/lease//keepalive", b"", ()),
    "no route": (f"/lease/{LEASE}/keepalives", b"", ()),
    "a longer path": (f"{KEEP}/x", b"", ()),
    "the lease itself": (f"/lease/{LEASE}", b"", ()),
    "many": ("/lease/keepalive", json.dumps({"ids": [LEASE]}).encode(), ()),
    "many without a body": ("/lease/keepalive", b"", ()),
    "a body": (KEEP, b"{}", ()),
    "a query": (f"{KEEP}?timeout=1s", b"", ()),
    "a bad query": (f"{KEEP}?x=1", b"", ()),
    "a condition": (KEEP, b"", ("If-Match: *",)),
    "a key of the request": (KEEP, b"", ("Idempotency-Key: one",)),
    "another site": (KEEP, b"", ("Origin: http://example.org",)),
}


@pytest.mark.parametrize("case", CASES)
async def test_keep_alive_is_answered_as_by_the_ordinary_way(case: str) -> None:
    path, body, fields = CASES[case]
    received = []
    for fast in (True, False):
        wire = await granted(*fields, fast=fast)
        answers = [await wire.ask("POST", path, body, *fields) for _ in range(4)]
        received.append([(answer.status, answer.headers, answer.body) for answer in answers])
        assert (wire.server.held_bytes, wire.server.shared.total.requests) == (0, 0)
    assert received[0] == received[1]


@pytest.mark.parametrize("fast", [True, False])
async def test_keep_alive_that_is_refused_has_its_code(fast: bool) -> None:
    wire = await granted(fast=fast)
    for error, code in ((NotLeader("no"), "not_leader"), (Dropped("full"), "dropped")):
        wire.backend.propose_error = error
        answer = await wire.ask("POST", KEEP)
        assert (answer.status, error_in(answer)["code"]) == (503, code)


@pytest.mark.parametrize("fast", [True, False])
async def test_keep_alive_that_can_not_be_asked_has_an_answer(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await granted(fast=fast)

    def fails(*_: object) -> NoReturn:
        raise NotLeader("no")

    monkeypatch.setattr(LeaseCaller, "keep_alive_then", fails)
    answer = await wire.ask("POST", KEEP)
    assert (answer.status, error_in(answer)["code"]) == (503, "not_leader")
    assert wire.server.shared.total.requests == 0


@pytest.mark.parametrize("fast", [True, False])
async def test_fault_behind_a_keep_alive_is_500(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await granted(fast=fast)

    def answers(_: LeaseCaller, __: int, ___: float, then: object) -> None:
        assert callable(then)
        asyncio.get_running_loop().call_soon(then, "no time", None)

    monkeypatch.setattr(LeaseCaller, "keep_alive_then", answers)
    assert (await wire.ask("POST", KEEP)).status == 500
    assert wire.server.shared.total.requests == 0


async def test_writes_and_keep_alives_of_one_connection_both_take_their_paths() -> None:
    wire = await granted()
    for _ in range(4):
        assert (await wire.ask("PUT", "/key/a", b"abc")).status == 200
    assert len(wire.connection._write_lanes) == 2
    without_handler(wire)
    for _ in range(2):
        assert (await wire.ask("PUT", "/key/a", b"xyz")).status == 200
        assert (await wire.ask("POST", KEEP)).status == 200
    assert len(wire.connection._write_lanes) == 2


async def test_keep_alive_behind_another_waits_for_it() -> None:
    wire = await granted()
    request = f"POST {KEEP} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    wire.send(request)
    wire.send(request)
    wire.send(request * 2)
    await wire.settle()
    assert wire.received.count(b"HTTP/1.1 200 OK") == 8 + 4 + 1


async def test_keep_alive_needs_a_user_while_clients_need_credentials() -> None:
    wire = AuthWire()
    grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
    for _ in range(4):
        assert (await wire.ask("POST", KEEP)).status == 401
        assert (await wire.ask("POST", KEEP, b"", bearer("ann"))).status == 404
    assert wire.connection._write_lanes
