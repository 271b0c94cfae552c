"""Changes of the membership while all else goes on, and the operator's other tools."""

from __future__ import annotations

import asyncio
from typing import Final

from syncline.consensus.types import ChangeType
from syncline.node.member_registry import Member
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.server import SimServer

__all__ = ["add", "demote", "empty_at_change", "joint", "promote", "remove", "replace", "snapshot", "transfer"]

MOST_VOTERS: Final = 6
LEAST_VOTERS: Final = 3


async def add(trouble: Trouble) -> None:
    """Add a member."""
    while True:
        await trouble.wait(10.0)
        membership = trouble.operator.membership()
        if membership is not None and len(membership.members) < MOST_VOTERS:
            await trouble.operator.add()


async def remove(trouble: Trouble) -> None:
    """Remove a member, the leader or another."""
    while True:
        await trouble.wait(12.0)
        server = _spare_voter(trouble)
        if server is not None:
            with trouble.hold(server):
                await trouble.operator.remove(server)


async def replace(trouble: Trouble) -> None:
    """Replace a member by another one on a new machine."""
    while True:
        await trouble.wait(12.0)
        server = _spare_voter(trouble)
        if server is not None:
            with trouble.hold(server):
                await trouble.operator.replace(server)


async def promote(trouble: Trouble) -> None:
    """Make a learner a voter at once, ready or not; but no dead one: quorums grow by a voter that can't vote."""
    while True:
        await trouble.wait(8.0)
        learner = _some_member(trouble, voter=False)
        if learner is not None and trouble.is_whole(trouble.cluster.servers[learner.name]):
            trouble.cluster.note("operator", f"promote {learner.name}")
            await trouble.operator.promote(learner.id)


async def demote(trouble: Trouble) -> None:
    """Make a voter a learner, and after a while a voter again."""
    while True:
        await trouble.wait(10.0)
        voter = _some_member(trouble, voter=True)
        if voter is None or trouble.voters() <= LEAST_VOTERS or not trouble.can_spare():
            continue
        trouble.cluster.note("operator", f"demote {voter.name}")
        await trouble.demote([voter.name], trouble.operator.demote(voter.id))


async def joint(trouble: Trouble) -> None:
    """Change several members at once, through a joint membership."""
    while True:
        await trouble.wait(10.0)
        membership = trouble.operator.membership()
        if membership is None:
            continue
        members = list(membership.members.values())
        trouble.rng.shuffle(members)
        voters = sum(member.voter for member in members)
        changes: list[tuple[ChangeType, int]] = []
        leaving: list[str] = []
        for member in members[: trouble.rng.randint(1, 3)]:
            if not member.voter:
                if not trouble.is_whole(trouble.cluster.servers[member.name]):
                    continue
                changes.append((ChangeType.ADD_NODE, member.id))
                voters += 1
            elif voters > LEAST_VOTERS and trouble.can_spare(len(leaving) + 1):
                changes.append((ChangeType.ADD_LEARNER_NODE, member.id))
                leaving.append(member.name)
                voters -= 1
        if changes:
            kinds = " ".join(f"{kind.name.lower()} {membership.members[node_id].name}" for kind, node_id in changes)
            trouble.cluster.note("operator", f"at once: {kinds}")
            await trouble.demote(leaving, trouble.operator.change(changes))


async def empty_at_change(trouble: Trouble) -> None:
    """While a learner is promoted, or a voter demoted, its disk is replaced by an empty one: it must not vote again."""
    while True:
        await trouble.wait(12.0)
        promoted = trouble.rng.random() < 0.5
        member = _some_member(trouble, voter=not promoted)
        server = trouble.cluster.servers[member.name] if member is not None else None
        if member is None or server is None or not trouble.is_whole(server) or not trouble.can_spare():
            continue
        if not promoted and trouble.voters() <= LEAST_VOTERS:
            continue
        with trouble.hold(server):
            trouble.cluster.note("operator", f"{'promote' if promoted else 'demote'} {server.name}, which is emptied")
            change = asyncio.ensure_future(_promote_or_demote(trouble, member, promoted=promoted))
            await trouble.last(0.0, 0.3)
            if server.up:
                trouble.crash(server)
            server.wipe()
            await trouble.last(0.0, 2.0)
            server.start()
            await asyncio.wait([change])
            await trouble.last(1.0, 6.0)
            await trouble.operator.replace(server)


async def _promote_or_demote(trouble: Trouble, member: Member, *, promoted: bool) -> None:
    if promoted:
        await trouble.operator.promote(member.id)
    else:
        await trouble.demote([member.name], trouble.operator.demote(member.id))


async def transfer(trouble: Trouble) -> None:
    """Hand the leadership over, to a certain voter or to whoever is the most up-to-date."""
    while True:
        await trouble.wait(4.0)
        voter = _some_member(trouble, voter=True)
        to = voter.id if voter is not None and trouble.rng.random() < 0.7 else 0
        trouble.cluster.note("operator", f"transfer to {voter.name if voter is not None and to else 'anybody'}")
        await trouble.operator.transfer(to)


async def snapshot(trouble: Trouble) -> None:
    """Have a server take a snapshot now."""
    while True:
        await trouble.wait(4.0)
        await trouble.operator.snapshot()


def _some_member(trouble: Trouble, *, voter: bool) -> Member | None:
    membership = trouble.operator.membership()
    found = [member for member in membership.members.values() if member.voter is voter] if membership else []
    return trouble.rng.choice(found) if found else None


def _spare_voter(trouble: Trouble) -> SimServer | None:
    """A member that the cluster can do without."""
    if trouble.voters() <= LEAST_VOTERS or not trouble.can_spare():
        return None
    member = _some_member(trouble, voter=True)
    server = trouble.cluster.servers.get(member.name) if member is not None else None
    return server if server is not None and trouble.is_free(server) else None
