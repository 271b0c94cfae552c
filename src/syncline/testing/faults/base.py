"""Base of the faults, and their view of the cluster.

A fault is a coroutine that does its harm again and again, at random times, until it is cancelled. `calm` repairs all
of it at once before liveness is checked.

Faults may break everything that Raft promises to survive, and no more: a majority of the disks must not be lost, in
the present membership or in a coming one. `Trouble.can_spare` alone decides which servers may lose theirs, and which
voters may go.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from syncline.node.member_registry import Membership
from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.coordination.crew import Crew
from syncline.testing.invariants.base import Verdict
from syncline.testing.invariants.proposals import Proposed
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.disk import DiskFault, Survival
from syncline.testing.sim.operations import Operator, Unknown
from syncline.testing.sim.recovery import FinalRecovery
from syncline.testing.sim.server import Condition, SimServer
from syncline.testing.sim.workload import Workload

__all__ = ["Claims", "Fault", "HttpClients", "Trouble", "WatchingClient"]

Fault = Callable[["Trouble"], Awaitable[None]]

NOBODY_KNOWS: Final = 1 << 62
"""Stands for the log index of a change that may be made at any time, or never."""


class WatchingClient(Protocol):
    """A client that watches keys. `told` counts the revisions that it was told."""

    told: int

    async def finish(self) -> None:
        """After the faults: be told what is left."""
        ...


class HttpClients(Protocol):
    """Clients of the servers' HTTP ports."""

    async def finish(self, recovery: FinalRecovery) -> None:
        """After the faults: have answers to all that was asked, and ask once more."""
        ...


class Claims:
    """Servers and voters that the faults of a run use. Shared by all of them."""

    def __init__(self) -> None:
        self.taken: dict[str, None] = {}
        """Servers that one fault uses; the others leave them alone."""
        self.leaving: dict[str, int] = {}
        """Voters that should leave or be demoted, and the log index of the membership without their votes."""
        self.membership: Membership | None = None
        """The newest membership that a fault has seen: the servers that know it may all be down for a while."""
        self.orders: list[DiskFault] = []
        """Errors of disks that were ordered: `happened` says how often each has struck."""
        self.proposed: list[Proposed] = []
        """Commands that were proposed on the nodes themselves, past the servers."""
        self.workload: Workload | None = None
        """The clients of the run."""
        self.changes: ChangeRecord | None = None
        """All that was applied in the run."""
        self.watchers: list[WatchingClient] = []
        """Clients that watch keys, until the run is over."""
        self.http_clients: list[HttpClients] = []
        """Clients of the servers' HTTP ports, until the run is over."""
        self.crews: list[Crew] = []
        """Client processes with locks, until the run is over."""


class Trouble:
    """A cluster under one fault, with the fault's random numbers. `intensity`, about 1, makes it more frequent."""

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
        self.workload: Workload | None = claims.workload
        self.changes: ChangeRecord | None = claims.changes
        self.watchers: list[WatchingClient] = claims.watchers
        self.crews: list[Crew] = claims.crews
        self.http_clients: list[HttpClients] = claims.http_clients
        self.verdict: Verdict = verdict

    @property
    def election_s(self) -> float:
        return self.cluster.settings.election_s

    async def wait(self, usual_elections: float) -> None:
        """Wait until the fault's next time, a number of election timeouts on average."""
        await asyncio.sleep(self.rng.expovariate(self._intensity / (usual_elections * self.election_s)))

    async def last(self, low: float, high: float) -> None:
        """Wait for the duration of the fault: from `low` to `high` election timeouts."""
        await asyncio.sleep(self.rng.uniform(low, high) * self.election_s)

    def some(self) -> SimServer | None:
        """A server with a running process, or None."""
        up = [server for server in self.up() if self.is_free(server)]
        return self.rng.choice(up) if up else None

    def is_free(self, server: SimServer) -> bool:
        """Whether it was started once, is in service, and no other fault uses it. Until then `Operator.add` uses it."""
        return server.lives > 0 and not server.retired and server.name not in self._taken

    def is_whole(self, server: SimServer) -> bool:
        """Whether it has all that it ever acknowledged, and will not lose it."""
        return server.sound and self.is_free(server)

    def up(self) -> list[SimServer]:
        """The servers with a running process, without those that a fault uses."""
        return [server for server in self.cluster.servers.values() if server.up and server.name not in self._taken]

    def names(self) -> list[str]:
        """The servers that are not out of service, in a random order."""
        names = [server.name for server in self.cluster.servers.values() if not server.retired]
        self.rng.shuffle(names)
        return names

    def voters(self) -> int:
        """The number of voters, as far as it is known."""
        membership = self._membership()
        return sum(member.voter for member in membership.members.values()) if membership is not None else 0

    def _membership(self) -> Membership | None:
        """The newest membership that a running server knows, or knew when a fault asked before."""
        known = [server.raft.membership() for server in self.cluster.running if server.raft is not None]
        if self._claims.membership is not None:
            known.append(self._claims.membership)
        self._claims.membership = max(known, key=lambda membership: membership.index, default=None)
        return self._claims.membership

    def can_spare(self, more: int = 1) -> bool:
        """Whether a quorum remains that never lost anything if this many more servers do not take part.

        A leaving voter may still be needed, and may be gone already: it does not count as whole.
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
        """Keep other faults away from the server."""
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
        """Demote or remove voters by `change`; until that is over no quorum may depend on them.

        Returns the membership of the answer; None if there was none, or if the change failed.
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
        """Whether one of these voters was asked to leave, with an unknown result."""
        return any(self._claims.leaving.get(name, 0) == NOBODY_KNOWS for name in names)

    @contextmanager
    def damage(self, server: SimServer) -> Iterator[None]:
        """The server's disk is faulty in this block."""
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
        """Report that a fault was not handled correctly."""
        self.verdict.broken(invariant, text)
