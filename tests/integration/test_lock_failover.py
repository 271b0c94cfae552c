"""Locks of real processes on real nodes: holders and nodes that are killed or stopped, and the next holder."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.process_cluster import Cluster, Node, running_cluster
from tests.helpers.programs import ASYNC_PRELUDE, DEADLINE_S, RunningProgram, running_program

TTL_S: Final = 2.0
ELECTION_S: Final = 0.5
ALLOWANCE_S: Final = 2.0
"""Beside the TTL and two election timeouts: attempts of a client are made again after pauses, and the machine that
runs nodes, programs and this test is busy."""

IN_TIME_S: Final = TTL_S + 2 * ELECTION_S + ALLOWANCE_S
"""The slow test measures it. That it holds beside the speed of a machine is seen in virtual time
(`tests/simulation/test_coordination.py`)."""

ROUNDS: Final = 20

HOLDER: Final = """
from syncline.errors import LeaseLost

async def main():
    async with kv:
        try:
            async with kv.lock(os.environ["LOCK"], ttl=float(os.environ["TTL"])) as held:
                say(token=held.token)
                while True:
                    held.check()
                    said = time.monotonic()
                    await asyncio.sleep(0.05)
        except LeaseLost as error:
            say(lost=type(error).__name__, believed=said)

asyncio.run(main())
"""
"""Holds a lock until it is killed, or has lost it. `believed`: when `check` has last said that it holds it."""


@asynccontextmanager
async def holder(cluster: Cluster, lock: str, ttl_s: float = TTL_S) -> AsyncIterator[RunningProgram]:
    environment = {"LOCK": lock, "TTL": str(ttl_s)}
    async with running_program(HOLDER, cluster.endpoints, prelude=ASYNC_PRELUDE, **environment) as program:
        yield program


@asynccontextmanager
async def holder_and_waiter(cluster: Cluster, lock: str) -> AsyncIterator[tuple[RunningProgram, RunningProgram, int]]:
    """A process that holds a lock, one that waits for it, and the token."""
    async with holder(cluster, lock) as first, holder(cluster, lock) as second:
        both = [asyncio.ensure_future(one.until("token")) for one in (first, second)]
        done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        for one in waiting:
            one.cancel()
        if both[1] in done:
            first, second = second, first
        held = done.pop().result()
        await waits(cluster, lock, 2)
        yield first, second, held["token"]


async def waits(cluster: Cluster, lock: str, count: int) -> None:
    """Wait until so many processes hold the lock or wait for it."""
    async with cluster.client() as client, asyncio.timeout(10.0):
        while len((await client.list(f"locks/{lock}/")).items) < count:  # noqa: ASYNC110 - it is asked for
            await asyncio.sleep(0.02)


async def next_holder(program: RunningProgram, token: int) -> float:
    """Wait for the next holder, with a newer token; the moment at which it came."""
    held = await program.until("token", deadline_s=TTL_S + DEADLINE_S)
    assert held["token"] > token
    return float(held["at"])


async def restart(cluster: Cluster, node: Node) -> None:
    node.start()
    await cluster.wait_ready([node])


async def holder_is_killed(cluster: Cluster, lock: str) -> float:
    async with holder_and_waiter(cluster, lock) as (first, second, token):
        killed_s = time.monotonic()
        first.kill()
        return await next_holder(second, token) - killed_s


async def holder_is_stopped(cluster: Cluster, lock: str) -> float:
    async with holder_and_waiter(cluster, lock) as (first, second, token):
        stopped_s = await first.pause()
        came_s = await next_holder(second, token)
        first.send(signal.SIGCONT)
        lost = await first.until("lost")
        assert lost["believed"] <= stopped_s, "it checks, and holds it, after it was stopped"
        assert await first.ended() == 0
        assert [said for said in second.said if "lost" in said] == []
        return came_s - stopped_s


async def leader_and_holder_are_killed(cluster: Cluster, lock: str) -> float:
    async with holder_and_waiter(cluster, lock) as (first, second, token):
        leader = await cluster.leader()
        killed_s = time.monotonic()
        first.kill()
        leader.kill()
        came_s = await next_holder(second, token)
        await restart(cluster, leader)
        return came_s - killed_s


async def leader_is_stopped_with_the_holder(cluster: Cluster, lock: str) -> float:
    async with holder_and_waiter(cluster, lock) as (first, second, token):
        leader = await cluster.leader()
        leader.pause()
        stopped_s = await first.pause()
        try:
            came_s = await next_holder(second, token)
        finally:
            leader.resume()
            first.send(signal.SIGCONT)
        await first.until("lost")
        return came_s - stopped_s


async def leader_is_killed_under_a_holder(cluster: Cluster, lock: str) -> float:
    """The holder outlives the leader if its TTL is longer than an election takes."""
    async with holder(cluster, lock, 6.0) as first:
        await first.until("token")
        leader = await cluster.leader()
        leader.kill()
        await asyncio.sleep(8.0)
        assert first.process.returncode is None
        assert [said for said in first.said if "lost" in said] == []
        await restart(cluster, leader)
        return 0.0  # it keeps the lock


@pytest.mark.deadline(100.0)
async def test_lock_of_a_killed_holder_has_the_next_holder(tmp_path: Path) -> None:
    async with running_cluster(str(tmp_path)) as cluster:
        await holder_is_killed(cluster, "killed")
        await holder_is_stopped(cluster, "stopped")
        await leader_and_holder_are_killed(cluster, "with leader")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.deadline(840.0)
async def test_lock_has_the_next_holder_in_time_again_and_again(tmp_path: Path) -> None:
    """Twenty of twenty, over all that can happen to a holder and to a node."""
    kinds = [
        holder_is_killed,
        holder_is_stopped,
        leader_and_holder_are_killed,
        leader_is_stopped_with_the_holder,
        leader_is_killed_under_a_holder,
    ]
    async with running_cluster(str(tmp_path)) as cluster:
        for count, kind in zip(range(ROUNDS), itertools.cycle(kinds)):
            await cluster.wait_ready()
            took_s = await kind(cluster, f"round {count}")
            assert took_s <= IN_TIME_S, f"{kind.__name__}: {took_s:.2f} s"
