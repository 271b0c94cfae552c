"""Whatever bytes arrive, in whatever pieces: no exception, no hang, nothing lost, nothing answered twice."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Respond, bare
from tests.helpers.http_wire import Wire, chunked, get, parse_answers, put
from tests.unit.test_http_refusals import MALFORMED

SMALL = HttpLimits(max_url_bytes=200, max_header_bytes=400, max_headers=10, max_body_bytes=2000, max_in_flight=3)

paths = st.text("abc/%41?=&", max_size=10).map(lambda text: "/" + text)
requests = st.one_of(
    paths.map(get),
    st.builds(put, paths, st.binary(max_size=60)),
    st.builds(
        lambda path, parts: chunked(path, *parts), paths, st.lists(st.binary(min_size=1, max_size=20), max_size=3)
    ),
    st.builds(lambda path: get(path).replace(b"GET", b"HEAD", 1), paths),
    st.builds(lambda path, body: put(path, body, "Expect: 100-continue"), paths, st.binary(max_size=9)),
)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


async def deliver(wire: Wire, pieces: list[bytes]) -> None:
    for piece in pieces:
        wire.send(piece)
        await wire.settle()
    for _ in range(5):
        await wire.settle()


def seen(wire: Wire) -> list[tuple[str, bytes, bytes, bytes]]:
    return [(request.method, request.path, request.query, request.body) for request in wire.requests]


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, min_size=1, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
async def test_the_pieces_in_which_requests_arrive_make_no_difference(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    whole, split = Wire(limits=SMALL), Wire(limits=SMALL)
    await deliver(whole, [data])
    await deliver(split, pieces_of(data, cuts))
    assert len(whole.requests) == len(parts)
    assert seen(split) == seen(whole)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert split.received.replace(interim, b"") == whole.received.replace(interim, b"")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=6),
    st.lists(st.integers(0, 10_000), max_size=8),
    st.randoms(use_true_random=False),
)
async def test_answers_leave_in_order_whenever_they_are_given(
    parts: list[bytes], cuts: list[int], random: object
) -> None:
    waiting: list[tuple[int, Respond]] = []
    count = 0

    def handler(request: Request, respond: Respond) -> None:
        nonlocal count
        request.method = "GET"  # so that every answer has a body to check
        waiting.append((count, respond))
        count += 1

    wire = Wire(handler, limits=SMALL)
    pieces = pieces_of(b"".join(parts), cuts)
    while pieces or waiting:
        if pieces and wire.transport.reading:
            wire.send(pieces.pop(0))
        assert len(waiting) <= SMALL.max_in_flight
        while waiting and random.random() < 0.7:  # type: ignore[attr-defined]
            number, respond = waiting.pop(random.randrange(len(waiting)))  # type: ignore[attr-defined]
            respond(bare(200, TEXT, b"%d" % number))
        await wire.settle()
    received = wire.received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert [answer.body for answer in parse_answers(received)] == [b"%d" % n for n in range(len(parts))]
    assert wire.server.held_bytes == 0


mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "double"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=4)
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, extra in changes:
        at = place % (len(data) + 1)
        if kind == "flip" and data:
            at = place % len(data)
            data = data[:at] + bytes([data[at] ^ extra[0]]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + len(extra) * 3 :]
        elif kind == "insert":
            data = data[:at] + extra + data[at:]
        else:
            data = data[:at] + data[max(0, at - 20) :]
    return data


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        requests | st.sampled_from([data for data, _ in MALFORMED.values() if len(data) < 1000]), min_size=1, max_size=4
    ),
    mutations,
    st.lists(st.integers(0, 10_000), max_size=6),
)
async def test_damaged_input_is_refused_or_understood_but_never_an_exception(
    parts: list[bytes], changes: list[tuple[str, int, bytes]], cuts: list[int]
) -> None:
    wire = Wire(limits=SMALL)
    wire.server.shared.handler = wire.hold
    data = mutated(b"".join(parts), changes)
    pieces = pieces_of(data, cuts)
    answered = 0
    while pieces or answered < len(wire.responds):
        if pieces and (wire.transport.reading or wire.transport.closed):
            wire.send(pieces.pop(0))
        while answered < len(wire.responds):
            wire.answer(answered, b"")
            answered += 1
        await wire.settle()
    wire.advance(100)
    await wire.settle()
    assert wire.transport.closed, "no input keeps a connection for ever"
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", wire.received)]
    final = [status for status in statuses if status >= 200]
    assert len([status for status in final if status == 200]) == len(wire.responds)
    assert all(status in {200, 400, 408, 413, 414, 417, 431, 501} for status in final), statuses
    assert all(status == 200 for status in final[:-1]), "a refusal is the last answer"
    assert wire.server.held_bytes == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=6))
async def test_random_bytes(data: bytes, cuts: list[int]) -> None:
    wire = Wire(limits=SMALL)
    await deliver(wire, pieces_of(data, cuts))
    wire.advance(100)
    assert wire.transport.closed
    assert b" 500 " not in wire.received
