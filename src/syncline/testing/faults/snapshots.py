"""A snapshot that takes long, while the leader needs the answers of the member that receives it."""

from __future__ import annotations

from typing import Final

from syncline.testing.faults.base import Trouble

__all__ = ["long_snapshot"]

SPEEDS: Final = (1_500.0, 4_000.0, 10_000.0)
"""Bytes a second: a snapshot of some kilobytes takes several election timeouts, and heartbeats still pass."""


async def long_snapshot(trouble: Trouble) -> None:
    """Keep a member away until it needs a snapshot, stop others so that no quorum is without it, and slow its line."""
    while True:
        await trouble.wait(8.0)
        leader = trouble.cluster.current_leader()
        behind = trouble.some()
        if leader is None or behind is None or leader is behind or not trouble.is_free(leader):
            continue
        cluster, names = trouble.cluster, trouble.names()
        cluster.partition([behind.name], [name for name in names if name != behind.name])
        for name in names:
            cluster.network.reset(behind.name, name)
        await trouble.last(2.0, 6.0)
        await trouble.operator.snapshot()
        speed = trouble.rng.choice(SPEEDS)
        cluster.note("network", f"{speed:.0f} bytes/s between {leader.name} and {behind.name}")
        cluster.heal()
        cluster.network.slow(leader.name, behind.name, bytes_per_s=speed)
        down = [one for one in trouble.up() if one not in (leader, behind) and trouble.is_free(one)]
        down = down[: trouble.voters() - (trouble.voters() // 2 + 1)]
        for one in down:
            trouble.crash(one)
        await trouble.last(3.0, 10.0)
        cluster.heal()
        for one in down:
            trouble.start_again(one)
