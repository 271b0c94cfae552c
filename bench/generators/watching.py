"""Watchers, and writes at a steady rate that they hear of: one process, one connection for each watcher.

Each value begins with its number between two `@`, so that an event is found in the bytes of any protocol. Latency is
from the acknowledgement of a write, as it reached the generator, to its event at a watcher; 0 if the event came first.
"""

from __future__ import annotations

import asyncio
import gc
import re
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import uvloop

from bench.generators import grpc, http1
from bench.generators.h2load import bytes_field
from bench.processes import BenchError
from bench.stats import Histogram

MARK = re.compile(rb"@(\d{8})@")
MARK_BYTES = 10
WRITERS = 32
"""Connections for the writes; a write that finds all of them busy waits."""
WARM_UP_S = 1.0
"""The first writes; they count for nothing but the processor time."""
SETTLE_S = 20.0
"""For the watches to begin, and for the last events."""
AGAIN_S = 0.01
OPEN_FILES = 8192


@dataclass(frozen=True, slots=True)
class WatchLoad:
    """`watched`: of each watcher its first key, and the end of its range (None: this key alone)."""

    watched: Sequence[tuple[str, str | None]]
    written: Sequence[str]
    """The keys, written to in turn."""
    events_per_write: int
    writes_per_s: int
    seconds: float
    value_bytes: int

    @property
    def first_counted(self) -> int:
        return round(self.writes_per_s * WARM_UP_S)

    @property
    def writes(self) -> int:
        return self.first_counted + round(self.writes_per_s * self.seconds)


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of it. `missing`: events that did not come, or came twice. `late_us`: of the sending of the writes."""

    after_ack_us: Histogram
    after_send_us: Histogram
    late_us: Histogram
    events: int
    writes: int
    missing: int
    nodes_cpu_s: float
    generator_cpu_s: float
    elapsed_s: float


class Board:
    """What was sent, acknowledged and heard, by the number of the write."""

    def __init__(self, writes: int) -> None:
        self.due = [0.0] * writes
        self.sent = [0.0] * writes
        self.acked = [0.0] * writes
        self.acknowledged = 0
        self.heard: list[tuple[int, float]] = []
        self.failures: list[str] = []

    def found(self, received: bytes) -> None:
        """Note the events in what was received."""
        now = time.perf_counter()
        for number in MARK.findall(received):
            self.heard.append((int(number), now))

    def ack(self, number: int) -> None:
        self.acked[number] = time.perf_counter()
        self.acknowledged += 1


class Watcher(Protocol):
    """A connection with one watch."""

    ready: bool
    transport: asyncio.Transport


class Writer(Protocol):
    """A connection for one write at a time. It tells the board when it is acknowledged, and calls `free`."""

    transport: asyncio.Transport

    def put(self, number: int, key: str, value: bytes) -> None: ...


class Wire(Protocol):
    """How a system is spoken to."""

    def watcher(self, board: Board, start: str, end: str | None) -> Watcher: ...

    def writer(self, board: Board, free: Callable[[Writer], None]) -> Writer: ...


class _HttpConnection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)


class _HttpWatcher(_HttpConnection):
    def __init__(self, board: Board, target: str) -> None:
        self._board = board
        self._target = target
        self._rest = b""
        self.ready = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        head = f"GET /watch?{self._target} HTTP/1.1\r\nHost: bench\r\nAccept: application/x-ndjson\r\n\r\n"
        self.transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        if not self.ready:
            if not data.startswith(b"HTTP/1.1 200"):
                self._board.failures.append(data.decode())
            self.ready = True
        self._board.found(self._rest + data)
        self._rest = data[1 - MARK_BYTES :]


class _HttpWriter(_HttpConnection):
    def __init__(self, board: Board, free: Callable[[Writer], None]) -> None:
        self._board = board
        self._free = free
        self._number = 0
        self._received = bytearray()

    def put(self, number: int, key: str, value: bytes) -> None:
        self._number = number
        self.transport.write(http1.request("PUT", f"/key/{key}", value))

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = http1.answer(self._received)
        if answer is not None:
            if not answer.succeeded:
                self._board.failures.append(self._received.decode())
            self._received.clear()
            self._board.ack(self._number)
            self._free(self)


class HttpWire:
    """Syncline's."""

    def watcher(self, board: Board, start: str, end: str | None) -> Watcher:
        return _HttpWatcher(board, f"key={start}" if end is None else f"start={start}&end={end}")

    def writer(self, board: Board, free: Callable[[Writer], None]) -> Writer:
        return _HttpWriter(board, free)


class _GrpcWatcher(grpc.Connection):
    def __init__(self, board: Board, address: str, request: bytes) -> None:
        super().__init__()
        self._board = board
        self._head = grpc.headers(address, "/etcdserverpb.Watch/Watch")
        self._request = request
        self._tail = b""
        self.ready = False

    def opened(self) -> None:
        head = grpc.frame(grpc.HEADERS, grpc.END_HEADERS, 1, self._head)
        self.transport.write(head + grpc.data(1, self._request, last=False))

    def message(self) -> None:
        self.ready = True

    def ended(self) -> None:
        self._board.failures.append("a watch has ended")

    def data_received(self, received: bytes) -> None:
        super().data_received(received)
        self._board.found(self._tail + received)
        self._tail = received[1 - MARK_BYTES :]


