"""Whatever bytes come, and whatever happens meanwhile: a server with the fast paths does what one without does."""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncline.server.http.response import TEXT, bare
from tests.helpers.http_lanes import SMALL, Lane
from tests.helpers.http_wire import get, put
from tests.unit.test_http_fast_get import with_body
from tests.unit.test_http_refusals import MALFORMED

Step = tuple[str, int, bytes]
known = st.sampled_from(
    [
        get("/key/a"), with_body, get("/key/b/c"), get("/key/"), get("/"), get("/key/a?b"),
        put("/key/a", b"abc"), put("/key/b", b"xyz"), put("/key/a", bytes(40)), put("/key/a?b", b"abc"),
    ]
)  # fmt: skip
damaged = st.builds(
    lambda data, at, octet: data[: at % len(data)] + octet + data[at % len(data) + 1 :],
    known,
    st.integers(0, 200),
    st.sampled_from([b"", b" ", b"\r", b"\n", b"\0", b"%", b"?", b"/", b"\r\n", b"A", b"\xff"]),
)
refused = st.sampled_from([data for data, _ in MALFORMED.values() if len(data) < 1000])
cut = st.builds(lambda data, at: data[at % len(data) :], known, st.integers(1, 200))
cut_off = st.builds(lambda data, at: data[: at % len(data)], known, st.integers(1, 200))
data = st.one_of(known, known, known, damaged, cut, cut_off, refused, st.lists(known, max_size=3).map(b"".join))
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.just(0), data),
        st.tuples(st.just("send"), st.just(0), data),
        st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from([b"", b"ok", b"v" * 500])),
        st.tuples(
            st.sampled_from(["stall", "read", "eof", "drain", "sweep", "abort"]), st.integers(0, 90), st.just(b"")
        ),
    ),
    max_size=25,
)


def do(wire: Lane, step: Step) -> None:
    kind, number, octets = step
    transport = wire.transport
    match kind:
        case "send" if not transport.closing:
            wire.send(octets)
        case "answer" if wire.responds:
            wire.responds.pop(number % len(wire.responds))(bare(200 if number else 404, TEXT, octets))
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
        case "abort" if number < 10:
            wire.connection.abort()


def seen(wire: Lane) -> dict[str, object]:
    connection, transport = wire.connection, wire.transport
    reader, held, queue = connection._reader, connection._held, connection._queue
    connection.check()
    return {
        "requests": [(request.method, request.path, request.query, request.body) for request in wire.requests],
        "written": wire.received,
        "told": wire.told,
        "transport": (transport.reading, transport.closing, transport.closed, transport.eof_written),
        "reader": (reader.phase, reader.messages, reader.continue_due),
        "held": (wire.server.held_bytes, held.running, queue.in_flight, held.unsent),
        "waiting": (len(queue.slots), len(queue.unstarted), connection._link.unparsed),
    }


@settings(max_examples=500, deadline=None)
@example(
    steps=[
        ("send", 0, get("/key/a") + put("/key/a", b"abc")),
        ("send", 0, with_body[: -len(b"abc")]),
        ("send", 0, get("/key/a")),
        ("eof", 0, b""),
        ("answer", 0, b""),
        ("answer", 0, b""),
    ],
    hold=True,
    first=get("/"),
    max_in_flight=2,
)
@given(
    steps,
    st.booleans(),
    st.sampled_from([get("/"), get("/key/a"), get("/key/a?b"), put("/", b""), with_body, put("/key/a", b"abc")]),
    st.integers(1, 3),
)
async def test_a_server_with_the_fast_paths_does_what_one_without_does(
    steps: list[Step], hold: bool, first: bytes, max_in_flight: int
) -> None:
    limits = msgspec.structs.replace(SMALL, max_in_flight=max_in_flight)
    with_them, without = Lane(hold=hold, limits=limits), Lane(fast=False, hold=hold, limits=limits)
    for wire in (with_them, without):
        wire.open(first)
    await without.settle()
    for step in steps:
        for wire in (with_them, without):
            do(wire, step)
            await wire.settle()
        assert seen(with_them) == seen(without), step


async def test_the_comparison_is_one_of_the_fast_path() -> None:
    wire = Lane()
    wire.open()
    for sent in (get("/key/a"), get("/key/b/c"), get("/"), get("/key/a")):
        do(wire, ("send", 0, sent))
    assert wire.taken == 3
    for _ in range(4):
        do(wire, ("send", 0, put("/key/a", b"abc")))
    do(wire, ("send", 0, put("/key/b", b"xyz")))
    assert wire.taken_writes == 2, "the first two teach the header, and the third opens the lane"
