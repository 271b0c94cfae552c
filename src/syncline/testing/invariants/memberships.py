"""Memberships: one change at a time, the same on all nodes, each sharing a quorum with the one before it."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.consensus.types import ChangeType, EntryType, LogEntry, MembershipState, NodeId, StateType
from syncline.testing.cluster import Answer
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember

__all__ = [
    "AnsweredChangeIsCommitted",
    "AnsweredChangeIsDurable",
    "EqualRegistries",
    "MembersAreListed",
    "MembershipsOverlap",
    "OneChangeAtATime",
    "SnapshotMembership",
]


class OneChangeAtATime(Invariant):
    """A leader's log holds at most one change of the membership that is not committed (thesis, 4.1)."""

    name = "one uncommitted change"

    def appended(self, view: WatchedMember, entries: Sequence[LogEntry]) -> None:
        core = view.core
        if core.state is not StateType.LEADER or all(entry.type is EntryType.NORMAL for entry in entries):
            return
        log = core.raft.log
        low = max(core.commit_index + 1, log.first_index)
        tail = log.slice(low, log.last_index + 1, 1 << 40) if low <= log.last_index else ()
        changes = [entry.index for entry in tail if entry.type is not EntryType.NORMAL]
        if len(changes) > 1:
            self.broken(f"{view.name} has {len(changes)} uncommitted changes of the membership, at {changes}")


class MembershipsOverlap(Invariant):
    """Every quorum of a membership shares a node with every quorum of the one before it (thesis, 4.1 and 4.3)."""

    name = "memberships share a quorum"

    def started(self, view: WatchedMember) -> None:
        raft = view.core.raft
        self._check(view, "starts with", raft.log.applied, raft.tracker.configuration.state())

    def changed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
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

    def installed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        self._check(view, "took", index, membership)

    def _check(self, view: WatchedMember, how: str, index: int, membership: MembershipState) -> None:
        changes = [other for other in self.facts.memberships if other <= index]
        if changes and self.facts.memberships[max(changes)] != membership:
            expected = self.facts.memberships[max(changes)]
            self.broken(f"{view.name} {how} {membership} from a snapshot at {index}, where it was {expected}")


class SnapshotMembership(Invariant):
    """A snapshot holds the membership in force at its index: no later one, and none that is not committed."""

    name = "a snapshot has the membership of its index"

    def snapshotted(self, view: WatchedMember, index: int, membership: MembershipState) -> None:
        changes = [other for other in self.facts.memberships if other <= index]
        if changes and self.facts.memberships[max(changes)] != membership:
            expected = self.facts.memberships[max(changes)]
            self.broken(f"{view.name} writes {membership} into a snapshot at {index}, where it is {expected}")


class AnsweredChangeIsCommitted(Invariant):
    """A change of the membership is answered once it is in force, not when it is appended."""

    name = "an answered change is committed"

    def answered(self, name: str, answer: Answer) -> None:
        index = answer.membership.index
        if index not in self.facts.committed:
            self.broken(f"{name} answers with the membership of entry {index}, which is not committed")
        known = self.facts.memberships
        began = max((other for other in known if other <= answer.since), default=0)
        meanwhile = [state for other, state in known.items() if began <= other <= index]
        for kind, node_id in answer.changes:
            if not any(_is_so(state, kind, node_id) for state in meanwhile):
                what = f"{kind.name.lower()} {self.facts.name(node_id)}"
                self.broken(f"{name} answers that the change is made: {what}. No membership has it up to entry {index}")


def _is_so(state: MembershipState, kind: ChangeType, node_id: NodeId) -> bool:
    """Whether a membership is as a change wants it, the new half of a joint one."""
    if kind is ChangeType.ADD_NODE:
        return node_id in state.voters
    if kind is ChangeType.ADD_LEARNER_NODE:
        return node_id in state.learners or node_id in state.learners_next
    return node_id not in (*state.voters, *state.learners, *state.learners_next)


class AnsweredChangeIsDurable(Invariant):
    """When a change is answered, a quorum of the new membership knows durably that it is committed.

    Otherwise a crash of those that stay puts the old membership back, of which no quorum may be left.
    """

    name = "an answered change is durable"

    def answered(self, name: str, answer: Answer) -> None:
        views, known_changes = self.facts.views, self.facts.memberships
        later = [index for index in known_changes if index >= answer.membership.index]
        index = next((index for index in sorted(later) if not known_changes[index].voters_outgoing), 0)
        if not index:
            if later:
                self.broken(f"{name} answers with the joint membership of entry {min(later)}, which is not left yet")
            return
        state = known_changes[index]
        known = [voter for voter in state.voters if voter in views and views[voter].knows_committed(index)]
        if 2 * len(known) <= len(state.voters):
            names = " ".join(map(self.facts.name, known)) or "none"
            self.broken(
                f"{name} answers with the membership of entry {index}: of its {len(state.voters)} voters {names}"
                " would know after a crash that it is in force"
            )


class MembersAreListed(Invariant):
    """A node lists the members of the membership in force: all of them, in their roles, while it is joint too."""

    name = "members are listed"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._seen: dict[WatchedMember, object] = {}

    def applied(self, view: WatchedMember) -> None:
        configuration = view.core.raft.tracker.configuration
        if self._seen.get(view) is configuration:
            return
        self._seen[view] = configuration
        self._check(view, configuration.state())

    def changed(self, view: WatchedMember, index: int, membership: MembershipState) -> None:  # noqa: ARG002
        """A joint membership may be over before the next look."""
        self._check(view, membership)

    def _check(self, view: WatchedMember, state: MembershipState) -> None:
        listed = view.driver.parts.book.membership(state)
        roles = dict.fromkeys((*state.learners, *state.learners_next), False)
        roles.update(dict.fromkeys((*state.voters, *state.voters_outgoing), True))
        seen = {node_id: member.voter for node_id, member in listed.members.items()}
        if seen != roles or listed.joint != bool(state.voters_outgoing):
            self.broken(f"{view.name} lists {listed}, and in force is {state}")


class EqualRegistries(Invariant):
    """The member registries of two nodes that have applied the same index are equal.

    A node that has accepted a snapshot and not loaded it is left out. The membership in force is that of the snapshot
    already, so older changes have no effect. The snapshot's registry will take the place of this one.
    """

    name = "equal member registries"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._registries: dict[int, tuple[bytes, str]] = {}

    def applied(self, view: WatchedMember) -> None:
        if view.driver.restoring:
            return
        index, registry = view.driver.applied, view.driver.parts.book.dump()
        first, name = self._registries.setdefault(index, (registry, view.name))
        if first != registry:
            self.broken(f"after entry {index} {view.name} has the members {registry!r}, and {name} had {first!r}")


def _overlap(one: MembershipState, other: MembershipState) -> bool:
    return any(
        _majorities_overlap(half, other_half)
        for half in (one.voters, one.voters_outgoing)
        for other_half in (other.voters, other.voters_outgoing)
    ) or not (one.voters and other.voters)


def _majorities_overlap(one: Sequence[NodeId], other: Sequence[NodeId]) -> bool:
    return bool(one and other) and (len(one) // 2 + 1) + (len(other) // 2 + 1) > len({*one, *other})
