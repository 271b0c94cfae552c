"""Keep-alives at a steady rate, each of one lease, in our own generator: one process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import uvloop

from bench.generators import grpc, http1
from bench.generators.h2load import varint
from bench.processes import BenchError
from bench.stats import Histogram

CONNECTIONS = 100
"""As of a hundred programs. Keep-alives of one connection are answered one behind the other: each may wait 40 ms."""
SETTLE_S = 10.0
AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class Beaten:
    """What came of it. `leader_cpu_s`, `nodes_cpu_s`: processor time meanwhile."""

    latencies_us: Histogram
    leader_cpu_s: float
    nodes_cpu_s: float
    elapsed_s: float


class Beats(Protocol):
    """A connection for keep-alives, answered in the order in which they were sent."""

    sent: deque[float]
    latencies_us: list[int]
    failures: list[str]
    transport: asyncio.Transport

    def beat(self, lease: int) -> None: ...


class HttpBeats(asyncio.Protocol):
    """Syncline's: `POST /lease/{id}/keepalive`."""

    def __init__(self, _address: str) -> None:
        self.sent: deque[float] = deque()
        self.latencies_us: list[int] = []
        self.failures: list[str] = []
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def beat(self, lease: int) -> None:
        self.sent.append(time.perf_counter())
        self.transport.write(http1.request("POST", f"/lease/{lease:016x}/keepalive"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (answer := http1.answer(self._received)) is not None:
            if not answer.succeeded:
                self.failures.append(self._received.decode())
            del self._received[: answer.length]
            self.latencies_us.append(round((time.perf_counter() - self.sent.popleft()) * 1e6))


class GrpcBeats(grpc.Connection):
    """etcd's: one stream of `LeaseKeepAlive`."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.sent: deque[float] = deque()
        self.latencies_us: list[int] = []
        self.failures: list[str] = []
        self._head = grpc.headers(address, "/etcdserverpb.Lease/LeaseKeepAlive")

    def opened(self) -> None:
        self.transport.write(grpc.frame(grpc.HEADERS, grpc.END_HEADERS, 1, self._head))

    def beat(self, lease: int) -> None:
        self.sent.append(time.perf_counter())
        self.transport.write(grpc.data(1, varint(1 << 3) + varint(lease), last=False))

    def message(self) -> None:
        self.latencies_us.append(round((time.perf_counter() - self.sent.popleft()) * 1e6))

    def ended(self) -> None:
        self.failures.append("the stream has ended")


def generate(
    addresses: Sequence[str],
    make: Callable[[str], Beats],
    leases: Sequence[int],
    per_s: int,
    seconds: float,
    cpu_s: Callable[[], tuple[float, float]],
) -> Beaten:
    """Keep the leases alive in turn. `cpu_s`: the processor time of the leader, and of all nodes."""
    return uvloop.run(_generate(addresses, make, leases, per_s, seconds, cpu_s))


async def _generate(
    addresses: Sequence[str],
    make: Callable[[str], Beats],
    leases: Sequence[int],
    per_s: int,
    seconds: float,
    cpu_s: Callable[[], tuple[float, float]],
) -> Beaten:
    loop = asyncio.get_running_loop()
    connections: list[Beats] = []
    for at in range(CONNECTIONS):
        address = addresses[at % len(addresses)]
        host, port = address.split(":")
        beats = make(address)
        await loop.create_connection(lambda beats=beats: cast("asyncio.Protocol", beats), host, int(port))  # type: ignore[misc]
        connections.append(beats)
    (leader_s, nodes_s), began = cpu_s(), time.perf_counter()
    for number in range(round(per_s * seconds)):
        if (delay := began + number / per_s - time.perf_counter()) > 0:
            await asyncio.sleep(delay)
        connections[number % CONNECTIONS].beat(leases[number % len(leases)])
    end = time.perf_counter() + SETTLE_S
    while any(beats.sent for beats in connections):
        if time.perf_counter() > end or any(beats.failures for beats in connections):
            raise BenchError(f"keep-alives failed: {[beats.failures[:1] for beats in connections]}")
        await asyncio.sleep(AGAIN_S)
    (leader_after_s, nodes_after_s), elapsed_s = cpu_s(), time.perf_counter() - began
    for beats in connections:
        beats.transport.abort()
    latencies = Histogram.of(latency for beats in connections for latency in beats.latencies_us)
    return Beaten(latencies, leader_after_s - leader_s, nodes_after_s - nodes_s, elapsed_s)
