"""Our own generator, for protocols that wrk and h2load don't speak, and where they are not installed.

One process, one connection a client, requests made beforehand. It costs 10 to 20 µs of processor time per request,
several times what wrk does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.load import Load, Outcome
from bench.processes import BenchError
from bench.stats import Histogram

SLACK_S = 60.0
"""For the last answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer at the beginning of what was received."""

    length: int
    succeeded: bool


Parse = Callable[[bytearray], Answer | None]
"""Find the first answer; None while it is not complete."""


class Client(asyncio.Protocol):
    """A connection with one request in flight, until the end."""

    def __init__(self, requests: Sequence[bytes], parse: Parse, end: float) -> None:
        self._requests = requests
        self._parse = parse
        self._end = end
        self._received = bytearray()
        self._start = 0.0
        self.latencies_us: list[int] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class does the same
        self._send()

    def _send(self) -> None:
        self._start = time.perf_counter()
        self._transport.write(random.choice(self._requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = self._parse(self._received)
        if answer is None:
            return
        del self._received[: answer.length]
        now = time.perf_counter()
        if now >= self._end:
            self._transport.close()
            return
        if answer.succeeded:
            self.latencies_us.append(round((now - self._start) * 1e6))
        else:
            self.errors += 1
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        if time.perf_counter() < self._end:
            self.errors += 1
        if not self.done.done():
            self.done.set_result(None)


def generate(host: str, port: int, requests: Sequence[bytes], parse: Parse, load: Load) -> Outcome:
    """Load one address with random ones of `requests`. Answers after the end don't count."""
    return uvloop.run(_generate(host, port, requests, parse, load))


async def _generate(host: str, port: int, requests: Sequence[bytes], parse: Parse, load: Load) -> Outcome:
    loop = asyncio.get_running_loop()
    cpu = time.process_time()
    end = time.perf_counter() + load.seconds
    clients: list[Client] = []
    for _ in range(load.clients):
        _, client = await loop.create_connection(lambda: Client(requests, parse, end), host, port)
        clients.append(client)
    async with asyncio.timeout(load.seconds + SLACK_S):
        await asyncio.gather(*(client.done for client in clients))
    latencies = Histogram.of(latency for client in clients for latency in client.latencies_us)
    if not latencies.count:
        raise BenchError(f"{host}:{port} answered nothing with success")
    return Outcome(latencies, load.seconds, sum(client.errors for client in clients), time.process_time() - cpu)
