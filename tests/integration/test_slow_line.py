"""Real nodes and a slow line between them: a proxy passes on so many bytes a second, and counts them."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from syncline.client import NodeStatus
from tests.helpers.process_cluster import Cluster, Node, eventually

VALUE_BYTES: Final = 20_000
VALUES: Final = 100
SPEED: Final = 500_000.0
EXCESS: Final = 1.3
"""Bytes sent for each byte needed, at most."""

CHUNK_BYTES: Final = 8192
BUFFER_BYTES: Final = 64 * 1024
"""Of the proxy's sockets: a slow line holds no megabytes."""


class SlowLine:
    """All connections to one node share its speed; what the node answers is not held up."""

    def __init__(self, target: str) -> None:
        self.bytes_per_s: float | None = None
        self.passed_bytes = 0
        self.address = ""
        self._host, self._port = target.rsplit(":", 1)
        self._free_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SlowLine]:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        server = await asyncio.start_server(self._arrive, sock=listening, limit=BUFFER_BYTES)
        self.address = f"127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _arrive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(self._pump(reader, far_writer, slow=True), self._pump(far_reader, writer, slow=False))
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                if slow:
                    self.passed_bytes += len(data)
                    if self.bytes_per_s is not None:
                        now_s = loop.time()
                        self._free_s = max(now_s, self._free_s) + len(data) / self.bytes_per_s
                        await asyncio.sleep(self._free_s - now_s)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        reader.feed_eof()


@asynccontextmanager
async def behind_lines(directory: str) -> AsyncIterator[tuple[Cluster, dict[str, SlowLine]]]:
    """Three nodes, each of which is reached over a line of its own."""
    cluster = Cluster(directory, 3, {"heartbeat-s": "0.1", "election-s": "1.0"})
    lines = {node.name: SlowLine(node.peer) for node in cluster.nodes}
    async with AsyncExitStack() as open_lines:
        for line in lines.values():
            await open_lines.enter_async_context(line.serving())
        for node in cluster.nodes:
            node.settings["initial-cluster"] = ",".join(f"{name}={line.address}" for name, line in lines.items())
            node.settings["peer-advertise"] = lines[node.name].address
        try:
            cluster.start()
            await cluster.wait_ready()
            yield cluster, lines
        except BaseException:
            print(cluster.logs())
            raise
        finally:
            cluster.close()


@pytest.mark.deadline(100.0)
async def test_catch_up_over_a_slow_line_keeps_the_term_and_sends_once(tmp_path: Path) -> None:
    """At 500 kB/s a quorum was without a leader for 36 s, and 54 MB were sent for 4 MB."""
    async with behind_lines(str(tmp_path)) as (cluster, lines):
        leader = await cluster.leader()
        upright, away = await cluster.followers()
        away.kill()
        async with leader.client() as client:
            for number in range(VALUES):
                await client.put(f"k{number}", random.Random(number).randbytes(VALUE_BYTES), idempotent=True)
        needed = (await cluster.status(leader)).commit
        term = (await cluster.status(leader)).term
        line = lines[away.name]
        line.bytes_per_s, line.passed_bytes = SPEED, 0
        away.start()
        await eventually("the follower takes entries", lambda: _reached(cluster, away, needed - VALUES + 2))
        upright.kill()
        seen: list[NodeStatus] = []

        async def caught_up() -> bool:
            seen.append(await cluster.status(leader))
            return await _reached(cluster, away, needed)

        await eventually("the follower has everything", caught_up)
        assert [(status.role, status.term) for status in seen] == [("leader", term)] * len(seen)
        assert line.passed_bytes < EXCESS * VALUES * VALUE_BYTES


async def _reached(cluster: Cluster, node: Node, index: int) -> bool:
    return (await cluster.status(node)).applied >= index
