"""One turn of the event loop reads a bounded part of what all clients have sent: no flood may hold up a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from syncline.server.auth.lockout import FREE_FAILURES
from syncline.server.etcd.face import Send
from syncline.server.etcd.messages import Message
from syncline.server.http.input_turns import (
    FAST_COST,
    REFUSED_COST,
    REQUEST_COST,
    TURN_COST,
    InputTurns,
    input_cost,
    message_cost,
)
from syncline.server.http.limits import HttpLimits
from syncline.server.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, frame, settings
from syncline.server.http2.header_blocks import field
from syncline.server.http2.limits import MAX_HEADER_FIELDS, Http2Limits
from tests.helpers.auth_site import AuthWire, basic
from tests.helpers.http2_wire import RANGE, WATCH, Http2Wire, framed
from tests.helpers.http_lanes import Lane
from tests.helpers.http_wire import Wire, get, put
from tests.unit.test_grpc_calls import echo_watches

TXN = "/etcdserverpb.KV/Txn"
WIDE_TXN = framed(b"\x12\x00" * 7_000)
"""A request of 14 KB that takes 20 ms to decode, and some hundred kilobytes as a message."""
ACCEPT_ENCODING = b"\x90"
"""A field that takes one byte: an entry of HPACK's static table."""


def _head(path: str) -> bytes:
    return b"\x83\x86" + field(b":path", path.encode()) + field(b"content-type", b"application/grpc")


