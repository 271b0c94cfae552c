"""What a fault is, and what faults know of the cluster that they trouble.

A fault is a coroutine that does its harm again and again, at times of its own chance, until it is cancelled. What it
leaves behind is put right by `calm`, all at once, before liveness is judged.

Faults may do their worst to what Raft promises to survive, and no more: the disks of a majority must not be lost. Which
servers may lose theirs is decided in one place, `Trouble.expendable`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.invariants.base import Verdict
from syncline.testing.operations import Operator
from syncline.testing.simdisk import Survival
from syncline.testing.simserver import Condition, SimServer

__all__ = ["Fault", "Trouble"]

Fault = Callable[["Trouble"], Awaitable[None]]


class Trouble:
    """A cluster under faults, with the chance of one of them. `intensity`, about 1, makes it come more often.

    `taken` are servers that some fault has in hand, for others to leave alone; it is shared by all faults.
    """

    def __init__(
        self, cluster: SimCluster, rng: random.Random, intensity: float, taken: dict[str, None], verdict: Verdict
    ) -> None:
        self.cluster = cluster
        self.rng = rng
        self.operator = Operator(cluster, random.Random(rng.getrandbits(64)))
        self._intensity = intensity
        self._taken = taken
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

    def up(self) -> list[SimServer]:
        """The servers whose process is there, but for those that a fault has in hand."""
        return [server for server in self.cluster.servers.values() if server.up and server.name not in self._taken]

    def names(self) -> list[str]:
        """The servers that are not out of service, in a random order."""
        names = [server.name for server in self.cluster.servers.values() if not server.retired]
        self.rng.shuffle(names)
        return names

    def voters(self) -> int:
        """How many voters there are, as the leader knows; 0 without one."""
        return len(self._voters())

    def _voters(self) -> list[SimServer]:
        membership = self.operator.membership()
        members = membership.members.values() if membership is not None else ()
        return [self.cluster.servers[member.name] for member in members if member.voter]

    def can_spare(self, more: int = 1) -> bool:
        """Whether a quorum remains that never lost anything, where this many more servers do not take part."""
        voters = self._voters()
        whole = [voter for voter in voters if voter.sound and voter.name not in self._taken and not voter.retired]
        return len(whole) - more > len(voters) // 2

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

    @contextmanager
    def damage(self, server: SimServer) -> Iterator[None]:
        """The server's disk does not do its duty in here."""
        server.damages += 1
        try:
            yield
        finally:
            server.damages -= 1

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
