"""Faults during a joint membership, which needs two majorities, and which a leader must leave.

It is over in a moment if all goes well. So this begins a change and acts when a server has entered it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from syncline.node.member_registry import Membership
from syncline.testing.faults.answers import change_voters
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["joint_trouble"]

POLL_S: Final = 0.0005
"""Less than a write to a disk takes: a joint membership lasts for some of these."""

ENTERED_S: Final = 0.5
"""A change that has not begun by then is not waited for."""

MOST_MEMBERS: Final = 6


async def joint_trouble(trouble: Trouble) -> None:
    """Add and remove voters at once; while that is joint, depose the leader, take snapshots, and restart others."""
    while True:
        await trouble.wait(8.0)
        membership = trouble.operator.membership()
        if membership is None:
            continue
        if len(membership.members) < MOST_MEMBERS and all(member.voter for member in membership.members.values()):
            await trouble.operator.add()
        change = asyncio.ensure_future(change_voters(trouble))
        try:
            if await _is_joint(trouble, change):
                await _strike(trouble)
            await asyncio.wait([change])
        finally:
            change.cancel()
            trouble.cluster.heal()


async def _is_joint(trouble: Trouble, change: asyncio.Future[Membership | None]) -> bool:
    """Wait until a server has entered a joint membership. False if the change ends before, or takes too long."""
    loop = trouble.cluster.loop
    end_s = loop.true_time() + ENTERED_S
    while not change.done() and loop.true_time() < end_s:
        if any(server.raft is not None and server.raft.membership().joint for server in trouble.cluster.running):
            return True
        await asyncio.sleep(POLL_S)
    return False


async def _strike(trouble: Trouble) -> None:
    """Cut the leader off or kill it; let the others take snapshots of the joint membership, and start again on them."""
    cluster, rng = trouble.cluster, trouble.rng
    leader = cluster.current_leader()
    cluster.note("run", f"the membership is joint; {leader.name if leader is not None else 'none'} leads")
    down: list[SimServer] = []
    if leader is not None and not trouble.is_free(leader):
        leader = None
    if leader is not None and rng.random() < 0.5:
        trouble.crash(leader)
        down.append(leader)
    elif leader is not None:
        cluster.partition([leader.name], [name for name in trouble.names() if name != leader.name])
    for server in cluster.running:
        raft = server.raft
        if raft is not None and rng.random() < 0.7:
            server.call(lambda raft=raft: asyncio.ensure_future(raft.snapshot()).add_done_callback(_looked_at))  # type: ignore[misc]
    await asyncio.sleep(rng.choice([0.002, 0.01, 0.05]))
    other = trouble.some()
    if other is not None and other is not leader and rng.random() < 0.5:
        trouble.crash(other)
        down.append(other)
    await trouble.last(0.0, 4.0)
    cluster.heal()
    for server in down:
        trouble.start_again(server)


def _looked_at(done: asyncio.Future[object]) -> None:
    if not done.cancelled():
        done.exception()
