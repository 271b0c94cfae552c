"""A node that was away for long, and one that was never there, get a snapshot and are full members."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

from syncline.client import AsyncClient
from tests.helpers.process_cluster import Cluster, eventually, local_keys, running_cluster

WRITES_WHILE_AWAY: Final = 5_000
IN_FLIGHT: Final = 64
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def put(number: int, keys: int) -> bytes:
    body = b"value %d" % number
    return b"PUT /key/k%%2F%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (number % keys, len(body), body)


async def write_many(cluster: Cluster, count: int) -> None:
    """Put so many values into a hundredth as many keys, through the leader.

    One request each, as any client would send them, but `IN_FLIGHT` of them at a time on one connection: that costs the
    test a fraction of the processor time that a client takes, and the nodes no less.
    """
    leader = await cluster.leader()
    again: list[int] = []
    reader, writer = await asyncio.open_connection(*leader.http.split(":"))
    for first in range(0, count, IN_FLIGHT):
        numbers = range(first, min(first + IN_FLIGHT, count))
        writer.write(b"".join(put(number, count // 100) for number in numbers))
        for number in numbers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            assert length, head
            await reader.readexactly(int(length[1]))
            if not head.startswith(b"HTTP/1.1 20"):
                again.append(number)
    writer.close()
    async with AsyncClient(leader.url, timeout=30.0) as client:
        for number in again:  # of the moment in which another node came to lead
            await client.put(f"k/{number % (count // 100)}", f"value {number}", idempotent=True)


async def role_of(cluster: Cluster, name: str) -> str | None:
    leader = await cluster.leader()
    async with leader.client() as client:
        members = await client.members()
    return next((member.role for member in members.members if member.name == name), None)


@pytest.mark.deadline(190.0)
@pytest.mark.timeout(200)
async def test_a_node_catches_up_by_snapshot_and_a_fresh_one_becomes_a_voter(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), snapshot_entries="2000", trailing_entries="200") as cluster:
        away = (await cluster.followers())[0]
        behind = (await cluster.status(away)).last_index
        away.stop()
        await write_many(cluster, WRITES_WHILE_AWAY)
        leader = await cluster.leader()

        async def compacted() -> bool:
            return (await cluster.status(leader)).first_index > behind + 1

        await eventually("the log before the snapshot is dropped", compacted)
        away.start()
        await cluster.wait_ready([away])
        assert (await cluster.status(away)).snapshot_index > behind, "it caught up entry by entry"

        fresh = cluster.joining("n4", through=[(await cluster.followers())[0]])
        fresh.start()
        await cluster.wait_ready([fresh])

        async def votes() -> bool:
            return await role_of(cluster, "n4") == "voter"

        await eventually("the fresh node is a voter", votes)
        await cluster.wait_caught_up()
        expected = await local_keys(leader, "k/")
        assert len(expected) == WRITES_WHILE_AWAY // 100
        for node in cluster.nodes:
            assert await local_keys(node, "k/") == expected, node.name

        # It is a full member: with it, two others of four may not be missed, but one may.
        away.kill()
        async with fresh.client(timeout=15.0) as client:
            await client.put("after", "all", idempotent=True)
