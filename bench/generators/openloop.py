"""Requests at a rate that does not depend on the answers, over many connections: for overload.

Each connection may have `DEPTH` requests without an answer. A request whose turn comes on a connection that has so many
is held back, as by a client that waits: so the memory of the generator is bounded, too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from bench.generators.closedloop import Parse
from bench.stats import Histogram

DEPTH = 8
STEP_S = 0.02
AT_ONCE = 100
"""Connections that are opened at a time."""


@dataclass
class Offered:
    """What became of the requests of one load."""

    seconds: float
    sent: int = 0
    held_back: int = 0
    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    """Connections that the server closed."""
    latencies_us: list[int] = field(default_factory=list)
    """Of what was acknowledged."""

    @property
    def per_s(self) -> float:
        return self.acknowledged / self.seconds

    def latency_ms(self, percent: float) -> float:
        return Histogram.of(self.latencies_us).percentile_us(percent) / 1000 if self.latencies_us else 0.0


class OpenClient(asyncio.Protocol):
    """One connection, opened again if the server closes it."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes], parse: Parse, offered: Offered) -> None:
        self._place = host, port
        self._requests = requests
        self._parse = parse
        self._offered = offered
        self._received = bytearray()
        self._sent_s: list[float] = []
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[object] | None = None
        self.ended = False

    async def open(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, *self._place)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send one request, or count it as held back."""
        if self._transport is None or len(self._sent_s) >= DEPTH:
            self._offered.held_back += 1
            if self._transport is None and (self._opening is None or self._opening.done()):
                self._opening = asyncio.ensure_future(self._open_again())
            return
        self._offered.sent += 1
        self._sent_s.append(time.perf_counter())
        self._transport.write(random.choice(self._requests))

    async def _open_again(self) -> None:
        try:
            await self.open()
        except OSError:
            self._offered.lost += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._sent_s and (answer := self._parse(self._received)) is not None:
            del self._received[: answer.length]
            sent_s = self._sent_s.pop(0)
            if self.ended:
                continue
            if answer.succeeded:
                self._offered.acknowledged += 1
                self._offered.latencies_us.append(round((time.perf_counter() - sent_s) * 1e6))
            else:
                self._offered.refused += 1

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._received.clear()
        self._sent_s.clear()
        if not self.ended:
            self._offered.lost += 1

    def end(self) -> None:
        self.ended = True
        if self._transport is not None:
            self._transport.abort()


async def offer(
    address: str, requests: Sequence[bytes], parse: Parse, *, connections: int, per_s: float, seconds: float
) -> Offered:
    """Offer so many requests a second for some seconds. What is answered later does not count."""
    host, _, port = address.rpartition(":")
    offered = Offered(seconds)
    clients = [OpenClient(host, int(port), requests, parse, offered) for _ in range(connections)]
    for start in range(0, connections, AT_ONCE):
        await asyncio.gather(*(client.open() for client in clients[start : start + AT_ONCE]))
    begun_s = time.perf_counter()
    given = 0
    while (now_s := time.perf_counter() - begun_s) < seconds:
        due = int(now_s * per_s) - given
        for number in range(given, given + due):
            clients[number % connections].send()
        given += due
        await asyncio.sleep(STEP_S)
    for client in clients:
        client.end()
    await asyncio.sleep(0)
    return offered
