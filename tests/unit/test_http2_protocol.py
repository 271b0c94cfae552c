"""HTTP/2 connections: what malformed frames, floods and greedy clients get, and that others go on."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from syncline.server.http.limits import HttpLimits
from syncline.server.http.server import HttpServer
from syncline.server.http2.connection import Http2Connection
from syncline.server.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    settings,
)
from syncline.server.http2.header_blocks import field
from syncline.server.http2.limits import Http2Limits
from syncline.server.http2.output import FrameOutput
from syncline.server.http2.streams import Http2Stream
from tests.helpers.http2_wire import PUT, WATCH, Http2Wire, framed
from tests.unit.test_grpc_calls import echo_watches

HEAD = (
    b"\x83\x86"  # POST, http
    + field(b":path", PUT.encode())
    + field(b"te", b"trailers")
    + field(b"content-type", b"application/grpc")
)
GREETING = PREFACE + settings({})
REQUEST = framed(b"\x0a\x01a")


class RawWire(Http2Wire):
    """A client that writes its frames itself."""

    def __init__(self, *, limits: Http2Limits | None = None, server: HttpServer | None = None) -> None:
        super().__init__(limits=limits, server=server)
        self.client.clear_outbound_data_buffer()


async def raw(limits: Http2Limits | None = None) -> RawWire:
    """A connection after the greeting."""
    wire = RawWire(limits=limits)
    wire.send_raw(GREETING)
    await turns(wire)
    return wire


async def turns(wire: RawWire) -> None:
    """Let the server write."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("data", "code", "why"),
    [
        (frame(DATA, 0, 1, b"x"), 1, "not opened"),
        (frame(HEADERS, END_HEADERS, 2, HEAD), 1, "odd"),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09abc"), 1, "padding"),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), 9, "decoded"),
        (frame(HEADERS, END_HEADERS, 1, b"\xbf"), 9, "decoded"),
        (frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, b"12345678"), 1, "interrupted"),
        (frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 3, b""), 1, "interrupted"),
        (frame(CONTINUATION, END_HEADERS, 1, HEAD), 1, "continues nothing"),
        (frame(PUSH_PROMISE, 0, 1, b"1234"), 1, "push"),
        (frame(PING, 0, 0, b"1234567"), 6, "PING"),
        (frame(PING, 0, 1, b"12345678"), 1, "PING"),
        (frame(SETTINGS, 0, 1), 1, "SETTINGS"),
        (frame(SETTINGS, 0, 0, b"12345"), 6, "SETTINGS"),
        (frame(SETTINGS, ACK, 0, b"123456"), 6, "SETTINGS"),
        (settings({4: 1 << 31}), 3, "INITIAL_WINDOW_SIZE"),
        (settings({5: 100}), 1, "MAX_FRAME_SIZE"),
        (settings({2: 2}), 1, "ENABLE_PUSH"),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), 1, "of 0"),
        (frame(WINDOW_UPDATE, 0, 0, b"123"), 6, "WINDOW_UPDATE"),
        (frame(WINDOW_UPDATE, 0, 9, b"\0\0\0\1"), 1, "not opened"),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3, "window"),
        (frame(RST_STREAM, 0, 1, bytes(4)), 1, "not opened"),
        (frame(RST_STREAM, 0, 1, bytes(3)), 6, "RST_STREAM"),
        (frame(PRIORITY, 0, 0, bytes(5)), 1, "PRIORITY"),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", 6, "16384"),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", 6, "16384"),
    ],
)
async def test_http2_connection_faults_end_it_with_the_reason(data: bytes, code: int, why: str) -> None:
    wire = await raw()
    wire.send_raw(data)
    await turns(wire)
    assert wire.goaway is not None
    assert wire.goaway[0] == code
    assert why in wire.goaway[1]
    assert wire.transport.eof_written
    wire.send_raw(b"x" * 1000)  # what still comes is thrown away
    wire.advance(7)
    assert wire.transport.aborted
    assert (wire.held_bytes, wire.server.connection_count) == (0, 0)


