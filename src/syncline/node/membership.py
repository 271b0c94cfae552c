"""Membership changes: checked and appended on the leader, applied on every node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec

from syncline.consensus.membership import MembershipRefused, decode_change
from syncline.consensus.quorum import JointConfig, VoteResult
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    NONE,
    ChangeType,
    LogEntry,
    MembershipChange,
    MembershipState,
    NodeId,
    ProposalDropped,
    SingleChange,
    StateType,
)
from syncline.errors import ConfigError, Dropped, MembershipError, NodeFailed, QuorumAtRisk
from syncline.node.bootstrap import Bootstrap
from syncline.node.config import Config
from syncline.node.envelope import (
    DATA,
    MEMBERSHIP,
    ChangeContext,
    Kind,
    LevelChange,
    MemberRecord,
    Proposal,
    decode_context,
    encode,
)
from syncline.node.events import Event, MembershipChanged
from syncline.node.examination import examine_change
from syncline.node.futures import ApplyFuture, Waiter
from syncline.node.ignored_entries import RateLimitedLog
from syncline.node.levels import Levels
from syncline.node.log_writer import LogWriter
from syncline.node.member_registry import MemberRegistry, format_id, members_of
from syncline.node.proposals import Proposals
from syncline.node.quorum_risk import CommitHistory, absent_voters
from syncline.node.refusals import is_believed, refusing, removal_confirmed
from syncline.node.settlement import Settlement
from syncline.node.starts.guard import StartGuard, convicted_by
from syncline.node.starts.incarnations import are_forked
from syncline.storage.datadir import Identity
from syncline.transport.handshake import Hello
from syncline.transport.messages import Refusal, RefusalCode
from syncline.transport.peers import Transport

__all__ = ["REMOVED", "MembershipCallbacks", "MembershipParts", "Reconfiguration"]

REMOVED = "it was removed from the cluster"
"""The refusal of a removed node that dials a member."""

LOSES_VOTE = frozenset({ChangeType.REMOVE_NODE, ChangeType.ADD_LEARNER_NODE})
"""Changes after which a voter can't lead."""

CAUGHT_UP_ENTRIES = 256
"""A learner this close to the leader's log counts as caught up: it gets the rest within a round trip."""

HOUSEKEEPING_TICKS = 5
"""Ticks between two checks for promotions and announcements."""

ANNOUNCE_S = 5.0
"""How long an announcement may take before it is made again."""


@dataclass(frozen=True, slots=True)
class MembershipParts:
    """The parts of a node that know of its members, or must know of a change of them."""

    core: RawNode
    identity: Identity
    book: MemberRegistry
    writer: LogWriter
    transport: Transport
    guard: StartGuard
    levels: Levels
    bootstrap: Bootstrap
    settlement: Settlement
    proposals: Proposals


@dataclass(frozen=True, slots=True)
class MembershipCallbacks:
    """What the membership asks of the driver of its node."""

    propose: Callable[[Waiter, int, bytes], None]
    """Queue a proposal of this node: its kind and bytes."""
    restoring: Callable[[], bool]
    """Whether a snapshot is accepted and not loaded: the core has its membership already."""
    emit: Callable[[Event], None]
    """Tell of a change that was applied."""
    ignored: Callable[[int, str], None]
    """Note an entry that can't be applied."""
    changed: Callable[[], None]
    """Wake those that wait for a change."""
    look_at_addresses: Callable[[], None]
    """Dial members at other addresses, and correct the registry's, where links show a reason."""
    stopped: Callable[[], bool]
    fail: Callable[[BaseException], None]


