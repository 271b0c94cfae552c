"""Clients of HTTP/2 that are silent or slow: which time limits hold, and who makes room for whom."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from syncline.server.etcd.errors import DEADLINE_EXCEEDED, UNAVAILABLE
from syncline.server.etcd.face import Send
from syncline.server.etcd.messages import Message
from syncline.server.etcd.protobuf import encode
from syncline.server.http.input_turns import TURN_COST
from syncline.server.http.limits import HttpLimits
from syncline.server.http2.frames import CONTINUATION, GOAWAY, HEADERS, PING, WINDOW_UPDATE, frame
from syncline.server.http2.input import END_COST
from syncline.server.http2.limits import Http2Limits
from tests.helpers.http2_wire import PUT, RANGE, WATCH, Http2Wire, framed, kind_of
from tests.unit.test_grpc_calls import echo_watches
from tests.unit.test_http2_protocol import HEAD, raw, turns

KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
OBSERVE = "/v3electionpb.Election/Observe"
CREATE: Message = {"create_request": {"key": b"a"}}


async def first_only(inbox: AsyncIterator[Message], _send: Send) -> None:
    await anext(inbox)


async def keep_alive(inbox: AsyncIterator[Message], send: Send) -> None:
    async for request in inbox:
        await send({"ID": request["ID"], "TTL": 1})


def streaming_wire(limits: Http2Limits | None = None, http_limits: HttpLimits | None = None) -> Http2Wire:
    wire = Http2Wire(limits=limits, http_limits=http_limits)
    wire.face.streams[WATCH] = echo_watches
    wire.face.streams[KEEP_ALIVE] = keep_alive
    wire.face.streams[OBSERVE] = first_only
    return wire


async def drip(wire: Http2Wire, stream: int, data: bytes, *, bytes_per_s: int) -> float:
    """Send at this rate until all is sent or the stream has ended; how many seconds that took."""
    began_s = wire.now_s
    for at in range(0, len(data), bytes_per_s):
        if wire.views[stream].ended:
            break
        wire.client.send_data(stream, data[at : at + bytes_per_s])
        await wire.settle()
        wire.advance(1, step=1)
        await wire.settle()
    return wire.now_s - began_s


async def later(wire: Http2Wire, seconds: float) -> None:
    wire.advance(seconds)
    await wire.settle()


@pytest.mark.parametrize("path", [PUT, WATCH, KEEP_ALIVE])
async def test_http2_message_below_the_least_rate_is_given_up(path: str) -> None:
    """A byte a second would hold a stream for weeks."""
    wire = streaming_wire()
    stream = wire.open(path)
    took_s = await drip(wire, stream, b"\0" + (100_000).to_bytes(4, "big") + bytes(100), bytes_per_s=1)
    assert took_s == pytest.approx(31, abs=2)
    view = wire.views[stream]
    assert view.status == DEADLINE_EXCEEDED
    assert view.text == (
        "etcdserver: the message arrives more slowly than 1024 bytes per second, over 30 s; nothing of it was done"
    )
    assert wire.held_bytes == 0


async def test_http2_message_above_the_least_rate_is_taken() -> None:
    wire = streaming_wire()
    stream = wire.open(PUT)
    data = framed(encode(kind_of(PUT), {"key": b"a", "value": bytes(150_000)}))
    took_s = await drip(wire, stream, data, bytes_per_s=1_500)
    assert took_s > 90
    wire.client.end_stream(stream)
    await wire.settle()
    assert wire.views[stream].status == 0


async def test_http2_second_message_of_a_stream_has_the_same_limit() -> None:
    """Its time begins with its first byte, whatever the stream did before."""
    wire = streaming_wire()
    stream = wire.open(WATCH)
    wire.give(stream, kind_of(WATCH), CREATE)
    await wire.settle()
    wire.advance(300, step=1)
    wire.client.send_data(stream, framed(encode(kind_of(WATCH), CREATE))[:6])
    await wire.settle()
    await later(wire, 25)
    assert not wire.views[stream].ended
    await later(wire, 10)
    assert wire.views[stream].status == DEADLINE_EXCEEDED


@pytest.mark.parametrize("path", [RANGE, OBSERVE])
async def test_http2_call_with_one_message_must_send_it(path: str) -> None:
    wire = streaming_wire()
    stream = wire.open(path)
    await wire.settle()
    await later(wire, 28)
    assert not wire.views[stream].ended
    await later(wire, 4)
    assert wire.views[stream].status == DEADLINE_EXCEEDED


@pytest.mark.parametrize("path", [WATCH, KEEP_ALIVE])
async def test_http2_stream_of_requests_may_be_silent_for_hours(path: str) -> None:
    """Clients of etcd open it and ask later. Their pings keep the connection."""
    wire = streaming_wire()
    stream = wire.open(path)
    for _ in range(40):
        await wire.settle()
        wire.advance(300, step=10)
        wire.client.ping(b"12345678")
    wire.give(stream, kind_of(path), CREATE if path == WATCH else {"ID": 7})
    await wire.settle()
    assert not wire.views[stream].ended
    assert wire.views[stream].data


async def test_http2_connection_with_silent_streams_alone_is_idle() -> None:
    """Without a frame for 600 s it ends as one without a stream does, and its client may open the stream again."""
    wire = streaming_wire()
    stream = wire.open(WATCH)
    await wire.settle()
    wire.advance(590, step=5)
    await wire.settle()
    assert not wire.views[stream].ended
    wire.advance(20, step=5)
    await wire.settle()
    assert wire.views[stream].status == UNAVAILABLE
    assert wire.views[stream].text == ("etcdserver: nothing came on this connection for 600 s: open the stream again")
    assert wire.transport.closed


async def test_http2_connection_of_a_stream_that_has_asked_is_not_idle() -> None:
    wire = streaming_wire()
    stream = wire.open(WATCH)
    wire.give(stream, kind_of(WATCH), CREATE)
    await wire.settle()
    wire.advance(1000, step=5)
    await wire.settle()
    assert not wire.views[stream].ended


@pytest.mark.parametrize("asked", [False, True])
async def test_http2_silent_connection_makes_room_for_another(asked: bool) -> None:
    """Though it pings, and has an open stream: nothing was asked on it."""
    wire = streaming_wire(http_limits=HttpLimits(max_connections=1))
    stream = wire.open(WATCH)
    if asked:
        wire.give(stream, kind_of(WATCH), CREATE)
    for _ in range(10):
        await wire.settle()
        wire.advance(0.5)
        wire.client.ping(b"12345678")
    await wire.settle()
    newcomer = Http2Wire(server=wire.server)
    await newcomer.settle()
    await wire.settle()
    assert wire.transport.closed is not asked
    if not asked:
        assert wire.views[stream].status == UNAVAILABLE
        assert "had no request so far: open it again when there is one" in wire.views[stream].text


async def test_http2_closing_connection_makes_no_room_again() -> None:
    """Each newcomer of a turn was told that the same connection made room: so there were more than the limit."""
    limits = HttpLimits(max_connections=2, vital_connections=0)
    wire = streaming_wire(http_limits=limits)
    other = Http2Wire(server=wire.server)
    for resting in (wire, other):
        resting.face.streams[WATCH] = echo_watches
        resting.open(WATCH)
        await resting.settle()
    wire.advance(1, step=1)
    wire.advance(1, step=1)
    for resting in (wire, other):
        resting.transport.reads_all = False  # a close takes until the next turn, or longer
    newcomers = [Http2Wire(server=wire.server) for _ in range(4)]
    for resting in (wire, other):
        assert resting.transport.closing
        resting.transport.take(1 << 20)
    refused = [newcomer for newcomer in newcomers if b"503" in b"".join(newcomer.transport.written)[:16]]
    assert refused == newcomers[2:]


async def test_http2_streams_of_a_resting_connection_end_some_a_turn() -> None:
    """A newcomer's place was made by 2,000 calls that were ended in one turn: that held up elections."""
    wire = streaming_wire(http_limits=HttpLimits(max_connections=1))
    streams = [wire.open(WATCH) for _ in range(600)]
    for _ in range(20):
        await wire.settle()
    wire.advance(1, step=1)
    wire.advance(1, step=1)
    Http2Wire(server=wire.server)
    connection = wire.transport.protocol
    left = [600]
    while left[-1]:
        left.append(len(connection._input.streams))  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    assert max(before - after for before, after in itertools.pairwise(left)) <= TURN_COST / END_COST
    await wire.settle()
    assert {wire.views[stream].status for stream in streams} == {UNAVAILABLE}
    assert wire.transport.closed


