"""One run: start a cluster, let clients work while faults trouble it, calm down, and see that it recovers.

Swarm style: each seed chooses which faults there are, how often they come, and the settings of the cluster, so that
some runs have one kind of trouble in plenty and others a little of everything.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from syncline.testing.cluster import Observer, Settings, SimCluster
from syncline.testing.faults.base import Trouble
from syncline.testing.faults.table import FAULTS
from syncline.testing.history import Operation
from syncline.testing.invariants.base import Facts, Verdict
from syncline.testing.simloop import SimLoop
from syncline.testing.simserver import Condition
from syncline.testing.workload import Workload

__all__ = ["Scenario"]

RECOVERY_ELECTIONS: Final = 10
"""Within so many election timeouts after the faults there must be a leader."""

CATCH_UP_ELECTIONS: Final = 40
"""And within so many every node has everything."""


class Scenario:
    """The course of one run. `faults` is what `--faults` says: None lets the seed choose."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int,
        *,
        nodes: int,
        sim_seconds: float,
        faults: tuple[str, ...] | None,
        facts: Facts,
        verdict: Verdict,
        observer: Observer,
    ) -> None:
        self._loop = loop
        self._rng = rng = random.Random(f"{seed} scenario")
        self._nodes = nodes
        self._sim_seconds = sim_seconds
        self._faults = faults if faults is not None else _swarm(rng)
        self._facts = facts
        self._verdict = verdict
        self.cluster = SimCluster(loop, seed=seed, settings=_settings(rng), observer=observer)
        self.workload = Workload(self.cluster, random.Random(f"{seed} workload"), clients=rng.randint(1, 4))

    def history(self) -> list[Operation]:
        return self.workload.recorder.history()

    async def run(self) -> None:
        """All of it. What is wrong is reported to the verdict."""
        cluster = self.cluster
        cluster.note("run", f"faults: {', '.join(self._faults) or 'none'}; {cluster.settings}")
        await cluster.start(self._nodes)
        clients = self.workload.start()
        troubles = [self._trouble(name) for name in self._faults]
        await asyncio.sleep(self._sim_seconds)
        await _end(troubles)
        self.calm()
        await self._recover()
        self.workload.stopping = True
        await asyncio.wait(clients)
        await self._catch_up()

    def _trouble(self, name: str) -> asyncio.Task[None]:
        rng = random.Random(self._rng.getrandbits(64))
        trouble = Trouble(self.cluster, rng, rng.choice([0.3, 1.0, 1.0, 3.0]))
        return asyncio.ensure_future(FAULTS[name](trouble))

    def calm(self) -> None:
        """End all faults, and have every process run that can."""
        cluster = self.cluster
        cluster.note("run", "calm")
        cluster.heal()
        cluster.delays.clear()
        for server in cluster.servers.values():
            server.disk.heal()
            server.disk.before = None
            if server.paused:
                server.resume()
            if server.condition in (Condition.CRASHED, Condition.FAILED) and not server.retired:
                server.start()

    async def _recover(self) -> None:
        limit_s = RECOVERY_ELECTIONS * self.cluster.settings.election_s
        try:
            await self.cluster.leader(timeout_s=limit_s)
        except TimeoutError:
            self._verdict.broken("a leader after the faults", f"none within {limit_s:g} s: {self.cluster.describe()}")

    async def _catch_up(self) -> None:
        cluster = self.cluster
        limit_s = CATCH_UP_ELECTIONS * cluster.settings.election_s

        def caught_up() -> bool:
            drivers = [server.driver for server in cluster.servers.values() if not server.retired]
            last = self._facts.last_committed
            return all(driver is not None and driver.applied == last for driver in drivers)

        try:
            await cluster.until(caught_up, timeout_s=limit_s)
        except TimeoutError:
            self._verdict.broken("all catch up after the faults", f"not within {limit_s:g} s: {cluster.describe()}")
        for text in self.workload.unanswered():
            self._verdict.broken("every request is answered", text)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()  # a fault ends only by an error of its own


def _swarm(rng: random.Random) -> tuple[str, ...]:
    """Any subset of the faults, small ones more often."""
    count = min(len(FAULTS), rng.choice([0, 1, 1, 2, 2, 3, 4, 5, 8, len(FAULTS)]))
    return tuple(sorted(rng.sample(sorted(FAULTS), count)))


def _settings(rng: random.Random) -> Settings:
    heartbeat_s = rng.choice([0.02, 0.05, 0.05])
    entries = rng.choice([5, 20, 50, 200])
    return Settings(
        heartbeat_s=heartbeat_s,
        election_s=heartbeat_s * rng.choice([5, 10, 10]),
        segment_bytes=rng.choice([4096, 8192, 65536]),
        snapshot_entries=entries,
        snapshots_retained=rng.choice([1, 2, 3]),
        trailing_entries=rng.choice([0, entries // 2, entries]),
        max_inflight_messages=rng.choice([1, 4, 128]),
    )
