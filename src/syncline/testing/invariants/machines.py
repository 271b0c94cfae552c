"""Equal states and equal member registries at equal indexes, on all nodes, after restarts and snapshots too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from syncline.node.fsm import FSM
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember

__all__ = ["Digest", "EqualStates", "NoAlarm"]

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
