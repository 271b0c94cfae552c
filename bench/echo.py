"""A yardstick: an HTTP server whose answer is always the same few bytes. Prints its port, ends with its input."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from bench.generators import closedloop, http1
from bench.load import Load, Workload

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Echo(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while request := http1.answer(self._received):  # framed as an answer is
            del self._received[: request.length]
            self._transport.write(ANSWER)


def echoes_per_s(port: int, clients: int, seconds: float) -> float:
    """What the echo on `port` answers to so many clients."""
    load = Load(Workload.READS, clients, seconds)
    return closedloop.generate("127.0.0.1", port, [http1.request("GET", "/")], http1.answer, load).per_s


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
