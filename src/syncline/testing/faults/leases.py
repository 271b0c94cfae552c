"""Holders of leases: no fault, but clients that are sure of a lease for the time that they were promised."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from syncline.kv.commands import LeaseGrant, LeaseRevoke, encode_command
from syncline.kv.machine import KvMachine
from syncline.testing.faults.asking import ask_node, lease_calls
from syncline.testing.faults.base import Trouble
from syncline.testing.sim.recovery import LEASE_ELECTIONS
from syncline.testing.sim.server import SimServer

__all__ = ["LASTS", "SURE", "Holder", "leases"]

LASTS: Final = "a lease lasts for the time that was promised"

HOLDERS: Final = 3
SURE: Final = 0.79
"""Share of its TTL that a holder counts on: a leader's clock may run at 1.25 of the true rate (`clock-rate`)."""

LOOK_S: Final = 0.02


async def leases(trouble: Trouble) -> None:
    """Some clients hold one lease after the other, keep them alive through any node, and check what they are told."""
    seeds = [trouble.rng.getrandbits(64) for _ in range(HOLDERS)]
    await asyncio.gather(*(Holder(trouble, random.Random(seed)).run() for seed in seeds))


class Holder:
    """Has one lease at a time, and relies on it for the time that it was promised.

    `most_keeps`: how often a lease is kept alive at most. `pauses`: the time between two keep-alives, in TTLs.
    `ttls`: the TTL of a lease, in election timeouts.
    """

    def __init__(
        self,
        trouble: Trouble,
        rng: random.Random,
        *,
        most_keeps: int = 8,
        pauses: tuple[float, float] = (0.1, 0.7),
        ttls: tuple[float, float] = (1.0, LEASE_ELECTIONS),
    ) -> None:
        self._trouble = trouble
        self._rng = rng
        self._loop = trouble.cluster.loop
        self._lease = 0
        self._ttl_ms = 0
        self._sure_s = 0.0
        """Until then the lease exists, by what was promised."""
        self._known = 0
        """A node that has applied this index has applied the grant."""
        self._leaps = 0
        self._most_keeps = most_keeps
        self._pauses = pauses
        self._ttls = ttls

    async def run(self) -> None:
        while True:
            await self._trouble.wait(1.0)
            if await self._grant():
                for _ in range(self._rng.randint(0, self._most_keeps)):
                    await self._pass(self._rng.uniform(*self._pauses) * self._ttl_ms / 1000)
                    await self._keep_alive()
                await self._pass(self._rng.uniform(0.0, 1.5) * self._ttl_ms / 1000)
                self._sure_s = 0.0
                if self._rng.random() < 0.3:
                    await self._revoke()

    async def _revoke(self) -> None:
        command = encode_command(LeaseRevoke(self._lease))
        await ask_node(self._trouble, self._rng, lambda raft: raft.apply(command, timeout=1.0))

    async def _grant(self) -> bool:
        self._lease = self._rng.getrandbits(62) + 1
        self._ttl_ms = int(self._rng.uniform(*self._ttls) * self._trouble.election_s * 1000)
        command = encode_command(LeaseGrant(self._lease, self._ttl_ms))
        sent_s, leaps = self._loop.true_time(), self._loop.leaps
        answer = await ask_node(self._trouble, self._rng, lambda raft: raft.apply(command, timeout=1.0))
        if answer is None:
            return False
        _, applied = answer
        self._known, self._leaps = applied, leaps
        self._sure_s = sent_s + SURE * self._ttl_ms / 1000
        return True

    async def _keep_alive(self) -> None:
        sent_s, leaps, lease = self._loop.true_time(), self._loop.leaps, self._lease
        ttl_ms = await self.ask_for_time(lease)
        if ttl_ms is None:
            return
        if ttl_ms:
            self._sure_s, self._leaps = max(self._sure_s, sent_s + SURE * self._ttl_ms / 1000), leaps
        elif self._is_sure():
            self._broken("a keep-alive was answered that it is gone")

    async def ask_for_time(self, lease: int) -> int | None:
        """Keep a lease alive on some node: its full time in ms, 0 if there is no such lease, None without an answer."""
        answer = await ask_node(
            self._trouble, self._rng, lambda raft: lease_calls(self._trouble, raft).keep_alive([lease], 1.0)
        )
        if answer is None:
            return None
        [time], _ = answer
        return time.ttl_ms

    async def _pass(self, seconds: float) -> None:
        """Let time pass, and look at each node that must have the lease."""
        end_s = self._loop.true_time() + seconds
        while self._loop.true_time() < end_s:
            await asyncio.sleep(LOOK_S)
            if self._is_sure():
                for server in self._trouble.cluster.running:
                    self._look(server)

    def _look(self, server: SimServer) -> None:
        machine, driver = server.machine, server.driver
        if driver is None or not isinstance(machine, KvMachine) or server.lost or server.twin_of is not None:
            return
        if driver.applied >= self._known and self._lease not in machine.store.leases:
            self._broken(f"{server.name} has ended it")

    def _is_sure(self) -> bool:
        # A clock that leaps has no rate: a real one does not.
        return self._loop.true_time() < self._sure_s and self._leaps == self._loop.leaps

    def _broken(self, what: str) -> None:
        self._trouble.broken(
            LASTS,
            f"the lease {self._lease:016x} of {self._ttl_ms} ms: {what}, {self._sure_s - self._loop.true_time():.3f} s"
            " before its holder is unsure of it",
        )
        self._sure_s = 0.0
