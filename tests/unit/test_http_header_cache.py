"""The header cache: which requests it takes, and that a server without one does the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.server import HttpServer
from syncline.server.http.shortcuts import MAX_HEADER_BYTES, MAX_HEADERS, HeaderCache
from tests.helpers.http_wire import SMALL as TIGHT
from tests.helpers.http_wire import Wire, chunked, get, holding, put
from tests.unit.test_http_refusals import MALFORMED

SMALL = HttpLimits(
    max_url_bytes=40, max_header_bytes=200, max_headers=5, max_body_bytes=50, max_in_flight=2, max_held_bytes=400,
    max_total_held_bytes=900,
)  # fmt: skip


class Strict(HeaderCache):
    """Takes nothing for usual."""

    def read(self, data: bytes) -> Request | None:
        return None


class Counting(HeaderCache):
    """Counts what it took."""

    taken = 0

    def read(self, data: bytes) -> Request | None:
        request = super().read(data)
        self.taken += request is not None
        return request


def request_of(data: bytes, *, after: bytes) -> Request | None:
    """What is read at once of `data`, when `after` came twice before."""
    wire = Wire()
    wire.send(after)
    assert wire.server.shared.header_cache.read(after) is None, "not yet"
    wire.send(after)
    return wire.server.shared.header_cache.read(data)


# --- what is usual


async def test_a_header_that_was_seen_before_is_read_at_once() -> None:
    first = put("/a", b"one", "User-Agent: y")
    assert request_of(first, after=b"") is None
    request = request_of(put("/b?c=d?e", b"two", "User-Agent: y"), after=first)
    assert request is not None
    assert (request.method, request.path, request.query, request.body) == ("PUT", b"/b", b"c=d?e", b"two")
    assert request.headers == {b"host": b"x", b"content-length": b"3", b"user-agent": b"y"}
    assert request_of(first.replace(b"PUT", b"DELETE"), after=first) is not None
    assert request_of(get("/", "Connection: keep-alive"), after=get("/", "Connection: Keep-Alive")) is None
    assert request_of(get("/", "Connection: keep-alive"), after=get("/", "Connection: keep-alive")) is not None


async def test_a_request_that_is_not_alone_says_nothing_of_its_header() -> None:
    wire = Wire()
    for data in (get() * 2, get() * 2, b"\r\n" + get(), get("http://x/"), get() + b"GET"):
        wire.send(data)
    wire.send(b" / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not wire.server.shared.header_cache._once
    assert not wire.server.shared.header_cache._known
    wire.send(get())
    wire.send(get())
    assert wire.server.shared.header_cache.read(get()) is not None


UNUSUAL = {
    "no whole header": get()[:-1],
    "no blank line": get()[:-4],
    "more than one request": get() * 2,
    "a longer body": put("/", b"abc") + b"d",
    "a shorter body": put("/", b"abc")[:-1],
    "an empty line before it": b"\r\n" + get(),
    "HTTP/1.0": get().replace(b"1.1", b"1.0"),
    "an absolute target": get("http://x/"),
    "an asterisk": get("*"),
    "no target": get(""),
    "a fragment": get("/a#b"),
    "a fragment in the query": get("/a?b#c"),
    "a quote": get('/"'),
    "bytes outside ASCII": get("/\u00e9"),
    "two spaces": get().replace(b"GET ", b"GET  "),
    "a tab": get().replace(b"GET ", b"GET\t"),
    "a long target": get("/" + "a" * 9000),
    "a lower-case method": get().replace(b"GET", b"get"),
    "HEAD": get().replace(b"GET", b"HEAD"),
    "another method": get().replace(b"GET", b"CONNECT"),
    "bare line feeds": get().replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("case", UNUSUAL)
async def test_what_is_not_plainly_one_request_is_left_to_the_reader(case: str) -> None:
    wire = Wire()
    for known in (get(), put("/", b"abc")):
        wire.send(known)
        wire.send(known)
        assert wire.server.shared.header_cache.read(known) is not None
    assert wire.server.shared.header_cache.read(UNUSUAL[case]) is None


FORGOTTEN = {
    "Connection: close": get("/", "Connection: close"),
    "Connection: something": get("/", "Connection: something"),
    "an upgrade": get("/", "Connection: upgrade", "Upgrade: h2c"),
    "an expectation": put("/", b"abc", "Expect: 100-continue"),
    "chunks": chunked("/", b"abc"),
    "trailers that are announced": get("/", "Trailer: A"),
    "a repeated field": get("/", "A: b", "A: c"),
    "an empty value": get("/", "A:"),
    "no space": get("/", "A:b"),
    "trailing space": get("/", "A: b "),
    "a tab in a value": get("/", "A: b\tc"),
    "an odd name": get("/", "A_b: c"),
    "bytes outside ASCII": get("/", "A: \u00e9"),
    "much": get("/", "A: " + "b" * MAX_HEADER_BYTES),
    "one of several": get() + get(),
    "HTTP/1.0": get("/", "Connection: keep-alive").replace(b"1.1", b"1.0"),
}


@pytest.mark.parametrize("case", FORGOTTEN)
async def test_only_plain_headers_are_remembered(case: str) -> None:
    server = Wire().server
    for _ in range(3):
        wire = Wire(server=server)
        wire.server.shared.handler = wire.echo
        wire.send(FORGOTTEN[case])
    assert not any(server.shared.header_cache._known.values())


@pytest.mark.parametrize("case", MALFORMED)
async def test_nothing_of_what_is_refused_is_remembered(case: str) -> None:
    server = Wire(limits=TIGHT).server
    for _ in range(3):
        Wire(server=server).send(MALFORMED[case][0])
    assert not server.shared.header_cache._known


async def test_header_cache_of_many_headers_is_bounded_and_keeps_others() -> None:
    wire = Wire()
    usual = wire.server.shared.header_cache
    wire.send(get())
    wire.send(get())
    for number in range(2 * MAX_HEADERS + 3):
        wire.send(get("/", f"A: {number}"))
        await asyncio.sleep(0)
        assert len(usual._once) <= MAX_HEADERS
    assert len(usual._once) == 3
    assert usual.read(get()) is not None
    for number in range(2 * MAX_HEADERS + 3):
        wire.send(get("/", f"B: {number}"))
        wire.send(get("/", f"B: {number}"))
        await asyncio.sleep(0)
        assert len(usual._known) <= MAX_HEADERS


POISON = {
    "a field that looks like the end of a request line": b"GET / HTTP/1.0\r\nA: b HTTP/1.1\r\nA: c\r\nHost: x\r\n"
    b"Connection: keep-alive\r\n\r\n",
    "a target that looks like one": b"GET /HTTP/1.1 HTTP/1.1\r\nA: b HTTP/1.1\r\nA: c\r\nHost: x\r\n\r\n",
    "a body that looks like a header": put("/", b"HTTP/1.1\r\nHost: x\r\n\r\n"),
}


@pytest.mark.parametrize("case", POISON)
async def test_header_cache_never_takes_one_header_for_another(case: str) -> None:
    server = Wire().server
    for _ in range(3):
        wire = Wire(server=server)
        wire.server.shared.handler = wire.echo
        wire.send(POISON[case])
    for header, known in server.shared.header_cache._known.items():
        if known is not None:
            fields = [line.split(b": ") for line in header.split(b"\r\n")[1:]]
            assert {name.lower(): value for name, value in fields} == known.fields


@pytest.mark.parametrize("field", ["A: " + "b" * 200, "A: b\r\nC: d\r\nE: f\r\nG: h\r\nI: j"])
async def test_a_header_above_a_limit_is_refused_each_time(field: str) -> None:
    for _ in range(2):
        wire = Wire(limits=SMALL)
        wire.send(get("/", field))
        assert [answer.status for answer in wire.answers] == [431]


# --- nothing is taken for a request that is a part of one


async def test_what_looks_like_a_request_inside_another_is_not_one() -> None:
    inner = get("/inner")
    wire = Wire()
    wire.send(inner)
    wire.send(inner)
    wire.send(put("/outer", inner)[: -len(inner)])
    wire.send(inner)  # the body
    wire.send(b"PUT /outer HTTP/1.1\r\nHost: x\r\nA: ")
    wire.send(b"b\r\nContent-Length: 0\r\n\r\n")
    wire.send(b"GET /late HTTP/1.1\r\nHost: x\r\n")
    wire.send(b"\r\n")
    wire.send(b"\r\n")
    wire.send(inner)
    assert [(request.path, request.body) for request in wire.requests] == [
        (b"/inner", b""), (b"/inner", b""), (b"/outer", inner), (b"/outer", b""), (b"/late", b""), (b"/inner", b"")
    ]  # fmt: skip


async def test_an_answer_that_nothing_waits_for_is_written_as_it_is_given() -> None:
    wire = holding()
    for _ in range(4):
        wire.send(get())
        wire.answer(-1)
        assert len(wire.answers) == len(wire.responds), "and not at the end of the turn"
    wire.send(get() * 3)
    for position in (6, 5, 4):
        wire.answer(position)
    assert len(wire.transport.written) == 4
    await wire.settle()
    assert len(wire.transport.written) == 5, "those of one turn leave together"
    assert wire.server.held_bytes == 0


# --- the same with and without

Step: TypeAlias = tuple[str, int, bytes]

LINES = (
    "Host: x", "Host: x", "host: y", "Content-Length: 3", "Content-Length: 3", "content-length: 0",
    "Content-Length: 03", "Content-Length:  3", "Content-Length: 3 ", "Content-Length: +3", "Content-Length: 3, 3",
    "Content-Length: 0x3",
    "Content-Length: 51", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Connection: close", "Upgrade: h2c",
    "Connection: keep-alive", "Connection: upgrade", "Expect: 100-continue", "A: b", "A: b\r\n c", "A: b\rC: d",
    "A: b\nContent-Length: 3", "A: \0", "A:b", "A : b", ": b", "A", "A: " + "b" * 190, "Trailer: A",
    "A: GET / HTTP/1.1",
)  # fmt: skip
TARGETS = (
    "/",
    "/a",
    "/a?b=c",
    "/a?b?c",
    "//",
    "/%zz",
    "/a#b",
    "/a b",
    "http://x/a",
    "*",
    "",
    "/" + "a" * 40,
    '/"',
    "/\u00e9",
)
METHODS = ("GET", "GET", "PUT", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "CONNECT", "get", "PRI", "GE")
VERSIONS = ("HTTP/1.1",) * 8 + ("HTTP/1.0", "http/1.1", "HTTP/1.10", "HTTP/2.0", "HTTP/1.1 ", "")
BODIES = (b"", b"", b"abc", b"ab", b"GET", b"\r\n\r", b"3\r\nabc\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def written(method: str, target: str, version: str, lines: list[str], body: bytes) -> bytes:
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode() + body


usual = st.sampled_from(
    [get(), get("/a?b=c"), put("/a", b"abc"), put("/b", b"GET"), get("/", "Connection: keep-alive")]
)
strange = st.builds(
    written,
    st.sampled_from(METHODS),
    st.sampled_from(TARGETS),
    st.sampled_from(VERSIONS),
    st.lists(st.sampled_from(LINES), max_size=5).map(lambda lines: ["Host: x", *lines]),
    st.sampled_from(BODIES),
)
refused = st.sampled_from([data for data, _ in MALFORMED.values() if len(data) < 1000])
cut = st.builds(lambda data, at: data[at % len(data) :], usual, st.integers(1, 200))
cut_off = st.builds(lambda data, at: data[: at % len(data)], usual, st.integers(1, 200))
damaged = st.builds(
    lambda data, at, octet: data[: at % len(data)] + octet + data[at % len(data) + 1 :],
    usual,
    st.integers(0, 200),
    st.sampled_from([b"", b" ", b"\r", b"\n", b"\0", b"\t", b":", b"\r\n", b"A", b"\xff"]),
)
data = st.one_of(usual, usual, strange, cut, cut_off, damaged, refused, st.lists(usual, max_size=3).map(b"".join))
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.just(0), data),
        st.tuples(st.just("send"), st.just(0), data),
        st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from([b"", b"ok", b"v" * 500])),
        st.tuples(
            st.sampled_from(["stall", "read", "eof", "drain", "sweep", "again"]), st.integers(0, 90), st.just(b"")
        ),
    ),
    max_size=25,
)


@dataclass
class Side:
    """One of the two servers, with the connection at which it is looked; a new one after each that ends."""

    server: HttpServer
    wire: Wire
    at_once: bool
    sent_s: float = 0.0

    @classmethod
    def of(cls, usual: type[HeaderCache], *, at_once: bool) -> Side:
        server = HttpServer(lambda _, __: None, limits=SMALL, wall_time_s=lambda: 0.0)
        server.shared.header_cache = usual(SMALL.max_url_bytes)
        side = cls(server, Wire(server=server), at_once)
        side.connect()
        return side

    def connect(self) -> None:
        self.wire = Wire(server=self.server)
        self.wire.transport._high_water = 300
        self.server.shared.handler = self.wire.echo if self.at_once else self.wire.hold

    def do(self, step: Step) -> None:
        kind, number, octets = step
        wire = self.wire
        transport = wire.transport
        match kind:
            case "send" if not transport.closing:  # which reads no more
                wire.send(octets)
            case "answer" if wire.responds:
                wire.answer(number % len(wire.responds), octets)
                wire.responds.pop(number % len(wire.responds))
            case "stall":
                transport.reads_all = False
            case "read":
                transport.reads_all = True
                transport.take(1_000_000)
            case "eof" if not transport.closed:
                if not wire.connection.eof_received():
                    transport.close()
            case "drain":
                wire.connection.drain()
            case "sweep":
                wire.advance(number)
            case "again":
                wire.connection.abort()
                self.connect()

    def seen(self) -> dict[str, object]:
        wire, connection = self.wire, self.wire.connection
        transport, reader = wire.transport, connection._reader
        held, queue = connection._held, connection._queue
        connection.check()
        return {
            "requests": [
                (request.method, request.path, request.query, dict(request.headers), request.body)
                for request in wire.requests
            ],
            "written": wire.received,
            "transport": (transport.reading, transport.closing, transport.closed, transport.eof_written),
            "reader": (reader.phase, reader.messages, reader.continue_due),
            "held": (self.server.held_bytes, held.running, queue.in_flight, held.unsent),
            "waiting": (len(queue.slots), len(queue.unstarted), connection._link.unparsed),
        }


@settings(max_examples=400, deadline=None)
@given(steps, st.booleans())
async def test_a_server_that_reads_at_once_does_what_one_does_that_never_does(steps: list[Step], at_once: bool) -> None:
    quick, strict = Side.of(Counting, at_once=at_once), Side.of(Strict, at_once=at_once)
    for known in (get(), put("/a", b"abc")) * 2:
        for side in (quick, strict):
            side.do(("send", 0, known))
            side.do(("answer", 0, b""))
            await side.wire.settle()
    for step in steps:
        for side in (quick, strict):
            side.do(step)
            await side.wire.settle()
        assert quick.seen() == strict.seen(), step


async def test_the_comparison_is_one_of_requests_that_are_read_at_once() -> None:
    side = Side.of(Counting, at_once=True)
    for data in (
        get(),
        get(),
        put("/a", b"abc"),
        put("/a", b"abc"),
        get("/b"),
        put("/c", b"def"),
        get("/d"),
        b"GET",
        get("/e"),
    ):
        side.do(("send", 0, data))
    assert isinstance(side.server.shared.header_cache, Counting)
    assert side.server.shared.header_cache.taken == 3
