"""The PUT fast path: which requests it takes, and that they are answered as by a server that has none."""

from __future__ import annotations

import logging
from typing import NoReturn

import pytest

from syncline.errors import NoLeader
from syncline.kv.store import KeyStore
from syncline.server.http.limits import HttpLimits
from syncline.server.http.parser import SLICE_BYTES
from syncline.server.http.response import Response
from syncline.server.http.shortcuts import FastRequest, FastWriteLane
from tests.helpers.auth_site import LONG_MS, AuthWire, add_users, bearer, grant, withdraw
from tests.helpers.http_lanes import SMALL, Lane
from tests.helpers.http_wire import Wire, get, put
from tests.helpers.kv_node import KvWire, error_in


def opened(wire: Lane) -> Lane:
    """A connection that has its lane of writes, on a server that knows headers of these lengths."""
    for body in (b"abc", b"abcd"):
        wire.open(put("/key/a", body))
    assert bool(wire.connection._write_lanes) == bool(wire.server.shared.fast_writes)
    return wire


async def test_a_write_that_says_nothing_else_takes_the_fast_path() -> None:
    wire = opened(Lane())
    wire.send(put("/key/a/b", b"xyz"))
    wire.send(put("/key/-._~!$&'()*+,;=:@/Z9", b"four"))
    assert wire.taken_writes == 2
    assert [(request.path, request.body) for request in wire.requests] == [
        (b"/key/a/b", b"xyz"),
        (b"/key/-._~!$&'()*+,;=:@/Z9", b"four"),
    ]
    assert [answer.body for answer in wire.answers] == [b"PUT /key/a/b xyz", b"PUT /key/-._~!$&'()*+,;=:@/Z9 four"]
    assert wire.told[-1] == ("", 200, 0.0)
    queue = wire.connection._queue
    assert (wire.server.held_bytes, queue.in_flight, len(queue.slots)) == (0, 0, 0)


ORDINARY = {
    "another path": put("/keys/a", b"abc"),
    "no key": put("/key/", b"abc"),
    "a query": put("/key/a?b=c", b"abc"),
    "a percent-escape": put("/key/a%20b", b"abc"),
    "a space": put("/key/a b", b"abc"),
    "a null": put("/key/a\0", b"abc"),
    "a line feed": put("/key/a\n", b"abc"),
    "an unknown header": put("/key/a", b"abc", "A: b"),
    "an unknown length": put("/key/a", b"abcdef"),
    "an empty value": put("/key/a", b""),
    "a value that is short of its length": put("/key/a", b"abc")[:-1],
    "more than its length": put("/key/a", b"abc") + b"G",
    "two": put("/key/a", b"abc") * 2,
    "no end of the header": put("/key/a", b"abc")[:-7],
    "HTTP/1.0": put("/key/a", b"abc").replace(b"1.1", b"1.0"),
    "POST": put("/key/a", b"abc").replace(b"PUT", b"POST"),
    "lower case": put("/key/a", b"abc").replace(b"PUT", b"put"),
    "a long key": put("/key/" + "a" * 100, b"abc"),
    "a header in the key": b"PUT /key/" + put("/key/a", b"abc"),
}


@pytest.mark.parametrize("case", ORDINARY)
async def test_a_write_that_says_more_takes_the_ordinary_way(case: str) -> None:
    wire, plain = Lane(), Lane(fast=False)
    for each in (wire, plain):
        opened(each).send(ORDINARY[case])
        await each.settle()
    assert wire.taken_writes == 0
    assert wire.received == plain.received
    assert wire.server.held_bytes == plain.server.held_bytes


@pytest.mark.parametrize("last", [b"\r", b"0", b"\r\n\r"])
async def test_fast_write_header_that_is_cut_off_waits_for_its_end(last: bytes) -> None:
    """The length in the header is the one at which all that came, but for three bytes, could be taken for a value."""
    wires = Lane(limits=HttpLimits()), Lane(fast=False, limits=HttpLimits())
    header = put("/key/a", b"x" * 49)[: -len(b"\r\n\r\n") - 49]
    part = header.replace(b"/key/a", b"/key/" + b"a" * (53 - len(header + last))) + last
    assert len(part) == 49 + len("\r\n\r\n") - 1
    for wire in wires:
        wire.open(put("/key/a", b"x" * 49))
        assert bool(wire.connection._write_lanes) == (wire is wires[0])
        wire.send(part)
        await wire.settle()
        assert (wire.requests, wire.received) == ([], b"")


async def test_a_long_piece_of_input_is_parsed_in_slices() -> None:
    wire = Lane(limits=HttpLimits())
    long = put("/key/a", bytes(SLICE_BYTES))
    wire.open(long)
    wire.send(long)
    assert wire.taken_writes == 0
    assert len(wire.requests) == 1