@pytest.mark.parametrize(
    ("head", "flags"),
    [
        (HEAD + field(b"X-Upper", b"1"), END_STREAM),
        (HEAD + field(b"connection", b"close"), END_STREAM),
        (HEAD + field(b"te", b"gzip"), END_STREAM),
        (HEAD + b"\x83", END_STREAM),
        (b"\x83" + HEAD, END_STREAM),
        (b"\x83\x86", END_STREAM),
        (HEAD + field(b":other", b"1"), END_STREAM),
        (HEAD + field(b"a", b"1\r\nb: 2"), END_STREAM),
        (HEAD + field(b"", b"1"), END_STREAM),
    ],
)
async def test_http2_malformed_heads_reset_their_stream_alone(head: bytes, flags: int) -> None:
    wire = await raw()
    wire.send_raw(frame(HEADERS, END_HEADERS | flags, 1, head))
    wire.send_raw(frame(HEADERS, END_HEADERS, 3, HEAD) + frame(DATA, END_STREAM, 3, REQUEST))
    await turns(wire)
    assert wire.of(RST_STREAM) == [(1, b"\0\0\0\1")]
    assert [stream for stream, _ in wire.of(HEADERS)] == [3, 3]
    assert wire.goaway is None


async def test_http2_first_frame_must_be_settings() -> None:
    wire = RawWire()
    wire.send_raw(PREFACE + frame(PING, 0, 0, b"12345678"))
    await turns(wire)
    assert wire.goaway is not None
    assert "SETTINGS" in wire.goaway[1]


async def test_http2_pings_are_answered_and_not_counted() -> None:
    """Clients with keep-alive ping every few seconds, and some after each answer."""
    wire = await raw()
    for _ in range(20):
        wire.send_raw(frame(PING, 0, 0, b"12345678") * 1000)
        await turns(wire)
    pongs = [payload for kind, flags, _, payload in wire.frames if kind == PING and flags == ACK]
    while len(pongs) < 20_000:
        await turns(wire)
        pongs = [payload for kind, flags, _, payload in wire.frames if kind == PING and flags == ACK]
    assert set(pongs) == {b"12345678"}
    assert wire.goaway is None


async def test_http2_padding_and_continuations_are_understood() -> None:
    wire = await raw()
    wire.send_raw(
        frame(HEADERS, 0, 1, HEAD[:10])
        + frame(CONTINUATION, 0, 1, HEAD[10:20])
        + frame(CONTINUATION, END_HEADERS, 1, HEAD[20:])
        + frame(DATA, PADDED, 1, b"\x05" + REQUEST + bytes(5))
        + frame(DATA, END_STREAM | PADDED, 1, b"\x02" + bytes(2))
    )
    await turns(wire)
    assert [stream for stream, _ in wire.of(HEADERS)] == [1, 1]
    assert wire.face.calls[0][1] == {"key": b"a"}


async def test_http2_trailers_of_a_client_end_its_request() -> None:
    wire = await raw()
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, REQUEST))
    wire.send_raw(frame(HEADERS, END_HEADERS | END_STREAM, 1, field(b"x", b"1")))
    await turns(wire)
    assert len(wire.face.calls) == 1


async def test_http2_resets_have_a_budget() -> None:
    """Rapid reset (CVE-2023-44487): requests that are reset at once are no way around the limit on streams."""
    wire = await raw()
    wire.face.holds = True
    stream = 1
    while wire.goaway is None and stream < 20_000:
        wire.send_raw(
            frame(HEADERS, END_HEADERS, stream, HEAD)
            + frame(DATA, END_STREAM, stream, REQUEST)
            + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
        )
        stream += 2
        await asyncio.sleep(0)
    await turns(wire)
    assert wire.goaway == (11, "too many resets, or frames without use")
    assert len(wire.face.calls) <= Http2Limits().abuse_budget + 1
    assert wire.held_bytes == 0


async def test_http2_budget_comes_back_with_time() -> None:
    """A client that cancels calls all the time, but not in masses, goes on."""
    wire = await raw(Http2Limits(abuse_budget=50, abuse_refill_per_s=10))
    stream = 1
    for _ in range(30):
        for _ in range(5):
            wire.send_raw(frame(HEADERS, END_HEADERS, stream, HEAD) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
            stream += 2
        wire.advance(1, step=1)
    await turns(wire)
    assert wire.goaway is None


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 1),
        settings({}),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(0x77, 0, 0, b"?"),
        frame(HEADERS, 0, 3, HEAD) + frame(CONTINUATION, 0, 3) * 5000,
    ],
    ids=["empty data", "settings", "priority", "unknown", "continuations"],
)
async def test_http2_floods_of_frames_without_use_end_the_connection(data: bytes) -> None:
    wire = await raw()
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, HEAD))
    for _ in range(5000):
        if wire.goaway is not None or wire.transport.eof_written:
            break
        wire.send_raw(data)
        if not wire.transport.reading:
            await turns(wire)
    for _ in range(40):
        await turns(wire)
    assert wire.goaway is not None
    assert wire.goaway[0] == 11


