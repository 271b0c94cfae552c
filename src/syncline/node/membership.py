"""Membership changes: checked and appended on the leader, applied on every node."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from syncline.consensus.membership import MembershipRefused, decode_change
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
from syncline.node.events import MembershipChanged
from syncline.node.examination import examine_change
from syncline.node.futures import ApplyFuture
from syncline.node.ignored_entries import RateLimitedLog
from syncline.node.member_registry import format_id, members_of
from syncline.node.quorum_risk import CommitHistory, absent_voters
from syncline.node.refusals import is_believed, refusing, removal_confirmed
from syncline.node.starts.guard import convicted_by
from syncline.node.starts.incarnations import are_forked
from syncline.transport.handshake import Hello
from syncline.transport.messages import Refusal, RefusalCode

if TYPE_CHECKING:
    from syncline.node.runtime import Driver

__all__ = ["REMOVED", "Reconfiguration"]

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


class Reconfiguration:
    """The membership as the runtime sees it; the rules of joint consensus are the core's."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._ticks = 0
        self._announcing: ApplyFuture[object] | None = None
        self._rising: ApplyFuture[object] | None = None
        self._unreachable = RateLimitedLog(driver.loop.time)
        self.leaving: bool = False
        """Whether this node was removed for certain, and stops once its callers have their answer."""
        self._removed_at = 0
        """The index of the change that removed this node; 0: it has applied none."""
        self._removals: dict[NodeId, int] = {}
        """Removed members, and the index of the change, until the own commit index is durable up to there."""
        self._known_removed = set(driver.parts.book.removed)
        self._commits = CommitHistory(driver.core.raft.config.election_ticks)

    # -- on the leader ------------------------------------------------------------------------------------------------

    def append(self, payload: bytes, sender: NodeId, number: int) -> tuple[int, int]:
        """Append a change that `sender` proposed; returns its index and term. Raises MembershipError, Dropped."""
        core = self._driver.core
        change, context = examine_change(payload, sender, number)
        if core.raft.pending_membership_index > core.applied or not self._driver.settlement.complete:
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
        if core.raft.id in losing and (successor := self.best_successor(losing)) != NONE:
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
        core, book = self._driver.core, self._driver.parts.book
        before = core.raft.tracker.configuration.state()
        if set(before.voters) == set(after.voters) and not after.voters_outgoing:
            return  # learners alone
        since = self._commits.index
        if since is None:
            raise Dropped("the leader is new: it does not know yet which members are alive; try again")
        absent = absent_voters(
            before,
            after,
            alive=lambda voter: voter == core.raft.id or self.is_alive(voter),
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

    def _is_caught_up(self, node_id: NodeId, commit: int) -> bool:
        """Whether a learner may count as a voter: its directory is known, and it has the log up to `commit`."""
        member = self._driver.parts.book.members.get(node_id)
        progress = self._driver.core.raft.tracker.progress.get(node_id)
        return bool(member and member.directory and progress and progress.match_index >= commit)

    def _check_current(self, change: MembershipChange, context: ChangeContext) -> None:
        """Checks that only the leader can make, with no other change under way: conditions, and used names."""
        book = self._driver.parts.book
        for node_id in _updated(change):
            self._check_update(next(record for record in context.members if record.id == node_id))
        if context.expected and context.expected != book.membership_index:
            raise MembershipError(
                f"the membership has changed: it is at index {book.membership_index}, not {context.expected}"
            )
        for new in context.members:
            if new.id in book.removed:
                raise MembershipError(f"node {format_id(new.id)} was removed from this cluster")
            if new.id not in book.members and (reason := self._driver.parts.levels.refuse_member(new)) is not None:
                raise MembershipError(f"node {new.name} ({format_id(new.id)}) {reason}")
            self._check_record(new)
            for other in book.members.values():
                if new.id not in book.members and (other.name == new.name or other.address == new.address):
                    raise MembershipError(
                        f"{new.name!r} at {new.address}: {other.name!r} at {other.address} is a member already"
                    )

    def _check_update(self, record: MemberRecord) -> None:
        """Check that an update holds the registry's own record of a member with another address, and nothing else."""
        book = self._driver.parts.book
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
        known, shown = self._driver.parts.book.members.get(new.id), format_id(new.id)
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
        driver = self._driver
        if self.leaving and not driver.settlement.waiting:
            driver.fail(NodeFailed(removed_text(driver.config.name, driver.core.raft.id)))
            return
        if driver.core.state is StateType.LEADER:
            self._commits.tick(driver.core.commit_index)
        housekeeping = self._ticks % HOUSEKEEPING_TICKS == 0
        if (self._removed_at or housekeeping) and not self.leaving and self._may_leave():
            self.leaving = True  # this node's own callers hear of it first
            driver.wake_watchers()
        if not housekeeping:
            return
        older, state = self._refused_by(RefusalCode.OLDER_START), driver.core.raft.tracker.configuration.state()
        if is_believed(older, state, driver.core.raft.id, nothing_to_lose=self._has_no_log):
            driver.founding.convict()
            return
        driver.parts.guard.look()
        driver.addresses.look(leader_known=driver.core.leader != NONE)
        if driver.core.leader == NONE:
            driver.founding.look_for_doubts(self._refused_by(RefusalCode.DIRECTORY))
            if not driver.stopped:
                driver.parts.levels.look(driver.parts.transport.stats(), nothing_to_lose=self._has_no_log)
            return
        self._announce()
        if driver.core.state is StateType.LEADER:
            waiting = [member for member in driver.parts.book.members.values() if member.promote]
            if waiting:
                self._promote_first(waiting)
            core = driver.core
            joint = bool(core.raft.tracker.configuration.state().voters_outgoing)
            if core.raft.pending_membership_index <= core.applied and not joint:
                driver.parts.levels.raise_if_due()

    def _promote_first(self, waiting: list[MemberRecord]) -> None:
        core = self._driver.core
        progress = core.raft.tracker.progress
        for member in waiting:
            state = progress.get(member.id)
            if state is None or not state.learner or not self.is_alive(member.id):
                continue
            # A voter's directory must be known, so that the members detect it when it comes back without its data.
            if not member.directory:
                continue
            if (
                state.match_index + CAUGHT_UP_ENTRIES < core.last_index
                or state.match_index < core.raft.pending_membership_index
            ):
                continue
            promoted = msgspec.structs.replace(member, promote=False)
            context = encode(ChangeContext(core.raft.id, 0, (promoted,)))
            change = MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, member.id),), context=context)
            try:
                self.append(encode(change), core.raft.id, 0)
            except QuorumAtRisk:
                continue  # another one may be alive
            except (Dropped, MembershipError):
                return  # checked again in a moment
            return

    def best_successor(self, losing: Collection[NodeId] = ()) -> NodeId:
        """The voter that could lead the soonest, and is not in `losing`; NONE if none is alive."""
        core = self._driver.core
        voters = core.raft.tracker.configuration.state().voters
        candidates = [
            (progress.match_index, node_id)
            for node_id, progress in core.raft.tracker.progress.items()
            if node_id != core.raft.id and node_id in voters and node_id not in losing and self.is_alive(node_id)
        ]
        return max(candidates)[1] if candidates else NONE

    def is_alive(self, node_id: NodeId) -> bool:
        """Whether a member is connected and was heard from within an election timeout.

        The core's own `recent_active` is reset with every check of the quorum: for a moment no member is active then.
        """
        link = self._driver.parts.transport.stats().get(node_id)
        if link is None or not link.connected:
            return False
        progress = self._driver.core.raft.tracker.progress.get(node_id)
        if progress is not None and progress.recent_active:
            return True
        return link.last_contact_s is not None and link.last_contact_s < self._driver.config.election_s

    # -- on every node ------------------------------------------------------------------------------------------------

    def applied(self, entry: LogEntry) -> None:
        """Apply a committed change."""
        driver = self._driver
        try:
            change = decode_change(entry)
            context = decode_context(change.context)
        except ValueError as error:
            driver.ignored.note(entry.index, str(error))
            return
        answer: object = None
        try:
            # While a snapshot is being loaded the core has its newer membership already: it must not go back.
            state = None if driver.restoring else driver.core.apply_membership(change, index=entry.index)
        except MembershipRefused as refusal:
            state = None
            answer = MembershipError(f"this change can't be made: {refusal}")
        if state is not None:
            brought = context.members if context is not None else ()
            driver.parts.book.changed(entry.index, state, brought, _updated(change))
            driver.parts.writer.settle_now()
            self._note_removals(entry.index)
            self.sync_peers()
            driver.emit(MembershipChanged(driver.parts.book.membership(state)))
        if context is not None and context.origin == driver.core.raft.id:
            driver.proposals.resolved(context.number, entry.index, entry.term, answer)

    def announced(self, member: MemberRecord) -> None:
        """Apply a member's announcement of its name, its addresses and its start."""
        driver = self._driver
        if member.id not in members_of(driver.core.raft.tracker.configuration.state()):
            return
        if driver.parts.book.announce(member):
            self.sync_peers()
        identity = driver.parts.identity
        mine = (member.id, member.directory) == (identity.node_id, identity.directory_id)
        if mine and convicted_by(member.incarnation, identity):
            driver.loop.call_soon(driver.founding.convict)

    def update(self, record: MemberRecord) -> None:
        """Propose the address of this record of a member for the registry. Does not wait for it."""
        driver = self._driver
        try:
            future = driver.proposals.new(driver.loop, 0, driver.loop.time() + ANNOUNCE_S)
        except Dropped:
            return  # tried again in a moment
        context = encode(ChangeContext(driver.core.raft.id, future.number, (record,)))
        change = MembershipChange(changes=(SingleChange(ChangeType.UPDATE_NODE, record.id),), context=context)
        driver.propose(future, MEMBERSHIP, encode(change))

    def _announce(self) -> None:
        """Announce this node's addresses and its start, if the registry does not have them."""
        driver = self._driver
        identity = driver.parts.identity
        known = driver.parts.book.members.get(identity.node_id)
        if known is None or (self._announcing is not None and not self._announcing.done()):
            return  # not a member yet, or already on its way
        mine = msgspec.structs.replace(
            known,
            name=identity.name,
            address=driver.parts.transport.advertised,
            http=driver.config.http,
            directory=identity.directory_id,
            incarnation=identity.incarnations[0],
            level=driver.parts.levels.can.level,
            machine_version=driver.parts.levels.can.machine_version,
        )
        if known == mine or known.incarnation > mine.incarnation or are_forked(known.incarnation, mine.incarnation):
            return
        try:
            future = driver.proposals.new(driver.loop, len(mine.address), driver.loop.time() + ANNOUNCE_S)
        except Dropped:
            return  # tried again in a moment
        self._announcing = future
        driver.propose(future, DATA, encode(Proposal(Kind.ANNOUNCE, identity.node_id, future.number, encode(mine))))

    def propose_level(self, change: LevelChange) -> bool:
        """Propose a change of the levels, unless one is under way; return whether it was proposed."""
        driver = self._driver
        if self._rising is not None and not self._rising.done():
            return False
        data = encode(change)
        try:
            future = driver.proposals.new(driver.loop, len(data), driver.loop.time() + ANNOUNCE_S)
        except Dropped:
            return False  # tried again in a moment
        self._rising = future
        driver.propose(future, DATA, encode(Proposal(Kind.LEVEL, driver.core.raft.id, future.number, data)))
        return True

    def sync_peers(self) -> None:
        """Make the transport keep links to all members, and to no other node."""
        driver = self._driver
        me = driver.core.raft.id
        members = members_of(driver.core.raft.tracker.configuration.state())
        for member in driver.parts.book.members.values():
            if member.id != me and member.address and member.id in members:
                try:
                    driver.parts.transport.set_peer(member.id, member.address)
                except ConfigError as error:  # replicated long ago: to stop here would stop every node
                    self._unreachable.warn(f"no link to member {member.name!r} ({format_id(member.id)}): {error}")
            if member.id != me:
                driver.parts.guard.registered(member)
        for gone in driver.parts.book.removed:
            if gone not in self._removals:
                driver.parts.transport.remove_peer(gone)

    def restored(self, index: int) -> None:
        """The member registry of a snapshot at `index` was loaded."""
        self._note_removals(index)
        self.sync_peers()

    def _note_removals(self, index: int) -> None:
        """Members are removed by the change at `index`. Their links stay until this is durable on this node's own
        disk.

        If it was killed before, this node would start with the membership before, and may need their votes.
        """
        driver = self._driver
        gone = driver.parts.book.removed.keys() - self._known_removed
        self._known_removed = set(driver.parts.book.removed)
        if driver.core.raft.id in gone:
            self._removed_at = index
        self._removals |= dict.fromkeys(gone, index)
        self._forget_durable_removals()

    def durable(self) -> None:
        """The log has written: check whether a removal became durable that links wait for."""
        if self._removals and self._forget_durable_removals():
            self.sync_peers()
        settlement = self._driver.settlement
        if settlement.index < self._driver.parts.book.membership_index:  # nearly never: asked at each write
            settlement.look()

    def _forget_durable_removals(self) -> bool:
        durable_commit, before = self._driver.parts.writer.durable_commit, len(self._removals)
        self._removals = {gone: index for gone, index in self._removals.items() if index > durable_commit}
        return len(self._removals) < before

    def refuse_peer(self, hello: Hello) -> Refusal | None:
        """For the transport: the reason to refuse this dialler, or None."""
        book, sender, levels = self._driver.parts.book, hello.sender, self._driver.parts.levels
        if sender in book.removed and sender not in self._removals:
            state = self._driver.core.raft.tracker.configuration.state()
            voters = () if self._driver.settlement.complete else state.voters
            reason = f"node {format_id(sender)} is not a member: {REMOVED}"
            return Refusal(reason, RefusalCode.REMOVED, book.membership_index, voters)
        return (
            self._driver.founding.refuse(hello)
            or self._driver.parts.guard.refuse(hello)
            or levels.refuse(sender, hello.name, hello.level, hello.machine_version)
            or levels.refuse_to_take_part(sender, hello.cluster_level, hello.cluster_machine_version)
        )

    def _refused_by(self, code: RefusalCode) -> Collection[NodeId]:
        """The nodes that refuse this one with this code."""
        return refusing(self._driver.parts.transport.stats(), code)

    @property
    def _has_no_log(self) -> bool:
        """Whether this node has no log at all, also none that is still to be applied at its start."""
        return self._driver.core.last_index == 0

    def _may_leave(self) -> bool:
        """Whether this node was removed, and that is durable on a quorum of the new membership.

        Before that the remaining members may start again with the membership before, and may need its vote.
        """
        driver = self._driver
        if driver.core.state is StateType.LEADER:
            return False
        if self._removed_at and driver.settlement.index >= self._removed_at:
            return True
        known, stats = driver.parts.book.members, driver.parts.transport.stats()
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
