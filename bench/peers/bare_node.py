"""A node of `bare`: the library behind the least HTTP that wrk can be answered with.

Nothing of a request is read but its first letter, nothing is stored but the same bytes, and all answers are one: what
is left is consensus, the sockets, and the event loop. See `bare`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from typing import Final, cast

import uvloop

from bench.load import VALUE_BYTES, key
from bench.peers.library_node import Store
from syncline import Config, Raft
from syncline.node.futures import ReadFuture
from syncline.platform import interpreter

TIMEOUT_S: Final = 5.0
GET: Final = ord("G")
COMMAND: Final = key(0).encode() + b"x" * VALUE_BYTES
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nX-Content-Type-Options: nosniff\r\n"
    b'ETag: "10000"\r\nSyncline-Revision: 10000\r\nContent-Length: %d\r\n'
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n" % VALUE_BYTES
) + b"x" * VALUE_BYTES
"""As long as Syncline's answer to a read."""
REFUSED: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Reads:
    """Those that wait for a confirmation of the leader; many share one, as in the server."""

    def __init__(self, raft: Raft[object]) -> None:
        self._raft = raft
        self._now_s = asyncio.get_running_loop().time
        self._shared: ReadFuture | None = None
        self._waiting: list[asyncio.Transport] = []

    def add(self, transport: asyncio.Transport) -> None:
        shared = self._shared
        if shared is None or self._now_s() + TIMEOUT_S >= shared.joined_before_s:
            future = self._raft.read_index(timeout=TIMEOUT_S)
            if future is not shared:
                self._shared, self._waiting = future, []
                future.add_done_callback(partial(self._confirmed, self._waiting))
        self._waiting.append(transport)

    def _confirmed(self, waiting: list[asyncio.Transport], future: asyncio.Future[object]) -> None:
        answer = REFUSED if future.exception() else ANSWER
        for transport in waiting:
            transport.write(answer)


class Bare(asyncio.Protocol):
    """One connection. A request comes whole, and the next after the answer, as wrk sends them."""

    def __init__(self, raft: Raft[object], reads: Reads) -> None:
        self._raft = raft
        self._reads = reads

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data[0] == GET:
            self._reads.add(self._transport)
        else:
            self._raft._apply_then(COMMAND, self._applied, timeout=TIMEOUT_S)

    def _applied(self, _: object, error: Exception | None) -> None:
        self._transport.write(REFUSED if error else ANSWER)


async def main(name: str, directory: str, members: str) -> None:
    peers = dict(member.split("=") for member in members.split(","))
    loop = asyncio.get_running_loop()
    interpreter.prepare()  # as `syncline serve` does
    async with Raft.open(Config(name=name, data_dir=directory, listen=peers[name], peers=peers), Store()) as raft:
        reads = Reads(raft)
        async with await loop.create_server(lambda: Bare(raft, reads), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            interpreter.freeze()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                print(json.dumps(raft.is_leader if json.loads(line) == "leads" else port), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
