"""gRPC's calls over HTTP/2 in memory: one client that is not ours, and a face that does as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from syncline.server.etcd.errors import NOT_FOUND, OUT_OF_RANGE, EtcdError
from syncline.server.etcd.face import Send
from syncline.server.etcd.grpc.wire import MAX_MESSAGE_BYTES, parse_timeout
from syncline.server.etcd.messages import Message
from syncline.server.etcd.protobuf import encode
from syncline.server.http.server import HttpServer
from syncline.server.http2.frames import GOAWAY, HEADERS, PREFACE
from syncline.server.http2.limits import Http2Limits
from tests.helpers.http2_wire import LOCK, PUT, RANGE, WATCH, Http2Wire, echo_http1, framed

PUT_RESPONSE = "etcdserverpb.PutResponse"
WATCH_RESPONSE = "etcdserverpb.WatchResponse"


async def echo_watches(inbox: AsyncIterator[Message], send: Send) -> None:
    """Answer each message of a client with its number."""
    number = 0
    async for _ in inbox:
        number += 1
        await send({"watch_id": number})


async def test_grpc_call_is_answered_with_message_and_status() -> None:
    wire = Http2Wire()
    wire.face.answers[PUT] = lambda _: {"header": {"revision": 7}}
    view = await wire.call(PUT, {"key": b"a", "value": b"1"})
    assert view.head == {":status": "200", "content-type": "application/grpc"}
    assert view.messages(PUT_RESPONSE) == [{"header": {"revision": 7}}]
    assert (view.status, view.text, view.ended) == (0, "", True)
    assert wire.face.calls[0][:2] == (PUT, {"key": b"a", "value": b"1"})


async def test_grpc_error_is_sent_in_the_only_header_block() -> None:
    wire = Http2Wire()

    def refuse(_: Message) -> Message:
        raise EtcdError(NOT_FOUND, "etcdserver: requested lease not found (100 %, ü)")

    wire.face.answers[PUT] = refuse
    view = await wire.call(PUT, {"key": b"a"})
    assert (view.status, view.ended, view.data, view.trailers) == (NOT_FOUND, True, b"", {})
    assert view.text == "etcdserver: requested lease not found (100 %25, %C3%BC)"


async def test_grpc_metadata_gives_token_and_timeout() -> None:
    wire = Http2Wire()
    await wire.call(PUT, {"key": b"a"}, fields=(("token", "abc.1"), ("grpc-timeout", "2S")))
    await wire.call(
        PUT, {"key": b"a"}, fields=(("authorization", "abc.2"), ("grpc-timeout", "90S"), ("hasleader", "true"))
    )
    await wire.call(PUT, {"key": b"a"})
    callers = [call[2] for call in wire.face.calls]
    assert [caller.token for caller in callers] == [b"abc.1", b"abc.2", b""]
    assert [caller.timeout_s for caller in callers] == [2.0, 7.0, 7.0]
    assert callers[0].owner is callers[1].owner


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4000m", 4), (b"5000000u", 5), (b"99999999n", 0.099999999)],
)
def test_grpc_timeout_units(text: bytes, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"-1S", b"123456789S", b"1.5S", b"1s", b"\xd9\xa1S"])
def test_grpc_timeout_that_is_malformed_is_none(text: bytes) -> None:
    assert parse_timeout(text) is None


async def test_grpc_unknown_methods_are_unimplemented() -> None:
    wire = Http2Wire()
    for path, why in (
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/v2.KV/Range", "unknown service v2.KV"),
        ("/", "unknown service"),
    ):
        stream = wire.open(path, end=True)
        await wire.settle()
        view = wire.views[stream]
        assert view.status == 12
        assert view.text.startswith(why)
    assert (await wire.call(PUT, {"key": b"a"})).status == 0


async def test_grpc_other_requests_get_a_status_of_http() -> None:
    wire = Http2Wire()
    stream = wire.client.get_next_available_stream_id()
    head = [(":method", "GET"), (":scheme", "http"), (":path", "/keys"), (":authority", "a")]
    wire.client.send_headers(stream, head, end_stream=True)
    other = wire.client.get_next_available_stream_id()
    head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", PUT),
        (":authority", "a"),
        ("content-type", "application/grpc"),
    ]
    wire.client.send_headers(other, head, end_stream=True)
    await wire.settle()
    assert wire.views[stream].head[":status"] == "415"
    assert wire.views[other].head[":status"] == "405"


async def test_grpc_message_above_the_limit_is_refused_before_it_has_come() -> None:
    wire = Http2Wire()
    stream = wire.open(PUT)
    wire.client.send_data(stream, b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big") + b"x" * 100)
    await wire.settle()
    view = wire.views[stream]
    assert view.status == 8
    assert view.text == f"grpc: received message larger than max ({MAX_MESSAGE_BYTES + 1} vs. {MAX_MESSAGE_BYTES})"
    assert view.reset == 0, "the client is told that nothing reads the rest"
    assert wire.held_bytes == 0


async def test_grpc_message_at_the_limit_is_taken() -> None:
    wire = Http2Wire()
    value = b"v" * (MAX_MESSAGE_BYTES - 20)
    data = framed(encode("etcdserverpb.PutRequest", {"key": b"a", "value": value}))
    stream = wire.open(PUT)
    for start in range(0, len(data), 16_000):
        wire.client.send_data(stream, data[start : start + 16_000], end_stream=start + 16_000 >= len(data))
        await wire.settle()
    assert wire.views[stream].status == 0
    assert wire.face.calls[0][1]["value"] == value
    assert wire.held_bytes == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 13),
        (b"\0\0\0", 13),
        (b"\0\0\0\0\x05ab", 13),
        (framed(b"") + b"x", 13),
        (b"\1\0\0\0\0", 12),
        (b"\2\0\0\0\0", 13),
        (framed(b"\x0a\x05a"), 13),
    ],
)
async def test_grpc_malformed_requests_get_a_status(data: bytes, code: int) -> None:
    wire = Http2Wire()
    stream = wire.open(PUT)
    wire.client.send_data(stream, data, end_stream=True)
    await wire.settle()
    assert wire.views[stream].status == code
    assert not wire.face.calls
    assert (await wire.call(PUT, {"key": b"a"})).status == 0, "the others go on"


async def test_grpc_compressed_requests_are_told_what_is_offered() -> None:
    wire = Http2Wire()
    view = await wire.call(PUT, {"key": b"a"}, fields=(("grpc-encoding", "gzip"),))
    assert view.status == 12
    assert view.head["grpc-accept-encoding"] == "identity"


async def test_grpc_call_before_the_node_is_open_is_unavailable() -> None:
    wire = Http2Wire()
    wire.service._parts = None
    view = await wire.call(PUT, {"key": b"a"})
    assert view.status == 14
    assert "starting" in view.text


async def test_grpc_calls_are_answered_in_any_order() -> None:
    wire = Http2Wire()
    wire.face.holds = True
    first, second = wire.open(PUT), wire.open(RANGE)
    wire.give(first, "etcdserverpb.PutRequest", {"key": b"a"}, end=True)
    wire.give(second, "etcdserverpb.RangeRequest", {"key": b"a"}, end=True)
    await wire.settle()
    wire.face.held[1]({"count": 1}, None)
    await wire.settle()
    assert (wire.views[second].ended, wire.views[first].ended) == (True, False)
    wire.face.held[0]({}, None)
    await wire.settle()
    assert wire.views[first].status == 0


async def test_grpc_answer_of_a_cancelled_call_is_dropped() -> None:
    wire = Http2Wire()
    wire.face.holds = True
    stream = wire.open(PUT)
    wire.give(stream, "etcdserverpb.PutRequest", {"key": b"a"}, end=True)
    await wire.settle()
    wire.client.reset_stream(stream, 8)
    await wire.settle()
    wire.face.held[0]({}, None)
    await wire.settle()
    assert wire.views[stream].head == {}
    assert wire.held_bytes == 0
    assert wire.server.connection_count == 0 or not wire.transport.closed


async def test_grpc_waiting_call_ends_when_its_client_leaves() -> None:
    wire = Http2Wire()
    stream, other = wire.open(LOCK), wire.open(LOCK, fields=(("grpc-timeout", "50m"),))
    for one in (stream, other):
        wire.give(one, "v3lockpb.LockRequest", {"name": b"a"}, end=True)
    await wire.settle()
    assert not wire.face.cancelled
    wire.client.reset_stream(stream, 8)
    await wire.settle()
    assert wire.face.cancelled == [LOCK]
    await wire.face.all_cancelled(2)  # by the deadline of the other
    await wire.settle()
    assert (wire.views[other].status, wire.views[other].text) == (4, "context deadline exceeded")


async def test_grpc_stream_carries_messages_both_ways() -> None:
    wire = Http2Wire()
    wire.face.streams[WATCH] = echo_watches
    stream = wire.open(WATCH)
    wire.give(stream, "etcdserverpb.WatchRequest", {"create_request": {"key": b"a"}})
    await wire.settle()
    view = wire.views[stream]
    assert view.messages(WATCH_RESPONSE) == [{"watch_id": 1}]
    two = framed(encode("etcdserverpb.WatchRequest", {"progress_request": {}})) * 2
    for at in range(len(two)):  # byte by byte
        wire.client.send_data(stream, two[at : at + 1])
        await wire.settle()
    assert [answer["watch_id"] for answer in view.messages(WATCH_RESPONSE)] == [1, 2, 3]
    wire.client.end_stream(stream)
    await wire.settle()
    assert (view.status, view.ended) == (0, True)
    assert wire.held_bytes == 0


async def test_grpc_stream_error_after_messages_stands_in_the_trailers() -> None:
    async def fails(inbox: AsyncIterator[Message], send: Send) -> None:
        await send({"watch_id": 1})
        raise EtcdError(OUT_OF_RANGE, "etcdserver: no")

    wire = Http2Wire()
    wire.face.streams[WATCH] = fails
    stream = wire.open(WATCH)
    await wire.settle()
    view = wire.views[stream]
    assert (view.head[":status"], view.trailers["grpc-status"]) == ("200", "11")


async def test_grpc_stream_ends_when_the_client_resets_it() -> None:
    wire = Http2Wire()
    wire.face.streams[WATCH] = echo_watches
    stream = wire.open(WATCH)
    await wire.settle()
    wire.client.reset_stream(stream, 8)
    await wire.settle()
    assert wire.face.cancelled == [WATCH]


async def test_grpc_stream_ends_when_the_connection_is_lost() -> None:
    wire = Http2Wire()
    wire.face.streams[WATCH] = echo_watches
    wire.open(WATCH)
    await wire.settle()
    wire.transport.abort()
    await wire.settle()
    assert wire.face.cancelled == [WATCH]
    assert (wire.server.connection_count, wire.held_bytes) == (0, 0)


async def test_grpc_sender_waits_for_a_client_that_takes_nothing() -> None:
    """Flow control reaches the sender: what waits for a client has a limit."""
    sent = 0

    async def floods(inbox: AsyncIterator[Message], send: Send) -> None:
        nonlocal sent
        while True:
            await send({"cancel_reason": "x" * 10_000})
            sent += 1

    wire = Http2Wire()
    wire.acknowledge = False
    wire.face.streams[WATCH] = floods
    stream = wire.open(WATCH)
    await wire.settle()
    before = sent
    assert before * 10_000 < 65_535 + 2 * Http2Limits().high_water_bytes
    assert wire.held_bytes <= 80_000
    wire.client.acknowledge_received_data(60_000, stream)
    await wire.settle()
    assert before < sent < before + 9
    wire.transport.abort()
    await wire.settle()
    assert wire.held_bytes == 0


async def test_grpc_large_answer_waits_for_the_windows_and_arrives_whole() -> None:
    wire = Http2Wire()
    wire.acknowledge = False
    value = bytes(range(256)) * 4_000
    wire.face.answers[RANGE] = lambda _: {"kvs": [{"key": b"a", "value": value}]}
    view = await wire.call(RANGE, {"key": b"a"})
    assert len(view.data) == 65_535
    other = await wire.call(PUT, {"key": b"a"})
    assert not other.ended, "the window of the connection is used up"
    wire.acknowledge = True
    wire.client.acknowledge_received_data(65_535, 1)
    await wire.settle()
    assert view.messages("etcdserverpb.RangeResponse") == [{"kvs": [{"key": b"a", "value": value}]}]
    assert (view.status, other.status) == (0, 0)
    assert wire.held_bytes == 0


async def test_grpc_answers_without_room_are_made_when_there_is_some() -> None:
    """A client that opens no window holds the limit and one answer, however many it asks for."""
    wire = Http2Wire(limits=Http2Limits(max_held_bytes=300_000, max_deferred=5))
    wire.acknowledge = False
    wire.face.holds = True
    streams = [wire.open(RANGE) for _ in range(10)]
    for stream in streams:
        wire.give(stream, "etcdserverpb.RangeRequest", {"key": b"a"}, end=True)
    await wire.settle()
    for finished in wire.face.held:
        finished({"kvs": [{"value": b"v" * 200_000}]}, None)
    await wire.settle()
    assert 200_000 < wire.held_bytes < 500_000
    refused = [stream for stream in streams if wire.views[stream].ended]
    assert len(refused) == 10 - 5 - 2
    assert {wire.views[stream].status for stream in refused} == {8}
    wire.acknowledge = True
    wire.client.acknowledge_received_data(65_535, streams[0])
    for _ in range(60):
        await wire.settle()
    for stream in streams:
        view = wire.views[stream]
        assert view.ended
        assert view.status == (8 if stream in refused else 0)
    assert wire.held_bytes == 0


async def test_grpc_answers_of_many_records_wait_up_to_a_limit() -> None:
    """An answer of 100,000 small records takes 40 MB before it is encoded, so 256 must not wait."""
    wire = Http2Wire(limits=Http2Limits(max_held_bytes=300_000, max_deferred=200))
    wire.acknowledge = False
    wire.face.holds = True
    streams = [wire.open(RANGE) for _ in range(20)]
    for stream in streams:
        wire.give(stream, "etcdserverpb.RangeRequest", {"key": b"a"}, end=True)
    await wire.settle()
    for number, finished in enumerate(wire.face.held):
        kvs: list[Message] = [{"value": b"v" * 200_000}] if number < 2 else [{"key": b"k"} for _ in range(300)]
        finished({"kvs": kvs}, None)
    await wire.settle()
    refused = [stream for stream in streams if wire.views[stream].ended]
    assert refused == streams[4:], "two have room, and two of 120 KB wait"
    assert {wire.views[stream].status for stream in refused} == {8}


async def test_grpc_event_for_many_streams_is_made_as_there_is_room() -> None:
    """A client that opens no window could otherwise have each of its streams hold the same large event."""
    wire = Http2Wire(limits=Http2Limits(max_held_bytes=1_000_000))
    wire.acknowledge = False

    async def large(inbox: AsyncIterator[Message], send: Send) -> None:
        async for _ in inbox:
            await send({"cancel_reason": "r" * 300_000})

    wire.face.streams[WATCH] = large
    streams = [wire.open(WATCH) for _ in range(30)]
    for stream in streams:
        wire.give(stream, "etcdserverpb.WatchRequest", {"progress_request": {}}, end=True)
    await wire.settle()
    assert 300_000 < wire.held_bytes < 1_400_000
    wire.acknowledge = True
    (first,) = (stream for stream in streams if wire.views[stream].data)
    wire.client.acknowledge_received_data(65_535, first)
    for _ in range(60):
        await wire.settle()
    for stream in streams:
        assert len(wire.views[stream].data) > 300_000
        assert wire.views[stream].status == 0
    assert wire.held_bytes == 0


async def test_grpc_streams_get_their_turn_beside_a_large_answer() -> None:
    wire = Http2Wire()
    value = b"v" * 1_000_000
    wire.face.answers[RANGE] = lambda _: {"kvs": [{"value": value}]}
    first, second = wire.open(RANGE), wire.open(RANGE)
    for stream in (first, second):
        wire.give(stream, "etcdserverpb.RangeRequest", {"key": b"a"}, end=True)
    await wire.settle()
    assert wire.views[first].ended
    assert wire.views[second].ended


async def test_grpc_drain_ends_streams_and_lets_calls_finish() -> None:
    wire = Http2Wire()
    wire.face.streams[WATCH] = echo_watches
    wire.face.holds = True
    watch, put = wire.open(WATCH), wire.open(PUT)
    wire.give(put, "etcdserverpb.PutRequest", {"key": b"a"}, end=True)
    await wire.settle()
    wire.server._drain(idle=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert wire.goaway == (0, "this node stops or makes room")
    [(_, payload)] = wire.of(GOAWAY)
    assert int.from_bytes(payload[:4], "big") == put
    [(stream, trailers)] = wire.of(HEADERS)
    assert stream == watch
    assert b"etcdserver: server stopped" in trailers
    assert not wire.transport.closed
    wire.face.held[0]({}, None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert [stream for stream, _ in wire.of(HEADERS)] == [watch, put, put]
    assert wire.transport.closed


async def test_grpc_service_close_ends_what_runs() -> None:
    wire = Http2Wire()
    wire.face.streams[WATCH] = echo_watches
    wire.open(WATCH)
    await wire.settle()
    await wire.service.close()
    assert wire.face.cancelled == [WATCH]


async def test_http1_and_http2_share_a_port() -> None:
    """The first bytes decide, in whichever pieces they come."""
    plain = Http2Wire()
    plain.send_raw(b"P")
    plain.send_raw(b"R")
    plain.send_raw(b"OPFIND /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"".join(plain.transport.written).startswith(b"HTTP/1.1 ")
    wire = Http2Wire()
    data = wire.client.data_to_send()
    for at in range(len(data)):
        wire.send_raw(data[at : at + 1])
    assert (await wire.call(PUT, {"key": b"a"})).status == 0
    partial = Http2Wire()
    partial.send_raw(PREFACE[:20])
    partial.advance(12)
    assert partial.transport.closed, "a client that sends only a part of the preface is not waited for"


async def test_grpc_without_the_extra_is_explained_in_the_goaway() -> None:
    wire = Http2Wire(server=explaining())
    await wire.settle()
    assert wire.terminated is not None
    assert wire.terminated.error_code == 13
    assert b"syncline[etcd-api]" in (wire.terminated.additional_data or b"")
    assert wire.transport.closed


def explaining() -> HttpServer:
    server = HttpServer(echo_http1, wall_time_s=lambda: 0.0)
    server.explain_http2("gRPC needs the extra: pip install 'syncline[etcd-api]'")
    return server
