"""Equal states and equal times of entries at equal indexes, on all nodes, after restarts and snapshots too."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable
from typing import TypeAlias

from syncline.node.fsm import FSM
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember
from syncline.testing.sim.machine import SimMachine

__all__ = ["Digest", "EqualStates", "NoAlarm", "TimesOfEntries"]

Digest: TypeAlias = Callable[[FSM[object], int], int | None]
"""The digest of a state machine as of an index that its node has applied; None if it can't tell."""


class EqualStates(Invariant):
    """The digests of two state machines that have applied the same index are equal (state machine safety)."""

    name = "equal states"

    def __init__(self, facts: Facts, verdict: Verdict, digest: Digest) -> None:
        super().__init__(facts, verdict)
        self._digest = digest
        self._digests: dict[int, tuple[int, str]] = {}

    def applied(self, view: WatchedMember) -> None:
        index = view.driver.applied
        digest = self._digest(view.driver.parts.machine._fsm, index)
        if digest is None:
            return
        first, name = self._digests.setdefault(index, (digest, view.name))
        if first != digest:
            self.broken(f"after entry {index} {view.name} has the state {digest:x}, and {name} had {first:x}")


class NoAlarm(Invariant):
    """No node reports that the voters' digests differ: in a sound cluster they are equal."""

    name = "digests agree"

    def applied(self, view: WatchedMember) -> None:
        if alarm := view.driver.digests.alarm:
            self.broken(f"{view.name} says: {alarm}")


class TimesOfEntries(Invariant):
    """All state machines are given an entry with the same time and seed, and times never fall along the log."""

    name = "times of entries never fall, and are equal"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._known: dict[int, tuple[float, int, str]] = {}
        """By index: time and seed, and the node that was given them first."""
        self._indexes: list[int] = []

    def applied(self, view: WatchedMember) -> None:
        machine = view.driver.parts.machine._fsm
        if isinstance(machine, SimMachine):
            given, machine.times = machine.times, []
            for index, time_s, seed in given:
                self._look(view.name, index, time_s, seed)

    def _look(self, name: str, index: int, time_s: float, seed: int) -> None:
        first = self._known.setdefault(index, (time_s, seed, name))
        if first[:2] != (time_s, seed):
            self.broken(f"entry {index} has time {time_s} and seed {seed} on {name}, and {first[:2]} on {first[2]}")
        place = bisect(self._indexes, index)
        if place and self._indexes[place - 1] == index:
            return
        self._indexes.insert(place, index)
        times = [self._known[near][0] for near in self._indexes[max(0, place - 1) : place + 2]]
        if times != sorted(times):
            self.broken(f"the times around entry {index} fall: {times}, first seen on {name}")
