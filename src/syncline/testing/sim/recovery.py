"""After the faults: repair everything that an operator can repair; then the cluster must recover by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from syncline.errors import OperationError
from syncline.kv.machine import KvMachine
from syncline.testing.cluster import SimCluster
from syncline.testing.invariants.base import Facts, Verdict
from syncline.testing.sim.disk import CAPACITY_BYTES
from syncline.testing.sim.operations import PATIENCE_S, Operator
from syncline.testing.sim.server import Condition, SimServer

__all__ = ["LEASES_END", "LEASE_ELECTIONS", "LONGEST_TTL_S", "FinalRecovery"]

LEASES_END: Final = "leases end after the faults"

LEADER_ELECTIONS: Final = 10
"""Within so many election timeouts after the links are back there must be a leader that a majority follows."""

LINKS_S: Final = 2.5
"""Links are back so soon: the longest pause before a redial, a greeting that is sent again, and the answer."""

CATCH_UP_ELECTIONS: Final = 40
"""Within so many every member has everything: a snapshot, and the log behind it, may be needed."""

STALLED_S: Final = 10.0
"""A link that was dead for a while is noticed so late: see `TransportLimits.stall_timeout_s`."""

ANSWER_S: Final = 0.5
"""A deadline is looked at with the ticks: so much later it is noticed at the latest."""

OPERATOR_S: Final = 120.0
"""So soon every change that an operator still has to make is made: far more than several snapshots take."""

LEASE_ELECTIONS: Final = 6
"""The longest time to live of the leases of a run, but for those of etcd's interface."""

LONGEST_TTL_S: Final = 4
"""The same of etcd's interface, where a time to live has whole seconds, two of them at least."""

LEASE_END_S: Final = 3.0
"""Keep-alives and grants that are under way when the clients stop, and an end that is proposed again."""

SLOWEST_CLOCK: Final = 0.8
"""The rate of the slowest clock: its election timeouts take that much longer."""


class FinalRecovery:
    """The last phase of a run."""

    def __init__(self, cluster: SimCluster, operator: Operator, facts: Facts, verdict: Verdict) -> None:
        self._cluster = cluster
        self._operator = operator
        self._facts = facts
        self._verdict = verdict

    def calm(self) -> None:
        """End all faults, and have every process run that can."""
        cluster = self._cluster
        cluster.note("run", "calm")
        cluster.heal()
        cluster.delays.clear()
        for server in cluster.servers.values():
            server.disk.heal()
            server.disk.before = None
            server.disk.capacity_bytes = CAPACITY_BYTES
            if server.paused:
                server.resume()
            if not server.up and not server.retired and not server.lost:
                server.start()

    async def leader(self) -> None:
        """There must be one soon."""
        limit_s = LINKS_S + LEADER_ELECTIONS * self._cluster.settings.election_s / SLOWEST_CLOCK
        try:
            await self._cluster.leader(timeout_s=limit_s)
        except TimeoutError as error:
            self._verdict.broken("a leader after the faults", str(error))

    async def members(self) -> None:
        """Finish what operators have begun: replace members that are lost, and remove those that were to go."""
        starting = self._cluster.servers.values()
        await self._cluster.until(
            lambda: all(server.condition is not Condition.STARTING for server in starting), timeout_s=STALLED_S
        )
        try:
            async with asyncio.timeout(OPERATOR_S):
                await self._finish_changes()
        except OperationError:  # some are `TimeoutError`s: they are faults of the operator here
            raise
        except TimeoutError:
            self._verdict.broken("changes of the membership after the faults", f"not within {OPERATOR_S:g} s")
        servers = [server for server in self._cluster.running if not server.retired]
        if not all(self._is_member(server) and not server.leaving for server in servers):
            await asyncio.sleep(PATIENCE_S)  # what was asked for last may still be on its way
        await self._joint_is_left()
        servers = list(self._cluster.servers.values())
        strangers = [server for server in servers if not self._is_member(server)]
        for server in servers:  # once the leader is gone, no server tells the members
            if server in strangers:
                server.retired = True
            if server.retired and server.up:
                server.crash()

    async def _joint_is_left(self) -> None:
        """A joint membership ends by itself, whatever became of the leader that entered it."""

        def left() -> bool:
            membership = self._operator.membership()
            return membership is not None and not membership.joint

        limit_s = CATCH_UP_ELECTIONS * self._cluster.settings.election_s
        try:
            await self._cluster.until(left, timeout_s=limit_s)
        except TimeoutError as error:
            self._verdict.broken("a joint membership is left", str(error))

    async def _finish_changes(self) -> None:
        for server in list(self._cluster.servers.values()):
            if server.condition is Condition.REFUSED or (server.lost and not server.retired):
                await self._operator.replace(server)
            elif server.retired and self._is_member(server):
                await self._operator.remove(server)

    def _is_member(self, server: SimServer) -> bool:
        membership = self._operator.membership()
        return membership is not None and self._cluster.node_id(server) in membership.members

    async def answers(self, unanswered: Callable[[], list[str]], timeout_s: float) -> None:
        """Every request that a living process took is answered: at its own deadline at the latest, by its own clock."""
        limit_s = timeout_s / SLOWEST_CLOCK + ANSWER_S
        try:
            await self._cluster.until(lambda: not unanswered(), timeout_s=limit_s)
        except TimeoutError:
            self._verdict.broken("every request is answered", unanswered()[0])

    async def leases(self) -> None:
        """Every lease that no client keeps alive ends: its time, two elections, and what was under way."""
        cluster = self._cluster
        election_s = cluster.settings.election_s
        limit_s = LEASE_END_S + (max(LEASE_ELECTIONS * election_s, LONGEST_TTL_S) + 2 * election_s) / SLOWEST_CLOCK

        def ended() -> bool:
            machines = [server.machine for server in cluster.running if not server.retired]
            return all(not isinstance(machine, KvMachine) or not machine.store.leases for machine in machines)

        try:
            await cluster.until(ended, timeout_s=limit_s)
        except TimeoutError as error:
            self._verdict.broken(LEASES_END, str(error))

    async def catch_up(self) -> None:
        """Every member applies everything."""
        cluster = self._cluster
        limit_s = STALLED_S + CATCH_UP_ELECTIONS * cluster.settings.election_s

        def caught_up() -> bool:
            drivers = [server.driver for server in cluster.servers.values() if not server.retired]
            last = self._facts.last_committed
            return all(driver is not None and driver.applied == last for driver in drivers)

        try:
            await cluster.until(caught_up, timeout_s=limit_s)
        except TimeoutError as error:
            self._verdict.broken("all catch up after the faults", str(error))