async def test_its_value_counts_as_held_until_the_answer() -> None:
    wire = opened(Lane(hold=True))
    wire.send(put("/key/a", b"abc"))
    assert wire.taken_writes == 1
    assert (wire.server.held_bytes, wire.connection._held.running) == (3, 3)
    wire.connection.check()
    wire.answer(0)
    assert (wire.server.held_bytes, wire.connection._held.running) == (0, 0)
    wire.connection.check()


async def test_its_value_is_not_kept_behind_the_answer() -> None:
    wire = opened(Lane())
    wire.send(put("/key/a", b"abc"))
    [lane] = wire.connection._write_lanes
    assert lane.body == b""


async def test_as_much_as_may_be_held_stops_the_reading() -> None:
    wire = opened(Lane(hold=True))
    wire.server.shared.limits = HttpLimits(max_held_bytes=2)
    wire.send(put("/key/a", b"abc"))
    assert (wire.taken_writes, wire.transport.reading) == (1, False)
    wire.answer(0)
    await wire.settle()
    assert wire.transport.reading


async def test_a_client_that_leaves_before_its_answer_leaves_nothing() -> None:
    wire = opened(Lane(hold=True))
    wire.send(put("/key/a", b"abc"))
    wire.connection.abort()
    assert wire.server.shared.total.requests == 0
    wire.answer(0)
    assert (wire.received, wire.server.held_bytes) == (b"", 0)
    assert not wire.connection._write_lanes


@pytest.mark.parametrize("what", ["bytes", "requests"])
async def test_above_the_limit_of_all_clients_a_write_is_refused(what: str) -> None:
    wire = opened(Lane())
    total = wire.server.shared.total
    setattr(total, what, SMALL.max_total_held_bytes + 1 if what == "bytes" else total.max_requests)
    wire.send(put("/key/a", b"abc"))
    await wire.settle()
    assert wire.taken_writes == 0
    assert [answer.status for answer in wire.answers] == [503]


@pytest.mark.parametrize("fast", [True, False])
async def test_fast_write_counts_its_value_before_the_limit_of_all_clients(fast: bool) -> None:
    wire = Lane(fast=fast)
    wire.open(put("/key/a", b"abc"))
    for below, status in ((3, 200), (2, 503)):
        wire.server.shared.total.bytes = SMALL.max_total_held_bytes - below
        wire.send(put("/key/a", b"abc"))
        await wire.settle()
        assert wire.answers[-1].status == status


async def test_fast_requests_are_told_with_their_fields() -> None:
    """Traces take the caller's span from them."""
    wire, told = Lane(), []
    for first in (get("/key/a", "Traceparent: b"), put("/key/a", b"abc", "Traceparent: b")):
        wire.open(first)
        wire.server.shared.observe = lambda *answer: told.append(answer[3].headers.get(b"traceparent"))
        wire.send(first)
        assert wire.taken == 1
        assert told.pop() == b"b"


async def test_a_read_behind_a_write_waits_for_it() -> None:
    wire = opened(Lane(hold=True))
    wire.send(put("/key/a", b"abc"))
    wire.send(get("/key/a"))
    assert [request.method for request in wire.requests] == ["PUT"]
    wire.answer(0, b"first")
    await wire.settle()
    assert [request.method for request in wire.requests] == ["PUT", "GET"]
    wire.answer(1, b"second")
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"first", b"second"]


# --- the route that has it


async def route_of(wire: KvWire) -> KvWire:
    """A connection on which writes of these lengths take the fast path."""
    for body in (b"abc", b"x" * 60) * 3:
        await wire.ask("PUT", "/key/a", body)
    assert wire.connection._write_lanes
    return wire


@pytest.mark.parametrize(
    ("key", "fields", "status"),
    [
        ("a", (), 200),
        ("new", (), 200),
        ("a" * 100, (), 200),
        ("a" * 101, (), 413),
        ("a", ("If-None-Match: *",), 412),
        ("a", ("If-Match: *",), 200),
        ("a", ('If-Match: "1000"',), 412),
        ("a", ("Idempotency-Key: one",), 200),
    ],
)
async def test_a_write_is_answered_as_ever(key: str, fields: tuple[str, ...], status: int) -> None:
    received = []
    for fast in (True, False):
        wire = KvWire()
        if not fast:
            wire.server.serve(wire.site)
            wire.connection._write_lanes = ()
        await wire.ask("PUT", "/key/a", b"first")
        answers = [await wire.ask("PUT", f"/key/{key}", b"abc", *fields) for _ in range(5)]
        assert bool(wire.connection._write_lanes) == fast
        assert {answer.status for answer in answers} == {status}
        received.append([(answer.status, answer.headers, answer.body) for answer in answers])
    assert received[0] == received[1]


