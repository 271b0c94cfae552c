"""`kill -9` of the leader under one `AsyncClient` with many tasks: no error reaches a caller, nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncline.client import AsyncClient
from tests.helpers.process_cluster import Cluster, eventually, running_cluster

TASKS = 16
TIMEOUT_S = 5.0
MORE = 200
"""Operations between a kill and the next step."""


class Callers:
    """Tasks that count, write and read what they have written, through one client."""

    def __init__(self, kv: AsyncClient) -> None:
        self._kv = kv
        self.counted = 0
        self.done = 0
        self.errors: list[str] = []
        self.over = False

    async def run(self, number: int) -> None:
        turn = 0
        while not self.over:
            turn += 1
            try:
                if number % 2:
                    await self._kv.increment("counted")
                    self.counted += 1
                else:
                    await self._write_and_read(f"own/{number}", b"%d" % turn)
            except Exception as error:  # noqa: BLE001 - any of them is what the caller must not see
                self.errors.append(f"task {number}, turn {turn}: {error!r}")
            self.done += 1

    async def _write_and_read(self, key: str, value: bytes) -> None:
        written = await self._kv.put(key, value)
        found = await self._kv.get(key)
        if found is None or (found.value, found.mod_revision) != (value, written.revision):
            self.errors.append(f"{key}: wrote {value!r} at {written.revision}, read {found!r}")


async def kill_under_load(cluster: Cluster, callers: Callers) -> None:
    """Kill the leader, see that operations go on, and start it again."""

    async def more_than(count: int) -> bool:
        return callers.done > count or bool(callers.errors)

    leader = await cluster.leader()
    leader.kill()
    so_far = callers.done
    await eventually("operations go on", lambda: more_than(so_far + MORE))
    leader.start()
    await cluster.wait_ready([leader])


async def kills(directory: str, count: int) -> None:
    async with (
        running_cluster(directory, heartbeat_s="0.1", election_s="1.0") as cluster,
        AsyncClient(cluster.endpoints, timeout=TIMEOUT_S) as kv,
    ):
        await kv.put("counted", "0")
        callers = Callers(kv)
        tasks = [asyncio.create_task(callers.run(number)) for number in range(TASKS)]
        for _ in range(count):
            await kill_under_load(cluster, callers)
        callers.over = True
        await asyncio.gather(*tasks)
        assert callers.errors == []
        found = await kv.get("counted")
        assert found is not None
        assert int(found.value) == callers.counted


@pytest.mark.deadline(90.0)
async def test_client_with_many_tasks_does_not_notice_a_killed_leader(tmp_path: Path) -> None:
    await kills(str(tmp_path), 1)


@pytest.mark.deadline(900.0)
@pytest.mark.timeout(950)
@pytest.mark.slow
async def test_client_with_many_tasks_does_not_notice_20_killed_leaders(tmp_path: Path) -> None:
    await kills(str(tmp_path), 20)
