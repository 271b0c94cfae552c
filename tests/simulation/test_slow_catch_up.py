"""A follower that is megabytes behind comes back over a slow line, and the quorum then depends on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest

from syncline.kv.commands import Put, encode_command
from syncline.testing.cluster import Settings, SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import SimServer

VALUE_BYTES = 20_000
HEARTBEAT_S = 0.1
LEAST_SPEED = 250_000.0
"""The slowest line on which a leader with an election timeout of a second must stay."""

EXCESS = 1.3
"""Bytes sent for each byte needed, at most."""


async def put(server: SimServer, number: int) -> None:
    value = random.Random(number).randbytes(VALUE_BYTES)
    raft = server.raft
    assert raft is not None

    async def apply() -> None:
        await raft.apply(encode_command(Put(b"k%d" % number, value)), timeout=30.0)

    await (await server.call(lambda: asyncio.ensure_future(apply())))


def applied(server: SimServer) -> int:
    return server.raft.stats().applied if server.raft is not None else 0


async def behind(loop: SimLoop, count: int) -> tuple[SimCluster, SimServer, SimServer, SimServer]:
    """A leader, a follower that is up to date, and one that lacks `count` values and is down."""
    settings = Settings(
        heartbeat_s=HEARTBEAT_S,
        election_s=10 * HEARTBEAT_S,
        segment_bytes=1 << 20,
        snapshot_entries=100_000,
        trailing_entries=100_000,
    )
    cluster = SimCluster(loop, seed=1, settings=settings)
    await cluster.start(3)
    leader = await cluster.leader()
    upright, away = (server for server in cluster.running if server is not leader)
    away.crash()
    for number in range(count):
        await put(leader, number)
    await asyncio.sleep(1.0)
    return cluster, leader, upright, away


def sent_bytes(leader: SimServer, to: SimServer) -> int:
    assert leader.raft is not None
    stats = leader.raft._driver.parts.transport.stats()
    return next(one.sent_bytes for one in stats.values() if one.address.startswith(f"{to.name}:"))


@pytest.mark.parametrize("speed", [LEAST_SPEED, 500_000.0, 2_000_000.0])
def test_catch_up_over_a_slow_line_keeps_the_leader_and_sends_once(speed: float) -> None:
    """54 MB were sent for 4 MB at 500 kB/s, and a quorum was without a leader for 36 s."""
    count = 100

    async def main(loop: SimLoop) -> None:
        cluster, leader, upright, away = await behind(loop, count)
        assert leader.raft is not None
        before, term = sent_bytes(leader, away), leader.raft.stats().term
        cluster.network.slow(leader.name, away.name, bytes_per_s=speed)
        start_s = loop.true_time()
        away.start()
        await asyncio.sleep(0.5)
        upright.crash()
        reads = 0

        def ask() -> Awaitable[object]:
            assert leader.raft is not None
            return leader.raft.read_index(timeout=5.0)

        while applied(away) < applied(leader):
            assert loop.true_time() - start_s < 2 * count * VALUE_BYTES / speed + 3
            asked_s = loop.true_time()
            await (await leader.call(ask))
            assert loop.true_time() - asked_s < 1.0, "a read waited behind the entries"
            reads += 1
            assert cluster.current_leader() is leader
        assert reads > 5
        assert leader.raft.stats().term == term
        assert sent_bytes(leader, away) - before < EXCESS * count * VALUE_BYTES

    run_simulation(main)


def test_catch_up_with_a_large_entry_on_a_slow_line_sends_it_once() -> None:
    """It takes longer than any timeout of the leader: nothing but an answer or a lost connection may repeat it."""

    async def main(loop: SimLoop) -> None:
        cluster, leader, _, away = await behind(loop, 0)
        raft = leader.raft
        assert raft is not None
        value = bytes(1_000_000)

        async def apply() -> None:
            await raft.apply(encode_command(Put(b"large", value)), timeout=5.0)

        await (await leader.call(lambda: asyncio.ensure_future(apply())))
        before = sent_bytes(leader, away)
        cluster.network.slow(leader.name, away.name, bytes_per_s=100_000)
        away.start()
        await cluster.until(lambda: applied(away) == applied(leader), timeout_s=20.0)
        assert sent_bytes(leader, away) - before < EXCESS * len(value)
        assert cluster.current_leader() is leader

    run_simulation(main)
