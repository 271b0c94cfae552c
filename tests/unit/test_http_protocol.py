"""The HTTP connection: order, limits, slow and broken clients, draining. In memory, on a clock that the test moves."""

from __future__ import annotations

import tracemalloc

import pytest

from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from tests.helpers.http_wire import SMALL, Wire, chunked, error_of, get, holding, parse_answers, put

# --- plain requests


async def test_a_request_is_answered_on_a_connection_that_stays() -> None:
    wire = Wire()
    wire.send(get("/a?b=c"))
    wire.send(put("/d", b"body"))
    first, second = wire.answers
    assert (first.status, first.body, first.keep_alive) == (200, b"GET /a ", True)
    assert second.body == b"PUT /d body"
    assert wire.requests[0].query == b"b=c"
    assert first.headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert not wire.transport.closing


async def test_header_names_are_lower_case_and_repeats_are_joined() -> None:
    wire = Wire()
    wire.send(get("/", "If-Match: 1", "IF-MATCH: 2"))
    assert wire.requests[0].headers[b"if-match"] == b"1, 2"


async def test_head_is_answered_without_the_body_but_with_its_length() -> None:
    wire = Wire()
    wire.send(get("/a").replace(b"GET", b"HEAD") + get("/b"))
    head, _, rest = wire.received.partition(b"\r\n\r\n")
    assert b"Content-Length: 8" in head
    assert parse_answers(rest)[0].body == b"GET /b "


async def test_a_chunked_body_is_put_together_and_its_trailers_are_not_believed() -> None:
    wire = Wire()
    data = chunked("/a", b"one", b"two")
    wire.send(data[:-2] + b"If-Match: 5\r\n\r\n" + get("/next"))
    assert wire.requests[0].body == b"onetwo"
    assert b"if-match" not in wire.requests[0].headers
    assert wire.requests[1].path == b"/next"


async def test_http_1_0_closes_unless_asked_to_stay() -> None:
    wire = Wire()
    wire.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert wire.answers[0].headers["connection"] == "keep-alive"
    wire.send(b"GET /b HTTP/1.0\r\n\r\n")
    assert wire.answers[1].headers["connection"] == "close"
    assert wire.transport.closed


async def test_connection_close_ends_the_connection_and_what_follows_is_not_read() -> None:
    wire = Wire()
    wire.send(get("/a", "Connection: close") + get("/b"))
    assert [answer.headers["connection"] for answer in wire.answers] == ["close"]
    assert wire.transport.closed
    assert not wire.transport.eof_written


@pytest.mark.parametrize(
    "fields", [("Connection: Upgrade", "Upgrade: websocket"), ("Upgrade: h2c", "Connection: upgrade")]
)
async def test_an_upgrade_is_ignored_and_the_request_answered(fields: tuple[str, ...]) -> None:
    wire = Wire()
    wire.send(get("/a", *fields) + b"\x00\x01 not http")
    assert [answer.status for answer in wire.answers] == [200, 400]
    assert wire.answers[0].body == b"GET /a "
    assert wire.transport.eof_written


async def test_the_absolute_form_and_the_star_are_understood() -> None:
    wire = Wire()
    wire.send(get("http://host:80/a/b?c") + get("HTTPS://host") + get("*").replace(b"GET", b"OPTIONS"))
    assert [request.path for request in wire.requests] == [b"/a/b", b"/", b"*"]


# --- pipelining


async def test_answers_leave_in_the_order_of_the_requests() -> None:
    wire = holding()
    wire.send(get("/0") + get("/1") + get("/2"))
    wire.answer(2, b"third")
    wire.answer(1, b"second")
    await wire.settle()
    assert wire.received == b""
    wire.answer(0, b"first")
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"first", b"second", b"third"]
    assert len(wire.transport.written) == 1, "the answers of one turn leave in one write"


async def test_answers_given_at_once_leave_in_one_write() -> None:
    wire = Wire()
    wire.send(get("/a") * 10)
    assert len(wire.answers) == 10
    assert len(wire.transport.written) == 1


