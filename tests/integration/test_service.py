"""A node as a service: what it tells its manager, and how it stops while clients are in the middle of something."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import Final

import pytest

from syncline.client import AsyncClient
from tests.helpers.process_cluster import Node, eventually, running_cluster

STOP_S: Final = 8.0
"""The limits of a stop in order add up to less than 5 s (`test_service_manager.py`). A busy machine adds to them."""

HALF: Final = b"PUT /key/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf of it"
WATCH: Final = b"GET /watch?prefix= HTTP/1.1\r\nHost: localhost\r\n\r\n"


def received(end: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found += end.recv(4096).decode().splitlines()
        except BlockingIOError:
            return found


async def busy_clients(node: Node) -> list[asyncio.StreamWriter]:
    """One client in the middle of a request, one with a watch, one that rests."""
    writers = []
    for request in (HALF, WATCH, b""):
        reader, writer = await asyncio.open_connection(*node.http.split(":"))
        writer.write(request)
        writers.append(writer)
        if request is WATCH:
            assert b"200" in await reader.readline()
    return writers


@pytest.mark.deadline(90.0)
async def test_service_stops_in_time_and_transfers_the_leadership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next leader leads in the next term: no election timeout passes, and no second candidate is needed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", end.getsockname())
        async with running_cluster(str(tmp_path / "data"), election_s="20", heartbeat_s="0.1") as cluster:
            assert sorted(line for line in received(end) if line == "READY=1") == ["READY=1"] * 3
            leader = await cluster.leader()
            term = (await cluster.status(leader)).term
            async with AsyncClient([node.url for node in cluster.nodes if node is not leader]) as client:
                await client.put("before", "1")
                writers = await busy_clients(leader)
                loop = asyncio.get_running_loop()
                begun_s = loop.time()
                leader.send(signal.SIGTERM)
                status = await asyncio.to_thread(leader.wait)
                took_s = loop.time() - begun_s
                assert status == 0, leader.log()
                print(f"the stop took {took_s:.2f} s")
                assert took_s < STOP_S, leader.log()
                assert {"STOPPING=1", "STATUS=stopping"} <= set(received(end))

                async def written() -> bool:
                    return bool((await client.put("after", "1")).revision)

                await eventually("the next leader takes writes", written, deadline_s=15.0)
            assert (await cluster.status(await cluster.leader())).term == term + 1
            for writer in writers:
                writer.close()


@pytest.mark.slow
@pytest.mark.deadline(60.0)
async def test_service_that_hangs_tells_its_watchdog_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop tells it: so a process that stands still is restarted by the manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", end.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        async with running_cluster(str(tmp_path / "data"), size=1) as cluster:

            async def beaten() -> bool:
                return "WATCHDOG=1" in received(end)

            await eventually("the loop tells that it runs", beaten)
            cluster.nodes[0].pause()
            received(end)
            await asyncio.sleep(1.0)
            assert received(end) == []
            cluster.nodes[0].resume()
            await eventually("it tells again", beaten)
