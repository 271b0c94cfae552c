"""The GET fast path: which requests it takes, and that they are answered as by a server that has none."""

from __future__ import annotations

import logging
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import NoLeader
from syncline.server.http.limits import HttpLimits
from syncline.server.http.parser import SLICE_BYTES
from syncline.server.http.response import TEXT, bare
from syncline.server.http.shortcuts import FastRequest, is_plain
from syncline.server.http.state import GIVEN
from tests.helpers.http_lanes import SMALL, Lane
from tests.helpers.http_wire import Wire, get, put
from tests.helpers.kv_node import KvWire, error_in

with_body = put("/key/a", b"abc").replace(b"PUT", b"GET")


async def test_a_read_that_says_nothing_else_takes_the_fast_path() -> None:
    wire = Lane()
    wire.open()
    assert wire.taken == 0
    wire.send(get("/key/a/b"))
    wire.send(get("/key/-._~!$&'()*+,;=:@/Z9"))
    assert wire.taken == 2
    assert [request.path for request in wire.requests] == [b"/key/a/b", b"/key/-._~!$&'()*+,;=:@/Z9"]
    assert [answer.body for answer in wire.answers] == [b"GET /key/a/b ", b"GET /key/-._~!$&'()*+,;=:@/Z9 "]
    assert wire.told[-1] == ("", 200, 0.0)
    queue = wire.connection._queue
    assert (wire.server.held_bytes, queue.in_flight, len(queue.slots)) == (0, 0, 0)


ORDINARY = {
    "another path": get("/keys/a"),
    "no key": get("/key/"),
    "a query": get("/key/a?b=c"),
    "an empty query": get("/key/a?"),
    "a percent-escape": get("/key/a%20b"),
    "a quote": get('/key/a"b'),
    "a space": get("/key/a b"),
    "a fragment": get("/key/a#b"),
    "bytes outside ASCII": get("/key/\u00e9"),
    "a null": get("/key/a\0"),
    "another header": get("/key/a", "A: b"),
    "a condition": get("/key/a", "If-None-Match: *"),
    "HTTP/1.0": get("/key/a").replace(b"1.1", b"1.0"),
    "HEAD": get("/key/a").replace(b"GET", b"HEAD"),
    "a body": put("/key/a", b"abc"),
    "an empty body": put("/key/a", b""),
    "a read with a body": put("/key/a", b"abc").replace(b"PUT", b"GET"),
    "a part": get("/key/a")[:-1],
    "two": get("/key/a") * 2,
    "one inside another": b"GET /key/a HTTP/1.1\r\nA: /key/" + get("/key/a"),
    "much": get("/key/" + "a" * 100),
    "lower case": get("/key/a").replace(b"GET", b"get"),
}


@pytest.mark.parametrize("case", ORDINARY)
async def test_whatever_says_more_takes_the_ordinary_way(case: str) -> None:
    wire, plain = Lane(), Lane(fast=False)
    for each in (wire, plain):
        each.open()
        each.send(ORDINARY[case])
        await each.settle()
    assert wire.taken == 0
    assert wire.received == plain.received


@pytest.mark.parametrize("field", ["If-Match: *", "If-None-Match: *", "Connection: close", "Content-Length: 0"])
async def test_a_header_that_means_something_opens_no_lane_for_it(field: str) -> None:
    wire = KvWire()
    await wire.ask("PUT", "/key/a", b"value")
    answers = []
    for _ in range(4):
        if wire.transport.closed:
            break
        wire.send(get("/key/a", field))
        await wire.settle()
        answers.append(wire.answers[-1])
    expected = 304 if field.startswith("If-None") else 200
    assert {answer.status for answer in answers} == {expected}
    lane = wire.connection._lane
    assert (lane is not None) == (field == "Content-Length: 0")


@pytest.mark.parametrize(("first", "opens"), [(get("/"), True), (put("/", b""), False), (with_body, False)])
async def test_a_lane_begins_with_a_read_without_a_body(first: bytes, opens: bool) -> None:
    wire = Lane()
    wire.open(first)
    assert (wire.connection._lane is not None) == opens


async def test_only_one_at_a_time_and_in_order() -> None:
    wire = Lane(hold=True)
    wire.open()
    wire.send(get("/key/a"))
    wire.send(get("/key/b"))
    wire.send(put("/key/c", b"abc"))
    assert (wire.taken, len(wire.requests)) == (1, 2), "the write waits for the reads before it"
    wire.answer(1, b"second")
    await wire.settle()
    assert wire.received == b""
    wire.answer(0, b"first")
    await wire.settle()
    assert [request.path for request in wire.requests] == [b"/key/a", b"/key/b", b"/key/c"]
    wire.answer(2, b"third")
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"first", b"second", b"third"]
    wire.send(get("/key/d"))
    wire.answer(3, b"fourth")
    assert wire.taken == 2
    assert wire.answers[-1].body == b"fourth"
    assert wire.server.held_bytes == 0


