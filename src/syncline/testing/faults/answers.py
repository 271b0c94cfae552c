"""Crashes and single lost messages within 30 ms around the answer to a change of the membership.

The caller was told that the change is done. So the remaining nodes must not start again with the old membership,
which may have no quorum any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from syncline.consensus.types import ChangeType, NodeId
from syncline.node.member_registry import Membership
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["change_voters", "crash_at_answer", "lose_at_answer", "shrink"]

WINDOW_S: Final = 0.03
"""The commit index may become durable so late, and with it the membership in force."""

FEW: Final = 3
"""With fewer voters than this another one is added."""


async def shrink(trouble: Trouble) -> None:
    """Remove several voters at once, a majority among them, or one of two; learners may become voters meanwhile."""
    while True:
        await trouble.wait(10.0)
        if not await change_voters(trouble) and trouble.voters() < FEW:
            await trouble.operator.add()


async def crash_at_answer(trouble: Trouble) -> None:
    """A change of the membership is answered; then its leader, all remaining nodes, or any one, is killed at once."""
    while True:
        await trouble.wait(10.0)
        leader = trouble.cluster.current_leader()
        membership = await change_voters(trouble)
        if membership is None:
            if trouble.voters() < FEW:
                await trouble.operator.add()
            continue
        await asyncio.sleep(trouble.rng.choice([0.0, WINDOW_S * trouble.rng.random()]))
        staying = [trouble.cluster.servers[member.name] for member in membership.members.values() if member.voter]
        up = [server for server in staying if server.up and trouble.is_free(server)]
        chosen = trouble.rng.choice(["leader", "all", "one"])
        down = up if chosen == "all" else [server for server in up if server is leader]
        if chosen == "one" and up:
            down = [trouble.rng.choice(up)]
        for server in down:
            trouble.crash(server)
        await trouble.last(0.0, 2.0)
        for server in down:
            trouble.start_again(server)


async def lose_at_answer(trouble: Trouble) -> None:
    """While a change of the membership is made, and just behind its answer, single appends and answers are lost."""
    while True:
        await trouble.wait(10.0)
        change = asyncio.ensure_future(change_voters(trouble))
        try:
            while not change.done():
                await asyncio.wait([change], timeout=WINDOW_S * trouble.rng.random())
                _lose_one(trouble)
        finally:
            change.cancel()
        await asyncio.sleep(WINDOW_S * trouble.rng.random())
        _lose_one(trouble)


def _lose_one(trouble: Trouble) -> None:
    """Lose the messages between the leader and another server that are under way, in one direction or in both."""
    leader, other = trouble.cluster.current_leader(), trouble.some()
    if leader is None or other is None or other is leader:
        return
    if trouble.rng.random() < 0.5:
        trouble.cluster.network.reset(leader.name, other.name)
    else:
        pair = trouble.rng.sample([leader.name, other.name], 2)
        trouble.cluster.network.hold_back(pair[0], pair[1], WINDOW_S)
        trouble.cluster.network.lose(pair[0], pair[1])


async def change_voters(trouble: Trouble) -> Membership | None:
    """Remove some voters at once and make learners voters. The membership if it was answered, else None."""
    membership = trouble.operator.membership()
    if membership is None or membership.joint:
        return None
    servers = trouble.cluster.servers
    voters = [member for member in membership.members.values() if member.voter]
    learners = [member for member in membership.members.values() if not member.voter]
    here = [servers[member.name] for member in voters]
    if len(voters) < 2 or not all(server.running and trouble.is_whole(server) for server in here):
        return None
    if any(one.promote and not trouble.is_whole(servers[one.name]) for one in learners):
        return None  # it becomes a voter by itself, perhaps one of two, and another fault has yet to replace it
    going = trouble.rng.sample(voters, _how_many(trouble, len(voters)))
    coming = [one for one in learners if trouble.is_whole(servers[one.name]) and trouble.rng.random() < 0.5]
    changes = [(ChangeType.REMOVE_NODE, one.id) for one in going] + [(ChangeType.ADD_NODE, one.id) for one in coming]
    names = " ".join(f"-{one.name}" for one in going) + "".join(f" +{one.name}" for one in coming)
    trouble.cluster.note("operator", f"at once: {names}")
    return await _remove(trouble, [servers[one.name] for one in going], changes)


def _how_many(trouble: Trouble, voters: int) -> int:
    """One voter stays at least; of five usually two or three stay."""
    return 1 if voters <= 2 else trouble.rng.randint(1, voters - (2 if trouble.rng.random() < 0.8 else 1))


async def _remove(
    trouble: Trouble, going: list[SimServer], changes: Sequence[tuple[ChangeType, NodeId]]
) -> Membership | None:
    """Make the change. If it is not known what came of it, remove those that are to go until that is certain."""
    names = [server.name for server in going]
    with ExitStack() as held:
        for server in going:
            held.enter_context(trouble.hold(server))
            server.leaving, server.disk.before = True, None
        answered = await trouble.demote(names, trouble.operator.change(changes))
        if answered is None and trouble.may_be_leaving(names):
            for server in going:
                await trouble.operator.remove(server)
        for server in going:
            server.leaving = answered is not None
            server.retired |= server.leaving
    return answered