def _wire(limits: Http2Limits | None = None, *, beside: Http2Wire | None = None) -> Http2Wire:
    """A connection after the greeting."""
    wire = Http2Wire(beside.face if beside else None, limits=limits, server=beside.server if beside else None)
    wire.client.clear_outbound_data_buffer()
    wire.send_raw(PREFACE + settings({}))
    return wire


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_turns_call_what_waits_in_its_order_within_the_budget() -> None:
    turns, called = InputTurns(), list[int]()
    turns.spend(TURN_COST)
    for number in range(6):
        turns.wait(lambda number=number: called.append(number), TURN_COST // 2)  # type: ignore[misc]
    assert (turns.left, called) == (0, [])
    seen = []
    for _ in range(3):
        await asyncio.sleep(0)
        seen.append(list(called))
    assert seen == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    await _turns(2)
    assert turns.left == TURN_COST


async def test_turns_read_that_is_cancelled_keeps_no_other_back() -> None:
    turns = InputTurns()
    first, second = asyncio.ensure_future(turns.read(1)), asyncio.ensure_future(turns.read(1))
    asyncio.get_running_loop().call_soon(first.cancel)  # when both wait, before the next turn
    turns.spend(TURN_COST)
    await asyncio.wait([first, second])
    assert (first.cancelled(), second.result()) == (True, None)


async def test_turns_that_spend_little_schedule_no_other_one() -> None:
    """A request alone in its turn took a microsecond more. What is spent so is counted, and comes back."""
    turns = InputTurns()
    least = TURN_COST
    for _ in range(2 * TURN_COST):
        turns.spend(1)
        least = min(least, turns.left)
        await asyncio.sleep(0)
    assert TURN_COST - TURN_COST // 8 - 2 <= least < turns.enough
    assert not turns._scheduled or turns.left < turns.enough


def test_costs_rise_with_what_takes_time() -> None:
    assert message_cost(2 << 20) == TURN_COST
    assert input_cost(16_384, 300, is_body=False) > input_cost(16_384, 1, is_body=False)
    assert input_cost(16_384, 0, is_body=True) < input_cost(16_384, 0, is_body=False)


async def test_http2_headers_of_many_fields_share_the_turns() -> None:
    """A field of one byte takes 15 us to decode: 256 such headers of each connection were read in one turn."""
    wires = [_wire()]
    wires += [_wire(beside=wires[0]) for _ in range(40)]
    await _turns(3)
    flood = b"".join(
        frame(HEADERS, END_HEADERS, stream, b"\x40\x01a\x01b" + ACCEPT_ENCODING * 90) for stream in range(1, 201, 2)
    )
    for wire in wires:
        wire.send_raw(flood)
    budget = Http2Limits().abuse_budget - 8  # the settings had a cost
    read = [budget - wire.transport.protocol._input.budget for wire in wires]  # type: ignore[attr-defined]
    assert sum(read) * 90 <= TURN_COST + 3 * 90, "the headers have no method: each is reset, and counted"
    assert read[0] <= 3, "one connection leaves room for others"
    await _turns(2_000)
    assert all(len(wire.of(3)) == 100 for wire in wires), "each header is answered in the end"


def _open_streams(wire: Http2Wire) -> int:
    return len(wire.transport.protocol._input.streams)  # type: ignore[attr-defined]


async def _wires(count: int, path: str) -> list[Http2Wire]:
    """Connections whose next block of this head costs nothing: they had it already."""
    wires = [_wire()]
    wires += [_wire(beside=wires[0]) for _ in range(count - 1)]
    wires[0].face.streams[path] = echo_watches
    for wire in wires:
        wire.send_raw(frame(HEADERS, END_HEADERS, 1, _head(path)))
        await _turns(6)
    return wires


async def test_http2_opened_streams_of_many_connections_share_the_turns() -> None:
    """A stream without a message takes 100 us, most of it in its tasks: 2,000 were opened in one turn."""
    wires = await _wires(20, WATCH)
    flood = b"".join(frame(HEADERS, END_HEADERS, stream, _head(WATCH)) for stream in range(3, 503, 2))
    for wire in wires:
        wire.send_raw(flood)
    opened = sum(_open_streams(wire) - 1 for wire in wires)
    assert opened * 9 <= TURN_COST
    await _turns(400)
    assert all(_open_streams(wire) == 251 for wire in wires)


async def test_grpc_calls_of_many_connections_share_the_turns() -> None:
    """A read takes 60 us, with its answer: 1,000 were begun in one turn."""
    wires = await _wires(20, RANGE)
    asked = framed(b"\x0a\x01a")
    flood = b"".join(
        frame(HEADERS, END_HEADERS, stream, _head(RANGE)) + frame(DATA, END_STREAM, stream, asked)
        for stream in range(3, 403, 2)
    )
    for wire in wires:
        wire.send_raw(flood)
    assert len(wires[0].face.calls) * 8 <= TURN_COST
    await _turns(400)
    assert len(wires[0].face.calls) == 20 * 200


async def test_grpc_calls_with_unknown_tokens_cost_more_of_a_turn() -> None:
    """Each needs a look for its user, and a confirmed read before it is refused."""
    for path, ends in ((RANGE, END_STREAM), (WATCH, 0)):
        wires = await _wires(20, path)
        wires[0].face.prepared = False
        flood = b"".join(frame(HEADERS, END_HEADERS | ends, stream, _head(path)) for stream in range(3, 403, 2))
        for wire in wires:
            wire.send_raw(flood)
        read = sum((wire.transport.protocol._input.last_stream - 1) // 2 for wire in wires)  # type: ignore[attr-defined]
        assert read * 32 <= TURN_COST + 40
        await _turns(800)
        assert all(wire.transport.protocol._input.last_stream == 401 for wire in wires)  # type: ignore[attr-defined]


async def test_http2_resets_of_many_connections_share_the_turns() -> None:
    """The tasks of each stream are cancelled."""
    wires = await _wires(20, WATCH)
    streams = range(3, 403, 2)
    for wire in wires:
        wire.send_raw(b"".join(frame(HEADERS, END_HEADERS, stream, _head(WATCH)) for stream in streams))
    await _turns(400)
    for wire in wires:
        wire.send_raw(b"".join(frame(RST_STREAM, 0, stream, bytes(4)) for stream in streams))
    ended = sum(201 - _open_streams(wire) for wire in wires)
    assert ended * 8 <= TURN_COST
    await _turns(400)
    assert all(_open_streams(wire) == 1 for wire in wires)


async def test_grpc_messages_of_many_streams_share_the_turns() -> None:
    """A short message costs nothing by its bytes, but what it asks for does: 150 us for a watch."""
    wires = await _wires(20, WATCH)
    taken: list[int] = []

    async def count(inbox: AsyncIterator[Message], send: Send) -> None:
        del send
        async for _ in inbox:
            taken.append(1)

    wires[0].face.streams[WATCH] = count
    streams = range(3, 403, 2)
    for wire in wires:
        wire.send_raw(b"".join(frame(HEADERS, END_HEADERS, stream, _head(WATCH)) for stream in streams))
    await _turns(400)
    for wire in wires:
        wire.send_raw(b"".join(frame(DATA, 0, stream, framed(b"\x0a\x00")) for stream in streams))
    await _turns(3)
    assert len(taken) * 12 <= 3 * TURN_COST
    await _turns(400)
    assert len(taken) == 20 * 200


async def test_http2_header_of_too_many_fields_ends_the_connection() -> None:
    wire = _wire()
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, _head(RANGE) + ACCEPT_ENCODING * MAX_HEADER_FIELDS))
    await _turns(3)
    assert wire.goaway == (11, "the header has 104 fields; the limit is 100")


