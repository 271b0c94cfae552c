"""Reads that miss their deadline and are made again: an old answer must not confirm the new read."""

from __future__ import annotations

import asyncio
from typing import Final

from syncline.errors import NodeFailed, SynclineError
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["late_reads"]

LONG_S: Final = 1.0
"""The deadline of the read that is to succeed."""


async def late_reads(trouble: Trouble) -> None:
    """Slow a server's lines, let some reads time out there, and make one that must see what is committed by then."""
    while True:
        await trouble.wait(4.0)
        server = trouble.some()
        if server is None or not server.running:
            continue
        slowest_s = trouble.rng.choice([0.1, 0.3, 0.6]) * trouble.election_s
        for other in trouble.names():
            if other != server.name:
                trouble.cluster.network.slow(server.name, other, latency_s=(slowest_s / 2, slowest_s))
        try:
            for _ in range(trouble.rng.randint(1, 4)):
                await _read(trouble, server, slowest_s * trouble.rng.uniform(0.2, 1.5))
            await _read(trouble, server, LONG_S)
        finally:
            trouble.cluster.heal()


async def _read(trouble: Trouble, server: SimServer, timeout_s: float) -> None:
    """One linearizable read: if it is confirmed, the server has applied all that was committed when it began."""
    raft = server.raft
    if raft is None or not server.running or server.paused:
        return
    drivers = [one.driver for one in trouble.cluster.running]
    floor = max((driver.core.commit_index for driver in drivers if driver is not None), default=0)
    called = server.call(lambda: raft.read_index(timeout=timeout_s))
    await asyncio.wait([called], timeout=timeout_s)
    if not called.done():
        return
    future = called.result()
    await asyncio.wait([future], timeout=2 * timeout_s)
    if not future.done() or future.cancelled() or server.raft is not raft or server.driver is None:
        return
    try:
        future.result()
    except (SynclineError, NodeFailed):
        return
    if server.driver.applied < floor:
        text = f"{server.name} confirms a read at {server.driver.applied}, and {floor} was committed before it"
        trouble.broken("a read sees what was committed before it", text)
