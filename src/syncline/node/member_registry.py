"""The member registry: names and addresses for the ids of the consensus core.

It is replicated state of the runtime's own: changed only by applied entries, carried in every snapshot.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from syncline.consensus.types import MembershipState
from syncline.node.envelope import ClusterLevels, MemberRecord, WallTime
from syncline.node.ids import NodeId
from syncline.node.starts.incarnations import are_forked

__all__ = [
    "MemberRegistry",
    "Member",
    "Membership",
    "derive_cluster_id",
    "derive_node_id",
    "format_id",
    "is_founder",
    "parse_id",
    "time_of",
]

REMOVED_KEPT = 1024
"""Ids of removed members that are kept, oldest dropped first, so that a removed node gets that reason."""


class Member(msgspec.Struct, frozen=True):
    """One member of the membership in force. `promote`: a learner that becomes a voter once it has caught up."""

    id: NodeId
    name: str
    address: str
    http: str
    voter: bool
    promote: bool = False
    level: int = 0
    """The highest feature level that it can do; 0: not known yet."""
    machine_version: int = 0

    @property
    def role(self) -> Literal["voter", "learner"]:
        """`voter`, or `learner`."""
        return "voter" if self.voter else "learner"


class Membership(msgspec.Struct, frozen=True):
    """The members of the cluster. `index` is the log index of the last change that was applied here.

    Pass `index` to a membership call to make it conditional on an unchanged membership. `joint` is true while a
    change of several voters is under way.
    """

    index: int
    members: dict[int, Member]
    """By id (`NodeId`)."""
    joint: bool

    def by_name(self, name: str) -> Member | None:
        """Return the member of this name.

            b = raft.membership().by_name("b")

        None if there is none.
        """
        return next((member for member in self.members.values() if member.name == name), None)


class RegistryState(msgspec.Struct, array_like=True, frozen=True):
    """The registry in a snapshot."""

    membership_index: int
    members: tuple[MemberRecord, ...]
    removed: tuple[int, ...]
    levels: ClusterLevels = ClusterLevels()
    time_s: WallTime = 0.0


class MemberRegistry:
    """Names and addresses by id, and the ids that were removed."""

    def __init__(self) -> None:
        self.membership_index: int = 0
        self.members: dict[int, MemberRecord] = {}
        self.removed: dict[int, None] = {}
        self.levels: ClusterLevels = ClusterLevels()
        self.time_s: float = 0.0
        """The newest time of an applied entry; 0: none had a stamp."""

    def announce(self, member: MemberRecord) -> bool:
        """Apply a member's announcement about itself; return whether it changed the registry.

        Nothing changes if it is about another data directory than the known one, which never changes. The same holds
        if it is from an earlier start than the newest that has announced itself, or from a fork of that one.
        """
        known = self.members.get(member.id)
        if member.id in self.removed or known == member:
            return False
        if known is not None:
            if known.directory not in (0, member.directory) or member.incarnation < known.incarnation:
                return False
            if are_forked(known.incarnation, member.incarnation):
                return False
            member = msgspec.structs.replace(member, promote=known.promote)
        self.members[member.id] = member
        return True

    def changed(
        self,
        index: int,
        membership: MembershipState,
        brought: tuple[MemberRecord, ...],
        updated: frozenset[int] = frozenset(),
    ) -> None:
        """Record that a change was applied at `index`, and that `membership` is now in force.

        `brought` has a record for each member of the change. Of a known member only `promote` is taken: the rest may
        be older than its last announcement. For those in `updated`, the address is taken too, unless a newer start
        has announced itself.
        """
        self.membership_index = index
        present = members_of(membership)
        for member in brought:
            if member.id in present:
                self.members[member.id] = self._merged(member, member.id in updated)
                self.removed.pop(member.id, None)
        for gone in sorted(known for known in self.members if known not in present):  # in one order on all nodes
            del self.members[gone]
            self.removed[gone] = None
        while len(self.removed) > REMOVED_KEPT:
            del self.removed[next(iter(self.removed))]

    def _merged(self, brought: MemberRecord, updated: bool) -> MemberRecord:
        known = self.members.get(brought.id)
        if known is None:
            return brought
        if updated:
            return msgspec.structs.replace(known, address=brought.address) if self.is_current(brought) else known
        return msgspec.structs.replace(known, promote=brought.promote)

    def is_current(self, record: MemberRecord) -> bool:
        """Whether a record is of the start and the data directory that are known of its member."""
        known = self.members.get(record.id)
        return known is not None and (known.directory, known.incarnation) == (record.directory, record.incarnation)

    def label(self, node_id: int, name: str = "") -> str:
        """A node for people, by name and id. `name` is the one that it claims, if it may not be a member."""
        known = self.members.get(node_id)
        return f"{name or (known.name if known is not None else '') or '?'} ({format_id(node_id)})"

    def dump(self) -> bytes:
        members = tuple(self.members[key] for key in sorted(self.members))
        fields = (self.membership_index, members, tuple(self.removed), self.levels)
        # No entry has a stamp below the level that knows them: the registry then has the form of that level.
        return msgspec.msgpack.encode((*fields, self.time_s) if self.time_s else fields)

    def load(self, data: bytes) -> None:
        """Replace the registry by that of a snapshot."""
        state = msgspec.msgpack.decode(data, type=RegistryState)
        self.membership_index = state.membership_index
        self.members = {member.id: member for member in state.members}
        self.removed = dict.fromkeys(state.removed)
        self.levels = state.levels
        self.time_s = state.time_s

    def membership(self, state: MembershipState) -> Membership:
        """The membership in force, with names and addresses."""
        members: dict[int, Member] = {
            NodeId(node_id): self.member(node_id, state) for node_id in sorted(members_of(state))
        }
        return Membership(index=self.membership_index, members=members, joint=bool(state.voters_outgoing))

    def member(self, node_id: int, state: MembershipState) -> Member:
        """A node of the membership in force; without a name and an address if they are not known."""
        known = self.members.get(node_id) or MemberRecord(id=node_id, name="", address="")
        return Member(
            id=NodeId(node_id),
            name=known.name,
            address=known.address,
            http=known.http,
            voter=node_id in state.voters or node_id in state.voters_outgoing,
            promote=known.promote,
            level=known.level,
            machine_version=known.machine_version,
        )


def time_of(registry: bytes) -> float:
    """The newest time of an entry in a snapshot, from the registry in its manifest; 0: no entry had a stamp."""
    return msgspec.msgpack.decode(registry, type=RegistryState).time_s


def members_of(state: MembershipState) -> set[int]:
    """All members of a membership, voters and learners, both halves of a joint one."""
    return {*state.voters, *state.voters_outgoing, *state.learners, *state.learners_next}


def derive_cluster_id(token: str, peers: dict[str, str]) -> int:
    """The id of a cluster that is bootstrapped from this token and these peers: equal on all of them."""
    parts = [token, *(f"{name}={peers[name]}" for name in sorted(peers))]
    return _hash63("cluster", *parts)


def derive_node_id(cluster_id: int, name: str) -> int:
    """The id of a member that the cluster was bootstrapped with."""
    return _hash63("node", str(cluster_id), name)


def is_founder(node_id: int, cluster_id: int, name: str) -> bool:
    """Whether a member is an initial member of the cluster."""
    return node_id == derive_node_id(cluster_id, name)


def _hash63(*parts: str) -> int:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 1) or 1


def format_id(value: int) -> str:
    """The text of an id: sixteen hexadecimal digits."""
    return f"{value:016x}"


def parse_id(text: str) -> int:
    """The id behind `format_id`'s text. Raises ValueError."""
    value = int(text, 16)
    if not 0 < value < 2**63:
        raise ValueError(f"{text!r} is not an id")
    return value