async def test_what_is_behind_it_follows_when_it_is_answered() -> None:
    wire = Lane(hold=True, limits=HttpLimits())
    wire.open()
    for round_number in range(1, 4):
        wire.send(get("/key/a"))
        wire.send(get("/key/b"))
        wire.answer(-1, b"second")
        await wire.settle()
        wire.answer(-2, b"first")
        await wire.settle()
        assert wire.taken == round_number
        assert [answer.body for answer in wire.answers[-2:]] == [b"first", b"second"]
        assert (wire.server.held_bytes, wire.connection._held.running) == (0, 0)


async def test_input_that_waits_comes_first() -> None:
    wire = Lane(limits=HttpLimits(max_in_flight=2))
    wire.open()
    whole = get("/b", "A: " + "a" * (64 - len(get("/b", "A: "))))
    assert SLICE_BYTES % len(whole) == 0, "what waits begins with a whole request"
    wire.send(whole * (2 * SLICE_BYTES // len(whole)))
    assert wire.connection._link.unparsed
    wire.send(get("/key/a"))  # by a transport that held it when it was told to pause
    assert wire.taken == 0
    await wire.settle()
    paths = [request.path for request in wire.requests]
    assert (paths[-1], set(paths[:-1])) == (b"/key/a", {b"/b"})


async def test_a_client_that_does_not_read_waits_for_itself() -> None:
    wire = Lane()
    wire.open()
    wire.transport.reads_all = False
    while not wire.connection._link.write_paused:
        wire.send(get("/b"))
    before = len(wire.requests)
    wire.send(get("/key/a"))  # by a transport that held it when it was told to pause
    await wire.settle()
    assert (wire.taken, len(wire.requests)) == (0, before)
    wire.transport.take(1000)
    await wire.settle()
    assert len(wire.requests) == before + 1


async def test_an_answer_waits_for_a_client_that_does_not_read() -> None:
    wire = Lane(hold=True)
    wire.open()
    wire.send(get("/key/a"))
    wire.connection.pause_writing()
    wire.answer(0)
    await wire.settle()
    assert wire.received == b""
    wire.connection.resume_writing()
    assert [answer.body for answer in wire.answers] == [b"ok"]
    assert wire.transport.reading


async def test_reading_goes_on_with_the_answer() -> None:
    wire = Lane(hold=True, limits=HttpLimits(max_in_flight=1))
    wire.open()
    for path in ("/b", "/key/a", "/b"):
        wire.send(get(path))
        wire.answer(-1)
        await wire.settle()
        assert wire.transport.reading


async def test_as_many_as_may_run_at_a_time_stop_the_reading() -> None:
    wire = Lane(limits=HttpLimits(max_in_flight=1))
    wire.open()
    wire.server.shared.handler = wire.hold
    wire.send(get("/key/a"))
    assert (wire.taken, wire.transport.reading) == (1, False)
    wire.answer(0)
    await wire.settle()
    assert wire.transport.reading


async def test_how_long_it_took_is_told() -> None:
    wire = Lane(hold=True)
    wire.open()
    wire.now_s = 5.0
    for status in (200, 404):
        wire.send(get("/key/a"))
        wire.now_s += 0.25
        wire.responds[-1](bare(status, TEXT, b""))
        assert wire.told[-1] == ("", status, 0.25)


async def test_a_client_that_leaves_or_stops_sending_is_answered_as_others() -> None:
    wire = Lane(hold=True)
    wire.open()
    wire.send(get("/key/a"))
    assert wire.connection.eof_received()
    wire.answer(0)
    await wire.settle()
    assert wire.transport.closed
    assert not wire.answers[0].keep_alive
    wire = Lane(hold=True)
    wire.open()
    wire.send(get("/key/a"))
    wire.connection.abort()
    wire.answer(0)
    assert wire.received == b""
    assert wire.server.held_bytes == 0


async def test_a_server_that_closes_waits_for_it() -> None:
    wire = Lane(hold=True)
    wire.open()
    wire.send(get("/key/a"))
    wire.connection.drain()
    open_until_then = not wire.transport.closed
    assert open_until_then
    wire.answer(0)
    await wire.settle()
    assert wire.transport.closed
    assert [answer.keep_alive for answer in wire.answers] == [False]


async def test_above_the_limit_of_all_connections_it_is_refused() -> None:
    wire = Lane()
    wire.open()
    wire.server.shared.total.bytes = SMALL.max_total_held_bytes + 1
    wire.send(get("/key/a"))
    await wire.settle()
    assert wire.taken == 0
    assert [answer.status for answer in wire.answers] == [503]


async def test_a_handler_that_fails_ends_its_own_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        wire = Lane()

        def fails(method: str, request: FastRequest) -> None:
            if request.argument == b"b":
                wire.take_fast(method, request)
                return
            if request.argument == b"late":
                request.found(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", b"")
            raise ValueError("a fault")

        wire.serve(fails)
        wire.open()
        wire.send(get("/key/a"))
        wire.send(get("/key/late"))
        wire.send(get("/key/b"))
        assert [answer.status for answer in wire.answers] == [500, 200, 200]
        assert "failed after its answer" in caplog.text


@pytest.mark.parametrize("second", ["found", "respond"])
async def test_a_second_answer_is_dropped(second: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        wire = Lane()

        def twice(_: str, request: FastRequest) -> None:
            answer = bare(200, TEXT, b"once")
            request.found(answer.head, answer.body)
            if second == "found":
                request.found(answer.head, answer.body)
            else:
                request.respond(answer)

        wire.serve(twice)
        wire.open()
        wire.send(get("/key/a"))
        wire.send(get("/key/b"))
        assert [answer.body for answer in wire.answers] == [b"once", b"once"]
        assert caplog.text.count("answered twice") == 2
        assert wire.connection._queue.in_flight == 0


async def test_late_second_answer_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        wire = Lane(hold=True)
        wire.open()
        wire.send(get("/key/a"))
        wire.answer(0, b"once")
        wire.send(get("/b"))
        wire.answer(0, b"twice")
        wire.answer(1, b"b")
        assert [answer.body for answer in wire.answers] == [b"once", b"b"]
        assert "answered twice" in caplog.text


# --- the route that has them


async def test_each_of_several_that_find_nothing_is_told() -> None:
    wire = KvWire()
    await opened(wire)
    for count in range(1, 4):
        wire.send(get("/key/missing"))
        assert [answer.status for answer in wire.answers] == [404] * count


async def opened(wire: KvWire) -> None:
    await wire.ask("PUT", "/key/a", b"value")
    for _ in range(3):
        wire.send(get("/key/a"))
        await wire.settle()
    wire.transport.written.clear()


@pytest.mark.parametrize(
    ("key", "status"), [("a", 200), ("missing", 404), ("a" * 100, 404), ("a" * 101, 413), ("a/", 404), ("", 413)]
)
async def test_the_route_answers_as_ever(key: str, status: int) -> None:
    received = []
    for fast in (True, False):
        wire = KvWire()
        await opened(wire)
        assert wire.connection._lane is not None
        if not fast:
            wire.connection._lane = None
            wire.server.shared.fast_get = None
        wire.send(get(f"/key/{key}"))
        await wire.settle()
        received.append(wire.received)
        [answer] = wire.answers
        assert answer.status == (status if key else 400)
    assert received[0] == received[1]


async def test_a_read_that_is_not_confirmed_is_refused() -> None:
    wire = KvWire()
    await opened(wire)
    wire.backend.read_error = NoLeader("nobody leads")
    wire.send(get("/key/a"))
    await wire.settle()
    [answer] = wire.answers
    assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")


async def test_a_read_that_can_not_be_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = KvWire()
    await opened(wire)

    def read_index(_: float) -> NoReturn:
        raise NoLeader("nobody leads")

    monkeypatch.setattr(wire.backend, "read_index", read_index)
    wire.send(get("/key/a"))
    [answer] = wire.answers
    assert (answer.status, error_in(answer)["code"]) == (503, "no_leader")


async def test_an_answer_is_not_kept_when_it_is_written() -> None:
    wire = KvWire()
    await opened(wire)
    lane = wire.connection._lane
    assert lane is not None
    wire.backend.hold = True
    for more, end in ((b"", b""), (b"G", get("/livez")[1:])):
        wire.send(get("/key/a"))
        wire.send(more)  # of the next request, while it waits: the answer leaves at the end of the turn
        wire.backend.release()
        await wire.settle()
        assert wire.answers[-1].body == b"value"
        assert lane.slot.answer is GIVEN, "what is not counted any more is not kept"
        wire.send(end)
        await wire.settle()
    wire.send(get("/key/a"))
    wire.connection.abort()
    assert wire.connection._lane is None
    wire.backend.release()
    await wire.settle()
    assert lane.slot.answer is GIVEN


async def test_many_connections_share_a_confirmation() -> None:
    wire = KvWire()
    await opened(wire)
    others = [Wire(server=wire.server) for _ in range(3)]
    for other in others:
        other.send(get("/key/a"))
        other.transport.written.clear()
    wire.backend.hold = True
    before = wire.backend.reads
    for other in (wire, *others):
        other.send(get("/key/a"))
    wire.backend.release()
    await wire.settle()
    assert wire.backend.reads - before == 4, "each asks, and is given the same future"
    assert [other.answers[0].body for other in (wire, *others)] == [b"value"] * 4


@given(st.binary(max_size=8))
def test_what_is_plain_means_itself(argument: bytes) -> None:
    odd = [
        octet for octet in argument if not (chr(octet).isalnum() and octet < 128) and octet not in b"-._~!$&'()*+,;=:@/"
    ]
    assert is_plain(argument) == (bool(argument) and not odd)