async def test_http2_oldest_silent_stream_makes_room_for_a_new_one() -> None:
    wire = streaming_wire(Http2Limits(max_total_streams=8))
    asked, silent, later = [wire.open(WATCH) for _ in range(3)]
    wire.give(asked, kind_of(WATCH), CREATE)
    await wire.settle()
    busy = wire.open(WATCH)
    wire.give(busy, kind_of(WATCH), CREATE)
    await wire.settle()
    early = wire.open(PUT)
    await wire.settle()
    assert wire.views[early].reset == 7, "no stream makes room whose message may be on its way"
    wire.advance(2)
    late = wire.open(PUT)
    wire.give(late, kind_of(PUT), {"key": b"a"}, end=True)
    await wire.settle()
    assert wire.views[late].status == 0
    assert wire.views[silent].status == UNAVAILABLE
    assert not any(wire.views[stream].ended for stream in (asked, later, busy))


async def test_http2_header_in_drops_is_given_up() -> None:
    """Each frame is progress, and the header has a time limit all the same."""
    wire = await raw()
    wire.send_raw(frame(HEADERS, 0, 1, HEAD))
    for _ in range(12):
        wire.advance(1)
        wire.send_raw(frame(CONTINUATION, 0, 1))
        await turns(wire)
    assert wire.goaway is not None
    assert "a header took more than 10 s" in wire.goaway[1]


