"""Slow clients, and the end of a server. In memory, on a clock that the test moves."""

from __future__ import annotations

import asyncio

from syncline.server.http.limits import HttpLimits
from syncline.server.http.response import TEXT, bare
from syncline.server.http.server import HttpServer
from tests.helpers.http_wire import Wire, error_of, get, holding, put


def closed(wire: Wire) -> bool:
    return wire.transport.closed


# --- slow clients


async def test_a_connection_on_which_nothing_is_asked_is_closed() -> None:
    wire = Wire()
    wire.advance(9.5)
    assert not closed(wire)
    wire.advance(2)
    assert closed(wire)
    assert wire.received == b""


async def test_a_header_that_trickles_in_is_refused() -> None:
    wire = Wire()
    for byte in get("/a", "A: " + "b" * 100):
        wire.send(bytes([byte]))
        wire.advance(0.5)
    assert wire.answers[0].status == 408
    assert error_of(wire.answers[0].body)["code"] == "request_timeout"
    assert wire.now_s >= 10


async def test_a_body_that_trickles_in_is_refused() -> None:
    wire = Wire()
    wire.send(put("/a", b"x" * 100)[:-100])
    for _ in range(58):
        wire.send(b"x")
        wire.advance(0.5)
    assert wire.received == b""
    wire.advance(3)
    assert wire.answers[0].status == 408


def trickle(wire: Wire, body: bytes, *, bytes_per_s: int) -> None:
    """Send a body, until it is answered."""
    for start in range(0, len(body), bytes_per_s):
        if wire.received:
            return
        wire.send(body[start : start + bytes_per_s])
        wire.advance(1.0)


async def test_http_body_on_a_slow_line_is_taken() -> None:
    """A limit on its whole time would refuse 1 MB at 25 kB/s after 30 s."""
    wire = Wire()
    data = put("/a", b"x" * 1_000_000)
    wire.send(data[:-1_000_000])
    trickle(wire, data[-1_000_000:], bytes_per_s=25_000)
    assert wire.now_s >= 40
    assert [answer.status for answer in wire.answers] == [200]
    slower = Wire()
    slower.send(put("/a", b"x" * 100_000)[:-100_000])
    trickle(slower, b"x" * 100_000, bytes_per_s=1100)
    assert [answer.status for answer in slower.answers] == [200]


async def test_http_body_below_the_least_rate_is_408_wherever_it_slows_down() -> None:
    wire = Wire()
    wire.send(put("/a", b"x" * 1_000_000)[:-1_000_000])
    trickle(wire, b"x" * 500_000, bytes_per_s=50_000)
    trickle(wire, b"x" * 29_000, bytes_per_s=500)
    assert [answer.status for answer in wire.answers] == [408]
    assert "1024 bytes per second" in str(error_of(wire.answers[0].body)["message"])
    assert wire.now_s < 45


async def test_http_answer_on_a_slow_line_is_sent_to_its_end() -> None:
    """As long as the client takes more than the least rate; then it is cut off."""
    wire = Wire(lambda _request, respond: respond(bare(200, TEXT, b"z" * 1_000_000)))
    wire.transport.reads_all = False
    wire.send(get("/a"))
    for _ in range(130):
        wire.transport.take(5_000)
        wire.advance(1.0)
    assert not wire.transport.aborted
    assert wire.transport.unread > 300_000
    for _ in range(65):
        wire.transport.take(500)
        wire.advance(1.0)
    assert wire.transport.aborted


async def test_an_idle_connection_is_closed_but_a_waiting_one_is_not() -> None:
    wire = holding()
    wire.send(get("/a"))
    wire.advance(100)
    assert not wire.transport.closed, "it waits for us"
    wire.answer(0)
    await wire.settle()
    wire.advance(74)
    assert not wire.transport.closed
    wire.advance(2)
    assert wire.transport.closed


async def test_a_client_that_we_do_not_read_from_is_not_late() -> None:
    wire = holding(limits=HttpLimits(max_in_flight=1))
    wire.send(get("/a") + get("/b") + get("/c")[:-5])
    assert not wire.transport.reading
    wire.advance(60)
    assert not wire.transport.closed
    for position in range(2):
        wire.answer(position)
        await wire.settle()
    wire.send(get("/c")[-5:])
    wire.answer(2)
    await wire.settle()
    assert len(wire.answers) == 3


# --- draining


async def test_draining_closes_idle_connections_and_lets_the_others_end() -> None:
    busy = holding()
    idle = Wire(server=busy.server)
    busy.send(get("/a"))
    closing = asyncio.ensure_future(busy.server.close(drain_s=5))
    await busy.settle()
    assert idle.transport.closed
    assert not busy.transport.closed
    busy.answer(0)
    await closing
    assert busy.answers[0].headers["connection"] == "close"
    assert busy.transport.closed


async def test_draining_with_grace_answers_a_request_that_is_on_its_way() -> None:
    """Its client could not know whether it was carried out, if the connection were closed under it."""
    wire = Wire()
    closing = asyncio.ensure_future(wire.server.close(drain_s=5, grace_s=5))
    await wire.settle()
    assert not wire.transport.closed
    wire.send(put("/a", b"body"))
    await closing
    assert [answer.body for answer in wire.answers] == [b"PUT /a body"]
    assert wire.answers[0].headers["connection"] == "close"
    assert wire.transport.closed


async def test_draining_with_grace_ends_when_the_grace_is_over() -> None:
    wire = Wire()
    await wire.server.close(drain_s=5, grace_s=0.01)
    assert wire.transport.closed
    assert not wire.transport.aborted


async def test_draining_finishes_a_request_that_is_half_read() -> None:
    wire = Wire()
    data = put("/a", b"body")
    wire.send(data[:-2])
    closing = asyncio.ensure_future(wire.server.close(drain_s=5))
    await wire.settle()
    wire.send(data[-2:])
    await closing
    assert [answer.body for answer in wire.answers] == [b"PUT /a body"]


async def test_draining_cuts_off_what_is_not_done_in_time() -> None:
    wire = holding()
    wire.send(get("/a"))
    await wire.server.close(drain_s=0.01)
    assert wire.transport.aborted
    assert wire.server.connection_count == 0


async def test_a_server_without_connections_closes_at_once() -> None:
    server = HttpServer(Wire().echo)
    async with asyncio.timeout(2.5):
        await server.close(drain_s=5)
    assert server.connection_count == 0


async def test_a_connection_that_comes_in_while_the_port_is_closed_is_dropped() -> None:
    server = Wire().server
    await server.close(drain_s=0.01)
    late = Wire(server=server)
    assert late.transport.aborted
    assert server.connection_count == 0
