"""`wal` and `snapshot` on the directory of a node that runs and writes: what is whole is never called damaged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from tests.helpers.command import Ran, syncline
from tests.helpers.process_cluster import running_cluster

LOOKS = 2


async def look(*command: str) -> Ran:
    return await asyncio.to_thread(syncline, *command)


async def keep_writing(client: AsyncClient, stop: asyncio.Event) -> int:
    written = 0
    while not stop.is_set():
        await asyncio.gather(*(client.put(f"key/{number}", bytes(1000)) for number in range(20)))
        written += 20
    return written


@pytest.mark.deadline(120.0)
async def test_looking_at_a_busy_node(tmp_path: Path) -> None:
    settings = {"snapshot_entries": "300", "trailing_entries": "0"}
    async with running_cluster(str(tmp_path), 1, **settings) as one, one.client() as client:
        data_dir = ("--data-dir", one.nodes[0].data_dir)
        stop = asyncio.Event()
        writing = asyncio.create_task(keep_writing(client, stop))
        try:
            for _ in range(LOOKS):
                for command in (("wal", "verify"), ("wal", "dump"), ("snapshot", "list"), ("snapshot", "verify")):
                    ran = await look(*command, *data_dir)
                    assert ran.status == 0, ran.err
                    assert "DAMAGED" not in ran.text
        finally:
            stop.set()
            written = await writing
        assert written > 100
        await client.snapshot()
        commit = (await client.status()).commit
        found = (await look("wal", "verify", "--json", *data_dir)).json()
        assert found["sound"] is True
        assert found["last_index"] == commit
        shown = (await look("snapshot", "inspect", "--json", *data_dir)).json()
        assert shown["index"] == commit
        members = shown["members"]
        assert isinstance(members, list)
        assert [member["name"] for member in members] == ["n1"]
        assert members[0]["http"] == one.nodes[0].url
