"""Memberships: one change at a time, the same on all nodes, each sharing a quorum with the one before it."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.consensus.types import Entry, EntryType, MembershipState, NodeId, StateType
from syncline.testing.invariants.base import Invariant, View

__all__ = ["MembershipsOverlap", "OneChangeAtATime"]


class OneChangeAtATime(Invariant):
    """A leader's log holds at most one change of the membership that is not committed (thesis, 4.1)."""

    name = "one uncommitted change"

    def appended(self, view: View, entries: Sequence[Entry]) -> None:
        core = view.core
        if core.state is not StateType.LEADER or all(entry.type is EntryType.NORMAL for entry in entries):
            return
        log = core.raft.log
        low = max(core.commit + 1, log.first_index)
        tail = log.slice(low, log.last_index + 1, 1 << 40) if low <= log.last_index else ()
        changes = [entry.index for entry in tail if entry.type is not EntryType.NORMAL]
        if len(changes) > 1:
            self.broken(f"{view.name} has {len(changes)} uncommitted changes of the membership, at {changes}")


class MembershipsOverlap(Invariant):
    """Every quorum of a membership shares a node with every quorum of the one before it (thesis, 4.1 and 4.3)."""

    name = "memberships share a quorum"

    def changed(self, view: View, index: int, membership: MembershipState) -> None:
        known = self.facts.memberships
        first = known.get(index)
        if first is not None:
            if first != membership:
                self.broken(f"{view.name} has {membership} from entry {index} on, and others {first}")
            return
        known[index] = membership
        earlier = [other for other in known if other < index]
        later = [other for other in known if other > index]
        if earlier and not _overlap(known[max(earlier)], membership):
            self.broken(f"a quorum of {known[max(earlier)]} and one of {membership}, at {index}, have nobody in common")
        if later and not _overlap(membership, known[min(later)]):
            self.broken(f"a quorum of {membership}, at {index}, and one of {known[min(later)]} have nobody in common")

    def installed(self, view: View, index: int, membership: MembershipState) -> None:
        changes = [other for other in self.facts.memberships if other <= index]
        if changes and self.facts.memberships[max(changes)] != membership:
            expected = self.facts.memberships[max(changes)]
            self.broken(f"{view.name} took {membership} from a snapshot at {index}, where it was {expected}")


def _overlap(one: MembershipState, other: MembershipState) -> bool:
    return any(
        _majorities_overlap(half, other_half)
        for half in (one.voters, one.voters_outgoing)
        for other_half in (other.voters, other.voters_outgoing)
    ) or not (one.voters and other.voters)


def _majorities_overlap(one: Sequence[NodeId], other: Sequence[NodeId]) -> bool:
    return bool(one and other) and (len(one) // 2 + 1) + (len(other) // 2 + 1) > len({*one, *other})
