"""Header fields: each that an ordinary route reads keeps a request from its fast path, or the fast path heeds it.

Nothing else compares what the routes read with what the fast paths pass on. The test records the fields that the router
and the routes ask for, and sends requests with each of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from syncline.server.api.router import Router
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.fields import CONDITIONAL_FIELDS, UNUSUAL_FIELDS
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response
from syncline.server.http.shortcuts import CONDITIONS
from syncline.server.tracing import PARENT_FIELDS
from tests.helpers.auth_site import AuthWire, bearer, grant
from tests.helpers.kv_node import KvWire, error_in

LEASE: Final = "00000000000000a1"
ROUTES: Final = {
    "GET": ("GET", "/key/a", b""),
    "PUT": ("PUT", "/key/a", b"abc"),
    "POST": ("POST", f"/lease/{LEASE}/keepalive", b""),
}

FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
"""They say how long the body is, and the parser reads them. A known header has no `Transfer-Encoding`."""
HEEDED: Final = frozenset({b"authorization"})
"""Fields of which the fast paths make what the ordinary way makes: `test_http_fast_put.py` and `_get.py`."""
OF_THE_HOST: Final = frozenset({b"host", b"accept-language"})
"""They decide whether the server is asked under a name of its own: once for each known header."""


class RecordedFields(Mapping[bytes, bytes]):
    """Fields that note which names are asked for. If a function compares them with a set, all names of the set are."""

    def __init__(self, fields: Mapping[bytes, bytes], read: set[bytes]) -> None:
        self._fields = fields
        self._read = read

    def __getitem__(self, name: bytes) -> bytes:
        self._read.add(name)
        return self._fields[name]

    def __iter__(self) -> Iterator[bytes]:
        caller = sys._getframe(1)
        globals_ = [caller.f_globals.get(name) for name in caller.f_code.co_names]
        found = [names for names in (*globals_, *caller.f_locals.values()) if isinstance(names, frozenset)]
        assert found, f"{caller.f_code.co_qualname} looks at all fields: at which?"
        self._read.update(name for names in found for name in names if isinstance(name, bytes))
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


async def read_by(method: str, path: str, body: bytes, *, users: bool) -> set[bytes]:
    """The names that the ordinary way asks for, with each condition that changes its way."""
    read: set[bytes] = set()
    conditions: tuple[dict[bytes, bytes], ...] = (
        {}, {b"if-match": b"1"}, {b"if-none-match": b"*"}, {b"idempotency-key": b"one"}, {b"content-encoding": b""},
    )  # fmt: skip
    for unusual in (False, True):
        for more in conditions:
            wire = AuthWire() if users else KvWire(policy=CrossSitePolicy(loopback=True))
            if users:
                grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
            for sent in (body, b""):
                fields = {b"host": b"x", b"authorization": bearer("ann").split(": ")[1].encode(), **more}
                request = Request(method, path.encode(), b"", RecordedFields(fields, read), sent, unusual=unusual)
                answers: list[Response] = []
                wire.site.router.handle(request, answers.append)
                await wire.settle()
                assert len(answers) == 1
    return read


READ: Final = tuple((name, users) for name in ROUTES for users in (False, True))


@pytest.mark.parametrize(("name", "users"), READ)
async def test_fields_that_a_route_reads_are_known_to_its_fast_path(name: str, users: bool) -> None:
    read = await read_by(*ROUTES[name], users=users)
    assert read, "it reads some"
    passed_on = CONDITIONS if name == "GET" else CONDITIONAL_FIELDS
    assert read <= UNUSUAL_FIELDS | passed_on | FRAMING | HEEDED | OF_THE_HOST, "a field is new: pass it on, or heed it"


@pytest.mark.parametrize("field", sorted(UNUSUAL_FIELDS | CONDITIONAL_FIELDS))
@pytest.mark.parametrize("name", ROUTES)
async def test_request_with_a_field_that_is_passed_on_takes_the_ordinary_way(
    name: str, field: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, path, body = ROUTES[name]
    if name == "GET" and field == b"idempotency-key":
        return  # reads ignore it
    handled: list[str] = []
    handle = Router.handle

    def counted(router: Router, request: Request, respond: Respond) -> None:
        handled.append(request.method)
        handle(router, request, respond)

    monkeypatch.setattr(Router, "handle", counted)
    wire = KvWire()
    await wire.ask("POST", "/lease", json.dumps({"ttl": "30s", "id": LEASE}).encode())
    plain = [(await wire.ask(method, path, body)).status for _ in range(5)]
    ordinary, handled[:] = len(handled), []
    assert len(plain) > ordinary - 1 >= 3, "the last ones took the fast path"
    for _ in range(5):
        await wire.ask(method, path, body, f"{field.decode()}: 1")
    assert len(handled) == 5


async def test_reads_ignore_the_field_that_their_fast_path_does_not_pass_on() -> None:
    """`Idempotency-Key` is the only one that keeps a write from its fast path, and not a read."""
    assert {b"idempotency-key"} == CONDITIONAL_FIELDS - CONDITIONS
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"abc")
    answers = [await wire.ask("GET", "/key/a", b"", "Idempotency-Key: ,,bad,,") for _ in range(5)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"abc")}


@pytest.mark.parametrize("name", ROUTES)
async def test_fast_path_tells_the_fields_of_a_trace(name: str) -> None:
    method, path, body = ROUTES[name]
    wire, told = KvWire(), list[list[bytes | None]]()

    def observe(route: str, status: int, took_s: float, request: Request | None, code: str) -> None:
        assert request is not None
        told.append([request.headers.get(field) for field in PARENT_FIELDS])

    wire.server.shared.observe = observe
    for number in (b"1", b"2"):
        fields = [f"{field.decode()}: {number.decode()}" for field in PARENT_FIELDS]
        for _ in range(4):
            await wire.ask(method, path, body, *fields)
    assert told == [[b"1", b"1"]] * 4 + [[b"2", b"2"]] * 4


@pytest.mark.parametrize("name", ROUTES)
async def test_fast_path_is_open_under_names_of_the_server_alone(name: str) -> None:
    method, path, body = ROUTES[name]
    wire = KvWire(policy=CrossSitePolicy(loopback=True))
    length = f"Content-Length: {len(body)}"
    for _ in range(4):
        assert (await wire.ask_as("n1", method, path, body, length)).status in {200, 404}
    for _ in range(4):
        for host, more in (("n1", ("Accept-Language: en",)), ("evil.example", ()), ("127.0.0.1.evil.example", ())):
            answer = await wire.ask_as(host, method, path, body, length, *more)
            assert (answer.status, error_in(answer)["code"]) == (421, "foreign_host"), host
