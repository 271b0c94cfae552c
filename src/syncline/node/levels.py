"""Levels: the formats that each member supports, and those that all of them may write. `docs/upgrades.md` is for
people.

There are two numbers, and they are never mixed: the *feature level* of Syncline (`version.FEATURE_LEVEL`), and the
*machine version* of the user's state machine (its attribute `machine_version`). Each member announces the highest
that it can do. The cluster's own levels are replicated in the member registry, and snapshots carry them.

- A level only rises, by an entry (`Kind.LEVEL`) that the leader proposes when all members can do it: learners and
  dead
  members too, and with no change of the membership pending. When the entry is applied, the registry at that index
  decides again: all nodes decide alike, and an entry that came too late has no effect.
- A node that can do less is refused at the greeting, and stops itself at its own start.
- Data that other members must read is written in the form of the cluster's level, never of the node's own level.

A level rises by itself, unless it is held: by `Config.hold_level` on the node that leads, or by a replicated hold
(`Raft.hold_upgrade`). `Raft.finalize_upgrade` releases the replicated hold and raises what all members can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec

from syncline.consensus.types import MembershipState, NodeId
from syncline.errors import ConfigError, NodeFailed
from syncline.node import ids
from syncline.node.envelope import FIRST_LEVEL, ClusterLevels, Hold, LevelChange, MemberRecord
from syncline.node.member_registry import members_of
from syncline.node.refusals import is_believed, refusing
from syncline.transport.messages import PeerStats, Refusal, RefusalCode
from syncline.version import __version__

__all__ = [
    "LEARNING_S",
    "Ability",
    "Levels",
    "MemberLevels",
    "UpgradeStatus",
    "ability_of",
    "agreed",
    "check_start",
    "risen",
    "why_not",
]

LARGEST_LEVEL: Final = 2**31
"""No number is larger: it is a mistake, or forged."""

LEARNING_S: Final = 5.0
"""How long a command may wait for what the members of a new cluster can do. Members that run tell it within a heartbeat
or two of the first election."""

MOST_NEEDED: Final = 64
"""Nodes that are remembered because they dialled in a cluster of higher levels: more than a cluster has voters."""


class Ability(msgspec.Struct, frozen=True):
    """The highest levels that a node can do. 0: not announced yet."""

    level: int
    machine_version: int


class MemberLevels(msgspec.Struct, frozen=True, kw_only=True):
    """The levels that one member has announced. 0: nothing yet."""

    id: ids.NodeId
    name: str
    level: int
    machine_version: int


class UpgradeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The levels of the cluster, as this node has applied them, and what its members can do."""

    level: int
    """The cluster's feature level."""
    machine_version: int
    """The cluster's machine version."""
    possible_level: int
    """The highest feature level that all members can do; 0 if one has not announced it yet."""
    possible_machine_version: int
    """The highest machine version that all members can do; 0 if one has not announced it yet."""
    held: bool
    """Whether a replicated hold is on."""
    hold_level: int
    """The setting of this node: while it leads, the feature level does not rise above it. 0: not set."""
    members: tuple[MemberLevels, ...]


class LevelRegistry(Protocol):
    """The part of the member registry that the levels use."""

    members: dict[NodeId, MemberRecord]
    levels: ClusterLevels


def ability_of(fsm: object, level: int) -> Ability:
    """The ability of a node with this state machine and this feature level of Syncline.

    Raises:
        ConfigError: the state machine's `machine_version` is not a version.
    """
    version = getattr(fsm, "machine_version", FIRST_LEVEL)
    if type(version) is not int or not FIRST_LEVEL <= version <= LARGEST_LEVEL:
        raise ConfigError(
            f"machine_version of {type(fsm).__name__} is {version!r}: it must be a whole number from {FIRST_LEVEL} on"
        )
    return Ability(level, version)


def agreed(members: Iterable[MemberRecord | None]) -> Ability:
    """The highest levels that all these members can do. None stands for a member that the registry does not know."""
    told = [(member.level, member.machine_version) if member is not None else (0, 0) for member in members]
    return Ability(*map(min, zip(*told, strict=True))) if told else Ability(0, 0)


