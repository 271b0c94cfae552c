"""What a server tells of a store that has reached its limit, and of a disk that hangs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from syncline.cli.exits import EXIT_FAILED, EXIT_UNAVAILABLE, failure_of
from syncline.client.client import AsyncClient
from syncline.errors import BacklogFull, NoSpace
from syncline.server.app import KvServer
from tests.unit.test_server_app import settings

LIMIT = 100_000


async def ask(server: KvServer, method: str, path: str, body: bytes = b"") -> tuple[int, bytes, bytes]:
    """One request on a connection of its own: status, header, body."""
    address, port = server.http_url.rpartition("/")[2].split(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    header, _, content = answer.partition(b"\r\n\r\n")
    return int(header.split()[1]), header, content


async def test_server_store_at_its_limit_is_507_until_keys_are_deleted(tmp_path: Path) -> None:
    opened = await KvServer.open(settings(tmp_path, max_store_bytes=LIMIT))
    async with opened as server, AsyncClient([server.http_url]) as client:
        await client.put("kept", bytes(60_000), timeout=20)
        assert json.loads((await ask(server, "GET", "/health"))[2]) == {"health": "true", "reason": ""}
        status, _, body = await ask(server, "PUT", "/key/more", bytes(50_000))
        error = json.loads(body)["error"]
        assert (status, error["code"], error["outcome"]) == (507, "no_space", "not_applied")
        assert "Deletes pass" in error["message"]
        with pytest.raises(NoSpace, match="the limit is 100000"):
            await client.put("more", bytes(50_000))
        [warning] = json.loads((await ask(server, "GET", "/health"))[2])["warnings"]
        assert warning.startswith(f"no_space: the store counts for 60388 of {LIMIT} bytes")
        status, _, body = await ask(server, "GET", "/readyz?verbose")
        assert status == 200
        assert b"[!]store_space short: no_space" in body
        metrics = (await ask(server, "GET", "/metrics"))[2]
        assert b"\nsyncline_store_bytes 60388\n" in metrics
        assert b"\nsyncline_store_max_bytes 100000\n" in metrics
        assert b"\nsyncline_store_refused_total 2\n" in metrics
        assert (await ask(server, "GET", "/key/kept"))[0] == 200, "reads go on"
        assert (await ask(server, "DELETE", "/key/kept"))[0] == 200
        await client.put("more", bytes(50_000))
        assert json.loads((await ask(server, "GET", "/health"))[2]) == {"health": "true", "reason": ""}


async def test_server_limits_its_store_to_half_of_the_memory(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path)) as server:
        metrics = (await ask(server, "GET", "/metrics"))[2]
        [line] = [line for line in metrics.splitlines() if line.startswith(b"syncline_store_max_bytes ")]
        assert float(line.split()[1]) > 1e8


async def test_server_whose_disk_hangs_is_not_ready_and_says_why(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path)) as server:
        async with AsyncClient([server.http_url]) as client:
            await client.put("a", b"1", timeout=20)
        writer = server.raft._driver.parts.writer
        writer.oldest_s = lambda: 2.5  # type: ignore[method-assign]
        status, _, body = await ask(server, "GET", "/readyz")
        assert status == 503
        assert b"[-]disk failed: the disk hangs: a write to the log in " in body
        assert b"2.5 s" in body
        assert b"\nsyncline_disk_wal_waits_seconds 2.5\n" in (await ask(server, "GET", "/metrics"))[2]


def test_command_line_ends_with_the_status_of_the_shortage() -> None:
    assert failure_of(NoSpace("full")).status == EXIT_FAILED
    assert failure_of(BacklogFull("slow")).status == EXIT_UNAVAILABLE
