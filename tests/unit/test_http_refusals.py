"""What a server can't take it refuses in words, as the last answer; nothing of it reaches a handler."""

from __future__ import annotations

import pytest

from syncline.server.http.limits import HttpLimits
from tests.helpers.http_wire import SMALL, Wire, chunked, error_of, get, holding

# --- refusals

HOST = b"Host: x\r\n"
MALFORMED: dict[str, tuple[bytes, int]] = {
    "random bytes": (bytes(range(256)), 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "an unknown method": (b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "a folded field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "a NUL in a field": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
    "an empty field name": (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    "raw UTF-8 in the URL": ("GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "both lengths": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "both lengths, turned": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "a signed length": (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
    "a hexadecimal length": (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc", 400),
    "an endless length": (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "chunked, then gzip": (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "gzip, then chunked": (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "two codings": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    "an unknown coding": (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunked in 1.0": (b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a bad chunk size": (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a chunk longer than told": (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    "another expectation": (b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: money\r\nContent-Length: 1\r\n\r\n", 417),
    "a long URL": (b"GET /" + b"a" * 101 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a URL without end": (b"GET /" + b"a" * 70_000, 414),
    "many fields": (b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"A%d: b\r\n" % i for i in range(6)) + b"\r\n", 431),
    "a long field": (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 300 + b"\r\n\r\n", 431),
    "one field repeated": (b"GET / HTTP/1.1\r\n" + HOST + b"A: bbbbbbbbbb\r\n" * 10 + b"\r\n", 431),
    "a field without end": (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 70_000, 431),
    "trailers without end": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 100,
        431,
    ),
    "chunks of something else than data": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000,
        400,
    ),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a long body, told": (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 51\r\n\r\n", 413),
    "a long body, chunked": (chunked("/", b"a" * 30, b"b" * 30), 413),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("piece", [1, 7, 1_000_000])
async def test_what_can_not_be_taken_is_refused_in_words_and_the_connection_ends(case: str, piece: int) -> None:
    data, status = MALFORMED[case]
    wire = Wire(limits=SMALL)
    for start in range(0, len(data), piece):
        wire.send(data[start : start + piece])
    await wire.settle()
    assert len(wire.answers) == 1, "nothing more is waited for"
    wire.send(get("/smuggled"))
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [status]
    assert wire.requests == [], "nothing reached the handler"
    answer = wire.answers[0]
    assert answer.headers["connection"] == "close"
    error = error_of(answer.body)
    assert error["message"]
    assert error["outcome"] == "not_applied"
    assert wire.transport.eof_written, "the client can read the answer before the connection is reset"
    wire.advance(7)
    assert wire.transport.aborted
    assert wire.server.connection_count == 0


async def test_a_refusal_waits_for_the_answers_before_it() -> None:
    wire = holding()
    wire.send(get("/a") + b"rubbish\r\n\r\n")
    await wire.settle()
    assert wire.received == b""
    wire.answer(0)
    await wire.settle()
    assert [answer.status for answer in wire.answers] == [200, 400]


async def test_a_refused_client_that_keeps_sending_is_cut_off() -> None:
    wire = Wire(limits=SMALL)
    wire.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
    for _ in range(65):
        wire.send(b"x" * 1024 * 1024)
    assert wire.transport.aborted


async def test_too_many_connections_are_told_so() -> None:
    first = Wire(limits=HttpLimits(max_connections=1, vital_connections=0))
    second = Wire(server=first.server)
    assert second.answers[0].status == 503
    assert error_of(second.answers[0].body)["code"] == "overloaded"
    first.send(get("/a"))
    assert first.answers[0].status == 200