def risen(levels: ClusterLevels, change: LevelChange, possible: Ability) -> ClusterLevels:
    """The cluster's levels after a committed change, if all members can do `possible` at that index.

    The result depends on the registry at that index alone, so that all nodes decide alike.
    """
    level = change.level if levels.level < change.level <= possible.level else levels.level
    version = levels.machine_version
    if version < change.machine_version <= possible.machine_version:
        version = change.machine_version
    rises = (level, version) != (levels.level, levels.machine_version)
    return ClusterLevels(
        level=level,
        machine_version=version,
        hold=levels.hold if change.hold is Hold.KEEP else change.hold is Hold.SET,
        written_by=change.written_by if rises else levels.written_by,
    )


def why_not(can: Ability, levels: ClusterLevels) -> str | None:
    """The reason why a node with this ability can't take part; None if it can. An unknown ability counts as the first
    level.
    """
    needs = []
    if max(can.level, FIRST_LEVEL) < levels.level:
        needs.append(f"level {levels.level}, and it can do level {can.level}")
    if max(can.machine_version, FIRST_LEVEL) < levels.machine_version:
        needs.append(
            f"machine version {levels.machine_version}, and its state machine can do version {can.machine_version}"
        )
    return f"needs {'; it needs '.join(needs)}; upgrade this node first" if needs else None


def check_start(name: str, node_id: NodeId, can: Ability, levels: ClusterLevels) -> None:
    """Raise NodeFailed if a node with this ability can't go on in a cluster of these levels."""
    reason = why_not(can, levels)
    if reason is not None:
        writer = levels.written_by or "a later version"
        raise NodeFailed(
            f"node {name} ({node_id:016x}) {reason}. The cluster rose to these levels under Syncline {writer}, and this"
            f" is Syncline {__version__}: a level never falls, so there is no way back to an older version"
        )


