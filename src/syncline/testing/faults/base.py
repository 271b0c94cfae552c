"""What a fault is, and what faults know of the cluster that they trouble.

A fault is a coroutine that does its harm again and again, at times of its own chance, until it is cancelled. What it
leaves behind is put right by `calm`, all at once, before liveness is judged.

Faults may do their worst to what Raft promises to survive, and no more: the disks of a majority must not be lost, in
the membership that there is or in one that is on its way. Which servers may lose theirs, and which voters may go, is
decided in one place, `Trouble.can_spare`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

from syncline.node.member_registry import Membership
from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.invariants.base import Verdict
from syncline.testing.invariants.proposals import Proposed
from syncline.testing.sim.disk import DiskFault, Survival
from syncline.testing.sim.operations import Operator, Unknown
from syncline.testing.sim.server import Condition, SimServer

__all__ = ["Claims", "Fault", "Trouble"]

Fault = Callable[["Trouble"], Awaitable[None]]

NOBODY_KNOWS: Final = 1 << 62
"""In place of the log index of a change that may be made at any time, or never."""


class Claims:
    """What the faults of a run have laid their hands on. Shared by all of them."""

    def __init__(self) -> None:
        self.taken: dict[str, None] = {}
        """Servers that some fault has in hand, for others to leave alone."""
        self.leaving: dict[str, int] = {}
        """Voters that were asked to be none any more, and the log index of the membership in which they are not."""
        self.orders: list[DiskFault] = []
        """Errors of disks that were ordered: `happened` says how often each has struck."""
        self.proposed: list[Proposed] = []
        """Commands that were proposed on the nodes themselves, past the servers."""


class Trouble:
    """A cluster under faults, with the chance of one of them. `intensity`, about 1, makes it come more often."""

    def __init__(
        self, cluster: SimCluster, rng: random.Random, intensity: float, claims: Claims, verdict: Verdict
    ) -> None:
        self.cluster = cluster
        self.rng = rng
        self.operator: Operator = Operator(cluster, random.Random(rng.getrandbits(64)))
        self._intensity = intensity
        self._claims = claims
        self._taken = claims.taken
        self.proposed: list[Proposed] = claims.proposed
        self._verdict = verdict

    @property
    def election_s(self) -> float:
        return self.cluster.settings.election_s

    async def wait(self, usual_elections: float) -> None:
        """Until the next time, a number of election timeouts on average."""
        await asyncio.sleep(self.rng.expovariate(self._intensity / (usual_elections * self.election_s)))

    async def last(self, low: float, high: float) -> None:
        """For as long as the fault lasts: from `low` to `high` election timeouts."""
        await asyncio.sleep(self.rng.uniform(low, high) * self.election_s)

    def some(self) -> SimServer | None:
        """A server whose process is there, or None."""
        up = [server for server in self.up() if self.is_free(server)]
        return self.rng.choice(up) if up else None

    def is_free(self, server: SimServer) -> bool:
        """Whether it is in service, and no other fault has it in hand."""
        return not server.retired and server.name not in self._taken

    def is_whole(self, server: SimServer) -> bool:
        """Whether it has all that it ever acknowledged, and is not about to lose it."""
        return server.sound and self.is_free(server)

    def up(self) -> list[SimServer]:
        """The servers whose process is there, but for those that a fault has in hand."""
        return [server for server in self.cluster.servers.values() if server.up and server.name not in self._taken]

    def names(self) -> list[str]:
        """The servers that are not out of service, in a random order."""
        names = [server.name for server in self.cluster.servers.values() if not server.retired]
        self.rng.shuffle(names)
        return names

    def voters(self) -> int:
        """How many voters there are, as far as anybody knows."""
        membership = self._membership()
        return sum(member.voter for member in membership.members.values()) if membership is not None else 0

    def _membership(self) -> Membership | None:
        """The newest that a running server knows."""
        known = [server.raft.membership() for server in self.cluster.running if server.raft is not None]
        return max(known, key=lambda membership: membership.index, default=None)

    def can_spare(self, more: int = 1) -> bool:
        """Whether a quorum remains that never lost anything, where this many more servers do not take part.

        A voter that is on its way out may still be needed, and may not be there any more: it does not count as whole.
        """
        membership = self._membership()
        if membership is None or not self.cluster.has_begun:
            return False
        voters = [self.cluster.servers[member.name] for member in membership.members.values() if member.voter]
        whole = [voter for voter in voters if self.is_whole(voter) and not self._is_leaving(voter, membership)]
        return len(whole) - more > len(voters) // 2

    def _is_leaving(self, voter: SimServer, membership: Membership) -> bool:
        asked = self._claims.leaving.get(voter.name, 0)
        return asked > membership.index or (asked > 0 and membership.joint)

    def expendable(self) -> SimServer | None:
        """A member that may lose its disk: the others have a quorum, and all that was committed."""
        return self.some() if self.can_spare() else None

    @contextmanager
    def hold(self, server: SimServer) -> Iterator[None]:
        """Other faults leave the server alone in here."""
        assert self.is_free(server), server
        self._taken[server.name] = None
        try:
            yield
        finally:
            del self._taken[server.name]

    async def strike(self, usual_elections: float, harm: Callable[[SimServer], Awaitable[None]]) -> None:
        """Again and again: kill a member that may lose its disk, and do `harm` to it while other faults leave it."""
        while True:
            await self.wait(usual_elections)
            server = self.expendable()
            if server is not None:
                with self.hold(server):
                    self.crash(server)
                    await harm(server)

    async def demote(self, names: Collection[str], change: Awaitable[Membership | None]) -> Membership | None:
        """Have voters made learners, or removed, by `change`; until that is over no quorum may depend on them.

        Gives the membership of the answer; None if there was none, or if nothing came of it.
        """
        leaving = self._claims.leaving
        before = {name: leaving.get(name, 0) for name in names}
        leaving.update(dict.fromkeys(names, NOBODY_KNOWS))
        try:
            membership = await change
        except Unknown:
            return None
        if membership is None:
            leaving.update(before)
        else:
            leaving.update({name: max(before[name], membership.index) for name in names})
        return membership

    def may_be_leaving(self, names: Collection[str]) -> bool:
        """Whether one of these voters was asked to go, and it is not known whether it did."""
        return any(self._claims.leaving.get(name, 0) == NOBODY_KNOWS for name in names)

    @contextmanager
    def damage(self, server: SimServer) -> Iterator[None]:
        """The server's disk does not do its duty in here."""
        server.damages += 1
        try:
            yield
        finally:
            server.damages -= 1

    def fail(self, server: SimServer, operation: str, *, suffix: str, error: int, skip: int) -> DiskFault:
        """Order an error of a server's disk."""
        order = server.disk.fail(operation, suffix=suffix, error=error, skip=skip)
        self._claims.orders.append(order)
        return order

    def crash(self, server: SimServer) -> None:
        """Kill it, or cut its power."""
        server.crash(self.rng.choice([None, *Survival]))

    def start_again(self, server: SimServer) -> None:
        """Start a server that was killed or has stopped itself, unless another fault has it in hand."""
        if server.condition in (Condition.CRASHED, Condition.FAILED) and self.is_free(server):
            server.start()

    async def settled(self, server: SimServer) -> None:
        """Until a server that was started is open, or has refused."""
        while server.condition is Condition.STARTING:  # noqa: ASYNC110 - in simulated time
            await asyncio.sleep(LOOK_S)

    def broken(self, invariant: str, text: str) -> None:
        """A fault was not treated as it must be."""
        self._verdict.broken(invariant, text)
