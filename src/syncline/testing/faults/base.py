"""What a fault is, and what faults know of the cluster that they trouble.

A fault is a coroutine that does its harm again and again, at times of its own chance, until it is cancelled. What it
leaves behind is put right by `calm`, all at once, before liveness is judged.

Faults may do their worst to what Raft promises to survive, and no more: the disks of a majority must not be lost. How
many may be is counted in one place, `Trouble.may_lose`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from syncline.testing.cluster import SimCluster
from syncline.testing.simserver import SimServer

__all__ = ["Fault", "Trouble"]

Fault = Callable[["Trouble"], Awaitable[None]]


class Trouble:
    """A cluster under faults, with the chance of one of them. `intensity`, about 1, makes it come more often."""

    def __init__(self, cluster: SimCluster, rng: random.Random, intensity: float) -> None:
        self.cluster = cluster
        self.rng = rng
        self.intensity = intensity

    @property
    def election_s(self) -> float:
        return self.cluster.settings.election_s

    async def wait(self, usual_elections: float) -> None:
        """Until the next time, a number of election timeouts on average."""
        await asyncio.sleep(self.rng.expovariate(self.intensity / (usual_elections * self.election_s)))

    async def last(self, low: float, high: float) -> None:
        """For as long as the fault lasts: from `low` to `high` election timeouts."""
        await asyncio.sleep(self.rng.uniform(low, high) * self.election_s)

    def some(self) -> SimServer | None:
        """A server whose process is there, or None."""
        up = [server for server in self.cluster.servers.values() if server.up]
        return self.rng.choice(up) if up else None

    def names(self) -> list[str]:
        """The servers that are not out of service, in a random order."""
        names = [server.name for server in self.cluster.servers.values() if not server.retired]
        self.rng.shuffle(names)
        return names
