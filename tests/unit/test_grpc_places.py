"""gRPC's calls among the requests that a node has in work: beyond the limit a refusal at once; nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from syncline.server.etcd.errors import INTERNAL, RESOURCE_EXHAUSTED
from syncline.server.etcd.face import Send
from syncline.server.etcd.messages import Message
from syncline.server.etcd.protobuf import encode
from syncline.server.http.limits import HttpLimits
from tests.helpers.http2_wire import LOCK, PUT, WATCH, Http2Wire, framed, kind_of
from tests.helpers.http_wire import Wire, get
from tests.unit.test_grpc_calls import echo_watches

STATUS = "/etcdserverpb.Maintenance/Status"
OBSERVE = "/v3electionpb.Election/Observe"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
TOO_MANY = (RESOURCE_EXHAUSTED, "etcdserver: too many requests")


def full(count: int = 2) -> tuple[Http2Wire, list[int]]:
    """A connection whose calls take all places of the node."""
    wire = Http2Wire(http_limits=HttpLimits(max_requests=count, vital_requests=1))
    wire.face.holds = True
    streams = [wire.open(PUT) for _ in range(count)]
    for stream in streams:
        wire.give(stream, kind_of(PUT), {"key": b"a"}, end=True)
    return wire, streams


async def test_grpc_calls_above_the_limit_of_requests_are_refused_at_once() -> None:
    """Together with those of HTTP/1.1: the limit is the node's."""
    wire, streams = full()
    await wire.settle()
    assert wire.server.requests == 2
    view = await wire.call(PUT, {"key": b"b"})
    assert (view.status, view.text) == TOO_MANY
    assert len(wire.face.calls) == 2, "nothing of it was begun"
    http1 = Wire(server=wire.server)
    http1.send(get("/key/a"))
    await http1.settle()
    assert http1.answers[0].status == 503
    wire.face.held.pop()({}, None)
    await wire.settle()
    assert [wire.views[stream].status for stream in streams if wire.views[stream].ended] == [0]
    wire.face.holds = False
    assert (await wire.call(PUT, {"key": b"b"})).status == 0
    assert wire.server.requests == 1


async def test_grpc_call_tells_its_size_to_the_limit_of_its_user() -> None:
    wire = Http2Wire()
    message: Message = {"key": b"a", "value": bytes(500)}
    await wire.call(PUT, message)
    [(_, _, caller)] = wire.face.calls
    assert caller.request_bytes == len(framed(encode(kind_of(PUT), message)))


async def test_grpc_status_passes_the_limit_of_requests() -> None:
    wire, _ = full()
    await wire.settle()
    wire.face.holds = False
    assert (await wire.call(STATUS, {})).status == 0
    wire.face.holds = True
    stream = wire.open(STATUS)
    wire.give(stream, kind_of(STATUS), {}, end=True)
    await wire.settle()
    assert wire.server.requests == 3
    assert (await wire.call(STATUS, {})).status == RESOURCE_EXHAUSTED


async def test_grpc_call_counts_until_it_is_carried_out_though_its_client_left() -> None:
    """Else calls that are begun and reset would be work without a limit."""
    wire, streams = full()
    await wire.settle()
    wire.client.reset_stream(streams[0])
    await wire.settle()
    assert wire.server.requests == 2
    wire.transport.abort()
    assert wire.server.requests == 2
    for finished in wire.face.held:
        finished({}, None)
    assert wire.server.requests == 0


@pytest.mark.parametrize("data", [b"", b"\xff\xff", framed(b"")[:3], b"\x02" + framed(b"")[1:]])
async def test_grpc_calls_that_are_no_message_leave_no_place_taken(data: bytes) -> None:
    wire = Http2Wire(http_limits=HttpLimits(max_requests=1))
    for _ in range(3):
        stream = wire.open(PUT)
        wire.client.send_data(stream, data, end_stream=True)
        await wire.settle()
        assert wire.views[stream].status == INTERNAL
    assert wire.server.requests == 0


async def test_grpc_calls_that_wait_for_others_take_no_place() -> None:
    wire, _ = full()
    await wire.settle()
    lock = wire.open(LOCK)
    wire.give(lock, kind_of(LOCK), {"name": b"x"}, end=True)

    async def observe(inbox: AsyncIterator[Message], send: Send) -> None:
        await anext(inbox)
        await asyncio.get_running_loop().create_future()

    wire.face.streams[OBSERVE] = observe
    stream = wire.open(OBSERVE)
    wire.give(stream, kind_of(OBSERVE), {"name": b"x"}, end=True)
    await wire.settle()
    assert [name for name, _, _ in wire.face.calls][2:] == [LOCK, OBSERVE]
    assert not (wire.views[lock].ended or wire.views[stream].ended)
    assert wire.server.requests == 2


async def test_grpc_stream_that_waits_takes_no_place() -> None:
    """One that has sent nothing, one that has a part of a message, one that was answered, one that has no answer."""
    wire = Http2Wire(http_limits=HttpLimits(max_requests=1))
    wire.face.streams[WATCH] = echo_watches
    silent, partial, answered = [wire.open(WATCH) for _ in range(3)]
    wire.client.send_data(partial, framed(encode(kind_of(WATCH), {"create_request": {"key": b"a"}}))[:6])
    for _ in range(2):
        wire.give(answered, kind_of(WATCH), {"progress_request": {}})
    await wire.settle()
    assert wire.server.requests == 0

    async def ignore(inbox: AsyncIterator[Message], _: Send) -> None:
        async for _message in inbox:
            pass

    wire.face.streams[KEEP_ALIVE] = ignore
    ignored = wire.open(KEEP_ALIVE)
    wire.give(ignored, kind_of(KEEP_ALIVE), {"ID": 7})
    await wire.settle()
    assert wire.server.requests == 0
    assert not any(wire.views[stream].ended for stream in (silent, partial, answered, ignored))


async def test_grpc_stream_that_begins_above_the_limit_is_refused() -> None:
    wire = Http2Wire(http_limits=HttpLimits(max_requests=1))
    go_on = asyncio.Event()

    async def slow(inbox: AsyncIterator[Message], send: Send) -> None:
        async for _ in inbox:
            await go_on.wait()
            await send({"watch_id": 1})

    wire.face.streams[WATCH] = slow
    first, second = wire.open(WATCH), wire.open(WATCH)
    wire.give(first, kind_of(WATCH), {"progress_request": {}})
    await wire.settle()
    assert wire.server.requests == 1
    wire.give(second, kind_of(WATCH), {"progress_request": {}})
    await wire.settle()
    assert (wire.views[second].status, wire.views[second].text) == TOO_MANY
    go_on.set()
    await wire.settle()
    assert wire.server.requests == 0
    assert len(wire.views[first].data) > 0
    wire.give(first, kind_of(WATCH), {"progress_request": {}})
    await wire.settle()
    assert wire.server.requests == 0


async def test_grpc_stream_that_is_lost_before_it_answers_gives_its_place_back() -> None:
    wire = Http2Wire(http_limits=HttpLimits(max_requests=1))

    async def silent(inbox: AsyncIterator[Message], _: Send) -> None:
        await anext(inbox)
        await asyncio.get_running_loop().create_future()

    wire.face.streams[WATCH] = silent
    stream = wire.open(WATCH)
    wire.give(stream, kind_of(WATCH), {"progress_request": {}})
    await wire.settle()
    assert wire.server.requests == 1
    wire.client.reset_stream(stream)
    await wire.settle()
    assert wire.server.requests == 0
