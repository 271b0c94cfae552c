"""Load on one or more servers: connections with one request each under way, and the time of each answer.

A client in Python shares the machine with the servers that it measures. So these connections do little: a request is
bytes that are made once, and an answer is found by its length alone.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import msgspec

from syncline.errors import Unreachable

__all__ = ["Load", "Measured", "run_load"]

CONNECT_S: Final = 10.0
HEAD_LIMIT: Final = 64 << 10
"""Bytes of an answer's header: above it, what answers is no server of ours."""

END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class Load(msgspec.Struct, frozen=True):
    """One kind of load: `request` makes the bytes of the n-th request to a host."""

    name: str
    request: Callable[[str, int], bytes]


class Measured(msgspec.Struct, frozen=True):
    """What a load met. Times are in seconds."""

    name: str
    clients: int
    seconds: float
    done: int
    failed: int
    """Answers with another status than 200."""
    rate: float
    """Answers with 200 for each second."""
    p50_s: float
    p99_s: float
    slowest_s: float


class _LoadConnection(asyncio.Protocol):
    """Sends the next request when the answer before it is complete."""

    def __init__(self, make: Callable[[int], bytes], number: int, step: int) -> None:
        self._make = make
        self._number = number
        self._step = step
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._sent_s = 0.0
        self._stopping = False
        self.times: list[float] = []
        self.failed: int = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def begin(self) -> None:
        """Send the first request."""
        assert self._transport is not None
        self._sent_s = time.perf_counter()
        self._transport.write(self._make(self._number))

    def stop(self) -> None:
        """Send nothing more: the connection ends with the answer that is under way."""
        self._stopping = True

    def abort(self) -> None:
        """End the connection, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._data = data = self._data + data if self._data else data
        head_end = data.find(END)
        if head_end < 0:
            if len(data) > HEAD_LIMIT:
                self._transport.abort()
            return
        head = data[:head_end].lower()
        at = head.find(LENGTH)
        length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(data) < head_end + len(END) + length:
            return
        self._data = b""
        now_s = time.perf_counter()
        if data.startswith(b"HTTP/1.1 200 "):
            self.times.append(now_s - self._sent_s)
        else:
            self.failed += 1
        if self._stopping:
            self._transport.close()
            return
        self._number += self._step
        self._sent_s = now_s
        self._transport.write(self._make(self._number))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self._stopping:
            self.failed += 1
        if not self.ended.done():
            self.ended.set_result(None)


async def run_load(
    load: Load, urls: Sequence[str], *, clients: int, seconds: float, tls: ssl.SSLContext | None = None
) -> Measured:
    """Put a load on servers for some seconds, with the clients shared out among them. Raises `Unreachable`."""
    loop = asyncio.get_running_loop()
    connections: list[_LoadConnection] = []
    for number in range(clients):
        parts = urlsplit(urls[number % len(urls)])
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        connection = _LoadConnection(partial(load.request, parts.netloc), number, clients)
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(partial(_same, connection), host, port, ssl=tls if secure else None)
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"can't reach {urls[number % len(urls)]}: {error}") from error
        connections.append(connection)
    began_s = time.perf_counter()
    for connection in connections:
        connection.begin()
    ended = [connection.ended for connection in connections]
    await asyncio.wait(ended, timeout=seconds)
    took_s = time.perf_counter() - began_s
    times = sorted(value for connection in connections for value in connection.times)
    failed = sum(connection.failed for connection in connections)
    for connection in connections:
        connection.stop()
    await asyncio.wait(ended, timeout=CONNECT_S)
    for connection in connections:
        connection.abort()
    if not times:
        raise Unreachable(f"{load.name}: no request succeeded within {seconds:g} s, and {failed} failed")
    return Measured(
        name=load.name,
        clients=clients,
        seconds=round(took_s, 3),
        done=len(times),
        failed=failed,
        rate=round(len(times) / took_s, 1),
        p50_s=times[len(times) // 2],
        p99_s=times[min(len(times) - 1, len(times) * 99 // 100)],
        slowest_s=times[-1],
    )


def _same(connection: _LoadConnection) -> _LoadConnection:
    """The factory of a protocol that is made before."""
    return connection
