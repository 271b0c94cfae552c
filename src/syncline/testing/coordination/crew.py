"""Client processes under their own faults: killed, paused, suspended, cut off, and started again.

After the faults of a run all of them are killed at once. Then a process that begins must get each lock in time.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Final

from syncline.client import AsyncClient
from syncline.errors import DeadlineExceeded
from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.coordination.counts import Additions, Parties
from syncline.testing.coordination.ledger import Clocks, Ledger
from syncline.testing.coordination.programs import (
    LONGEST_TTL_S,
    adder,
    elector,
    locker,
    party,
    producer,
    runner,
    worker,
)
from syncline.testing.coordination.works import ITEMS, Items, Runs
from syncline.testing.invariants.base import Verdict
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.process import ClientProcess, Program

__all__ = ["ALLOWANCE_S", "NEXT", "Crew"]

NEXT: Final = "the next holder comes in time"

ALLOWANCE_S: Final = 1.0
"""Beside the TTL and two election timeouts: the end of a lease is looked at with the ticks, decided and applied, and
the client is told; a request that was cut off is sent again after a pause."""

SLOWEST_CLOCK: Final = 0.8

PARTIES: Final = 3

Make = Callable[[random.Random], Program]


class Crew:
    """The processes of one run, and their places. `run` until it is cancelled, then `finish`."""

    def __init__(self, cluster: SimCluster, record: ChangeRecord, rng: random.Random, verdict: Verdict) -> None:
        clocks = Clocks(cluster)
        self.ledger: Ledger = Ledger(cluster, record, clocks, verdict)
        self.items: Items = Items(cluster, record, clocks, verdict)
        self.runs: Runs = Runs(verdict)
        self.additions: Additions = Additions(verdict)
        self.parties: Parties = Parties(PARTIES, verdict)
        self.processes: dict[str, ClientProcess] = {}
        """The present process of each worker."""
        self._cluster = cluster
        self._rng = rng
        self._verdict = verdict
        self._lives = 0
        self._calm_s = rng.choice([1.5, 4.0, 10.0])
        """Between two faults of one process."""
        self._words: list[str] = []
        self._workers = self._choose()

    def _choose(self) -> dict[str, Make]:
        """Some of the words; few names, so that they contend."""
        rng, ledger, items, runs = self._rng, self.ledger, self.items, self.runs
        makes: dict[str, Make] = {
            "lock": lambda rng: locker("printer", ledger, rng),
            "semaphore": lambda rng: locker("rooms", ledger, rng, holders=2),
            "election": lambda rng: elector("master", ledger, rng),
            "queue": lambda rng: worker("mail", items, rng),
            "once": lambda rng: runner(runs, rng),
            "counter": lambda rng: adder(self.additions, rng),
            "barrier": lambda rng: party(self.parties, rng),
        }
        self._words = rng.sample(sorted(makes), rng.choice([1, 1, 2]))
        chosen = {f"p{place + 1}": makes[rng.choice(self._words)] for place in range(rng.randint(3, 6))}
        if "queue" in self._words:
            chosen["producer"] = lambda rng: producer("mail", items, rng)
        return chosen

    async def run(self) -> None:
        """Start the processes, and disturb each of them."""
        seeds = [self._rng.getrandbits(64) for _ in self._workers]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            for name, seed in zip(self._workers, seeds, strict=True):
                group.create_task(self._disturb(name, random.Random(seed)))

    async def finish(self) -> None:
        """After the faults: kill every process, and take each lock in time with a process that begins."""
        cluster = self._cluster
        for process in self.processes.values():
            process.resume()
        await asyncio.sleep(LOOK_S)
        self.ledger.look()
        for process in self.processes.values():
            process.kill()
        began_s = cluster.loop.true_time()
        limit_s = (LONGEST_TTL_S + 2 * cluster.settings.election_s) / SLOWEST_CLOCK + ALLOWANCE_S
        taken: list[str] = []

        async def take(kv: AsyncClient, _: ClientProcess) -> None:
            for word in self._words:
                await self._take(word, kv)
                taken.append(word)

        probe = self._start("probe", take, self._rng.getrandbits(64))
        while not probe.ended:
            if cluster.loop.true_time() - began_s > limit_s:
                what = f"{limit_s:.1f} s after all were killed a new process has taken {taken} of {self._words}"
                self._verdict.broken(NEXT, what)
                break
            await asyncio.sleep(LOOK_S)
        probe.kill()
        if "queue" in self._words and (missing := self.items.missing()):
            self._verdict.broken(ITEMS, f"{missing[0]} was put, and no claim has finished it")

    async def _take(self, word: str, kv: AsyncClient) -> None:
        """What the next process does: it gets the lock, leads, finishes what is left."""
        match word:
            case "lock":
                async with kv.lock("printer", ttl=LONGEST_TTL_S):
                    pass
            case "semaphore":
                async with kv.lock("rooms", ttl=LONGEST_TTL_S, holders=2):
                    pass
            case "election":
                async with aclosing(kv.elect("master", ttl=LONGEST_TTL_S)) as terms:
                    await anext(terms)
            case "counter":
                self.additions.final(await kv.counter("visits").value())
            case "queue":
                queue = kv.queue("mail")
                while await queue.size():
                    with suppress(DeadlineExceeded):  # a process that was killed has finished it: its request came late
                        async with queue.claim(ttl=LONGEST_TTL_S, wait=0.5) as item:
                            pass
                        self.items.finished[item.id] += 1

    def _start(self, name: str, program: Program, seed: int, rate: float = 1.0) -> ClientProcess:
        self._lives += 1
        return ClientProcess(
            f"{name}-{self._lives}", self._cluster, program, seed=seed, on_error=self._failed, rate=rate
        )

    def _failed(self, error: Exception) -> None:
        what = "".join(traceback.format_exception(error))
        self._verdict.broken("a client's program goes on", what)

    async def _look(self) -> None:
        while True:
            self.ledger.look()
            self.items.look()
            await asyncio.sleep(LOOK_S)

    async def _disturb(self, name: str, rng: random.Random) -> None:
        program = self._workers[name](random.Random(rng.getrandbits(64)))
        while True:
            process = self._start(name, program, rng.getrandbits(64), rng.choice([1.0, 1.0, 1.1]))
            self.processes[name] = process
            while process.alive:
                await asyncio.sleep(rng.expovariate(1.0 / self._calm_s))
                await self._harm(process, rng)
            await asyncio.sleep(rng.choice([0.0, 0.5, 3.0]) * rng.random())

    async def _harm(self, process: ClientProcess, rng: random.Random) -> None:
        servers = [server.name for server in self._cluster.servers.values()]
        for_s = rng.choice([0.3, 1.0, 2.0]) * rng.random() * LONGEST_TTL_S
        server = rng.choice(servers)
        match rng.randrange(8):
            case 0:
                process.kill()
            case 1:
                process.pause()
                await asyncio.sleep(for_s)
                process.resume()
            case 2:
                process.suspend()
                await asyncio.sleep(for_s)
                process.resume()
            case 3:
                self._cluster.network.hold_back(server, process.name, for_s)
            case 4:
                self._cluster.network.reset(server, process.name)
            case 5:
                self._cluster.network.cut(server, process.name, one_way=True)
                await asyncio.sleep(for_s)
                process.heal()
            case 6:
                process.cut(*servers)
                await asyncio.sleep(for_s)
                process.heal()
            case _:
                process.cut(*rng.sample(servers, rng.randint(1, len(servers))))
                await asyncio.sleep(for_s)
                process.heal()
