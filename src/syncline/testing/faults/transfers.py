"""Leadership transfers at a chosen moment: while a change of the membership is not applied."""

from __future__ import annotations

import asyncio
from typing import Final

from syncline.node.member_registry import Membership
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.snapshots import ignored
from syncline.testing.sim.server import SimServer

__all__ = ["transfer_at_change"]

POLL_S: Final = 0.0002
"""Less than a follower takes to acknowledge an entry."""

APPENDED_S: Final = 0.3
"""A change that is not in the leader's log by then is not waited for."""

TRANSFER_S: Final = 1.0

MOST_MEMBERS: Final = 6

LEAST_VOTERS: Final = 3


async def transfer_at_change(trouble: Trouble) -> None:
    """Transfer the leadership when a change of the membership is in the leader's log, and not applied.

    The transferee learns in one moment that the change is committed, and that it is to campaign: it must wait then.
    """
    while True:
        await trouble.wait(1.0)
        change = asyncio.ensure_future(_change(trouble))
        try:
            leader = await _with_unapplied_change(trouble, change)
            if leader is not None:
                _transfer(trouble, leader)
            await asyncio.wait([change])
        finally:
            change.cancel()


async def _change(trouble: Trouble) -> Membership | None:
    """Add a member if there are few; else make a learner a voter, or a voter a learner."""
    operator, servers = trouble.operator, trouble.cluster.servers
    membership = operator.membership()
    if membership is None or membership.joint:
        return None
    members = list(membership.members.values())
    learners = [one for one in members if not one.voter and trouble.is_whole(servers[one.name])]
    voters = [one for one in members if one.voter]
    if learners:
        await operator.promote(trouble.rng.choice(learners).id)
    elif len(voters) > LEAST_VOTERS and trouble.can_spare():
        voter = trouble.rng.choice(voters)
        return await trouble.demote([voter.name], operator.demote(voter.id))
    elif len(members) < MOST_MEMBERS:
        await operator.add()
    return None


async def _with_unapplied_change(trouble: Trouble, change: asyncio.Future[Membership | None]) -> SimServer | None:
    """Wait until the leader has appended a change. None if the change ends before, or takes too long."""
    loop = trouble.cluster.loop
    end_s = loop.true_time() + APPENDED_S
    while not change.done() and loop.true_time() < end_s:
        leader = trouble.cluster.current_leader()
        if leader is not None and leader.driver is not None:
            core = leader.driver.core.raft
            if core.pending_membership_index > core.log.applied:
                return leader
        await asyncio.sleep(POLL_S)
    return None


def _transfer(trouble: Trouble, leader: SimServer) -> None:
    """Have the leader transfer its leadership to another voter."""
    raft = leader.raft
    if raft is None:
        return
    voters = [one for one in raft.membership().members.values() if one.voter and one.id != raft.node_id]
    if not voters:
        return
    target = trouble.rng.choice(voters)
    trouble.cluster.note(leader.name, f"transfer to {target.name}: a change is not applied")
    leader.call(lambda: ignored(asyncio.ensure_future(raft.transfer_leadership(target.id, timeout=TRANSFER_S))))
