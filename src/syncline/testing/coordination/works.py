"""Work that is done by one of many processes: items of a queue, and functions that run once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from syncline.errors import LeaseLost
from syncline.testing.cluster import SimCluster
from syncline.testing.coordination.ledger import Clocks
from syncline.testing.invariants.base import Verdict
from syncline.testing.sim.changes import ChangeRecord
from syncline.testing.sim.process import ClientProcess

__all__ = ["ITEMS", "ONCE", "Claimed", "Items", "Runs"]

ITEMS: Final = "each item of a queue is finished once"
ONCE: Final = "a function runs once"


@dataclass(eq=False, slots=True)
class Claimed:
    """A process in the block of a claim."""

    item: str
    process: ClientProcess
    check: Callable[[], None]


class Items:
    """The items of one queue, as those that put and claim them know them."""

    def __init__(self, cluster: SimCluster, record: ChangeRecord, clocks: Clocks, verdict: Verdict) -> None:
        self.put: dict[str, None] = {}
        """Those whose `put` was acknowledged."""
        self.finished: Counter[str] = Counter()
        self.lost_claims: int = 0
        """How many blocks have ended with `LeaseLost`."""
        self._doubtful: dict[str, None] = {}
        self._ending: dict[Claimed, None] = {}
        """Claims whose block is over. A process that is killed now may have finished the item."""
        self._claims: list[Claimed] = []
        self._cluster = cluster
        self._record = record
        self._clocks = clocks
        self._verdict = verdict

    def claimed(self, item: str, process: ClientProcess, check: Callable[[], None]) -> Claimed:
        """A process begins the block of its claim."""
        claim = Claimed(item, process, check)
        if self.finished[item]:
            self._verdict.broken(ITEMS, f"{process.name} claims {item}, which was finished before")
        self._claims.append(claim)
        self.look()
        return claim

    def left(self, claim: Claimed) -> None:
        """The block is over; its end is still to come."""
        if claim in self._claims:
            self._claims.remove(claim)
        self._ending[claim] = None

    def done(self, claim: Claimed) -> None:
        """The block has ended without an error: the item is finished."""
        self._ending.pop(claim, None)
        self.finished[claim.item] += 1
        if self.finished[claim.item] > 1:
            self._verdict.broken(ITEMS, f"{claim.process.name} has finished {claim.item}, as another claim had before")
        if any(claim.item.encode() in key for key in self._record.present):
            self._verdict.broken(ITEMS, f"{claim.process.name} has finished {claim.item}, and the item is there")

    def failed(self, claim: Claimed, error: Exception) -> None:
        """The block has ended with an error. Only after `LeaseLost` it is certain that nothing was finished."""
        self._ending.pop(claim, None)
        if isinstance(error, LeaseLost):
            self.lost_claims += 1
        else:
            self._doubtful[claim.item] = None

    def look(self) -> None:
        """Two processes never believe at once that they have claimed one item."""
        self._claims = [claim for claim in self._claims if not claim.process.node.killed]
        if not self._clocks.steady():
            return
        owners: dict[str, str] = {}
        for claim in self._claims:
            if self._believes(claim):
                if claim.item in owners:
                    both = f"{owners[claim.item]} and {claim.process.name}"
                    self._verdict.broken(ITEMS, f"{claim.item} is claimed by {both} at once")
                owners[claim.item] = claim.process.name

    def missing(self) -> list[str]:
        """Items that were put, and that no claim has finished, as far as is known."""
        doubtful = {*self._doubtful, *(claim.item for claim in self._ending)}
        return [item for item in self.put if not self.finished[item] and item not in doubtful]

    def _believes(self, claim: Claimed) -> bool:
        with self._cluster.loop.inside(claim.process.node):
            try:
                claim.check()
            except LeaseLost:
                return False
        return True


class Runs:
    """Functions that run once: what began, and what was completed."""

    def __init__(self, verdict: Verdict) -> None:
        self.started: Counter[str] = Counter()
        self.completed: Counter[str] = Counter()
        self._verdict = verdict

    def start(self, name: str, process: ClientProcess, *, most: int | None) -> None:
        """A run begins; at most so many may (None: any number)."""
        self.started[name] += 1
        if most is not None and self.started[name] > most:
            self._verdict.broken(ONCE, f"{process.name} begins {name}, which has begun {self.started[name]} times")

    def complete(self, name: str) -> None:
        """A run is complete."""
        self.completed[name] += 1

    def elsewhere(self, name: str, process: ClientProcess) -> None:
        """A caller with `rerun` is told that there is nothing to do any more."""
        if not self.completed[name]:
            self._verdict.broken(ONCE, f"{process.name} is told that {name} is done, and no run was completed")