async def test_a_write_with_a_known_value_is_stored() -> None:
    wire = await route_of(KvWire())
    answer = await wire.ask("PUT", "/key/b/c", b"xyz")
    record = wire.backend.store.get(b"b/c")
    assert record is not None
    assert (record.value, answer.headers["etag"]) == (b"xyz", f'"{record.mod_revision}"')


async def test_a_value_above_the_limit_is_refused_on_the_fast_path() -> None:
    wire = KvWire(max_value_bytes=50)
    for _ in range(4):
        answer = await wire.ask("PUT", "/key/a", b"x" * 60)
        assert (answer.status, error_in(answer)["code"]) == (413, "too_large")
    assert wire.backend.store.get(b"a") is None


async def test_a_write_that_fails_is_answered_with_its_error() -> None:
    wire = await route_of(KvWire())
    wire.backend.propose_error = NoLeader("nobody leads")
    answer = await wire.ask("PUT", "/key/a", b"abc")
    assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")


async def test_a_write_that_can_not_be_proposed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await route_of(KvWire())

    def propose(*_: object) -> NoReturn:
        raise NoLeader("nobody leads")

    monkeypatch.setattr(wire.backend, "propose", propose)
    answer = await wire.ask("PUT", "/key/a", b"abc")
    assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")