async def test_http2_streams_above_the_limit_are_refused() -> None:
    wire = await raw(Http2Limits(max_streams=10))
    wire.face.holds = True
    for stream in range(1, 41, 2):
        wire.send_raw(frame(HEADERS, END_HEADERS, stream, HEAD) + frame(DATA, END_STREAM, stream, REQUEST))
    await turns(wire)
    assert len(wire.face.calls) == 10
    assert wire.of(RST_STREAM) == [(stream, b"\0\0\0\7") for stream in range(21, 41, 2)]
    for finished in wire.face.held:
        finished({}, None)
    wire.send_raw(frame(HEADERS, END_HEADERS, 41, HEAD) + frame(DATA, END_STREAM, 41, REQUEST))
    await turns(wire)
    assert len(wire.face.calls) == 11


async def test_http2_client_leaves_streams_to_clients_of_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has as many as are free, over all its connections. So each newcomer gets some, whatever the others hold."""
    first = await raw(Http2Limits(max_streams=10, max_total_streams=12))
    first.face.holds = True
    hosts = ("", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::ffff")
    wires = [first, *(RawWire(server=first.server) for _ in hosts)]
    for wire, host in zip(wires[1:], hosts, strict=True):
        if host:
            monkeypatch.setattr(
                wire.transport, "get_extra_info", lambda name, host=host: name == "peername" and (host, 1)
            )
        wire.send_raw(GREETING)
    for wire in wires:
        wire.send_raw(b"".join(frame(HEADERS, END_HEADERS, stream, HEAD) for stream in range(1, 21, 2)))
    await turns(first)
    assert [10 - len(wire.of(RST_STREAM)) for wire in wires] == [6, 0, 3, 2, 1, 0]
    first.transport.abort()
    await turns(first)
    wires[1].send_raw(b"".join(frame(HEADERS, END_HEADERS, stream, HEAD) for stream in range(21, 41, 2)))
    await turns(first)
    assert 20 - len(wires[1].of(RST_STREAM)) == 3, "the first connection's streams are free again"
    for wire in wires:
        wire.transport.abort()
    await turns(first)
    newcomer = RawWire(server=first.server)
    newcomer.send_raw(GREETING + frame(HEADERS, END_HEADERS, 1, HEAD))
    newcomer.send_raw(b"".join(frame(HEADERS, END_HEADERS, stream, HEAD) for stream in range(3, 21, 2)))
    await turns(first)
    assert 10 - len(newcomer.of(RST_STREAM)) == 6, "nothing is counted any more"


async def test_http2_100000_streams_take_no_memory() -> None:
    wire = await raw()
    wire.face.holds = True
    for start in range(1, 200_001, 2_000):
        block = b"".join(frame(HEADERS, END_HEADERS, stream, HEAD) for stream in range(start, start + 2_000, 2))
        wire.send_raw(block)
        if wire.goaway is not None:
            break
        for _ in range(6):
            await turns(wire)
    assert wire.goaway is not None
    assert wire.goaway[0] == 11
    assert wire.held_bytes == 0


async def test_http2_header_bombs_end_the_connection() -> None:
    """A small block that refers to one large entry again and again (RFC 7541, 7.3)."""
    wire = await raw()
    entry = b"\x40" + b"\x01a" + b"\x7f\x81\x1d" + b"x" * 3840  # added to the table
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, entry + b"\xbe" * 5000))
    await turns(wire)
    assert wire.goaway == (11, "the header is too large")


async def test_http2_header_in_many_parts_has_the_same_limit() -> None:
    wire = await raw()
    wire.send_raw(frame(HEADERS, 0, 1, HEAD))
    for _ in range(3):
        wire.send_raw(frame(CONTINUATION, 0, 1, b"\x00" * 10_000))
    await turns(wire)
    assert wire.goaway == (11, "the header is too large")


async def test_http2_header_that_does_not_end_is_given_up() -> None:
    wire = await raw()
    wire.send_raw(frame(HEADERS, 0, 1, HEAD))
    wire.advance(12)
    await turns(wire)
    assert wire.goaway is not None
    assert "10 s" in wire.goaway[1]


async def test_http2_request_that_does_not_go_on_is_refused() -> None:
    wire = await raw()
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, b"\0"))
    wire.face.streams[WATCH] = echo_watches
    watch = HEAD.replace(field(b":path", PUT.encode()), field(b":path", WATCH.encode()))
    wire.send_raw(frame(HEADERS, END_HEADERS, 3, watch))
    wire.advance(40)
    await turns(wire)
    assert [stream for stream, _ in wire.of(HEADERS)] == [1], "a watch may be silent"
    assert wire.held_bytes == 0
    wire.transport.abort()
    await turns(wire)


async def test_http2_more_data_than_the_windows_allow_is_a_fault() -> None:
    wire = await raw(Http2Limits(stream_window_bytes=20_000, connection_window_bytes=100_000))
    watch = HEAD.replace(field(b":path", PUT.encode()), field(b":path", WATCH.encode()))

    async def takes_nothing(inbox: object, send: object) -> None:
        await asyncio.get_running_loop().create_future()

    wire.face.streams[WATCH] = takes_nothing
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, watch))
    wire.send_raw(frame(DATA, 0, 1, bytes(16_000)))
    assert wire.held_bytes == 16_000
    wire.send_raw(frame(DATA, 0, 1, bytes(16_000)))
    await turns(wire)
    assert wire.of(RST_STREAM) == [(1, b"\0\0\0\3")]
    assert wire.held_bytes == 0


async def test_http2_held_requests_have_a_limit() -> None:
    wire = await raw(Http2Limits(max_held_bytes=50_000))
    for stream in range(1, 21, 2):
        wire.send_raw(frame(HEADERS, END_HEADERS, stream, HEAD))
        wire.send_raw(frame(DATA, 0, stream, b"\0\0\1\0\0" + bytes(15_000)))
    await turns(wire)
    assert wire.held_bytes <= 50_000
    refused = [stream for stream, _ in wire.of(RST_STREAM)]
    assert refused == [7, 9, 11, 13, 15, 17, 19]


async def test_http2_first_window_of_zero_holds_answers_back() -> None:
    wire = RawWire()
    wire.send_raw(PREFACE + settings({4: 0}))
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, END_STREAM, 1, REQUEST))
    await turns(wire)
    assert not wire.of(DATA)
    wire.send_raw(settings({4: 3}))
    await turns(wire)
    assert [len(payload) for _, payload in wire.of(DATA)] == [3]
    wire.send_raw(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\x64"))
    await turns(wire)
    assert [len(payload) for _, payload in wire.of(DATA)] == [3, 2]
    assert len(wire.of(HEADERS)) == 2


async def test_http2_answer_that_is_not_taken_is_given_up() -> None:
    wire = RawWire()
    wire.send_raw(PREFACE + settings({4: 0}))
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, END_STREAM, 1, REQUEST))
    wire.advance(70)
    await turns(wire)
    assert wire.of(RST_STREAM) == [(1, b"\0\0\0\x08")]
    assert wire.held_bytes == 0


async def test_http2_client_that_reads_nothing_is_not_read_from() -> None:
    wire = await raw()
    wire.transport.reads_all = False
    for _ in range(2000):
        if not wire.transport.reading:
            break
        wire.send_raw(frame(PING, 0, 0, b"12345678") * 100)
        await turns(wire)
    before = wire.transport.reading
    wire.transport.take(1 << 20)
    await turns(wire)
    assert (before, wire.transport.reading) == (False, True)


async def test_http2_idle_connection_is_closed_with_a_goaway() -> None:
    wire = await raw()
    wire.advance(599, step=1)
    assert not wire.transport.written[2:]
    wire.advance(5, step=1)
    assert wire.goaway == (0, "this node stops or makes room")
    assert wire.transport.closed


async def test_http2_resting_connection_makes_room_for_another() -> None:
    wire = Http2Wire(http_limits=HttpLimits(max_connections=1))
    await wire.settle()
    wire.advance(3)
    Http2Wire(server=wire.server)
    assert wire.transport.closed


async def test_http2_header_cache_follows_the_table() -> None:
    """A block that is repeated means the same only as long as the table of the connection does."""
    wire = await raw()
    base = b"\x83\x86" + field(b":path", PUT.encode()) + field(b"content-type", b"application/grpc")
    add = b"\x40\x05token"
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, base + add + b"\x01A") + frame(DATA, END_STREAM, 1, REQUEST))
    for stream in (3, 5):
        wire.send_raw(frame(HEADERS, END_HEADERS, stream, base + b"\xbe") + frame(DATA, END_STREAM, stream, REQUEST))
    wire.send_raw(frame(HEADERS, END_HEADERS, 7, base + add + b"\x01B") + frame(DATA, END_STREAM, 7, REQUEST))
    wire.send_raw(frame(HEADERS, END_HEADERS, 9, base + b"\xbe") + frame(DATA, END_STREAM, 9, REQUEST))
    await turns(wire)
    assert [call[2].token for call in wire.face.calls] == [b"A", b"A", b"A", b"B", b"B"]


@pytest.mark.parametrize("seed", range(20))
async def test_http2_random_frames_never_raise(seed: int) -> None:
    """Whatever a client sends: the connection goes on or ends with a GOAWAY, and nothing is left behind."""
    random = Random(seed)
    wire = await raw()
    for _ in range(200):
        kind, stream = random.randrange(11), random.choice([0, 1, 1, 3, 5, 2])
        payload = random.choice([b"", HEAD, REQUEST, random.randbytes(random.choice([4, 5, 6, 8, 30])), bytes(4)])
        flags = random.choice([0, END_HEADERS, END_HEADERS | END_STREAM, END_STREAM, PADDED, 0xFF])
        data = frame(kind, flags, stream, payload)
        if random.random() < 0.05:
            data = data[: random.randrange(len(data))]
        wire.send_raw(data)
        await turns(wire)
        if wire.goaway is not None:
            assert wire.goaway[0] != 2, wire.goaway
            wire = await raw()
    wire.transport.abort()
    await turns(wire)
    assert wire.held_bytes == 0


async def test_http2_windows_are_changed_once_for_a_frame_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame has room for thousands of values: for each of them to change all streams would hold the event loop."""
    changed: list[int] = []
    widen = FrameOutput.widen

    def counted(output: FrameOutput, stream: Http2Stream | None, more: int) -> None:
        changed.append(more)
        widen(output, stream, more)

    monkeypatch.setattr(FrameOutput, "widen", counted)
    wire = await raw()
    for number in range(1, 201, 2):
        wire.send_raw(frame(HEADERS, END_HEADERS, number, HEAD))
    entry = b"".join(settings({4: value})[9:] for value in (1, 2))
    wire.send_raw(frame(SETTINGS, 0, 0, entry * 1000))
    await turns(wire)
    assert wire.goaway is None
    assert len(changed) == 100


