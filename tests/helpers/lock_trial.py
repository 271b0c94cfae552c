"""A simulated cluster, and client processes that hold locks on it until they are told to stop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from syncline.client import AsyncClient
from syncline.errors import LeaseLost
from syncline.testing.cluster import LOOK_S, SimCluster
from syncline.testing.coordination.ledger import Clocks, Contest, Ledger
from syncline.testing.coordination.programs import lock_place
from syncline.testing.coordination.works import Items
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.machine import SimMachine
from syncline.testing.sim.process import ClientProcess, Program

__all__ = ["TTL_S", "Broken", "Holder", "LockTrial", "lock_trial"]

TTL_S: Final = 2.0
LOCK: Final = "printer"

PATIENCE_S: Final = 30.0


class Broken(AssertionError):
    """Something that must hold does not."""


class _Verdict:
    def __init__(self) -> None:
        self.found: list[str] = []

    def broken(self, invariant: str, text: str) -> None:
        self.found.append(f"{invariant}: {text}")


class Holder:
    """A process that takes a lock, and holds it until `stop`, or until it has lost it."""

    def __init__(self, trial: LockTrial, name: str, ttl_s: float, lock: str, holders: int) -> None:
        self.tokens: list[int] = []
        self.began_s = 0.0
        """When it came to hold it."""
        self.lost_s: float | None = None
        self.stop = False
        self.rest_s = 0.0
        """The rest of its time, as it knows it."""
        self._trial = trial
        self._lock = lock
        self._ttl_s = ttl_s
        self._place = lock_place(lock, holders)
        self.process: ClientProcess = trial.start(name, self._run)

    @property
    def token(self) -> int:
        return self.tokens[-1] if self.tokens else 0

    async def _run(self, kv: AsyncClient, process: ClientProcess) -> None:
        trial, ledger = self._trial, self._trial.ledger
        try:
            async with kv.lock(self._lock, ttl=self._ttl_s, holders=self._place.holders) as held:
                self.tokens.append(held.token)
                self.began_s = trial.now_s
                hold = ledger.entered(self._place, process, held.token, held.check)
                try:
                    while not self.stop:
                        held.check()
                        self.rest_s = held.rest_s
                        ledger.write(hold)
                        await asyncio.sleep(LOOK_S)
                finally:
                    ledger.left(hold)
        except LeaseLost:
            self.lost_s = trial.now_s


class LockTrial:
    """A cluster under test."""

    def __init__(self, cluster: SimCluster, record: ChangeRecord, verdict: _Verdict) -> None:
        self.cluster = cluster
        self.record = record
        clocks = Clocks(cluster)
        self.ledger = Ledger(cluster, record, clocks, verdict)
        self.items = Items(cluster, record, clocks, verdict)
        self.verdict = verdict
        self._seeds = itertools.count(1)

    @property
    def now_s(self) -> float:
        return self.cluster.loop.true_time()

    @property
    def names(self) -> list[str]:
        return list(self.cluster.servers)

    @property
    def next_s(self) -> float:
        """How long after its TTL the lock of a killed holder may stay held: the promise."""
        return 2 * self.cluster.settings.election_s

    def start(self, name: str, program: Program, *, rate: float = 1.0) -> ClientProcess:
        """Start a process."""
        return ClientProcess(name, self.cluster, program, seed=next(self._seeds), on_error=self._failed, rate=rate)

    def hold(self, name: str, *, ttl_s: float = TTL_S, lock: str = LOCK, holders: int = 1) -> Holder:
        """Start a process that takes a lock."""
        return Holder(self, name, ttl_s, lock, holders)

    async def held(self, holder: Holder, within_s: float = PATIENCE_S) -> int:
        """Wait until it holds its lock; the token."""
        await self.until(lambda: bool(holder.tokens), f"{holder.process.name} holds the lock", within_s)
        return holder.token

    async def queued(self, count: int, place: Contest | None = None) -> None:
        """Wait until so many processes hold a lock or wait for it."""
        prefix = (place or lock_place(LOCK)).prefix
        await self.until(lambda: len(self.keys(prefix)) == count, f"{count} keys below {prefix!r}")

    def keys(self, prefix: bytes) -> list[bytes]:
        """The keys below a prefix, in the newest state."""
        return [key for key in self.record.present if key.startswith(prefix)]

    async def until(self, condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Let time pass until it is so, and compare what the holders believe."""
        end_s = self.now_s + within_s
        while not condition():
            if self.now_s > end_s:
                raise AssertionError(f"not within {within_s:g} s: {what}")
            await self.passes(LOOK_S)

    async def passes(self, seconds: float) -> None:
        """Let time pass, and compare what the holders believe."""
        end_s = self.now_s + seconds
        while True:
            self.check()
            left_s = end_s - self.now_s
            if left_s <= 0:
                return
            await asyncio.sleep(min(LOOK_S, left_s))

    def check(self) -> None:
        """Fail if something did not hold."""
        self.ledger.look()
        self.items.look()
        if self.verdict.found:
            raise Broken(self.verdict.found[0])

    def _failed(self, error: Exception) -> None:
        self.verdict.broken("a program goes on", repr(error))


def lock_trial(
    scenario: Callable[[LockTrial], Coroutine[Any, Any, None] | Awaitable[None]], *, nodes: int = 3, seed: int = 5
) -> None:
    """Run a scenario on a cluster with a leader."""
    verdict = _Verdict()
    record = ChangeRecord(verdict.broken)

    def machine() -> SimMachine:
        made = SimMachine()
        made.changes = record
        return made

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=seed, machine=machine, serves_http=True)
        await cluster.start(nodes)
        await cluster.leader()
        trial = LockTrial(cluster, record, verdict)
        await scenario(trial)
        trial.check()

    run_simulation(main)
