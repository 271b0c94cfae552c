"""Streamed answers: framing, backpressure, order, and the end, over a connection in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond
from syncline.server.http.stream import WRITE_BYTES, Stream
from tests.helpers.http_wire import Feed, Wire, get, holding, parse_answers, put


class FeedWire(Wire):
    """A connection whose requests to `/feed` are answered with a feed, and others at once."""

    def __init__(self, *, live: bool = True) -> None:
        self.feeds: list[Feed] = []
        super().__init__(self.route)
        self.live = live

    def route(self, request: Request, respond: Respond) -> None:
        if request.path == b"/feed":
            self.feeds.append(Feed())
            respond(self.feeds[-1].answer(live=self.live))
        else:
            self.echo(request, respond)


def head_of(received: bytes) -> bytes:
    return received.partition(b"\r\n\r\n")[0]


async def test_stream_is_sent_in_chunks_as_its_pieces_come() -> None:
    wire = FeedWire()
    wire.send(get("/feed"))
    await wire.settle()
    assert b"Transfer-Encoding: chunked" in head_of(wire.received)
    assert b"Content-Length" not in wire.received
    before = len(wire.received)
    wire.feeds[0].give(b"one")
    await wire.settle()
    assert wire.received[before:] == b"3\r\none\r\n"
    wire.feeds[0].give(b"two", b"three", None)
    await wire.settle()
    [answer] = wire.answers
    assert (answer.body, answer.keep_alive) == (b"onetwothree", True)
    assert wire.feeds[0].closed == 1
    assert not wire.transport.closing


async def test_stream_is_read_once_for_a_piece_that_is_alone() -> None:
    wire = FeedWire()
    wire.send(get("/feed"))
    await wire.settle()
    [feed] = wire.feeds
    before = feed.reads
    feed.give(b"alone")
    await wire.settle()
    assert feed.reads == before + 1
    feed.give(b"two", b"", b"three", None)
    await wire.settle()
    assert feed.reads == before + 3, "an empty piece is the end of what there is"
    feed.give()
    await wire.settle()
    [answer] = wire.answers
    assert (answer.body, answer.complete, feed.closed) == (b"alonetwothree", True, 1)


async def test_stream_that_has_ended_lets_the_connection_go_on() -> None:
    wire = FeedWire()
    for _ in range(3):
        wire.send(get("/feed"))
        await wire.settle()
        wire.feeds[-1].give(b"x", None)
        await wire.settle()
        wire.connection.check()
    assert [answer.body for answer in wire.answers] == [b"x"] * 3


@pytest.mark.parametrize("fields", [[], ["Connection: keep-alive"]])
async def test_stream_to_http10_ends_with_the_connection(fields: list[str]) -> None:
    wire = FeedWire()
    wire.send(get("/feed", *fields).replace(b"HTTP/1.1", b"HTTP/1.0"))
    await wire.settle()
    assert b"Transfer-Encoding" not in wire.received
    assert b"Connection: close" in head_of(wire.received)
    wire.feeds[0].give(b"one", b"two", None)
    await wire.settle()
    assert wire.received.endswith(b"\r\n\r\nonetwo")
    assert wire.transport.closed


async def test_stream_of_a_request_that_closes_is_chunked_and_closes() -> None:
    wire = FeedWire()
    wire.send(get("/feed", "Connection: close"))
    await wire.settle()
    wire.feeds[0].give(b"one", None)
    await wire.settle()
    [answer] = wire.answers
    assert (answer.body, answer.keep_alive) == (b"one", False)
    assert wire.transport.closed


async def test_head_of_a_stream_reads_nothing_of_it() -> None:
    wire = FeedWire()
    wire.send(get("/feed").replace(b"GET", b"HEAD", 1))
    await wire.settle()
    assert wire.received.endswith(b"\r\n\r\n")
    assert wire.received.startswith(b"HTTP/1.1 200 OK\r\nX-Kind: feed\r\n")
    assert (wire.feeds[0].reads, wire.feeds[0].closed) == (0, 1)
    wire.send(get("/a"))
    await wire.settle()
    assert wire.received.endswith(b"GET /a ")
    wire.connection.check()


async def test_stream_is_read_only_while_the_client_reads() -> None:
    """Backpressure: what a client does not take stays in the source."""
    wire = FeedWire()
    wire.transport.reads_all = False
    wire.send(get("/feed"))
    await wire.settle()
    feed = wire.feeds[0]
    feed.give(*[bytes(10_000)] * 50)
    await wire.settle()
    left = len(feed.pieces)
    assert 30 < left < 50
    feed.give(b"more")
    await wire.settle()
    assert len(feed.pieces) == left + 1
    wire.connection.check()
    for _ in range(100):
        wire.transport.take(50_000)
        await wire.settle()
    assert not feed.pieces
    feed.give(None)
    await wire.settle()
    [answer] = wire.answers
    assert answer.body == bytes(500_000) + b"more"
    wire.transport.take(10**6)
    assert wire.transport.reading
    assert wire.server.held_bytes == 0


async def test_stream_writes_a_share_per_turn() -> None:
    """One client that reads fast must not have the event loop to itself."""
    wire = FeedWire()
    wire.send(get("/feed"))
    await wire.settle()
    wire.feeds[0].pieces += [bytes(1000)] * 1000
    wire.feeds[0].give()
    most = 0
    while wire.feeds[0].pieces:
        before = len(wire.received)
        await asyncio.sleep(0)
        most = max(most, len(wire.received) - before)
    assert most < WRITE_BYTES + 2000


async def test_answers_behind_a_stream_wait_for_its_end() -> None:
    wire = FeedWire()
    wire.send(get("/a") + get("/feed") + get("/b") + put("/c", b"v") + get("/d"))
    await wire.settle()
    feed = wire.feeds[0]
    assert [request.path for request in wire.requests] == [b"/a", b"/b"], "the write waits for what is before it"
    feed.give(b"piece")
    await wire.settle()
    wire.connection.check()
    assert b"GET /b" not in wire.received
    feed.give(None)
    await wire.settle()
    bodies = [answer.body for answer in wire.answers]
    assert bodies == [b"GET /a ", b"piece", b"GET /b ", b"PUT /c v", b"GET /d "]
    assert wire.transport.reading


async def test_stream_behind_other_answers_starts_when_they_have_left() -> None:
    wire = holding()
    feed = Feed()
    wire.send(get("/1") + get("/2"))
    wire.responds[1](feed.answer())
    feed.give(b"x", None)
    await wire.settle()
    assert feed.wake is None
    wire.answer(0, b"first")
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"first", b"x"]


@pytest.mark.parametrize("begun", [True, False])
async def test_stream_of_a_client_that_leaves_is_closed(begun: bool) -> None:
    wire = FeedWire()
    if not begun:
        wire.send(get("/feed"))
    wire.send(get("/feed"))
    await wire.settle()
    wire.feeds[-1].give(b"x")
    wire.transport.abort()
    await wire.settle()
    assert [feed.closed for feed in wire.feeds] == [1] * len(wire.feeds)
    assert wire.server.held_bytes == 0


async def test_stream_for_a_client_that_has_left_is_closed_at_once() -> None:
    wire = holding()
    wire.send(get("/feed"))
    wire.transport.abort()
    feed = Feed()
    wire.responds[0](feed.answer())
    assert feed.closed == 1


async def test_stream_as_a_second_answer_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    wire = holding()
    wire.send(get("/feed"))
    wire.answer(0)
    feed = Feed()
    wire.responds[0](feed.answer())
    assert feed.closed == 1
    assert "answered twice" in caplog.text


async def test_end_of_input_ends_a_live_stream_and_no_other() -> None:
    """Most clients leave by closing their socket, which looks like the end of their input."""
    live, finite = FeedWire(), FeedWire(live=False)
    for wire in (live, finite):
        wire.send(get("/feed"))
        await wire.settle()
    assert live.connection.eof_received() is False
    assert finite.connection.eof_received() is True
    finite.feeds[0].give(b"all", None)
    await finite.settle()
    assert [answer.body for answer in finite.answers] == [b"all"]
    assert finite.transport.closed


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_live_stream_that_begins_after_the_end_of_input_gives_what_it_has(version: bytes) -> None:
    """A script that sends its request and half-closes is given an answer."""
    wire = holding()
    feed = Feed()
    wire.send(get("/feed").replace(b"HTTP/1.1", version))
    assert wire.connection.eof_received() is True
    feed.pieces += [b"one", b"two"]
    wire.responds[0](feed.answer())
    await wire.settle()
    assert wire.received.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" if version == b"HTTP/1.1" else b"\r\n\r\nonetwo")
    assert wire.transport.closed
    assert feed.closed == 1


async def test_stream_whose_source_fails_cuts_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """The client must see that the body is not complete."""

    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("no")

    wire = Wire(lambda _request, respond: respond(Stream.of(200, TEXT, pieces())))
    wire.send(get("/"))
    await wire.settle()
    assert wire.transport.aborted
    assert not wire.received.endswith(b"0\r\n\r\n")
    assert "its source failed" in caplog.text


async def test_stream_of_a_generator_is_drawn_as_the_client_reads() -> None:
    drawn, ended = [], []

    def pieces() -> Iterator[bytes]:
        try:
            for number in range(100):
                drawn.append(number)
                yield bytes(10_000)
        finally:
            ended.append(1)

    wire = Wire(lambda _request, respond: respond(Stream.of(200, TEXT, pieces())))
    wire.transport.reads_all = False
    wire.send(get("/"))
    await wire.settle()
    assert len(drawn) < 20
    assert b"Cache-Control: no-store" in head_of(wire.received)
    wire.transport.abort()
    await wire.settle()
    assert ended == [1]


async def test_live_stream_outlives_the_time_limits_of_an_idle_connection() -> None:
    wire = FeedWire()
    wire.send(get("/feed"))
    await wire.settle()
    wire.advance(1000)
    wire.feeds[0].give(b"late")
    await wire.settle()
    assert wire.received.endswith(b"4\r\nlate\r\n")


async def test_stream_that_is_not_read_is_cut_off_after_the_write_time_limit() -> None:
    wire = FeedWire()
    wire.transport.reads_all = False
    wire.send(get("/feed"))
    await wire.settle()
    wire.feeds[0].give(*[bytes(10_000)] * 50)
    await wire.settle()
    wire.advance(100)
    await wire.settle()
    assert wire.transport.aborted
    assert wire.feeds[0].closed == 1


async def test_drained_connection_closes_when_its_stream_ends() -> None:
    wire = FeedWire()
    wire.send(get("/feed"))
    await wire.settle()
    wire.connection.drain(idle=True)
    assert not wire.transport.closing
    wire.feeds[0].give(b"the end", None)
    await wire.settle()
    assert [answer.body for answer in wire.answers] == [b"the end"]
    assert wire.transport.closed


async def test_stream_has_the_fields_that_let_an_allowed_page_read_it() -> None:
    feed, policy = Feed(), CrossSitePolicy(allowed_origins=["http://page"])
    request = Request("GET", b"/feed", b"", {b"origin": b"http://page", b"host": b"x"}, b"", unusual=True)
    given: list[object] = []
    policy.admit(request, given.append)(feed.answer())
    [answer] = given
    assert isinstance(answer, Stream)
    assert b"Access-Control-Allow-Origin: http://page\r\n" in answer.head


async def test_stream_is_observed_once_when_it_begins() -> None:
    seen: list[tuple[str, int]] = []
    feed = Feed()
    wire = Wire(
        lambda _request, respond: respond(feed.answer()),
        observe=lambda route, status, *_: seen.append((route, status)),
    )
    wire.send(get("/"))
    await wire.settle()
    feed.give(b"x", None)
    await wire.settle()
    assert seen == [("", 200)]


pieces = st.lists(st.integers(1, 40_000).map(bytes), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=4), st.integers(0, 10**6))
async def test_streams_between_other_answers_come_whole_and_in_order(bodies: list[list[bytes]], seed: int) -> None:
    """Whatever the order in which a client reads and sources have something."""
    random = Random(seed)
    wire = FeedWire()
    wire.transport.reads_all = False
    wire.send((get("/feed") + get("/a")) * len(bodies))
    left = [[*body, None] for body in bodies]
    for _ in range(1000):
        await wire.settle()
        wire.connection.check()
        if random.random() < 0.5:
            wire.transport.take(random.randrange(1, 100_000))
        else:
            waiting = [(feed, rest) for feed, rest in zip(wire.feeds, left, strict=False) if rest]
            if waiting:
                feed, rest = random.choice(waiting)
                feed.give(rest.pop(0))
            elif not wire.transport.unread and len(wire.feeds) == len(bodies):
                break
    answers = parse_answers(wire.received)
    expected = [text for body in bodies for text in (b"".join(body), b"GET /a ")]
    assert [answer.body for answer in answers] == expected
    assert all(feed.closed == 1 for feed in wire.feeds)
    assert wire.server.held_bytes == 0