async def test_http2_changes_of_many_windows_cost_of_the_budget() -> None:
    limits = Http2Limits(abuse_budget=1000, abuse_refill_per_s=0)
    wire = await raw(limits)
    for number in range(1, 2001, 2):
        wire.send_raw(frame(HEADERS, END_HEADERS, number, HEAD))
    for value in range(100):
        wire.send_raw(settings({4: value}))
        if wire.transport.eof_written:
            break
    await turns(wire)
    assert wire.goaway is not None
    assert value < 40, "1,000 streams, so it costs 31 more than settings without a change"


async def test_http2_client_that_takes_a_byte_at_a_time_counts_as_stalled() -> None:
    """Else a few such clients would hold the memory for all answers, and be the last that are cut off."""
    wire = RawWire()
    wire.face.answers[PUT] = lambda _: {"prev_kv": {"value": b"v" * 100_000}}
    wire.send_raw(PREFACE + settings({4: 0}))
    wire.send_raw(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, END_STREAM, 1, REQUEST))
    await turns(wire)
    connection = wire.transport.protocol
    assert isinstance(connection, Http2Connection)
    assert connection.stalled_bytes() == 0, "the first look"
    for _ in range(3):
        wire.send_raw(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
        await turns(wire)
        assert connection.stalled_bytes() > 99_000
    wire.send_raw(frame(WINDOW_UPDATE, 0, 1, b"\0\0\x20\0"))
    await turns(wire)
    assert connection.stalled_bytes() == 0, "it reads"