async def test_no_more_requests_are_started_than_the_limit_and_reading_pauses() -> None:
    wire = holding(limits=HttpLimits(max_in_flight=3))
    wire.send(get("/a") * 10)
    assert len(wire.responds) == 3
    assert not wire.transport.reading
    for position in range(10):
        wire.answer(position)
        await wire.settle()
        assert len(wire.responds) == min(10, position + 4)
    assert len(wire.answers) == 10
    assert wire.transport.reading


async def test_a_large_read_of_small_requests_is_taken_a_share_per_turn() -> None:
    wire = Wire()
    count = 256 * 1024 // len(get("/a"))
    wire.send(get("/a") * count)
    assert 0 < len(wire.requests) < count // 4
    assert not wire.transport.reading
    for _ in range(200):
        await wire.settle()
    assert len(wire.answers) == count
    assert wire.transport.reading


async def test_bodies_and_answers_in_memory_are_bounded() -> None:
    wire = holding(limits=HttpLimits(max_held_bytes=1000))
    wire.send(put("/a", b"x" * 600).replace(b"PUT", b"GET") * 4)
    assert len(wire.responds) == 2, "the second passes the limit, the third waits"
    wire.answer(1, b"y" * 5000)  # can't leave before the first
    await wire.settle()
    assert len(wire.responds) == 2
    wire.answer(0)
    await wire.settle()
    assert len(wire.responds) == 4


async def test_what_all_connections_hold_together_is_bounded_and_told() -> None:
    first = holding(limits=HttpLimits(max_total_held_bytes=1000))
    others = [Wire(server=first.server) for _ in range(3)]
    first.send(put("/a", b"x" * 600))
    assert first.server.held_bytes == 600
    others[0].send(put("/b", b"x" * 600))
    assert len(first.responds) == 1, "the second was refused"
    assert error_of(others[0].answers[0].body)["code"] == "overloaded"
    assert others[0].answers[0].status == 503
    assert not others[0].transport.closing, "the connection can be used again"
    others[1].send(put("/c", b"x" * 900)[:-100])
    others[1].send(b"x" * 50)  # a body that comes in pieces counts before it is complete
    assert others[1].answers[0].status == 503
    assert not others[1].answers[0].keep_alive
    first.answer(0)
    await first.settle()
    others[2].send(put("/d", b"x" * 600))
    assert len(first.responds) == 1, "what was refused is still being read"
    others[1].transport.abort()
    others[0].send(put("/e", b"x" * 600))
    assert len(first.responds) == 2
    first.answer(1)
    for wire in others:
        await wire.settle()
    assert first.server.held_bytes == 0


async def test_a_client_that_does_not_read_counts_for_what_it_leaves() -> None:
    wire = Wire(lambda _request, respond: respond(bare(200, TEXT, b"z" * 70_000)))
    wire.transport.reads_all = False
    wire.send(get("/a"))
    assert wire.server.held_bytes == wire.transport.unread > 70_000
    wire.transport.take(1_000_000)
    assert wire.server.held_bytes == 0
    wire.send(get("/a"))
    assert wire.server.held_bytes > 70_000
    wire.transport.abort()
    assert wire.server.held_bytes == 0


async def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_size() -> None:
    wire = holding()
    data = chunked("/a", *[b"ab"] * 20_000)[:-5]
    tracemalloc.start()
    try:
        wire.send(data)
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 4 * 40_000
    assert most < 20 * 40_000, "httptools makes an object of each piece, for a moment"
    wire.send(b"0\r\n\r\n")
    assert wire.requests[0].body == b"ab" * 20_000


async def test_a_client_that_does_not_read_is_not_served_further() -> None:
    limits = HttpLimits(max_held_bytes=200_000)
    wire = Wire(lambda _request, respond: respond(bare(200, TEXT, b"z" * 50_000)), limits=limits)
    wire.transport.reads_all = False
    wire.send(get("/a") * 50)
    await wire.settle()
    assert not wire.transport.reading
    assert wire.transport.unread < 300_000, "the transport is not handed everything at once"
    for _ in range(60):
        wire.transport.take(10_000_000)
        await wire.settle()
    assert len(wire.answers) == 50
    assert wire.transport.reading