async def test_grpc_messages_of_many_fields_share_the_turns() -> None:
    """One client could have 250 of them decoded in one turn, which took 20 s, by the last byte of each in a packet."""
    wire = _wire()
    await _turns(3)
    streams = range(1, 61, 2)
    for stream in streams:
        wire.send_raw(frame(HEADERS, END_HEADERS, stream, _head(TXN)) + frame(DATA, 0, stream, WIDE_TXN))
        await _turns(2)
    wire.send_raw(b"".join(frame(DATA, END_STREAM, stream) for stream in streams))
    assert len(wire.face.calls) <= 2
    await _turns(200)
    assert len(wire.face.calls) == len(streams)


async def test_grpc_request_counts_as_what_it_takes_in_memory() -> None:
    """Its fields take thirty times the bytes on the way: so many clients could fill a node's memory."""
    wire = _wire(Http2Limits(max_held_bytes=5_000_000))
    wire.face.holds = True
    for stream in (1, 3, 5):
        wire.send_raw(frame(HEADERS, END_HEADERS, stream, _head(TXN)) + frame(DATA, END_STREAM, stream, WIDE_TXN))
        await _turns(5)
    assert len(wire.face.calls) == 1
    assert wire.held_bytes > 2_000_000
    refused = b"".join(payload for _, payload in wire.of(HEADERS))
    assert refused.count(b"too much is being sent and asked at once") == 2
    wire.transport.abort()
    assert wire.held_bytes == 0


async def test_grpc_stream_of_many_messages_shares_the_turns() -> None:
    wire = _wire()
    taken: list[int] = []

    async def count(inbox: AsyncIterator[Message], send: Send) -> None:
        del send
        async for _ in inbox:
            taken.append(1)

    wire.face.streams[WATCH] = count
    message = framed(b"\x0a\x00" * 4_000)
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, _head(WATCH)))
    for _ in range(20):
        wire.send_raw(frame(DATA, 0, 1, message))
    await _turns(3)
    assert len(taken) < 10
    await _turns(100)
    assert len(taken) == 20
    assert wire.held_bytes < 2_000_000, "a message counts until the next one is asked for"


async def test_grpc_stream_that_is_reset_while_it_waits_takes_nothing() -> None:
    wire = _wire()
    wire.face.streams[WATCH] = echo_watches
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, _head(WATCH)))
    await _turns(3)
    wire.server.shared.turns.spend(TURN_COST)
    wire.send_raw(frame(DATA, 0, 1, framed(b"")))
    wire.transport.abort()
    await _turns(5)
    assert wire.face.cancelled == [WATCH]
    assert wire.held_bytes == 0