class Levels:
    """The levels as one running node knows and raises them.

    `membership` returns the membership in force, `propose` replicates a change and returns whether it was proposed,
    and `fail` stops the node.
    """

    def __init__(
        self,
        registry: LevelRegistry,
        can: Ability,
        *,
        name: str,
        node_id: NodeId,
        hold_level: int,
        membership: Callable[[], MembershipState],
        propose: Callable[[LevelChange], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.can = can
        self._registry = registry
        self._name = name
        self._node_id = node_id
        self.hold_level: int = hold_level
        self._membership = membership
        self._propose = propose
        self._fail = fail
        self._greeted: dict[NodeId, Ability] = {}
        """Abilities from the members' last greetings: newer than their announcements."""
        self._needed: dict[NodeId, str] = {}
        """The nodes that dialled in a cluster for which this node can do too little, and why it is too little."""

    @property
    def level(self) -> int:
        """The cluster's feature level: what others must read is written in its form."""
        return self._registry.levels.level

    @property
    def machine_version(self) -> int:
        """The cluster's machine version: no command of a later one may be proposed."""
        return self._registry.levels.machine_version

    def possible(self) -> Ability:
        """What all members can do, by their announcements at the applied index."""
        return agreed(self._registry.members.get(node_id) for node_id in members_of(self._membership()))

    def may_rise_to(self, machine_version: int) -> bool:
        """Whether the cluster's machine version may rise so far by itself: nothing holds it, and no member is known to
        be unable. A member that has announced nothing yet, as in a cluster that was just founded, may be able.
        """
        return self._may_rise(Ability(0, machine_version))

    def may_rise_to_level(self, level: int) -> bool:
        """The same for the cluster's feature level."""
        return self._may_rise(Ability(level, 0))

    def silent(self) -> list[str]:
        """The members that have not announced yet what they can do, by name or id."""
        return [member.name or f"{member.id:016x}" for member in self.status().members if not member.machine_version]

    def _may_rise(self, to: Ability) -> bool:
        held = self._registry.levels.hold or self.hold_level
        if held or self.can.level < to.level or self.can.machine_version < to.machine_version:
            return False
        members = (self._registry.members.get(node_id) for node_id in members_of(self._membership()))
        return all(
            member is None
            or (
                (member.level or to.level) >= to.level
                and (member.machine_version or to.machine_version) >= to.machine_version
            )
            for member in members
        )

    # -- on the leader ------------------------------------------------------------------------------------------------

    def raise_if_due(self) -> None:
        """Propose the levels that all members can do. For the leader, with no change of the membership pending."""
        members = members_of(self._membership())
        self._greeted = {node_id: told for node_id, told in self._greeted.items() if node_id in members}
        levels = self._registry.levels
        if levels.hold:
            return
        possible = self.possible()
        for told in self._greeted.values():  # a member that went back to an older version, and has not announced it yet
            possible = Ability(min(possible.level, told.level), min(possible.machine_version, told.machine_version))
        level, version = possible.level, possible.machine_version
        if self.hold_level:
            level, version = min(level, self.hold_level), levels.machine_version
        if level > levels.level or version > levels.machine_version:
            self._propose(LevelChange(level, version, written_by=__version__))

    def refuse_member(self, member: MemberRecord) -> str | None:
        """The reason to refuse a new member with this ability, if it is known; else None."""
        if not member.level or not member.machine_version:
            return None
        return why_not(Ability(member.level, member.machine_version), self._registry.levels)

    # -- on every node ------------------------------------------------------------------------------------------------

    def refuse(self, node_id: NodeId, name: str, level: int, machine_version: int) -> Refusal | None:
        """The reason to refuse a node with the levels of this greeting; None if it is welcome."""
        can = Ability(level, machine_version)
        reason = why_not(can, self._registry.levels)
        if reason is not None:
            return Refusal(f"node {name or '?'} ({node_id:016x}) {reason}", RefusalCode.LEVEL)
        if node_id in self._registry.members:
            self._greeted[node_id] = can
        return None

    def refuse_to_take_part(self, node_id: NodeId, level: int, machine_version: int) -> Refusal | None:
        """Refuse a node that dials in a cluster of levels above what this node can do; None if it can."""
        reason = why_not(self.can, ClusterLevels(level, machine_version))
        self._needed.pop(node_id, None)
        if reason is None:
            return None
        reason = f"node {self._name} ({self._node_id:016x}) {reason}"
        self._make_room_for(node_id)
        if len(self._needed) < MOST_NEEDED:
            self._needed[node_id] = reason
        return Refusal(reason)

    def _make_room_for(self, node_id: NodeId) -> None:
        """Drop made-up ids for a member: without a secret any program can dial under such ids."""
        members = members_of(self._membership())
        if len(self._needed) >= MOST_NEEDED and node_id in members:
            stranger = next((known for known in self._needed if known not in members), None)
            if stranger is not None:
                del self._needed[stranger]

    def look(self, links: Mapping[NodeId, PeerStats], *, nothing_to_lose: bool) -> None:
        """Stop this node if the cluster needs more than it can do, even if its own log does not show that yet.

        One node alone must not be able to stop others: see `refusals.is_believed`.
        """
        told = self._needed | {peer: refusal.reason for peer, refusal in refusing(links, RefusalCode.LEVEL).items()}
        if told and is_believed(told, self._membership(), self._node_id, nothing_to_lose=nothing_to_lose):
            reason = next(iter(told.values()))
            self._fail(NodeFailed(f"the cluster does not let this node take part: {reason}"))

    def applied(self, change: LevelChange) -> None:
        """Apply a committed change of the levels."""
        self._registry.levels = risen(self._registry.levels, change, self.possible())
        self.check()

    def check(self) -> None:
        """Stop the node if it can do less than the cluster's levels."""
        try:
            check_start(self._name, self._node_id, self.can, self._registry.levels)
        except NodeFailed as failure:
            self._fail(failure)

    def hold(self) -> LevelChange:
        """The change that holds the levels where they are, on all nodes."""
        return LevelChange(0, 0, Hold.SET, __version__)

    def finalize(self) -> LevelChange:
        """The change that releases the hold and raises the levels to what all members can do."""
        possible = self.possible()
        return LevelChange(max(0, possible.level), max(0, possible.machine_version), Hold.RELEASE, __version__)

    def status(self) -> UpgradeStatus:
        """The levels for people."""
        levels, possible = self._registry.levels, self.possible()
        known = [(node_id, self._registry.members.get(node_id)) for node_id in sorted(members_of(self._membership()))]
        return UpgradeStatus(
            level=levels.level,
            machine_version=levels.machine_version,
            possible_level=possible.level,
            possible_machine_version=possible.machine_version,
            held=levels.hold,
            hold_level=self.hold_level,
            members=tuple(
                MemberLevels(
                    id=ids.NodeId(node_id),
                    name=member.name if member is not None else "",
                    level=member.level if member is not None else 0,
                    machine_version=member.machine_version if member is not None else 0,
                )
                for node_id, member in known
            ),
        )
