"""The objects of a stream are freed when it ends: a full garbage collection stops a node with many streams."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Final, cast

import pytest

from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS
from syncline.server.etcd.protobuf import encode
from syncline.server.http2.frames import DATA, END_HEADERS, HEADERS, PREFACE, RST_STREAM, frame, settings
from syncline.server.http2.header_blocks import field
from tests.helpers.etcd_wire import EtcdWire
from tests.helpers.http2_wire import WATCH, FakeFace, Http2Wire, framed

KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
STREAMS: Final = 20
KINDS: Final = ("Http2Stream", "StreamingGrpc", "Inbox", "_WatchStream", "_StreamWatch", "KeyWatch", "Task")


def _objects() -> Counter[str]:
    counts = Counter(type(one).__name__ for one in gc.get_objects())
    return Counter({kind: counts[kind] for kind in KINDS})


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["reset", "lost", "reset at once"])
@pytest.mark.parametrize("path", [WATCH, KEEP_ALIVE])
async def test_grpc_stream_that_ends_frees_its_objects_without_a_collection(path: str, how: str) -> None:
    """Each left 44 objects in circles, by its cancelled tasks above all."""
    site = EtcdWire()
    wire = Http2Wire(cast("FakeFace", site.face))
    wire.client.clear_outbound_data_buffer()
    wire.send_raw(PREFACE + settings({}))
    head = b"\x83\x86" + field(b":path", path.encode()) + field(b"content-type", b"application/grpc")
    asked: Message = {"create_request": {"key": b"a"}} if path == WATCH else {"ID": 1}
    message = framed(encode(METHODS[path].request, asked))
    streams = range(1, 2 * STREAMS, 2)
    await _turns(20)
    gc.collect()
    gc.disable()
    try:
        before = _objects()
        for stream in streams:
            wire.send_raw(frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, 0, stream, message))
        if how != "reset at once":
            await _turns(200)
            assert _objects()["StreamingGrpc"] == before["StreamingGrpc"] + STREAMS
        if how == "lost":
            wire.transport.abort()
        else:
            wire.send_raw(b"".join(frame(RST_STREAM, 0, stream, bytes(4)) for stream in streams))
        await _turns(200)
        assert _objects() - before == Counter()
    finally:
        gc.enable()
