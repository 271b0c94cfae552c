"""Clients that pipeline requests and never read, on real sockets and both event loops."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from syncline.client.client import AsyncClient
from syncline.server.app import KvServer
from syncline.server.http.limits import MIB
from tests.unit.test_server_app import settings
from tests.unit.test_shortages import ask

CONNECTIONS = 8
PIPELINED = b"GET /keys?values=base64 HTTP/1.1\r\nHost: x\r\n\r\n" * 64
PAGE_BYTES = 2 * MIB
"""One page of 1 MiB of values, in base64 and with what is around them, comes to less."""
VITAL = ("/livez", "/readyz", "/health", "/metrics", "/version")


def unread(port: int) -> socket.socket:
    """A connection with 64 requests whose answers nobody reads."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(PIPELINED)
    return client


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_http_node_serves_beside_sockets_that_read_nothing(tmp_path: Path, new_loop: type) -> None:
    """64 pages on one connection came to 83 MiB; four such connections had a node refuse everything for a minute."""

    async def scenario() -> None:
        opened = await KvServer.open(settings(tmp_path, max_held_bytes=64 * MIB))
        async with opened as server, AsyncClient([server.http_url]) as client:
            for number in range(20):
                await client.put(f"key {number}", bytes(60_000), timeout=20)
            port = int(server.http_url.rpartition(":")[2])
            with ExitStack() as stack:
                for _ in range(CONNECTIONS):
                    stack.enter_context(unread(port))
                async with asyncio.timeout(20):
                    while server._http.connection_count < CONNECTIONS:
                        await client.get("key 1")
                for number in range(20):
                    assert (await ask(server, "GET", f"/key/key%20{number}"))[0] == 200
                    for path in VITAL:
                        assert (await ask(server, "GET", path))[0] == 200, path
                    assert server._http.held_bytes <= CONNECTIONS * (MIB + PAGE_BYTES)
                await client.put("new", b"value")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
