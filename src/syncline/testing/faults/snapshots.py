"""A snapshot that takes long, while the leader needs the answers of the member that receives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from syncline.consensus.progress import ProgressState
from syncline.testing.cluster import LOOK_S
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["fall_behind", "ignored", "long_snapshot"]

SPEEDS: Final = (1_000.0, 2_000.0, 4_000.0, 1_000_000.0)
"""Bytes a second: a snapshot of some kilobytes takes several election timeouts, and heartbeats still pass.
Or it takes no time: proposals that were made before still wait for their answers then."""

ENTRIES: Final = 60
"""More than any setting of a run keeps in the log behind a snapshot."""

LINK_S: Final = 3.0
"""A link that was cut is back so late at most."""


async def long_snapshot(trouble: Trouble) -> None:
    """Keep a member away until it needs a snapshot, slow its line, and stop others: no quorum is without it then."""
    while True:
        await trouble.wait(6.0)
        leader = trouble.cluster.current_leader()
        behind = trouble.some()
        if leader is None or behind is None or leader is behind or not trouble.is_free(leader):
            continue
        cluster = trouble.cluster
        await fall_behind(trouble, leader, behind)
        speed = trouble.rng.choice(SPEEDS)
        cluster.note("network", f"{speed:.0f} bytes/s between {leader.name} and {behind.name}")
        cluster.heal()
        cluster.network.slow(leader.name, behind.name, bytes_per_s=speed)
        if await _is_sending(trouble, leader, behind):
            await _alone(trouble, leader, behind)
        cluster.heal()


async def fall_behind(trouble: Trouble, leader: SimServer, behind: SimServer) -> None:
    """Cut a member off until the leader has dropped the entries that it lacks. The links stay cut."""
    cluster, names = trouble.cluster, trouble.names()
    cluster.partition([behind.name], [name for name in names if name != behind.name])
    for name in names:
        cluster.network.reset(behind.name, name)
    await _fill(leader)
    await trouble.last(1.0, 2.0)


async def _fill(leader: SimServer) -> None:
    """Have the leader write entries, take a snapshot, and drop them from its log."""
    raft = leader.raft
    if raft is None:
        return
    for _ in range(ENTRIES):
        _ask(leader, raft.barrier)
    await asyncio.sleep(LOOK_S * ENTRIES / 10)
    if leader.raft is raft:  # the process may have been killed meanwhile, and another one may run in its place
        _ask(leader, lambda: asyncio.ensure_future(raft.snapshot()))


def _ask(server: SimServer, what: Callable[[], asyncio.Future[Any]]) -> None:
    """Start it, and ignore its result."""

    server.call(lambda: ignored(what()))


def ignored(future: asyncio.Future[Any]) -> None:
    """Mark a future's result as ignored."""
    future.add_done_callback(lambda done: None if done.cancelled() else done.exception())


async def _is_sending(trouble: Trouble, leader: SimServer, behind: SimServer) -> bool:
    """Wait until the leader sends the other one a snapshot."""
    node_id, end_s = trouble.cluster.node_id(behind), trouble.cluster.loop.true_time() + LINK_S
    while trouble.cluster.loop.true_time() < end_s and leader.is_leader and leader.driver is not None:
        progress = leader.driver.core.raft.tracker.progress.get(node_id)
        if progress is not None and progress.state is ProgressState.SNAPSHOT:
            return True
        await asyncio.sleep(LOOK_S)
    return False


async def _alone(trouble: Trouble, leader: SimServer, behind: SimServer) -> None:
    """Stop so many others that the leader needs the lagging member."""
    others = [one for one in trouble.up() if one not in (leader, behind) and trouble.is_free(one)]
    down = others[: trouble.voters() - (trouble.voters() // 2 + 1)]
    for one in down:
        trouble.crash(one)
    await trouble.last(3.0, 10.0)
    for one in down:
        trouble.start_again(one)
