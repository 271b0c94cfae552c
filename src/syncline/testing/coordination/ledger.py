"""What client processes hold, as they believe themselves, compared with each other and with what was applied.

A process believes that it holds a lock while it is in the block and `check` raises nothing. It is asked from outside,
inside its process and by its own clock, also while it is paused: that is what it would believe if it woke now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from syncline.errors import LeaseLost
from syncline.testing.cluster import SimCluster
from syncline.testing.coordination.resource import FencedResource
from syncline.testing.invariants.base import Verdict
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.process import ClientProcess

__all__ = ["FENCED", "KEYS", "LEARNS", "LIVE", "ONE", "TOKENS", "Clocks", "Holding", "Ledger", "Contest"]

LIVE: Final = "a lock is entered while its lease lasts"
ONE: Final = "a lock has no more holders than places"
TOKENS: Final = "fencing tokens are given once, and grow"
KEYS: Final = "a holder that is told nothing has its key, and its turn"
FENCED: Final = "a fenced resource takes the writes of the holder"
LEARNS: Final = "a holder learns that it has lost"

LEARN_S: Final = 0.5
"""A process that runs leaves its block so soon after its time is over."""

UNSTEADY_S: Final = 12.0
"""For so long after a server's clock ran at another rate, or leapt, beliefs are not judged: no lease lasts longer."""

LEASE_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Contest:
    """A lock or an election: its keys' prefix, and how many may hold it at once."""

    prefix: bytes
    holders: int = 1

    def __str__(self) -> str:
        return self.prefix.decode()


@dataclass(eq=False, slots=True)
class Holding:
    """A process in the block of a lock, or in a term of leadership."""

    place: Contest
    process: ClientProcess
    token: int
    check: Callable[[], None]
    unsure_since_s: float | None = field(default=None)

    def __str__(self) -> str:
        return f"{self.process.name} with token {self.token}"


class Clocks:
    """Whether all clocks run as real ones do: a lease is counted by the leader's clock and by the holder's."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._unsteady_s: float | None = None
        self._leaps = cluster.loop.leaps

    def steady(self) -> bool:
        """Whether they have done so for long enough that no lease is left from before. Call it often."""
        cluster = self._cluster
        now_s = cluster.loop.true_time()
        rates = [server.process.rate for server in cluster.servers.values() if server.process is not None]
        if cluster.loop.leaps != self._leaps or any(rate != 1.0 for rate in rates):
            self._leaps, self._unsteady_s = cluster.loop.leaps, now_s
        return self._unsteady_s is None or now_s - self._unsteady_s > UNSTEADY_S


class Ledger:
    """All holds of a run. `look` compares; call it often."""

    def __init__(self, cluster: SimCluster, record: ChangeRecord, clocks: Clocks, verdict: Verdict) -> None:
        self.entered_count: int = 0
        """How many times a process came to hold something."""
        self.lost_count: int = 0
        """How many times a process was told that it has lost."""
        self._cluster = cluster
        self._record = record
        self._clocks = clocks
        self._verdict = verdict
        self._holds: list[Holding] = []
        self._newest: dict[Contest, int] = {}
        self._given: dict[Contest, dict[int, str]] = {}
        self._resources: dict[Contest, FencedResource] = {}

    def resource(self, place: Contest) -> FencedResource:
        """What a lock protects."""
        return self._resources.setdefault(place, FencedResource())

    @property
    def resources(self) -> Iterable[FencedResource]:
        """All that is protected."""
        return self._resources.values()

    # -- told by the processes -----------------------------------------------------------------------------------------

    def entered(self, place: Contest, process: ClientProcess, token: int, check: Callable[[], None]) -> Holding:
        """A process begins its block, in the step in which it got the lock: no time has passed since it looked."""
        hold = Holding(place, process, token, check)
        self.entered_count += 1
        given = self._given.setdefault(place, {})
        if token in given:
            self._broken(TOKENS, f"{place}: {hold} enters, and {given[token]} had this token")
        given[token] = process.name
        if not self._believes(hold):
            self._broken(LIVE, f"{place}: {hold} enters, and its time is over")
        newest = self._newest.get(place, 0)
        if place.holders == 1 and token < newest and self._clocks.steady():
            self._broken(TOKENS, f"{place}: {hold} enters, and token {newest} was given before")
        self._newest[place] = max(newest, token)
        self._holds.append(hold)
        self.look()
        return hold

    def left(self, hold: Holding) -> None:
        """The block is over; what the holder does now it does not protect any more."""
        if hold in self._holds:
            self._holds.remove(hold)
            self.lost_count += not self._believes(hold)

    def write(self, hold: Holding) -> None:
        """A holder that has just checked writes to the resource, and nothing lies in between."""
        if not self._believes(hold):
            return
        resource = self.resource(hold.place)
        if hold.place.holders == 1 and not resource.write(hold.token, hold.process.name) and self._clocks.steady():
            self._broken(
                FENCED, f"{hold.place}: {hold} is refused, and {resource.newest} of {resource.writer} is taken"
            )

    def write_late(self, hold: Holding) -> None:
        """A write arrives that was sent long ago: the resource may refuse it."""
        resource = self.resource(hold.place)
        if hold.place.holders == 1 and resource.write(hold.token, hold.process.name):
            writer = self._given[hold.place][hold.token]
            if writer != resource.writer:
                self._broken(FENCED, f"{hold.place}: token {hold.token} of {writer} is taken as {resource.writer}'s")

    # -- compared ------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Compare what processes believe with each other and with the applied state."""
        self._holds = [hold for hold in self._holds if not hold.process.node.killed]
        steady = self._clocks.steady()
        believed: dict[Contest, list[Holding]] = {}
        for hold in self._holds:
            if self._believes(hold):
                hold.unsure_since_s = None
                believed.setdefault(hold.place, []).append(hold)
            else:
                self._must_learn(hold)
        if not steady:
            return
        for place, holds in believed.items():
            if len(holds) > place.holders:
                names = ", ".join(map(str, holds))
                self._broken(ONE, f"{place} has {place.holders} at once, and is held by {names}")
            keys = self._keys(place)
            for hold in holds:
                older = sum(token < hold.token for token in keys)
                if hold.token not in keys or older >= place.holders:
                    self._broken(KEYS, f"{place}: {hold} holds it, and the tokens of its keys are {sorted(keys)}")

    def _believes(self, hold: Holding) -> bool:
        if hold.process.node.killed:
            return False
        with self._cluster.loop.inside(hold.process.node):
            try:
                hold.check()
            except LeaseLost:
                return False
        return True

    def _must_learn(self, hold: Holding) -> None:
        now_s = self._cluster.loop.true_time()
        if hold.process.node.paused:
            hold.unsure_since_s = None
        elif hold.unsure_since_s is None:
            hold.unsure_since_s = now_s
        elif now_s - hold.unsure_since_s > LEARN_S:
            self._broken(LEARNS, f"{hold.place}: {hold} has lost it {LEARN_S:g} s ago, and goes on in its block")

    def _keys(self, place: Contest) -> list[int]:
        """The create revisions of the keys of a lock, in the newest state that any node has applied."""
        return [
            record.create_revision
            for key, record in self._record.present.items()
            if key.startswith(place.prefix) and len(key) == len(place.prefix) + LEASE_DIGITS
        ]

    def _broken(self, invariant: str, text: str) -> None:
        self._verdict.broken(invariant, text)
