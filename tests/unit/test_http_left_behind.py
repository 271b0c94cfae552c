"""A connection that has ended leaves nothing in memory, whatever was under way.

`Request`, `Response` and `Slot` are not known to the garbage collector. A ring of references through one of them is
never found, so each must be broken when the connection ends.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections import Counter
from functools import partial

import pytest

from syncline.kv.commands import Put, encode_command
from syncline.server.etcd.gateway_stream import StreamBridge
from syncline.server.http.response import Response
from syncline.server.http.state import Slot
from syncline.server.http.stream import Stream
from tests.helpers.etcd_wire import EtcdWire, b64
from tests.helpers.http_wire import Wire, get, put

LEASE = "00000000000000a1"


def post(path: str, body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def gateway(route: str, document: dict[str, object]) -> bytes:
    return post(f"/v3/{route}", json.dumps(document).encode())


WATCH = gateway("watch", {"create_request": {"key": b64("w"), "range_end": b64("x")}})

REQUESTS = {
    "read": get("/key/w1"),
    "write": put("/key/w1", b"abc"),
    "keep-alive": post(f"/lease/{LEASE}/keepalive"),
    "watch": get("/watch/w?prefix=true"),
    "event stream": get("/watch/w?prefix=true", "Accept: text/event-stream"),
    "long poll": get("/key/w1?wait=60s"),
    "listing": get("/keys?prefix=w&values=true"),
    "large answer": get("/key/large"),
    "backup": get("/backup"),
    "etcd's watch": WATCH,
    "etcd's watch, and more behind it": WATCH + get("/key/w1"),
    "etcd's watch behind a write": put("/key/w1", b"abc") + WATCH,
    "etcd's keep-alive": gateway("lease/keepalive", {"ID": "161"}),
    "etcd's snapshot": gateway("maintenance/snapshot", {}),
    "a part of a body": put("/key/w1", b"abc")[:-1],
    "a bad request": b"GET / HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n",
}


def tracked() -> Counter[str]:
    """How many objects of each type the garbage collector knows, of those that a connection could leave."""
    gc.collect()
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    del kinds["asyncio.events.TimerHandle"]  # asyncio's own loop keeps a cancelled one until its time has come
    return Counter(
        {kind: count for kind, count in kinds.items() if kind.startswith(("syncline.", "_asyncio.", "asyncio."))}
    )


async def visit(server: EtcdWire, sent: bytes, fate: str) -> None:
    """One connection: it sends this three times, as far as it is answered, and ends."""
    wire = Wire(server=server.server)
    wire.transport.reads_all = fate != "reads nothing"
    for _ in range(3):
        wire.send(sent)
        await wire.settle()
        if fate == "event":
            server.backend.propose(encode_command(Put(b"w1", b"v")), 1.0, lambda *_: None)
            await wire.settle()
    if fate == "half-closed":
        wire.connection.eof_received()
    if not wire.transport.closed:
        wire.connection.abort()
    await wire.settle()
    while server.backend.held:
        server.backend.release()
    await wire.settle()


@pytest.fixture
def young_heap() -> None:
    """What earlier tests have left is not looked at: that would take a second each time."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("fate", ["leaves", "event", "reads nothing", "half-closed", "held"])
async def test_connection_that_has_ended_leaves_nothing(fate: str, young_heap: None) -> None:
    server = EtcdWire()
    await server.ask("POST", "/lease", json.dumps({"ttl": "30s", "id": LEASE}).encode())
    server.backend.propose(encode_command(Put(b"large", bytes(900))), 1.0, lambda *_: None)
    server.backend.hold = fate == "held"
    grown: dict[str, Counter[str]] = {}
    for name, sent in REQUESTS.items():
        await visit(server, sent, fate)
        before = tracked()
        for _ in range(5):
            await visit(server, sent, fate)
        if more := Counter({kind: count for kind, count in (tracked() - before).items() if count >= 5}):
            grown[name] = more
    assert not grown


async def test_client_that_closes_its_side_leaves_a_read_that_waits() -> None:
    server = EtcdWire()
    for sent, stays in ((get("/key/w1?wait=60s"), False), (get("/key/w1"), True), (put("/key/w1", b"abc"), True)):
        server.backend.hold = stays
        wire = Wire(server=server.server)
        wire.send(sent)
        await wire.settle()
        assert wire.connection.eof_received() == stays


async def test_client_that_left_before_its_read_began_to_wait_has_no_watch() -> None:
    server = EtcdWire()
    server.backend.hold = True
    wire = Wire(server=server.server)
    wire.send(get("/key/w1?wait=60s"))
    await wire.settle()
    wire.connection.abort()
    server.backend.release()
    await wire.settle()
    assert len(server.site.watches) == 0


def test_stream_of_etcds_gateway_keeps_no_way_to_its_own_answer() -> None:
    """In a node of the simulator that was killed, nothing tells the connection that it is lost."""
    slot = Slot(None, False, False, True)
    bridge = StreamBridge(
        partial(setattr, slot, "answer"),
        write=lambda _: b"",
        refuse=lambda _: Response(500, b"", b""),
        error=lambda _: b"",
        live=True,
    )
    bridge._begin()
    assert isinstance(slot.answer, Stream)
    left = weakref.ref(bridge)
    del slot, bridge
    gc.collect()
    assert left() is None
