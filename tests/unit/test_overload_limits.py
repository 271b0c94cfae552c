"""Limits of what clients ask at a time: beyond them an answer at once, with `Retry-After`; nothing is counted twice."""

from __future__ import annotations

import pytest

from syncline.kv.watch import WatchLimits
from syncline.server.etcd.methods import METHODS, READING
from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from syncline.server.http.server import HttpServer
from tests.helpers.auth_site import PASSWORD, AuthWire, bearer, grant, token_of
from tests.helpers.etcd_wire import GuardedEtcdWire, b64
from tests.helpers.http_wire import Wire, error_of, get, put
from tests.helpers.kv_node import KvWire


class Slow:
    """A handler that answers when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Respond] = []

    def __call__(self, request: Request, respond: Respond) -> None:
        self.waiting.append(respond)

    def answer(self) -> None:
        self.waiting.pop(0)(bare(200, TEXT, b"ok"))


@pytest.fixture
def slow() -> Slow:
    return Slow()


def full(slow: Slow, count: int = 3) -> tuple[HttpServer, list[Wire]]:
    """A server with so many requests in work, which is its limit, each on a connection of its own."""
    server = HttpServer(slow, limits=HttpLimits(max_requests=count), wall_time_s=lambda: 0.0)
    wires = [Wire(server=server) for _ in range(count)]
    for wire in wires:
        wire.send(get("/a"))
    assert server.requests == count
    return server, wires


async def test_requests_above_the_limit_are_answered_at_once(slow: Slow) -> None:
    server, wires = full(slow)
    late = Wire(server=server)
    late.send(get("/b"))
    await late.settle()
    (answer,) = late.answers
    assert (answer.status, answer.headers["retry-after"], error_of(answer.body)["code"]) == (503, "1", "overloaded")
    assert len(slow.waiting) == 3, "nothing of it reached the handler"
    slow.answer()
    late.send(get("/c"))
    assert len(slow.waiting) == 3
    for _ in range(3):
        slow.answer()
    await late.settle()
    assert server.requests == 0
    assert [wire.answers[0].status for wire in wires] == [200] * 3


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/version", "/raft/status"])
async def test_requests_of_operators_pass_the_limit(slow: Slow, path: str) -> None:
    server, _ = full(slow)
    Wire(server=server).send(get(path))
    assert len(slow.waiting) == 4
    assert server.requests == 4


async def test_requests_of_operators_have_a_limit_of_their_own(slow: Slow) -> None:
    """A readiness check waits for a quorum, and anybody may ask."""
    server = HttpServer(slow, limits=HttpLimits(max_requests=1, vital_requests=2), wall_time_s=lambda: 0.0)
    wires = [Wire(server=server) for _ in range(5)]
    for wire in wires:
        wire.send(get("/readyz"))
        await wire.settle()
    assert len(slow.waiting) == 3
    assert [wire.answers[0].status for wire in wires[3:]] == [503, 503]


@pytest.mark.parametrize(("error", "level"), [(OSError(107, "not connected"), "DEBUG"), (RuntimeError(), "ERROR")])
async def test_connection_that_can_not_be_written_keeps_no_other_back(
    slow: Slow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    """Those behind it in the same turn were never written again, and their requests stayed in work for ever."""
    server = HttpServer(slow, limits=HttpLimits(max_requests=9), wall_time_s=lambda: 0.0)
    wires = [Wire(server=server) for _ in range(3)]

    def gone(_: bytes) -> None:
        raise error

    caplog.set_level("DEBUG")
    monkeypatch.setattr(wires[0].transport, "write", gone)
    for wire in wires:
        wire.send(get("/b") * 2)  # so that the answers are flushed at the end of the turn
    while slow.waiting:
        slow.answer()
    await wires[1].settle()
    assert [answer.status for wire in wires[1:] for answer in wire.answers] == [200] * 4
    assert server.requests == 0
    assert [one.levelname for one in caplog.records if "can't be written" in one.getMessage()] == [level]


@pytest.mark.parametrize("call", ["write", "write_eof"])
async def test_late_client_that_has_reset_its_connection_keeps_no_other_back(
    slow: Slow, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The answer or the half-close of such a connection fails. The others were not looked at in that sweep."""
    server = HttpServer(slow, wall_time_s=lambda: 0.0)
    wires = [Wire(server=server) for _ in range(2)]

    def gone(*_: bytes) -> None:
        raise OSError(107, "not connected")

    monkeypatch.setattr(wires[0].transport, call, gone)
    for wire in wires:
        wire.send(b"GET /late")
    for now_s in (1.0, 20.0):
        server.sweep(now_s)
    await wires[1].settle()
    assert wires[0].transport.aborted == (call == "write_eof")
    assert [answer.status for answer in wires[1].answers] == [408]


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (get("/livez"), [200]),
        (get("/readyz") * 2, [200, 200]),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", [200]),
        (get("/key/a"), [503]),
        (get("/livez") + b"garbage\r\n\r\n", [200, 400]),
        (get("/livez")[:-2] + b"Content-Length: 3\r\n\r\nabc", [200]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [503]),
    ],
)
async def test_connections_of_health_checks_are_taken_above_the_limit(data: bytes, statuses: list[int]) -> None:
    """A node whose connections are all watches must not be restarted because it can't say that it is well."""

    def handler(request: Request, respond: Respond) -> None:
        if request.path != b"/held":
            respond(bare(200, TEXT, b"ok"))

    limits = HttpLimits(max_connections=1, vital_connections=1)
    first = Wire(server=HttpServer(handler, limits=limits, wall_time_s=lambda: 0.0))
    first.server.offer_http2(lambda *_: None)
    first.send(get("/held"))
    extra = Wire(server=first.server)
    extra.send(data)
    await extra.settle()
    assert [answer.status for answer in extra.answers] == statuses
    assert extra.answers[-1].headers["connection"] == "close"
    refused = Wire(server=first.server)
    assert [answer.status for answer in refused.answers] == ([] if extra.transport.closed else [503])
    assert first.server.requests == 1


