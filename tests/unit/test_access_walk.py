"""Every route without a credential, with too little permission, and with enough.

The routes are those that the router declares. One without an example here fails the test, so none can be forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import pytest

from syncline.kv.auth.records import ClusterOperation
from syncline.kv.commands import LeaseGrant, Put
from syncline.server.api.declare import Route
from syncline.server.api.site import Site
from syncline.server.asgi import AsgiApp
from syncline.server.auth.access import ADMIN, KEYS, OPEN, OWN, USER
from tests.helpers.auth_site import AuthWire, add_users, apply, bearer, grant, token_of, withdraw
from tests.helpers.http_wire import Answer
from tests.helpers.kv_node import FakeBackend

Bounds = tuple[bytes, bytes | None]
A: Final[Bounds] = (b"a", b"a\0")
B: Final[Bounds] = (b"b", b"b\0")
S: Final[Bounds] = (b"s/", b"s0")
ALL: Final[Bounds] = (b"", None)
LEASE: Final = 7
LEASE_ID: Final = f"{LEASE:016x}"


@dataclass
class Example:
    """A request that a route takes, and the ranges that it reads and writes."""

    path: str
    body: bytes = b""
    reads: tuple[Bounds, ...] = ()
    writes: tuple[Bounds, ...] = ()
    fields: tuple[str, ...] = ()
    by_operation: bool = field(default=False)
    """A refusal is the result of one operation of a batch."""


def ops(*items: dict[str, object], **more: object) -> bytes:
    return json.dumps({"ops": items, **more}).encode()


def batch(body: bytes, reads: tuple[Bounds, ...], writes: tuple[Bounds, ...]) -> Example:
    return Example("/batch", body, reads, writes, by_operation=True)


def txn(body: dict[str, object], reads: tuple[Bounds, ...], writes: tuple[Bounds, ...] = ()) -> Example:
    return Example("/txn", json.dumps(body).encode(), reads, writes)


PUT_A: Final[dict[str, object]] = {"op": "put", "key": "a", "value": "v"}
GET_B: Final[dict[str, object]] = {"op": "get", "key": "b"}
RANGE_S: Final[dict[str, object]] = {"op": "range", "prefix": "s/"}
PACKED: Final = msgspec.msgpack.encode({"ops": [{"op": "put", "key": b"a", "value": b"v"}]})
MSGPACK: Final = ("Content-Type: application/msgpack", "Accept: application/json")

EXAMPLES: Final[dict[tuple[str, str], list[Example]]] = {
    ("GET", "/key/{key...}"): [
        Example("/key/a", reads=(A,)),
        Example("/key/a?consistency=stale", reads=(A,)),
        Example("/key/a?revision=1", reads=(A,)),
        Example("/key/a?wait=1s&from=1", reads=(A,)),
    ],
    ("GET", "/key"): [Example("/key?key=a", reads=(A,))],
    ("PUT", "/key/{key...}"): [
        Example("/key/a", b"v", writes=(A,)),
        Example("/key/a?ttl=5s", b"v", writes=(A,)),
        Example("/key/a", b"v", reads=(A,), writes=(A,), fields=('If-Match: "1"',)),
        Example("/key/a", b"v", reads=(A,), writes=(A,), fields=("If-None-Match: *",)),
        Example("/key/a", b"v", writes=(A,), fields=("Idempotency-Key: x",)),
        Example(f"/key/a?lease={LEASE_ID}", b"v", writes=(A, B)),
    ],
    ("POST", "/key/{key...}"): [Example("/key/a", b"v", writes=(A,))],
    ("PUT", "/key"): [Example("/key?key=a", b"v", writes=(A,))],
    ("POST", "/key"): [Example("/key?key=a", b"v", writes=(A,))],
    ("DELETE", "/key/{key...}"): [
        Example("/key/a", writes=(A,)),
        Example("/key/a", reads=(A,), writes=(A,), fields=("If-Match: *",)),
    ],
    ("DELETE", "/key"): [Example("/key?key=a", writes=(A,))],
    ("POST", "/key/{key...}/touch"): [Example("/key/a/touch?ttl=5s", writes=(A,))],
    ("POST", "/touch"): [Example("/touch?key=a&ttl=5s", writes=(A,))],
    ("GET", "/keys"): [
        Example("/keys?prefix=s/", reads=(S,)),
        Example("/keys?prefix=s/&after=s/1&values=true", reads=(S,)),
        Example("/keys?prefix=s/&count", reads=(S,)),
        Example("/keys", reads=(ALL,)),
        Example("/keys?prefix=s/", reads=(S,), fields=("Accept: application/x-ndjson",)),
    ],
    ("GET", "/events"): [Example("/events")],
    ("GET", "/watch"): [
        Example("/watch?key=a", reads=(A,)),
        Example("/watch?prefix=s/&prev=true", reads=(S,)),
        Example("/watch?start=s/&end=s0", reads=(S,), fields=("Accept: application/x-ndjson",)),
        Example("/watch?prefix=", reads=(ALL,)),
    ],
    ("GET", "/watchers"): [Example("/watchers?key=a", reads=(A,))],
    ("POST", "/txn"): [
        txn({"then": [PUT_A, GET_B, RANGE_S]}, (B, S), (A,)),
        txn({"then": [], "else": [PUT_A, GET_B]}, (B,), (A,)),
        txn({"compare": [{"key": "b", "target": "version", "op": ">", "number": 0}], "then": [PUT_A]}, (B,), (A,)),
        txn({"compare": [{"prefix": "s/", "target": "version", "op": ">", "number": 0}]}, (S,)),
        txn({"then": [{"op": "txn", "compare": [], "then": [PUT_A, GET_B], "else": []}]}, (B,), (A,)),
        txn({"then": [{"op": "put", "key": "a", "value": "v", "prev": True}]}, (A,), (A,)),
        txn({"then": [{"op": "delete", "key": "a", "prev": True}]}, (A,), (A,)),
        txn({"then": [{"op": "delete_range", "prefix": "s/", "prev": True}]}, (S,), (S,)),
        txn({"then": [{"op": "delete_range", "prefix": "s/"}]}, (), (S,)),
        txn({"then": [{"op": "increment", "key": "n"}]}, ((b"n", b"n\0"),), ((b"n", b"n\0"),)),
        txn({"then": [{"op": "touch", "key": "a", "ttl": "5s"}]}, (), (A,)),
        txn({"then": [{**PUT_A, "lease": LEASE_ID}]}, (), (A, B)),
    ],
    ("POST", "/batch"): [
        batch(ops(PUT_A), (), (A,)),
        batch(ops(GET_B), (B,), ()),
        batch(ops(PUT_A, GET_B, RANGE_S), (B, S), (A,)),
        batch(ops({**PUT_A, "if_absent": True}), (A,), (A,)),
        batch(ops({"op": "txn", "compare": [], "then": [PUT_A, GET_B], "else": []}), (B,), (A,)),
        batch(ops({"op": "increment", "key": "n"}), ((b"n", b"n\0"),), ((b"n", b"n\0"),)),
        batch(ops({"op": "delete_range", "prefix": "s/", "prev": True}), (S,), (S,)),
        Example("/batch", PACKED, (), (A,), MSGPACK, by_operation=True),
        Example("/batch", ops(PUT_A, GET_B), (B,), (A,), ("Idempotency-Key: x",), by_operation=True),
        batch(ops({**PUT_A, "lease": LEASE_ID}), (), (A, B)),
        batch(ops({"op": "txn", "then": [{"op": "txn", "else": [RANGE_S]}]}), (S,), ()),
    ],
    ("GET", "/lease/{id}"): [Example(f"/lease/{LEASE_ID}", reads=(B,))],
    ("DELETE", "/lease/{id}"): [Example(f"/lease/{LEASE_ID}", writes=(B,))],
    ("POST", "/lease/{id}/keepalive"): [Example(f"/lease/{LEASE_ID}/keepalive", writes=(B,))],
    ("POST", "/lease/keepalive"): [Example("/lease/keepalive", json.dumps({"ids": [LEASE_ID]}).encode(), writes=(B,))],
    ("POST", "/lease"): [Example("/lease", b'{"ttl":"5s"}')],
    ("POST", "/session"): [Example("/session")],
    ("DELETE", "/session/{id}"): [Example("/session/0000000000000001")],
    ("GET", "/auth"): [Example("/auth")],
    ("GET", "/lease"): [Example("/lease")],
    ("GET", "/metrics"): [Example("/metrics")],
    ("POST", "/compact"): [Example("/compact", b'{"revision":1}')],
    ("GET", "/backup"): [Example("/backup")],
    ("GET", "/raft/status"): [Example("/raft/status")],
    ("GET", "/raft/members"): [Example("/raft/members")],
    ("GET", "/raft/upgrade"): [Example("/raft/upgrade")],
    ("POST", "/raft/add"): [Example("/raft/add", b'{"ID":"d","Address":"d:7100"}')],
    ("POST", "/raft/remove"): [Example("/raft/remove", b'{"ID":"c"}')],
    ("POST", "/raft/promote"): [Example("/raft/promote", b'{"ID":"c"}')],
    ("POST", "/raft/demote"): [Example("/raft/demote", b'{"ID":"c"}')],
    ("POST", "/raft/update"): [Example("/raft/update", b'{"ID":"c","Address":"c:7100"}')],
    ("POST", "/raft/transfer"): [Example("/raft/transfer", b"{}")],
    ("POST", "/raft/snapshot"): [Example("/raft/snapshot", b"{}")],
    ("POST", "/raft/upgrade"): [Example("/raft/upgrade", b'{"Action":"hold"}')],
    ("POST", "/auth/enable"): [Example("/auth/enable")],
    ("POST", "/auth/disable"): [Example("/auth/disable")],
    ("GET", "/user"): [Example("/user")],
    ("POST", "/user"): [Example("/user", b'{"name":"new"}')],
    ("GET", "/user/{name}"): [Example("/user/bob")],
    ("DELETE", "/user/{name}"): [Example("/user/bob")],
    ("POST", "/user/{name}/password"): [Example("/user/bob/password", b'{"password":"x"}')],
    ("POST", "/user/{name}/grant"): [Example("/user/bob/grant", b'{"role":"some"}')],
    ("POST", "/user/{name}/revoke"): [Example("/user/bob/revoke", b'{"role":"some"}')],
    ("POST", "/user/{name}/token"): [Example("/user/bob/token", b"{}")],
    ("DELETE", "/token/{id}"): [Example("/token/0123456789abcdef")],
    ("GET", "/role"): [Example("/role")],
    ("POST", "/role"): [Example("/role", b'{"name":"new"}')],
    ("GET", "/role/{name}"): [Example("/role/some")],
    ("DELETE", "/role/{name}"): [Example("/role/some")],
    ("POST", "/role/{name}/grant"): [Example("/role/some/grant", b'{"operation":"status"}')],
    ("POST", "/role/{name}/revoke"): [Example("/role/some/revoke", b'{"operation":"status"}')],
}
OPEN_PATHS: Final = {
    "/", "/openapi.json", "/livez", "/livez/{check}", "/readyz", "/readyz/{check}", "/health", "/version",
}  # fmt: skip
"""What is answered without a credential, and nothing else."""


def declared() -> list[tuple[Route, str]]:
    routes = Site(FakeBackend(), name="a").router.declared
    return [(route, method) for route in routes for method in route.methods.split()]


def guarded() -> Iterator[tuple[Route, str, Example]]:
    for route, method in declared():
        if route.access is not OPEN:
            yield from ((route, method, example) for example in EXAMPLES.get((method, route.pattern), ()))


def wire() -> AuthWire:
    """A lease with the key b stands beside the keys."""
    found = AuthWire()
    apply(found.backend, LeaseGrant(LEASE, 60_000))
    apply(found.backend, Put(b"b", b"v", LEASE))
    return found


async def answer_of(found: AuthWire, method: str, example: Example, *fields: str) -> Answer:
    """The answer; of a stream its first piece."""
    found.send(
        f"{method} {example.path} HTTP/1.1\r\nHost: x\r\n".encode()
        + "".join(f"{one}\r\n" for one in (*fields, *example.fields, f"Content-Length: {len(example.body)}")).encode()
        + b"\r\n"
        + example.body
    )
    await found.settle()
    head, _, body = bytes(found.received).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return Answer(int(lines[0].split()[1]), {}, body)


def is_refused(answer: Answer, example: Example) -> bool:
    if answer.status in {401, 403}:
        return True
    return example.by_operation and b'"permission_denied"' in answer.body


CASES: Final = list(guarded())
NAMES: Final = [f"{method} {example.path}" for _, method, example in CASES]


def test_every_route_that_is_not_open_has_an_example() -> None:
    missing = {
        (method, route.pattern)
        for route, method in declared()
        if route.access is not OPEN and (method, route.pattern) not in EXAMPLES
    }
    assert not missing, "give each route an example, so that its permission is tested"
    unknown = EXAMPLES.keys() - {(method, route.pattern) for route, method in declared()}
    assert not unknown


def test_open_routes_are_those_of_the_list() -> None:
    assert {route.pattern for route, _ in declared() if route.access is OPEN} == OPEN_PATHS


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/livez", "/readyz", "/health", "/version", "/livez/node"])
async def test_open_route_needs_no_credential(path: str) -> None:
    assert (await wire().ask("GET", path)).status == 200


@pytest.mark.parametrize(("route", "method", "example"), CASES, ids=NAMES)
async def test_route_without_a_credential_is_401(route: Route, method: str, example: Example) -> None:
    del route
    for one in (method, "HEAD") if method == "GET" else (method,):
        found = wire()
        revision, auth = found.backend.store.revision, found.backend.store.auth.revision
        assert (await answer_of(found, one, example)).status == 401
        assert (found.backend.store.revision, found.backend.store.auth.revision) == (revision, auth)
        assert found.backend.changes == []


@pytest.mark.parametrize(("route", "method", "example"), CASES, ids=NAMES)
async def test_route_with_too_little_permission_is_refused(route: Route, method: str, example: Example) -> None:
    """Everything but one part of what it needs is allowed."""
    for reads, writes, operations in too_little(route, example):
        found = wire()
        grant(found.backend, reads=reads, writes=writes, operations=operations)
        revision, auth = found.backend.store.revision, found.backend.store.auth.revision
        answer = await answer_of(found, method, example, bearer("ann"))
        assert is_refused(answer, example), (answer, reads, writes, operations)
        if not example.by_operation:
            assert answer.status == 403
            assert (found.backend.store.revision, found.backend.store.auth.revision) == (revision, auth)
        assert found.backend.changes == []


@pytest.mark.parametrize(("route", "method", "example"), CASES, ids=NAMES)
async def test_route_with_just_enough_permission_is_served(route: Route, method: str, example: Example) -> None:
    found = wire()
    operations = () if route.access.operation is None else (route.access.operation,)
    grant(found.backend, reads=example.reads, writes=example.writes, operations=operations)
    user = "root" if route.access in (ADMIN, OWN) else "ann"
    answer = await answer_of(found, method, example, bearer(user))
    assert not is_refused(answer, example), answer


def too_little(route: Route, example: Example) -> Iterator[tuple[list[Bounds], list[Bounds], list[ClusterOperation]]]:
    if route.access is USER:
        return  # any user may
    if route.access is not KEYS:
        yield [ALL], [ALL], [one for one in ClusterOperation if one is not route.access.operation]
        yield [], [], []
        return
    yield [], [], []
    every, reads, writes = list(ClusterOperation), list(example.reads), list(example.writes)
    for missing in reads:
        left = [one for one in reads if one != missing]
        yield left, writes, every
        yield [*left, *half(missing)], writes, every
    for missing in writes:
        left = [one for one in writes if one != missing]
        yield reads, left, every
        yield reads, [*left, *half(missing)], every


def half(bounds: Bounds) -> list[Bounds]:
    """Ranges beside this one that touch it from both sides, and leave one key out."""
    start, end = bounds
    hole = start + b"1" if end != start + b"\0" else start
    return [one for one in ((b"", hole), (hole + b"\0", None)) if one[1] is None or one[1] > one[0]]


@pytest.mark.parametrize(("route", "method", "example"), CASES, ids=NAMES)
async def test_mounted_route_without_and_with_too_little_permission(
    route: Route, method: str, example: Example
) -> None:
    """The ASGI form."""
    backend = FakeBackend()
    add_users(backend)
    apply(backend, LeaseGrant(LEASE, 60_000))
    apply(backend, Put(b"b", b"v", LEASE))
    app = AsgiApp(Site(backend, name="a"))
    assert (await mounted(app, method, example)).status == 401
    answer = await mounted(app, method, example, token_of("ann"))
    assert is_refused(answer, example) == (route.access is not USER), answer


async def mounted(app: AsgiApp, method: str, example: Example, token: str = "") -> Answer:
    path, _, query = example.path.partition("?")
    named = [tuple(one.split(": ", 1)) for one in (*example.fields, "Host: x")]
    if token:
        named.append(("Authorization", f"Bearer {token}"))
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in named],
    }
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": example.body} if not sent else {"type": "http.disconnect"}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]
    status, body = sent[0]["status"], sent[1]["body"]
    assert isinstance(status, int)
    assert isinstance(body, bytes)
    return Answer(status, {}, body)


async def test_fast_path_asks_for_the_permission_each_time() -> None:
    """A connection's lane was opened by a request that was allowed."""
    found = wire()
    grant(found.backend, reads=(A,))
    for _ in range(4):
        assert (await found.ask("GET", "/key/a", b"", bearer("ann"))).status == 200
        assert (await found.ask("GET", "/key/b", b"", bearer("ann"))).status == 403
    withdraw(found.backend)
    assert (await found.ask("GET", "/key/a", b"", bearer("ann"))).status == 403


async def test_fast_path_that_was_opened_without_credentials_needs_them_later() -> None:
    backend = FakeBackend()
    apply(backend, Put(b"a", b"v"))
    found = AuthWire(backend)
    for _ in range(4):
        assert (await found.ask("GET", "/key/a")).status == 200
    add_users(backend)
    for _ in range(4):
        assert (await found.ask("GET", "/key/a")).status == 401