async def test_a_fault_after_the_write_is_answered_with_500(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await route_of(KvWire())

    def propose(command: bytes, timeout_s: float, then: object) -> None:
        assert callable(then)
        then("no answer of a put", None)

    monkeypatch.setattr(wire.backend, "propose", propose)
    answer = await wire.ask("PUT", "/key/a", b"abc")
    assert (answer.status, error_in(answer)["outcome"]) == (500, "unknown")


async def test_without_credentials_a_write_is_refused_on_the_fast_path() -> None:
    wire = await route_of(KvWire())
    wire.backend.machine.auth_flag.on = True
    answer = await wire.ask("PUT", "/key/b", b"abc")
    assert (answer.status, error_in(answer)["code"]) == (401, "unauthenticated")
    assert wire.backend.store.get(b"b") is None


async def test_a_second_answer_to_a_write_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    wire = opened(Lane())

    def twice(_: str, request: FastRequest) -> None:
        request.found(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", b"once")
        request.respond(Response(200, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"twice"))

    wire.serve(twice)
    wire.connection._write_lanes = ()
    for _ in range(2):
        wire.send(put("/key/a", b"abc"))
    assert wire.answers[-1].body == b"once"
    assert "answered twice" in caplog.text


# --- while clients need credentials


async def guarded(max_user_requests: int = 0) -> AuthWire:
    """A connection of a user that may write the key a, with its fast paths open."""
    wire = AuthWire(max_user_requests=max_user_requests)
    grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
    for _ in range(4):
        assert (await wire.ask("PUT", "/key/a", b"abc", bearer("ann"))).status == 200
        assert (await wire.ask("GET", "/key/a", b"", bearer("ann"))).status == 200
    assert wire.connection._write_lanes
    assert wire.connection._lane is not None
    return wire


async def test_user_writes_by_the_fast_path_with_its_permission_alone() -> None:
    wire = await guarded()
    assert (await wire.ask("PUT", "/key/a2", b"xyz", bearer("ann"))).status == 200
    assert (await wire.ask("PUT", "/key/b", b"xyz", bearer("ann"))).status == 403
    assert (await wire.ask("PUT", "/key/a", b"xyz")).status == 401
    withdraw(wire.backend)
    assert (await wire.ask("PUT", "/key/a", b"xyz", bearer("ann"))).status == 403
    values = [wire.backend.store.get(key) for key in (b"a", b"a2", b"b")]
    assert [record and record.value for record in values] == [b"abc", b"xyz", b"value"]


async def test_user_writes_by_the_fast_path_until_its_token_expires() -> None:
    wire = await guarded()
    wire.wall_s += LONG_MS / 1000
    assert (await wire.ask("PUT", "/key/a", b"xyz", bearer("ann"))).status == 401


@pytest.mark.parametrize(
    "sent", [put("/key/a", b"xyz", bearer("ann")), get("/key/a", "Content-Length: 0", bearer("ann"))]
)
async def test_permission_withdrawn_under_way_refuses_a_fast_request(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    wire = await guarded()
    wire.backend.hold = True
    wire.send(sent)
    [slot] = wire.connection._queue.slots
    assert slot in [lane and lane.slot for lane in (wire.connection._lane, *wire.connection._write_lanes)]
    withdraw(wire.backend)
    with caplog.at_level(logging.WARNING):
        wire.backend.release()
        await wire.settle()
    answer = wire.next_answer()
    assert (answer.status, error_in(answer)["code"]) == (403, "permission_denied")
    [line] = [one for one in caplog.records if getattr(one, "event", "") == "refused"]
    method = sent[:3].decode()
    noted = [getattr(line, name, "") for name in ("user", "status", "route", "target")]
    assert noted == ["ann", 403, f"{method} /key/{{key...}}", "a"]
    assert wire.site.gate.user_requests.running == {}


async def test_permission_withdrawn_before_another_request_refuses_a_fast_read() -> None:
    """The other request looks the permissions of its user up again, so they are those of the present users."""
    wire = await guarded()
    wire.backend.hold = True
    wire.send(get("/key/a", "Content-Length: 0", bearer("ann")))
    withdraw(wire.backend)
    other = Wire(server=wire.server)
    other.send(get("/auth", bearer("ann")))
    await other.settle()
    while wire.backend.held:
        wire.backend.release()
    await wire.settle()
    answer = wire.next_answer()
    assert (answer.status, error_in(answer)["code"]) == (403, "permission_denied")


async def test_token_that_expires_under_way_ends_a_fast_read() -> None:
    wire = await guarded()
    wire.backend.hold = True
    wire.send(get("/key/a", "Content-Length: 0", bearer("ann")))
    wire.wall_s = LONG_MS / 1000
    wire.backend.release()
    await wire.settle()
    assert wire.next_answer().status == 401


@pytest.mark.parametrize("sent", [put("/key/a", b"abc", bearer("ann")), get("/key/a", bearer("ann"))])
async def test_fast_requests_count_for_their_user(sent: bytes) -> None:
    wire = await guarded(max_user_requests=1)
    users = wire.site.gate.user_requests
    assert users.running == {}
    others = [Wire(server=wire.server) for _ in range(2)]
    for other in others:
        for _ in range(3):
            other.send(sent)
            await other.settle()
        assert [answer.status for answer in other.answers] == [200] * 3
        other.transport.written.clear()
    wire.backend.hold = True
    for other in others:
        other.send(sent)
    assert users.running == {"ann": 1}
    assert [answer.status for answer in others[1].answers] == [429]
    while wire.backend.held:
        wire.backend.release()
    await wire.settle()
    assert [answer.status for answer in others[0].answers] == [200]
    assert (users.running, users.proposed_bytes) == ({}, {})


async def test_fast_requests_that_fail_at_once_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await guarded(max_user_requests=1)

    def fails(*_: object) -> NoReturn:
        raise NoLeader("nobody leads")

    monkeypatch.setattr(wire.backend, "propose", fails)
    monkeypatch.setattr(wire.backend, "read_index", fails)
    for method in ("PUT", "GET"):
        answer = await wire.ask(method, "/key/a", b"abc" if method == "PUT" else b"", bearer("ann"))
        assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")
    assert wire.site.gate.user_requests.running == {}


@pytest.mark.parametrize("failing", [1, 0])
async def test_fast_read_of_a_user_that_fails_late_is_counted_no_more(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = await guarded(max_user_requests=2)
    wire.backend.hold = bool(failing)

    def fails(*_: object) -> NoReturn:
        raise ValueError("a fault")

    monkeypatch.setattr(KeyStore, "get", fails)
    wire.send(get("/key/a", "Content-Length: 0", bearer("ann")))
    while wire.backend.held:
        wire.backend.release()
    await wire.settle()
    assert wire.next_answer().status == 500
    assert wire.site.gate.user_requests.running == {}


async def test_fast_write_needs_credentials_that_came_after_its_lane() -> None:
    wire = await route_of(KvWire())
    add_users(wire.backend)
    for _ in range(4):
        assert (await wire.ask("PUT", "/key/a", b"abc")).status == 401


async def test_late_second_answer_to_a_passed_on_request_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """What the ordinary way is given has a slot of its own: the connection's next request is not answered by it."""
    wire = opened(Lane(hold=True))

    def passes_on(_: str, request: FastRequest) -> None:
        wire.hold(*request.ordinary())

    wire.serve(passes_on)
    wire.connection._write_lanes = ()
    for _ in range(3):
        wire.send(put("/key/a", b"abc"))
        wire.answer(-1, b"right")
    lanes: list[FastWriteLane] = [*wire.connection._write_lanes]
    wire.send(put("/key/a", b"abc"))
    wire.answer(-2, b"wrong")
    lanes[0].respond(Response(200, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"wrong"))
    wire.connection.check()
    wire.answer(-1, b"right")
    assert [answer.body for answer in wire.answers[-4:]] == [b"right"] * 4
    assert caplog.text.count("answered twice") == 2
    assert (wire.server.held_bytes, wire.server.shared.total.requests) == (0, 0)