@pytest.mark.parametrize("query", ["prefix=wait=", "x=1&await=1s", "prefix=a%26wait=1s"])
async def test_reads_that_only_look_like_waiting_are_counted(slow: Slow, query: str) -> None:
    server, _ = full(slow)
    late = Wire(server=server)
    late.send(get(f"/keys?{query}"))
    await late.settle()
    assert late.answers[0].status == 503


async def test_requests_of_lost_connections_are_not_counted(slow: Slow) -> None:
    server, wires = full(slow)
    for wire in wires:
        wire.transport.abort()
    assert server.requests == 0
    for _ in range(3):
        slow.answer()
    assert server.requests == 0, "a late answer counts nothing"


async def test_requests_that_wait_behind_others_are_not_counted(slow: Slow) -> None:
    server = HttpServer(slow, limits=HttpLimits(max_requests=3), wall_time_s=lambda: 0.0)
    wire = Wire(server=server)
    wire.send(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" * 5)
    assert server.requests == 1
    for _ in range(5):
        slow.answer()
        await wire.settle()
    assert server.requests == 0


async def test_reads_that_wait_for_a_change_take_no_place() -> None:
    wire = KvWire(limits=HttpLimits(max_requests=1))
    wire.send(b"GET /key/a?wait=30s HTTP/1.1\r\nHost: x\r\n\r\n")
    await wire.settle()
    assert wire.server.requests == 0


@pytest.mark.parametrize("path", ["/v3/lock/lock", "/v3/election/campaign", "/v3beta/lock/lock"])
async def test_calls_that_wait_for_a_lock_take_no_place(slow: Slow, path: str) -> None:
    """Each waits up to a minute, also if its client has left: some would have shut out all others."""
    server, _ = full(slow)
    late = Wire(server=server)
    late.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert len(slow.waiting) == 4
    assert server.requests == 3
    other = Wire(server=server)
    other.send(f"POST /key{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert other.answers[0].status == 503


async def test_requests_of_the_fast_path_are_counted_and_refused() -> None:
    """It takes the second and later plain reads of a connection."""
    wire = KvWire(limits=HttpLimits(max_requests=2))
    wire.backend.hold = True
    request = b"GET /key/a HTTP/1.1\r\nHost: x\r\n\r\n"
    wire.backend.hold = False
    for _ in range(4):
        wire.send(request)
        await wire.settle()
    assert wire.server.requests == 0
    wire.backend.hold = True
    others = [Wire(server=wire.server) for _ in range(2)]
    for other in others:
        other.send(request)
    assert wire.server.requests == 2
    wire.send(request)
    await wire.settle()
    assert wire.answers[-1].status == 503
    assert wire.server.requests == 2


# -- users ------------------------------------------------------------------------------------------------------------


async def test_requests_of_one_user_are_limited_and_leave_room_for_others() -> None:
    first = AuthWire(max_user_requests=2)
    grant(first.backend, writes=[(b"a", None)])
    others = [AuthConnection(first) for _ in range(3)]
    assert (await first.ask("PUT", "/key/a", b"v", bearer("ann"))).status == 200
    first.backend.hold = True
    for wire in others[:2]:
        wire.put("ann")
    refused = await first.ask("PUT", "/key/a", b"v", bearer("ann"))
    assert (refused.status, refused.headers["retry-after"], error_of(refused.body)["code"]) == (429, "1", "limit")
    others[2].put("root")
    assert len(first.backend.held) == 3
    while first.backend.held:
        first.backend.release()
    await first.settle()
    assert first.site.gate.user_requests.running == {}
    first.backend.hold = False
    assert (await first.ask("PUT", "/key/a", b"v", bearer("ann"))).status == 200


async def test_refused_requests_of_a_user_are_not_counted() -> None:
    wire = AuthWire(max_user_requests=2)
    grant(wire.backend, writes=[(b"a", b"b")])
    for _ in range(5):
        assert (await wire.ask("PUT", "/key/zzz", b"v", bearer("ann"))).status == 403
        assert (await wire.ask("PUT", "/key/a?x=1", b"v", bearer("ann"))).status == 400
    assert wire.site.gate.user_requests.running == {}


async def test_bytes_of_one_users_writes_are_limited_and_leave_room_for_others() -> None:
    """Else one user's large values would take the 64 MiB that a node has for proposals."""
    first = AuthWire(max_user_write_bytes=1000)
    grant(first.backend, writes=[(b"a", None)], reads=[(b"a", None)])
    others = [AuthConnection(first) for _ in range(5)]
    assert (await first.ask("PUT", "/key/a", b"v", bearer("ann"))).status == 200
    first.backend.hold = True
    others[0].put("ann", bytes(600))
    users = first.site.gate.user_requests
    assert users.proposed_bytes == {"ann": 600 + len("/key/a")}
    refused = await first.ask("PUT", "/key/a", bytes(500), bearer("ann"))
    assert (refused.status, refused.headers["retry-after"], error_of(refused.body)["code"]) == (429, "1", "limit")
    assert "606 bytes" in str(error_of(refused.body)["message"])
    others[1].put("ann", bytes(300))
    others[2].put("root", bytes(900))
    assert len(first.backend.held) == 3
    while first.backend.held:
        first.backend.release()
    await first.settle()
    assert (users.running, users.proposed_bytes) == ({}, {})
    first.backend.hold = False
    assert (await first.ask("PUT", "/key/a", bytes(500), bearer("ann"))).status == 200
    assert (await first.ask("GET", "/key/a", b"", bearer("ann"))).status == 200


async def test_write_larger_than_the_limit_of_its_user_is_taken_when_it_is_alone() -> None:
    """It could never be written else, however often its client tries again."""
    first = AuthWire(max_user_write_bytes=100)
    grant(first.backend, writes=[(b"a", None)], reads=[(b"a", None)])
    assert (await first.ask("PUT", "/key/a", bytes(500), bearer("ann"))).status == 200
    first.backend.hold = True
    held = AuthConnection(first)
    held.put("ann", bytes(500))
    assert (await first.ask("PUT", "/key/a", b"v", bearer("ann"))).status == 429
    first.backend.release()
    await first.settle()
    assert first.site.gate.user_requests.proposed_bytes == {}


async def test_reads_of_a_user_count_no_bytes() -> None:
    first = AuthWire(max_user_write_bytes=10)
    grant(first.backend, reads=[(b"a", None)])
    held = [AuthConnection(first) for _ in range(2)]
    first.backend.hold = True
    for wire in held:
        wire.send(f"GET /key/{'a' * 50} HTTP/1.1\r\nHost: x\r\n{bearer('ann')}\r\n\r\n".encode())
        await wire.settle()
    users = first.site.gate.user_requests
    assert (users.running, users.proposed_bytes) == ({"ann": 2}, {})


async def test_bytes_of_a_users_calls_at_etcds_interface_are_limited() -> None:
    first = GuardedEtcdWire(max_user_write_bytes=600)
    grant(first.backend, writes=[(b"a", None)])
    put = {"key": b64("a"), "value": b64("v" * 300)}
    token = f"Authorization: {token_of('ann')}"
    assert (await first.post("kv/put", put, token))[0] == 200
    assert first.site.gate.user_requests.proposed_bytes == {}
    first.backend.hold = True
    held = AuthConnection(first)
    held.put("ann", bytes(400))
    status, document = await first.post("kv/put", put, token)
    assert (status, document["code"]) == (429, 8), document
    assert "of the user ann" in document["error"]
    first.backend.release()
    await first.settle()
    first.backend.hold = False
    assert (await first.post("kv/put", put, token))[0] == 200
    assert first.site.gate.user_requests.running == {}


async def test_logins_of_a_user_at_etcds_interface_are_not_counted_for_good() -> None:
    """Each would have taken a place for ever: the user could do nothing more until the node is restarted."""
    wire = GuardedEtcdWire(max_user_requests=2)
    for _ in range(4):
        status, document = await wire.post("auth/authenticate", {"name": "ann", "password": PASSWORD})
        assert status == 200, document
    assert wire.site.gate.user_requests.running == {}


async def test_calls_of_a_user_at_etcds_interface_are_limited() -> None:
    first = GuardedEtcdWire(max_user_requests=1)
    grant(first.backend, writes=[(b"a", None)])
    put = {"key": b64("a"), "value": b64("v")}
    token = f"Authorization: {token_of('ann')}"
    assert (await first.post("kv/put", put, token))[0] == 200
    assert first.site.gate.user_requests.running == {}
    first.backend.hold = True
    held = AuthConnection(first)
    held.put("ann")
    status, document = await first.post("kv/put", put, token)
    assert (status, document["code"]) == (429, 8), document
    assert "1 requests of the user ann" in document["error"]
    first.backend.release()
    await first.settle()
    first.backend.hold = False
    assert (await first.post("kv/put", put, token))[0] == 200
    assert first.site.gate.user_requests.running == {}


async def test_watches_of_one_user_are_limited_and_leave_room_for_others() -> None:
    first = AuthWire(watch_limits=WatchLimits(max_user_watches=2))
    grant(first.backend, reads=[(b"a", None)])
    assert (await first.ask("GET", "/key/a", b"", bearer("ann"))).status == 200
    held = [AuthConnection(first) for _ in range(3)]
    for wire in held[:2]:
        wire.watch("ann")
    assert len(first.site.watches) == 2
    refused = await first.ask("GET", "/watch?prefix=a", b"", bearer("ann"))
    assert (refused.status, refused.headers["retry-after"], error_of(refused.body)["code"]) == (429, "1", "limit")
    held[2].watch("root")
    await first.settle()
    assert len(first.site.watches) == 3
    held[0].transport.abort()
    first.site.watches.check()
    held.append(AuthConnection(first))
    held[-1].watch("ann")
    assert len(first.site.watches) == 3


class AuthConnection(Wire):
    """A further connection to a site of users."""

    def __init__(self, first: AuthWire) -> None:
        super().__init__(server=first.server)

    def put(self, user: str, value: bytes = b"v") -> None:
        self.send(put("/key/a", value, bearer(user)))

    def watch(self, user: str) -> None:
        self.send(f"GET /watch?prefix=a HTTP/1.1\r\nHost: x\r\n{bearer(user)}\r\n\r\n".encode())


async def test_reads_of_a_user_at_etcds_interface_count_no_bytes() -> None:
    """They were refused while the user's writes took all bytes."""
    assert {*READING} < {*METHODS}
    first = GuardedEtcdWire(max_user_write_bytes=600)
    grant(first.backend, writes=[(b"a", None)], reads=[(b"a", None)])
    token = f"Authorization: {token_of('ann')}"
    first.backend.hold = True
    AuthConnection(first).put("ann", bytes(590))
    before = dict(first.site.gate.user_requests.proposed_bytes)
    assert before["ann"] > 580
    first.backend.hold = False
    status, document = await first.post("kv/range", {"key": b64("a"), "range_end": b64("a" * 50)}, token)
    assert status != 429, document
    assert first.site.gate.user_requests.proposed_bytes == before