class Reconfiguration:
    """The membership as the runtime sees it; the rules of joint consensus are the core's."""

    def __init__(
        self,
        config: Config,
        parts: MembershipParts,
        callbacks: MembershipCallbacks,
        loop: asyncio.AbstractEventLoop,
        *,
        election_ticks: int,
    ) -> None:
        """`election_ticks` is the core's: for so long it must lead before it knows which members are alive."""
        self._config = config
        self._parts = parts
        self._callbacks = callbacks
        self._loop = loop
        self._ticks = 0
        self._announcing: ApplyFuture[object] | None = None
        self._rising: ApplyFuture[object] | None = None
        self._unreachable = RateLimitedLog(self._loop.time)
        self.leaving: bool = False
        """Whether this node was removed for certain, and stops once its callers have their answer."""
        self._removed_at = 0
        """The index of the change that removed this node; 0: it has applied none."""
        self._removals: dict[NodeId, int] = {}
        """Removed members, and the index of the change, until the own commit index is durable up to there."""
        self._known_removed = set(parts.book.removed)
        self._commits = CommitHistory(election_ticks)

    def reload(self, config: Config, election_ticks: int) -> None:
        """Go on with other settings."""
        self._config = config
        if election_ticks != self._parts.core.election_ticks:
            self._commits = CommitHistory(election_ticks)

    # -- on the leader ------------------------------------------------------------------------------------------------

    def append(self, payload: bytes, sender: NodeId, number: int) -> tuple[int, int]:
        """Append a change that `sender` proposed; returns its index and term. Raises MembershipError, Dropped."""
        core = self._parts.core
        change, context = examine_change(payload, sender, number)
        if core.pending_membership_index > core.applied or not self._parts.settlement.complete:
            # Two changes at once could leave two memberships, whose quorums don't overlap, on the disks of those alive.
            raise Dropped("another change of the membership is under way: wait for it to end")
        self._check_current(change, context)
        try:
            after = core.preview_membership(change)
        except MembershipRefused as refusal:
            raise MembershipError(f"this change can't be made: {refusal}") from refusal
        if not context.force:
            self._check_quorum(after, context.members)
        losing = {single.node_id for single in change.changes if single.type in LOSES_VOTE}
        if core.id in losing and (successor := self.best_successor(losing)) != NONE:
            # Once it has applied this it steps down, and the remaining voters may still need its vote.
            core.transfer_leadership(successor)
            raise Dropped("the leader transfers its leadership first, because this change ends its own vote")
        try:
            core.propose_membership(change)
        except ProposalDropped as error:
            raise Dropped("the leader takes no changes at the moment: a leadership transfer is under way") from error
        return core.last_index, core.term

    def _check_quorum(self, after: MembershipState, brought: tuple[MemberRecord, ...]) -> None:
        """Refuse a change after which no quorum would be alive. A leader that can't know that yet drops it."""
        core, book = self._parts.core, self._parts.book
        before = core.membership
        if set(before.voters) == set(after.voters) and not after.voters_outgoing:
            return  # learners alone
        since = self._commits.index
        if since is None:
            raise Dropped("the leader is new: it does not know yet which members are alive; try again")
        self._check_learners(after, since)
        absent = absent_voters(
            before,
            after,
            alive=lambda voter: voter == core.id or self.is_alive(voter),
            caught_up=lambda voter: self._is_caught_up(voter, since),
        )
        if absent:
            names = {member.id: member.name for member in (*brought, *book.members.values())}
            listed = ", ".join(f"{names.get(voter, '?')} ({format_id(voter)})" for voter in absent)
            raise QuorumAtRisk(
                f"after this change no quorum of the voters would be alive, and nothing could be committed any more."
                f" Not alive, or not caught up: {listed}. Start them first; force the change only if you know that they"
                " come back."
            )

    def _check_learners(self, after: MembershipState, since: int) -> None:
        """Refuse to make a voter of a learner that never answered; have the caller wait for one that is behind.

        The quorum grows by it, and it can't vote. etcd refuses both ("learner member which is in sync with leader").
        """
        core, links = self._parts.core, self._parts.transport.stats()
        for learner in sorted(set(core.membership.learners).intersection(after.voters)):
            progress, link = core.progress.get(learner), links.get(learner)
            match = 0 if progress is None else progress.match_index
            if match and (match >= since or match + CAUGHT_UP_ENTRIES >= core.last_index):
                continue
            label = self._parts.book.label(learner)
            if link is None or not link.connected:
                raise QuorumAtRisk(
                    f"node {label} is a learner that is not connected, and is known to have {match} of"
                    f" {core.last_index} entries of the log: as a voter it would count for the quorum. Start it"
                    " first; force the change only if you know that it comes back."
                )
            raise Dropped(f"node {label} has {match} of {core.last_index} entries of the log: wait until it catches up")

    def _is_caught_up(self, node_id: NodeId, commit: int) -> bool:
        """Whether a learner may count as a voter: its directory is known, and it has the log up to `commit`."""
        member = self._parts.book.members.get(node_id)
        progress = self._parts.core.progress.get(node_id)
        return bool(member and member.directory and progress and progress.match_index >= commit)

    def _check_current(self, change: MembershipChange, context: ChangeContext) -> None:
        """Checks that only the leader can make, with no other change under way: conditions, and used names."""
        book = self._parts.book
        leaving = {single.node_id for single in change.changes if single.type is ChangeType.REMOVE_NODE}
        for node_id in _updated(change):
            self._check_update(next(record for record in context.members if record.id == node_id))
        if context.expected and context.expected != book.membership_index:
            raise MembershipError(
                f"the membership has changed: it is at index {book.membership_index}, not {context.expected}"
            )
        for new in context.members:
            if new.id in book.removed:
                raise MembershipError(f"node {format_id(new.id)} was removed from this cluster")
            if new.id not in book.members and (reason := self._parts.levels.refuse_member(new)) is not None:
                raise MembershipError(f"node {new.name} ({format_id(new.id)}) {reason}")
            self._check_record(new)
            for other in (member for member in book.members.values() if member.id not in leaving):
                if new.id not in book.members and (other.name == new.name or other.address == new.address):
                    raise MembershipError(
                        f"{new.name!r} at {new.address}: {other.name!r} at {other.address} is a member already"
                    )

    def _check_update(self, record: MemberRecord) -> None:
        """Check that an update holds the registry's own record of a member with another address, and nothing else."""
        book = self._parts.book
        known = book.members.get(record.id)
        if known is None:
            raise MembershipError(f"there is no member {format_id(record.id)} to update")
        if not book.is_current(record):
            raise MembershipError(f"node {known.name} ({format_id(record.id)}) was started again meanwhile: try again")
        for other in book.members.values():
            if other.id != record.id and other.address == record.address:
                raise MembershipError(f"{record.address} is already the address of member {other.name!r}")

    def _check_record(self, new: MemberRecord) -> None:
        """Check that a change repeats the member's own announcement: a different record would refuse the member,
        which then stops.
        """
        known, shown = self._parts.book.members.get(new.id), format_id(new.id)
        if known is not None and known.name and new.name != known.name:
            raise MembershipError(f"node {shown} is named {known.name!r}, and the change names it {new.name!r}")
        if new.directory == 0 or (known is not None and known.directory == new.directory):
            return
        if known is not None and known.directory == 0:
            raise Dropped(f"the leader has not applied yet what node {shown} announced")
        raise MembershipError(f"the change gives node {shown} another data directory")

    def became_leader(self) -> None:
        self._ticks = 0
        self._commits.clear()

    def tick(self) -> None:
        """Every few ticks: announce this node; on a leader, promote learners that have caught up."""
        self._ticks += 1
        parts = self._parts
        if self.leaving and not parts.settlement.waiting:
            self._callbacks.fail(NodeFailed(removed_text(self._config.name, parts.core.id)))
            return
        if parts.core.state is StateType.LEADER:
            self._commits.tick(parts.core.commit_index)
        housekeeping = self._ticks % HOUSEKEEPING_TICKS == 0
        if (self._removed_at or housekeeping) and not self.leaving and self._may_leave():
            self.leaving = True  # this node's own callers hear of it first
            self._callbacks.changed()
        if not housekeeping:
            return
        older, state = self._refused_by(RefusalCode.OLDER_START), parts.core.membership
        if is_believed(older, state, parts.core.id, nothing_to_lose=self._has_no_log):
            parts.bootstrap.convict()
            return
        parts.guard.look()
        self._callbacks.look_at_addresses()
        if parts.core.leader == NONE:
            parts.bootstrap.look_for_doubts(self._refused_by(RefusalCode.DIRECTORY))
            if not self._callbacks.stopped():
                parts.levels.look(parts.transport.stats(), nothing_to_lose=self._has_no_log)
            return
        self._announce()
        if parts.core.state is StateType.LEADER:
            waiting = [member for member in parts.book.members.values() if member.promote]
            if waiting:
                self._promote_first(waiting)
            core = parts.core
            joint = bool(core.membership.voters_outgoing)
            if core.pending_membership_index <= core.applied and not joint:
                parts.levels.raise_if_due()

    def _promote_first(self, waiting: list[MemberRecord]) -> None:
        core = self._parts.core
        progress = core.progress
        for member in waiting:
            state = progress.get(member.id)
            if state is None or not state.learner or not self.is_alive(member.id):
                continue
            # A voter's directory must be known, so that the members detect it when it comes back without its data.
            if not member.directory:
                continue
            if (
                state.match_index + CAUGHT_UP_ENTRIES < core.last_index
                or state.match_index < core.pending_membership_index
            ):
                continue
            promoted = msgspec.structs.replace(member, promote=False)
            context = encode(ChangeContext(core.id, 0, (promoted,)))
            change = MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, member.id),), context=context)
            try:
                self.append(encode(change), core.id, 0)
            except QuorumAtRisk:
                continue  # another one may be alive
            except (Dropped, MembershipError):
                return  # checked again in a moment
            return

    def best_successor(self, losing: Collection[NodeId] = ()) -> NodeId:
        """The voter that could lead the soonest, and is not in `losing`; NONE if none is alive."""
        core = self._parts.core
        voters = core.membership.voters
        candidates = [
            (progress.match_index, node_id)
            for node_id, progress in core.progress.items()
            if node_id != core.id and node_id in voters and node_id not in losing and self.is_alive(node_id)
        ]
        return max(candidates)[1] if candidates else NONE

    def has_live_quorum(self) -> bool:
        """Whether this node and the voters that seem alive could elect a leader."""
        core = self._parts.core
        now = core.membership
        alive = {node: node == core.id or self.seems_alive(node) for node in (*now.voters, *now.voters_outgoing)}
        return JointConfig(now.voters, now.voters_outgoing).vote_result(alive) is VoteResult.WON

    def is_alive(self, node_id: NodeId) -> bool:
        """Whether a member is connected and was heard from within an election timeout.

        The core's own `recent_active` is reset with every check of the quorum: for a moment no member is active then.
        """
        link = self._parts.transport.stats().get(node_id)
        if link is None or not link.connected:
            return False
        progress = self._parts.core.progress.get(node_id)
        if progress is not None and progress.recent_active:
            return True
        return link.last_contact_s is not None and link.last_contact_s < self._config.election_s

    def seems_alive(self, node_id: NodeId) -> bool:
        """`is_alive` for any node. Members that follow send each other nothing, so a connection alone counts there."""
        if self._parts.core.state is StateType.LEADER:
            return self.is_alive(node_id)
        link = self._parts.transport.stats().get(node_id)
        return link is not None and link.connected

    # -- on every node ------------------------------------------------------------------------------------------------

    def applied(self, entry: LogEntry) -> None:
        """Apply a committed change."""
        parts = self._parts
        try:
            change = decode_change(entry)
            context = decode_context(change.context)
        except ValueError as error:
            self._callbacks.ignored(entry.index, str(error))
            return
        answer: object = None
        try:
            # While a snapshot is being loaded the core has its newer membership already: it must not go back.
            state = None if self._callbacks.restoring() else parts.core.apply_membership(change, index=entry.index)
        except MembershipRefused as refusal:
            state = None
            answer = MembershipError(f"this change can't be made: {refusal}")
        if state is not None:
            brought = context.members if context is not None else ()
            parts.book.changed(entry.index, state, brought, _updated(change))
            parts.writer.settle_now()
            self._note_removals(entry.index)
            self.sync_peers()
            self._callbacks.emit(MembershipChanged(parts.book.membership(state)))
            self._callbacks.changed()
        if context is not None and context.origin == parts.core.id:
            parts.proposals.resolved(context.number, entry.index, entry.term, answer)

    def announced(self, member: MemberRecord) -> None:
        """Apply a member's announcement of its name, its addresses and its start."""
        parts = self._parts
        if member.id not in members_of(parts.core.membership):
            return
        if parts.book.announce(member):
            self.sync_peers()
            self._callbacks.changed()
        identity = parts.identity
        mine = (member.id, member.directory) == (identity.node_id, identity.directory_id)
        if mine and convicted_by(member.incarnation, identity):
            self._loop.call_soon(parts.bootstrap.convict)

    def update(self, record: MemberRecord) -> None:
        """Propose the address of this record of a member for the registry. Does not wait for it."""
        parts = self._parts
        try:
            future = parts.proposals.new(self._loop, 0, self._loop.time() + ANNOUNCE_S)
        except Dropped:
            return  # tried again in a moment
        context = encode(ChangeContext(parts.core.id, future.number, (record,)))
        change = MembershipChange(changes=(SingleChange(ChangeType.UPDATE_NODE, record.id),), context=context)
        self._callbacks.propose(future, MEMBERSHIP, encode(change))

    def _announce(self) -> None:
        """Announce this node's addresses and its start, if the registry does not have them."""
        parts = self._parts
        identity = parts.identity
        known = parts.book.members.get(identity.node_id)
        if known is None or (self._announcing is not None and not self._announcing.done()):
            return  # not a member yet, or already on its way
        mine = msgspec.structs.replace(
            known,
            name=identity.name,
            address=parts.transport.advertised,
            http=self._config.http,
            directory=identity.directory_id,
            incarnation=identity.incarnations[0],
            level=parts.levels.can.level,
            machine_version=parts.levels.can.machine_version,
        )
        if known == mine or known.incarnation > mine.incarnation or are_forked(known.incarnation, mine.incarnation):
            return
        try:
            future = parts.proposals.new(self._loop, len(mine.address), self._loop.time() + ANNOUNCE_S)
        except Dropped:
            return  # tried again in a moment
        self._announcing = future
        self._callbacks.propose(
            future, DATA, encode(Proposal(Kind.ANNOUNCE, identity.node_id, future.number, encode(mine)))
        )

    def propose_level(self, change: LevelChange) -> bool:
        """Propose a change of the levels, unless one is under way; return whether it was proposed."""
        parts = self._parts
        if self._rising is not None and not self._rising.done():
            return False
        data = encode(change)
        try:
            future = parts.proposals.new(self._loop, len(data), self._loop.time() + ANNOUNCE_S)
        except Dropped:
            return False  # tried again in a moment
        self._rising = future
        self._callbacks.propose(future, DATA, encode(Proposal(Kind.LEVEL, parts.core.id, future.number, data)))
        return True

    def sync_peers(self) -> None:
        """Make the transport keep links to all members, and to no other node."""
        parts = self._parts
        me = parts.core.id
        members = members_of(parts.core.membership)
        for member in parts.book.members.values():
            if member.id != me and member.address and member.id in members:
                try:
                    parts.transport.set_peer(member.id, member.address)
                except ConfigError as error:  # replicated long ago: to stop here would stop every node
                    self._unreachable.warn(f"no link to member {member.name!r} ({format_id(member.id)}): {error}")
            if member.id != me:
                parts.guard.registered(member)
        for gone in parts.book.removed:
            if gone not in self._removals:
                parts.transport.remove_peer(gone)

    def restored(self, index: int) -> None:
        """The member registry of a snapshot at `index` was loaded."""
        self._note_removals(index)
        self.sync_peers()

    def _note_removals(self, index: int) -> None:
        """Members are removed by the change at `index`. Their links stay until this is durable on this node's own
        disk.

        If it was killed before, this node would start with the membership before, and may need their votes.
        """
        parts = self._parts
        gone = parts.book.removed.keys() - self._known_removed
        self._known_removed = set(parts.book.removed)
        if parts.core.id in gone:
            self._removed_at = index
        self._removals |= dict.fromkeys(gone, index)
        self._forget_durable_removals()

    def durable(self) -> None:
        """The log has written: check whether a removal became durable that links wait for."""
        if self._removals and self._forget_durable_removals():
            self.sync_peers()
        settlement = self._parts.settlement
        if settlement.index < self._parts.book.membership_index:  # nearly never: asked at each write
            settlement.look()

    def _forget_durable_removals(self) -> bool:
        durable_commit, before = self._parts.writer.durable_commit, len(self._removals)
        self._removals = {gone: index for gone, index in self._removals.items() if index > durable_commit}
        return len(self._removals) < before

    def refuse_peer(self, hello: Hello) -> Refusal | None:
        """For the transport: the reason to refuse this dialler, or None."""
        book, sender, levels = self._parts.book, hello.sender, self._parts.levels
        if sender in book.removed and sender not in self._removals:
            state = self._parts.core.membership
            voters = () if self._parts.settlement.complete else state.voters
            reason = f"node {format_id(sender)} is not a member: {REMOVED}"
            return Refusal(reason, RefusalCode.REMOVED, book.membership_index, voters)
        return (
            self._parts.bootstrap.refuse(hello)
            or self._parts.guard.refuse(hello)
            or levels.refuse(sender, hello.name, hello.level, hello.machine_version)
            or levels.refuse_to_take_part(sender, hello.cluster_level, hello.cluster_machine_version)
        )

    def _refused_by(self, code: RefusalCode) -> Collection[NodeId]:
        """The nodes that refuse this one with this code."""
        return refusing(self._parts.transport.stats(), code)

    @property
    def _has_no_log(self) -> bool:
        """Whether this node has no log at all, also none that is still to be applied at its start."""
        return self._parts.core.last_index == 0

    def _may_leave(self) -> bool:
        """Whether this node was removed, and that is durable on a quorum of the new membership.

        Before that the remaining members may start again with the membership before, and may need its vote.
        """
        parts = self._parts
        if parts.core.state is StateType.LEADER:
            return False
        if self._removed_at and parts.settlement.index >= self._removed_at:
            return True
        known, stats = parts.book.members, parts.transport.stats()
        # An admitted node that is not known may be any program, if there is no secret.
        return removal_confirmed({peer: link for peer, link in stats.items() if self._has_no_log or peer in known})


def _updated(change: MembershipChange) -> frozenset[NodeId]:
    """The members whose address a change sets."""
    return frozenset(single.node_id for single in change.changes if single.type is ChangeType.UPDATE_NODE)


def removed_text(name: str, node_id: NodeId) -> str:
    return (
        f"node {name} ({format_id(node_id)}) was removed from the cluster and has stopped. To bring the machine back "
        "as a new member, run `syncline repair --replace` on its data directory, or let it join from an empty one."
    )