async def test_nothing_is_started_for_a_client_that_does_not_read() -> None:
    wire = holding()
    wire.transport.reads_all = False
    wire.send(get("/a") * 3)
    wire.answer(0, b"z" * 100_000)
    await wire.settle()
    wire.send(get("/b"))  # was on its way when reading was paused
    assert len(wire.responds) == 3
    wire.transport.take(200_000)
    await wire.settle()
    assert len(wire.responds) == 4


async def test_a_client_that_never_reads_is_cut_off() -> None:
    wire = Wire(lambda _request, respond: respond(bare(200, TEXT, b"z" * 100_000)))
    wire.transport.reads_all = False
    wire.send(get("/a"))
    wire.advance(59)
    assert not wire.transport.aborted
    wire.advance(3)
    assert wire.transport.aborted


async def test_an_answer_after_the_client_has_gone_is_dropped() -> None:
    wire = holding()
    wire.send(get("/a"))
    wire.transport.abort()
    wire.answer(0)
    await wire.settle()
    assert wire.received == b""
    assert wire.server.connection_count == 0


async def test_a_half_closed_client_still_gets_its_answers() -> None:
    wire = holding()
    wire.send(get("/a") + get("/b"))
    assert wire.connection.eof_received() is True
    wire.answer(0)
    wire.answer(1)
    await wire.settle()
    assert [answer.keep_alive for answer in wire.answers] == [True, False]
    assert wire.transport.closed
    assert Wire().connection.eof_received() is False


async def test_a_second_answer_to_one_request_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    wire = holding()
    wire.send(get("/a"))
    wire.answer(0, b"one")
    wire.answer(0, b"two")
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"one"]
    assert "answered twice" in caplog.text


async def test_a_handler_that_fails_costs_its_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request, respond: Respond) -> None:
        if request.path == b"/bad":
            raise ZeroDivisionError("secret detail")
        respond(bare(200, TEXT, b"fine"))

    wire = Wire(fail)
    wire.send(get("/bad") + get("/good"))
    bad, good = wire.answers
    assert (bad.status, good.status) == (500, 200)
    assert error_of(bad.body)["code"] == "internal"
    assert b"secret" not in bad.body
    assert "ZeroDivisionError" in caplog.text


async def test_each_answer_is_observed_once() -> None:
    seen: list[tuple[str, int, float]] = []

    def handler(request: Request, respond: Respond) -> None:
        request.route = "/r"
        wire.responds.append(respond)

    wire = Wire(handler, observe=lambda *what: seen.append(what[:3]))
    wire.send(get("/a") + b"nonsense\r\n\r\n")
    wire.now_s = 2.5
    wire.answer(0)
    await wire.settle()
    assert sorted(seen) == [("", 400, 0.0), ("/r", 200, 2.5)]


# --- 100-continue


async def test_continue_is_sent_before_the_body_and_only_then() -> None:
    wire = Wire()
    data = put("/a", b"body", "Expect: 100-Continue")
    wire.send(data[:-4])
    assert wire.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(data[-4:])
    assert wire.received.count(b"100 Continue") == 1
    wire.send(data)  # the body came along: no need any more
    assert wire.received.count(b"100 Continue") == 1


async def test_continue_waits_for_the_answers_before_it() -> None:
    wire = holding()
    wire.send(get("/a") + put("/b", b"body", "Expect: 100-continue")[:-4])
    await wire.settle()
    assert wire.received == b""
    wire.answer(0)
    await wire.settle()
    assert wire.received.endswith(b"okHTTP/1.1 100 Continue\r\n\r\n")


async def test_a_body_too_large_is_refused_before_it_is_sent() -> None:
    wire = Wire(limits=SMALL)
    wire.send(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 51\r\nExpect: 100-continue\r\n\r\n")
    assert [answer.status for answer in wire.answers] == [413]
    assert wire.requests == []