async def test_http1_pipelined_requests_of_many_clients_share_the_turns() -> None:
    """A hundred clients without a credential, each with a few hundred requests, stopped a node's loop for seconds."""
    first = Wire()
    wires = [first, *(Wire(server=first.server) for _ in range(30))]
    for wire in wires:
        wire.send(get() * 100)
    begun = sum(len(wire.requests) for wire in wires)
    assert begun <= TURN_COST // 6 + 100
    for _ in range(100):
        await asyncio.sleep(0)
    assert [len(wire.answers) for wire in wires] == [100] * len(wires)


async def test_http1_input_that_waits_for_a_turn_keeps_its_order() -> None:
    wire = Wire()
    wire.server.shared.turns.spend(TURN_COST)
    wire.send(get("/a"))
    wire.send(get("/b"))
    assert wire.requests == []
    await _turns(5)
    assert [request.path for request in wire.requests] == [b"/a", b"/b"]
    wire.connection.check()


async def _lanes(count: int, first: bytes) -> tuple[Lane, list[Wire]]:
    """Connections of one server, whose next request like the first one is taken by a shortcut."""
    one = Lane(limits=HttpLimits())
    wires = [one, *(Wire(server=one.server) for _ in range(count - 1))]
    one.open(first)
    for wire in wires[1:]:
        wire.send(first)
        wire.transport.written.clear()
        await _turns(1)
    one.requests.clear()
    one.taken = 0
    return one, wires


@pytest.mark.parametrize("request_", [get("/key/a"), put("/key/a", b"value")])
async def test_http1_fast_requests_of_many_clients_share_the_turns(request_: bytes) -> None:
    """One of each connection, of which there may be 10,000: they were all answered in one turn."""
    count = 2 * TURN_COST // FAST_COST
    one, wires = await _lanes(count, request_)
    for wire in wires:
        wire.send(request_)
    assert one.taken <= TURN_COST // FAST_COST + 1
    await _turns(10)
    assert one.taken == count, "those that waited are taken by the shortcut, too"
    assert all(len(wire.answers) == 1 for wire in wires)
    for wire in wires:
        wire.connection.check()
        assert wire.transport.reading


async def test_http1_requests_with_known_headers_share_the_turns() -> None:
    """The header cache spares the parser, but not the handler."""
    count = 2 * TURN_COST // REQUEST_COST
    one, wires = await _lanes(count, get("/other/a"))
    for wire in wires:
        wire.send(get("/other/a"))
    assert 0 < len(one.requests) <= TURN_COST // REQUEST_COST + 1
    assert one.taken == 0
    await _turns(10)
    assert len(one.requests) == count


async def test_http1_fast_request_that_waits_keeps_its_order() -> None:
    """Nor does it wait when its client has left."""
    one, (wire, other, *_) = await _lanes(3, get("/key/a"))
    one.server.shared.turns.spend(TURN_COST)
    for waiting in (wire, other):
        waiting.send(get("/key/a"))
        waiting.send(get("/key/b"))
    other.transport.abort()
    assert one.requests == []
    await _turns(6)
    assert [request.path for request in one.requests] == [b"/key/a", b"/key/b"]
    assert len(wire.answers) == 2
    wire.connection.check()


async def test_http1_refused_credentials_cost_more_of_a_turn() -> None:
    """A wrong password took 145 us beside its scrypt, and counted as 80."""
    request = get("/key/a", basic("nobody", "wrong"))
    first = AuthWire()
    wires: list[Wire] = [first, *(Wire(server=first.server) for _ in range(20))]
    for _ in range(FREE_FAILURES):
        first.send(request)
        await _turns(20)
    for wire in wires:
        wire.send(request * 50)
    read = sum(wire.connection._reader.messages for wire in wires) - FREE_FAILURES
    assert 50 <= read <= TURN_COST // (REQUEST_COST + REFUSED_COST) + 50
    await _turns(200)
    assert [len(wire.answers) for wire in wires] == [50 + FREE_FAILURES, *[50] * 20]
    assert {answer.status for wire in wires for answer in wire.answers} == {401, 429}
