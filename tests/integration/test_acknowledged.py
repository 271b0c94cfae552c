"""What was acknowledged is kept, past the death of all nodes, and is read everywhere at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from syncline.errors import OperationError, Outcome
from tests.helpers.process_cluster import Cluster, local_keys, running_cluster

KILLED_AFTER_ACKNOWLEDGED: Final = 3000
ALTERNATIONS: Final = 10_000
LANES: Final = 64
"""So many alternate at a time. With few of them, most of the work is rounds of a single request each."""


class Writers:
    """Writes one new key after the other, many at a time, and remembers which were acknowledged."""

    def __init__(self, cluster: Cluster, *, lanes: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self.changed = asyncio.Event()
        self._cluster = cluster
        self._tasks = [asyncio.create_task(self._write(lane)) for lane in range(lanes)]

    async def until(self, count: int) -> None:
        while len(self.acknowledged) < count:
            self.changed.clear()
            await self.changed.wait()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, lane: int) -> None:
        number = 0
        async with self._cluster.client(timeout=2.0) as client:
            while True:
                key = f"w/{lane}/{number}"
                try:
                    result = await client.put(key, key)
                except OperationError:
                    continue  # not acknowledged: whether it is there is nobody's promise
                finally:
                    number += 1
                self.acknowledged[key] = result.revision
                self.changed.set()


@pytest.mark.deadline(100.0)
async def test_acknowledged_writes_survive_the_death_of_all_nodes(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        writers = Writers(cluster, lanes=48)
        await writers.until(KILLED_AFTER_ACKNOWLEDGED)
        for node in cluster.nodes:
            node.kill()
        await writers.end()
        acknowledged = dict(writers.acknowledged)
        assert len(acknowledged) >= KILLED_AFTER_ACKNOWLEDGED

        cluster.start()
        await cluster.wait_ready()
        await cluster.wait_caught_up()
        held = [await local_keys(node, "w/") for node in cluster.nodes]
        for node, keys in zip(cluster.nodes, held, strict=True):
            lost = {key: revision for key, revision in acknowledged.items() if keys.get(key) != revision}
            assert not lost, f"{node.name} lost {len(lost)} of {len(acknowledged)}"
        assert held[0] == held[1] == held[2]


@pytest.mark.deadline(110.0)
async def test_a_reader_elsewhere_sees_an_acknowledged_write_at_once(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        clients = [node.client(timeout=15.0) for node in cluster.nodes]
        numbers = iter(range(ALTERNATIONS))
        stale: list[str] = []

        async def lane(name: str) -> None:
            for number in numbers:
                here, there = clients[number % 3], clients[(number + 1 + number // 3 % 2) % 3]
                await here.put(name, str(number))
                found = await there.get(name)
                if found is None or found.value != str(number).encode():
                    stale.append(f"{name}: wrote {number}, read {found}")

        await asyncio.gather(*(lane(f"lane/{at}") for at in range(LANES)))
        for client in clients:
            await client.close()
        assert not stale


@pytest.mark.deadline(60.0)
async def test_writes_go_on_without_a_minority_and_end_in_time_without_a_quorum(tmp_path: Path) -> None:
    """The leader leads still when the second write comes, on a slow machine too: so its log holds that write."""
    async with running_cluster(str(tmp_path), election_s="5") as cluster:
        leader = await cluster.leader()
        first, second = [node for node in cluster.nodes if node is not leader]
        first.kill()
        async with leader.client() as client:
            await client.put("k", "with two of three")
            second.kill()
            with pytest.raises(OperationError) as caught:
                async with asyncio.timeout(4.0):  # without its own deadline it would take 5 s
                    await client.put("k", "with one of three", timeout=1.0)
            assert caught.value.outcome is Outcome.UNKNOWN
            found = await client.get("k", consistency="stale")
            assert found is not None
            assert found.value == b"with two of three"
        second.start()
        await cluster.wait_ready([leader, second])
