"""Memberships: voters, learners, and the change from one membership to the next (thesis, chapter 4).

One voter at a time may be added or removed directly: any majority of the old and any of the new membership overlap
(thesis, 4.1). Everything else goes through a joint membership, in which both the old and the new majority must agree
(thesis, 4.3):

    simple:       voters=(1 2)      ->  voters=(1 2 3)
    enter joint:  voters=(1 2 3)    ->  voters=(1 4 5)&&(1 2 3)
    leave joint:  voters=(1 4 5)&&(1 2 3)  ->  voters=(1 4 5)

A voter of the outgoing half can't be a learner at the same time. A voter that becomes a learner waits in
`learners_next` until the joint membership is left.

A change is computed on copies: if it is refused, nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from syncline.consensus.progress import Progress
from syncline.consensus.quorum import JointConfig
from syncline.consensus.types import (
    LARGEST_ID,
    NONE,
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    NodeId,
    SingleChange,
    Transition,
)
from syncline.decoding import UNDECODABLE

__all__ = [
    "Changer",
    "Configuration",
    "MembershipRefused",
    "ProgressMap",
    "decode_change",
    "encode_change",
    "enters_joint",
    "leaves_joint",
    "restore",
]

ProgressMap: TypeAlias = dict[NodeId, Progress]


class MembershipRefused(Exception):
    """The change does not lead to a valid membership. The text says why; nothing has changed."""


class Configuration(msgspec.Struct, frozen=True):
    """A membership in force.

    Invariants: learners don't vote in either half; `learners_next` vote in the outgoing half and are not learners yet;
    `learners_next` and `auto_leave` are only set in a joint membership.
    """

    voters: JointConfig = JointConfig()
    learners: frozenset[NodeId] = frozenset()
    learners_next: frozenset[NodeId] = frozenset()
    auto_leave: bool = False
    """Whether the leader proposes to leave the joint membership as soon as it is applied."""

    def state(self) -> MembershipState:
        """The same as data."""
        return MembershipState(
            voters=tuple(self.voters.incoming),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(self.voters.outgoing),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )

    def __str__(self) -> str:
        text = f"voters={self.voters}"
        if self.learners:
            text += f" learners={_format_ids(self.learners)}"
        if self.learners_next:
            text += f" learners_next={_format_ids(self.learners_next)}"
        if self.auto_leave:
            text += " autoleave"
        return text


def leaves_joint(change: MembershipChange) -> bool:
    """Whether `change` asks to leave a joint membership: it holds no single change."""
    return change.transition is Transition.AUTO and not change.changes


def enters_joint(change: MembershipChange) -> bool:
    """Whether `change` goes through a joint membership: it asks for that, or changes several members."""
    return change.transition is not Transition.AUTO or len(change.changes) > 1


def encode_change(change: MembershipChange) -> bytes:
    """`change` as the data of an entry. Leaving a joint membership without a context is empty data."""
    if leaves_joint(change) and not change.context:
        return b""
    return msgspec.msgpack.encode(change, enc_hook=int)  # a public `NodeId` is written as the integer that it is


_change_decoder: Final = msgspec.msgpack.Decoder(MembershipChange)


def decode_change(entry: LogEntry) -> MembershipChange:
    """The change that a membership entry holds. Raises ValueError if its data is not one."""
    if entry.type is EntryType.CONF_CHANGE_V2 and not entry.data:
        return MembershipChange()
    try:
        change = _change_decoder.decode(entry.data)
    except UNDECODABLE as error:
        raise ValueError(f"not a membership change: {error}") from error
    if entry.type is EntryType.CONF_CHANGE and (len(change.changes) != 1 or change.transition is not Transition.AUTO):
        raise ValueError("a membership change of the first kind holds one change and no transition")
    if any(single.node_id < NONE for single in change.changes):
        raise ValueError("a membership change names a negative node id")
    return change


class Changer:
    """Computes the next membership.

    `make_progress(next, learner)` makes the progress of a new member; `last_index` is the last index of the leader's
    log, from which it starts to search the end of the new member's.
    """

    __slots__ = (
        "_incoming",
        "_learners",
        "_learners_next",
        "_make_progress",
        "_progress",
        "configuration",
        "last_index",
    )

    def __init__(
        self,
        configuration: Configuration,
        progress: Mapping[NodeId, Progress],
        last_index: int,
        make_progress: Callable[[int, bool], Progress] | None = None,
    ) -> None:
        self.configuration: Configuration = configuration
        self.last_index: int = last_index
        self._make_progress = make_progress or _plain_progress
        self._progress: ProgressMap = {node_id: one.copy() for node_id, one in progress.items()}
        self._incoming = set(configuration.voters.incoming.voters)
        self._learners = set(configuration.learners)
        self._learners_next = set(configuration.learners_next)

    def change(self, change: MembershipChange) -> tuple[Configuration, ProgressMap]:
        """The membership after `change`, and the progress of its members. Raises MembershipRefused."""
        if leaves_joint(change):
            return self.leave_joint()
        if enters_joint(change):
            return self.enter_joint(change.transition is not Transition.JOINT_EXPLICIT, change.changes)
        return self.simple(change.changes)

    def simple(self, changes: Iterable[SingleChange]) -> tuple[Configuration, ProgressMap]:
        """Carry out `changes` directly; at most one voter may change (thesis, 4.1)."""
        before = self.configuration.voters
        if before.joint:
            raise MembershipRefused("can't apply simple config change in joint config")
        self._apply(changes, outgoing=frozenset())
        if len(self._incoming ^ before.incoming.voters) > 1:
            raise MembershipRefused("more than one voter changed without entering joint config")
        return self._checked(Configuration(JointConfig(self._incoming), frozenset(self._learners)))

    def enter_joint(self, auto_leave: bool, changes: Iterable[SingleChange]) -> tuple[Configuration, ProgressMap]:
        """The joint membership of the present voters and of those after `changes` (thesis, 4.3)."""
        before = self.configuration.voters
        if before.joint:
            raise MembershipRefused("config is already joint")
        if not before.incoming:
            raise MembershipRefused("can't make a zero-voter config joint")
        outgoing = before.incoming.voters
        self._apply(changes, outgoing)
        return self._checked(
            Configuration(
                JointConfig(self._incoming, outgoing),
                frozenset(self._learners),
                frozenset(self._learners_next),
                auto_leave,
            )
        )

    def leave_joint(self) -> tuple[Configuration, ProgressMap]:
        """The incoming half alone, with the learners that waited for it (thesis, 4.3)."""
        before = self.configuration.voters
        if not before.joint:
            raise MembershipRefused("can't leave a non-joint config")
        self._learners |= self._learners_next
        for node_id in self._learners_next:
            self._progress[node_id].learner = True
        for node_id in before.outgoing.voters - self._incoming - self._learners:
            del self._progress[node_id]
        return self._checked(Configuration(JointConfig(self._incoming), frozenset(self._learners)))

    def _apply(self, changes: Iterable[SingleChange], outgoing: frozenset[NodeId]) -> None:
        for change in changes:
            if change.node_id == NONE:  # a runtime that rejects a committed change applies it with no node
                continue
            if not NONE < change.node_id <= LARGEST_ID:
                # Such a member would be sent what is addressed to the node's own storage, such as a vote to write down.
                raise MembershipRefused(f"{change.node_id} is not the id of a node")
            if change.type is ChangeType.ADD_NODE:
                self._make_voter(change.node_id)
            elif change.type is ChangeType.ADD_LEARNER_NODE:
                self._make_learner(change.node_id, outgoing)
            elif change.type is ChangeType.REMOVE_NODE:
                self._remove(change.node_id, outgoing)
            else:
                assert change.type is ChangeType.UPDATE_NODE  # the runtime's, not the core's
        if not self._incoming:
            raise MembershipRefused("removed all voters")

    def _make_voter(self, node_id: NodeId) -> None:
        self._learners.discard(node_id)
        self._learners_next.discard(node_id)
        self._incoming.add(node_id)
        self._track(node_id, learner=False)

    def _make_learner(self, node_id: NodeId, outgoing: frozenset[NodeId]) -> None:
        if node_id in self._learners:
            return
        self._incoming.discard(node_id)
        if node_id in outgoing:
            self._learners_next.add(node_id)
        else:
            self._learners.add(node_id)
            self._track(node_id, learner=True)

    def _remove(self, node_id: NodeId, outgoing: frozenset[NodeId]) -> None:
        self._incoming.discard(node_id)
        self._learners.discard(node_id)
        self._learners_next.discard(node_id)
        if node_id not in outgoing:  # the outgoing half still needs its answers
            self._progress.pop(node_id, None)

    def _track(self, node_id: NodeId, *, learner: bool) -> None:
        if node_id in self._progress:
            self._progress[node_id].learner = learner
        else:
            self._progress[node_id] = self._make_progress(max(self.last_index, 1), learner)

    def _checked(self, after: Configuration) -> tuple[Configuration, ProgressMap]:
        """`after` with its progress, once its invariants hold."""
        voters, outgoing = after.voters.voters, after.voters.outgoing.voters
        if overlap := after.learners & voters:
            raise MembershipRefused(f"both learners and voters: {_format_ids(overlap)}")
        if strangers := after.learners_next - outgoing:
            raise MembershipRefused(f"learners_next that don't vote in the outgoing half: {_format_ids(strangers)}")
        assert not after.learners_next & after.learners, "a learner is to become a learner"
        assert after.voters.joint or not (after.learners_next or after.auto_leave), "half of a joint membership"
        assert self._progress.keys() == voters | after.learners, "members and their progress differ"
        assert all(one.learner == (node_id in after.learners) for node_id, one in self._progress.items())
        return after, self._progress


def restore(
    state: MembershipState, last_index: int, make_progress: Callable[[int, bool], Progress] | None = None
) -> tuple[Configuration, ProgressMap]:
    """The membership that `state` describes, built up by the same changes that led to it.

    Raises MembershipRefused if no changes could have led to it.
    """
    configuration, progress = Configuration(), ProgressMap()

    def changer() -> Changer:
        return Changer(configuration, progress, last_index, make_progress)

    if state.learners_next and not state.voters_outgoing:
        raise MembershipRefused("learners_next in a membership that is not joint")
    for change in _changes(ChangeType.ADD_NODE, state.voters_outgoing or state.voters):
        configuration, progress = changer().simple([change])
    additions = [
        *_changes(ChangeType.ADD_NODE, state.voters),
        *_changes(ChangeType.ADD_LEARNER_NODE, (*state.learners, *state.learners_next)),
    ]
    if state.voters_outgoing:
        removals = _changes(ChangeType.REMOVE_NODE, state.voters_outgoing)
        configuration, progress = changer().enter_joint(state.auto_leave, [*removals, *additions])
    else:
        for change in _changes(ChangeType.ADD_LEARNER_NODE, state.learners):
            configuration, progress = changer().simple([change])
    if configuration.state() != _in_order(state):
        raise MembershipRefused(f"not a membership that can be reached: {state}")
    return configuration, progress


def _changes(kind: ChangeType, node_ids: Sequence[NodeId]) -> list[SingleChange]:
    return [SingleChange(kind, node_id) for node_id in node_ids]


def _in_order(state: MembershipState) -> MembershipState:
    return MembershipState(
        tuple(sorted(state.voters)),
        tuple(sorted(state.learners)),
        tuple(sorted(state.voters_outgoing)),
        tuple(sorted(state.learners_next)),
        state.auto_leave,
    )


def _plain_progress(next_index: int, learner: bool) -> Progress:
    return Progress(next_index=next_index, learner=learner, recent_active=True)


def _format_ids(node_ids: Iterable[NodeId]) -> str:
    return f"({' '.join(map(str, sorted(node_ids)))})"