class _GrpcWriter(grpc.Connection):
    def __init__(self, board: Board, free: Callable[[Writer], None], address: str) -> None:
        super().__init__()
        self._board = board
        self._free = free
        self._head = grpc.headers(address, "/etcdserverpb.KV/Put")
        self._number = 0
        self._stream = -1
        self._answered = False

    def put(self, number: int, key: str, value: bytes) -> None:
        self._number, self._answered = number, False
        self._stream += 2
        message = bytes_field(1, key.encode()) + bytes_field(2, value)
        head = grpc.frame(grpc.HEADERS, grpc.END_HEADERS, self._stream, self._head)
        self.transport.write(head + grpc.data(self._stream, message, last=True))

    def message(self) -> None:
        self._answered = True

    def ended(self) -> None:
        if not self._answered:
            self._board.failures.append("a put was refused")
        self._board.ack(self._number)
        self._free(self)


class GrpcWire:
    """etcd's."""

    def __init__(self, address: str) -> None:
        self._address = address

    def watcher(self, board: Board, start: str, end: str | None) -> Watcher:
        create = bytes_field(1, start.encode()) + (b"" if end is None else bytes_field(2, end.encode()))
        return _GrpcWatcher(board, self._address, bytes_field(1, create))

    def writer(self, board: Board, free: Callable[[Writer], None]) -> Writer:
        return _GrpcWriter(board, free, self._address)


class _Writers:
    """Gives writes to connections that are idle, in order: to each in its turn, as a server closes one that has sent
    no request for some seconds.
    """

    def __init__(self, load: WatchLoad, board: Board) -> None:
        self._load = load
        self._board = board
        self._waiting: deque[int] = deque()
        self._idle: deque[Writer] = deque()
        self._fill = b"x" * (load.value_bytes - MARK_BYTES)

    def send(self, number: int) -> None:
        if self._idle:
            self._put(self._idle.popleft(), number)
        else:
            self._waiting.append(number)

    def free(self, writer: Writer) -> None:
        """A writer is idle."""
        if self._waiting:
            self._put(writer, self._waiting.popleft())
        else:
            self._idle.append(writer)

    def _put(self, writer: Writer, number: int) -> None:
        written = self._load.written
        self._board.sent[number] = time.perf_counter()
        writer.put(number, written[number % len(written)], b"@%08d@%b" % (number, self._fill))


def generate(address: str, wire: Wire, load: WatchLoad, cpu_s: Callable[[], float]) -> Watched:
    """Start the watchers, write, and wait for all events. `cpu_s`: the processor time of the nodes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    gc.collect()
    gc.disable()  # its pauses would be taken for those of the system
    try:
        return uvloop.run(_generate(address, wire, load, cpu_s))
    finally:
        gc.enable()


async def _generate(address: str, wire: Wire, load: WatchLoad, cpu_s: Callable[[], float]) -> Watched:
    loop = asyncio.get_running_loop()
    board = Board(load.writes)
    writers = _Writers(load, board)
    opened: list[Watcher | Writer] = []
    watchers: list[Watcher] = []
    host, port = address.split(":")
    for start, end in load.watched:
        watcher = wire.watcher(board, start, end)
        await loop.create_connection(lambda watcher=watcher: cast("asyncio.Protocol", watcher), host, int(port))  # type: ignore[misc]
        watchers.append(watcher)
    for _ in range(WRITERS):
        writer = wire.writer(board, writers.free)
        await loop.create_connection(lambda writer=writer: cast("asyncio.Protocol", writer), host, int(port))  # type: ignore[misc]
        writers.free(writer)
        opened.append(writer)
    opened += watchers
    await _until("the watches begin", lambda: all(watcher.ready for watcher in watchers), board)
    nodes_s, own_s, began = cpu_s(), time.process_time(), time.perf_counter()
    for number in range(load.writes):
        board.due[number] = due = began + number / load.writes_per_s
        if (delay := due - time.perf_counter()) > 0:
            await asyncio.sleep(delay)
        writers.send(number)
    expected = load.writes * load.events_per_write
    await _until("all writes are acknowledged", lambda: board.acknowledged == load.writes, board)
    await _until("all events have come", lambda: len(board.heard) >= expected, board)
    nodes_s, own_s, elapsed_s = cpu_s() - nodes_s, time.process_time() - own_s, time.perf_counter() - began
    for connection in opened:
        connection.transport.abort()
    return _outcome(load, board, nodes_s, own_s, elapsed_s)


def _outcome(load: WatchLoad, board: Board, nodes_s: float, own_s: float, elapsed_s: float) -> Watched:
    counted = range(load.first_counted, load.writes)
    heard = [(number, at) for number, at in board.heard if number >= load.first_counted]
    return Watched(
        after_ack_us=Histogram.of(max(0, round((at - board.acked[number]) * 1e6)) for number, at in heard),
        after_send_us=Histogram.of(round((at - board.sent[number]) * 1e6) for number, at in heard),
        late_us=Histogram.of(round((board.sent[number] - board.due[number]) * 1e6) for number in counted),
        events=len(board.heard),
        writes=load.writes,
        missing=abs(load.writes * load.events_per_write - len(board.heard)),
        nodes_cpu_s=nodes_s,
        generator_cpu_s=own_s,
        elapsed_s=elapsed_s,
    )


async def _until(what: str, done: Callable[[], bool], board: Board) -> None:
    end = time.perf_counter() + SETTLE_S
    while not done():
        if board.failures or time.perf_counter() > end:
            raise BenchError(f"not within {SETTLE_S:g} s: {what}; {len(board.heard)} events; {board.failures[:1]}")
        await asyncio.sleep(AGAIN_S)