async def test_http2_answer_that_is_taken_in_drops_is_given_up() -> None:
    wire = await raw()
    wire.face.answers[RANGE] = lambda _: {"kvs": [{"key": b"a", "value": bytes(200_000)}]}
    path = HEAD.replace(PUT.encode(), RANGE.encode()).replace(bytes([len(PUT)]), bytes([len(RANGE)]))
    wire.send_raw(frame(HEADERS, 4, 1, path) + frame(0, 1, 1, framed(b"\x0a\x01a")))
    for _ in range(70):
        await turns(wire)
        wire.send_raw(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") + frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"))
        wire.advance(1)
    await turns(wire)
    assert wire.of(3) == [(1, (8).to_bytes(4, "big"))], "CANCEL"
    assert wire.held_bytes == 0
    wire.send_raw(frame(PING, 0, 0, bytes(8)))
    await turns(wire)
    assert wire.of(PING)


@pytest.mark.parametrize("fault", [False, True])
async def test_http2_streams_of_a_lost_connection_end_some_a_turn(
    caplog: pytest.LogCaptureFixture, fault: bool
) -> None:
    """Thousands of calls that are cancelled in one turn would hold up elections. Until then they count."""
    wire = streaming_wire()
    for _ in range(600):
        wire.give(wire.open(WATCH), kind_of(WATCH), CREATE)
    for _ in range(20):
        await wire.settle()
    wire.face.holds = True
    wire.give(wire.open(PUT), kind_of(PUT), {"key": b"a"}, end=True)
    await wire.settle()
    assert len(wire.face.calls) == 601
    if fault:
        wire.send_raw(frame(PING, 0, 1, bytes(8)))
    else:
        wire.transport.abort()
    wire.face.held[0]({}, None)
    each: list[int] = []
    while sum(each) < 600:
        before = len(wire.face.cancelled)
        await asyncio.sleep(0)
        each.append(len(wire.face.cancelled) - before)
    assert max(each) <= TURN_COST / END_COST
    await wire.settle()
    assert wire.held_bytes == 0
    if fault:
        assert wire.goaway is not None
        assert wire.frames[-1][0] == GOAWAY
        assert "can't be written" not in caplog.text, "nothing follows it"
