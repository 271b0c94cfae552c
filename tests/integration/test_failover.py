"""`kill -9` of the leader under writes through followers, with real processes: callers notice nothing but a wait."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from syncline.errors import OperationError
from tests.helpers.process_cluster import Cluster, Node, eventually, local_keys, running_cluster

WRITERS = 8
"""Through each follower."""

TIMEOUT_S = 5.0
"""Of each write: the deadline that its caller gives. What makes the client try again counts as an error."""

BEFORE, AFTER = 200, 400
"""Writes that are acknowledged before the leader is killed, and in all before the round ends."""


class Writers:
    """Clients that write through the followers, each a key of its own each time."""

    def __init__(self, round_number: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self.errors: list[str] = []
        self.over = False
        self._round = round_number

    async def write(self, node: Node, number: int) -> None:
        def told(error: OperationError) -> None:
            self.errors.append(f"{node.name}, which the client would have hidden: {error!r}")

        async with AsyncClient(node.url, timeout=TIMEOUT_S, on_retry=told) as client:
            count = 0
            while not self.over:
                count += 1
                key = f"r{self._round}-{node.name}-{number}-{count}"
                try:
                    put = await client.put(key, b"x")
                except Exception as error:  # noqa: BLE001 - any of them is what the caller must not see
                    self.errors.append(f"{key}: {error!r}")
                else:
                    self.acknowledged[key] = put.revision


async def kill_leader(cluster: Cluster, round_number: int) -> list[str]:
    """One round: the errors that callers have seen, and writes that are not there once."""
    leader = await cluster.leader()
    followers = [node for node in cluster.nodes if node is not leader]
    writers = Writers(round_number)
    tasks = [asyncio.create_task(writers.write(node, number)) for node in followers for number in range(WRITERS)]

    async def more_than(count: int) -> bool:
        return len(writers.acknowledged) > count or bool(writers.errors)

    await eventually("writes are acknowledged", lambda: more_than(BEFORE))
    leader.kill()
    so_far = len(writers.acknowledged)
    await eventually("writes go on", lambda: more_than(so_far + AFTER))
    writers.over = True
    await asyncio.gather(*tasks)
    leader.start()
    await cluster.wait_ready()
    await cluster.wait_caught_up()
    for node in cluster.nodes:
        held = await local_keys(node, f"r{round_number}-")
        if held != writers.acknowledged:
            writers.errors.append(
                f"{node.name} holds {len(held)} keys, and {len(writers.acknowledged)} were acknowledged"
            )
    return writers.errors


async def kill_leaders(directory: str, rounds: int) -> list[list[str]]:
    """The errors of each round with the default times of heartbeats and elections."""
    async with running_cluster(directory, heartbeat_s="0.1", election_s="1.0") as cluster:
        return [await kill_leader(cluster, number) for number in range(1, rounds + 1)]


@pytest.mark.deadline(90.0)
async def test_killed_leader_is_not_noticed_by_writers_through_followers(tmp_path: Path) -> None:
    assert await kill_leaders(str(tmp_path), 1) == [[]]


@pytest.mark.deadline(900.0)
@pytest.mark.slow
async def test_killed_leader_is_not_noticed_in_20_of_20_rounds(tmp_path: Path) -> None:
    rounds = await kill_leaders(str(tmp_path), 20)
    assert [number for number, errors in enumerate(rounds, 1) if errors] == [], rounds
