"""Writes and reads that a client sends without waiting for answers take effect in the order in which it sent them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.http_wire import get, parse_answers, put
from tests.helpers.process_cluster import Node, running_cluster

TIMES: Final = 200
LANES: Final = 4
"""So many at a time, each on a connection and with keys of its own: one after the other waits for the disk alone."""
LEVELS: Final = ("linearizable", "leader", "stale")


async def asked(node: Node, data: bytes) -> bytes:
    """Send it all in one piece, say that there is no more, and read until the node closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.http_port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.deadline(60.0)
@pytest.mark.parametrize("level", LEVELS)
async def test_pipelined_read_sees_the_write_before_it_alone(tmp_path: Path, level: str) -> None:
    async with running_cluster(str(tmp_path)) as cluster:

        async def lane(node: Node, first: int) -> None:
            for number in range(first, TIMES, LANES):
                key = f"/key/{node.name}-{number}"
                read = get(f"{key}?consistency={level}")
                answers = parse_answers(await asked(node, read + put(key, b"1") + read * 2 + put(key, b"2") + read))
                assert [answer.status for answer in answers] == [404, 200, 200, 200, 200, 200], number
                assert [answers[at].body for at in (2, 3, 5)] == [b"1", b"1", b"2"], number

        nodes = (await cluster.leader(), (await cluster.followers())[0])
        await asyncio.gather(*(lane(node, first) for node in nodes for first in range(LANES)))


@pytest.mark.deadline(60.0)
async def test_half_closed_client_gets_many_large_answers_in_order(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path), size=1) as cluster:
        values = [b"%d " % number + b"v" * 1000 for number in range(300)]
        data = b"".join(put("/key/a", value) + get("/key/a") + get("/key/b") for value in values)
        answers = parse_answers(await asked(cluster.nodes[0], data))
        assert [answer.body for answer in answers[1::3]] == values
        assert [answer.status for answer in answers] == [200, 200, 404] * len(values)
