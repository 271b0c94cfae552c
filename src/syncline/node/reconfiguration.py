"""Changes of the membership, on the leader that appends them and on every node that applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from syncline.consensus.membership import MembershipRefused, decode_change
from syncline.consensus.types import (
    NONE,
    ChangeType,
    Entry,
    MembershipChange,
    NodeId,
    ProposalDropped,
    SingleChange,
    StateType,
)
from syncline.errors import Dropped, MembershipError, NodeFailed
from syncline.node.envelope import ChangeContext, Kind, Member, Proposal, decode_context, encode
from syncline.node.events import EventKind
from syncline.node.futures import ApplyFuture
from syncline.node.members import format_id, members_of
from syncline.node.refusals import refused_by_quorum
from syncline.node.startguard import convicted_by
from syncline.node.starts import are_forked
from syncline.transport.handshake import Hello
from syncline.transport.messages import Refusal, RefusalCode

if TYPE_CHECKING:
    from syncline.node.driver import Driver

__all__ = ["REMOVED", "Reconfiguration"]

DATA = 0
MEMBERSHIP = 1
"""Kinds of proposals, as `ForwardedProposal.kind`."""

REMOVED = "it was removed from the cluster"
"""What a removed node is told when it dials a member."""

LOSES_VOTE = frozenset({ChangeType.REMOVE_NODE, ChangeType.ADD_LEARNER_NODE})
"""What a voter can't lead after."""

CAUGHT_UP_ENTRIES = 256
"""A learner this close to the leader's log counts as caught up: it gets the rest within a round trip."""

HOUSEKEEPING_TICKS = 5
"""Ticks between two looks at what is no hurry: promotions, announcements."""

ANNOUNCE_S = 5.0
"""How long an announcement may take before it is made again."""

_change_decoder = msgspec.msgpack.Decoder(MembershipChange)


class Reconfiguration:
    """The membership as the runtime sees it; the rules of joint consensus are the core's."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._ticks = 0
        self._announcing: ApplyFuture | None = None
        self.removed = False
        """Whether this node has applied its own removal."""

    # -- on the leader ------------------------------------------------------------------------------------------------

    def append(self, payload: bytes) -> tuple[int, int]:
        """Append a proposed change; returns its index and term. Raises MembershipError, Dropped."""
        core = self._driver.core
        try:
            change = _change_decoder.decode(payload)
            context = decode_context(change.context)
        except msgspec.MsgspecError as error:
            raise MembershipError(f"the change can't be read: {error}") from error
        if core.raft.pending_membership_index > core.applied:
            raise Dropped("another change of the membership is under way: wait for it to end")
        self._check_current(change, context)
        losing = {single.node_id for single in change.changes if single.type in LOSES_VOTE}
        if core.raft.id in losing and (successor := self.best_successor()) != NONE:
            # Once it has applied this it steps down, and the voters that are left may still need its vote.
            core.transfer_leadership(successor)
            raise Dropped("the leader hands over first, because it is itself to lose its vote")
        try:
            core.preview_membership(change)
            core.propose_membership(change)
        except MembershipRefused as refusal:
            raise MembershipError(f"this change can't be made: {refusal}") from refusal
        except ProposalDropped as error:
            raise Dropped("the leader takes no changes at the moment: a hand-over is under way") from error
        return core.last_index, core.term

    def _check_current(self, change: MembershipChange, context: ChangeContext | None) -> None:
        """What only the leader can judge, with no other change under way: conditions, and names that are taken."""
        book = self._driver.parts.book
        updated = _updated(change)
        brought = context.members if context is not None else ()
        if any(single.node_id in updated and single.type is not ChangeType.UPDATE_NODE for single in change.changes):
            raise MembershipError("an update of an address comes alone")
        for node_id in updated:
            self._check_update(node_id, [record for record in brought if record.id == node_id])
        if context is None:
            return
        if context.expected and context.expected != book.membership_index:
            raise MembershipError(
                f"the membership has changed: it is at index {book.membership_index}, not {context.expected}"
            )
        for new in context.members:
            if new.id in book.removed:
                raise MembershipError(f"node {format_id(new.id)} was removed from this cluster")
            for other in book.members.values():
                if new.id not in book.members and (other.name == new.name or other.address == new.address):
                    raise MembershipError(
                        f"{new.name!r} at {new.address}: {other.name!r} at {other.address} is a member already"
                    )

    def _check_update(self, node_id: NodeId, records: list[Member]) -> None:
        """An update brings the registry's own record of a member with another address, and nothing else."""
        book = self._driver.parts.book
        known = book.members.get(node_id)
        if known is None or len(records) != 1:
            raise MembershipError(f"there is no member {format_id(node_id)} to update")
        (record,) = records
        if not book.is_current(record):
            raise MembershipError(f"node {known.name} ({format_id(node_id)}) was started again meanwhile: try again")
        for other in book.members.values():
            if other.id != node_id and other.address == record.address:
                raise MembershipError(f"{record.address} is already the address of member {other.name!r}")

    def became_leader(self) -> None:
        self._ticks = 0

    def tick(self) -> None:
        """Now and then: announce this node; on a leader, promote learners that have caught up."""
        self._ticks += 1
        if self._ticks % HOUSEKEEPING_TICKS:
            return
        driver = self._driver
        if self._refused_by_quorum(RefusalCode.OLDER_START):
            driver.founding.convict()
            return
        driver.addresses.look(leader_known=driver.core.leader != NONE)
        if driver.core.leader == NONE:
            if self._told(RefusalCode.REMOVED):
                driver.fail(NodeFailed(removed_text(driver.config.name, driver.core.raft.id)))
            elif self._told(RefusalCode.DIRECTORY):
                driver.founding.disowned()
            return
        self._announce()
        if driver.core.state is StateType.LEADER:
            waiting = [member for member in driver.parts.book.members.values() if member.promote]
            if waiting:
                self._promote_first(waiting)

    def _promote_first(self, waiting: list[Member]) -> None:
        core = self._driver.core
        progress = core.raft.tracker.progress
        for member in waiting:
            state = progress.get(member.id)
            if state is None or not state.learner or not self.is_alive(member.id):
                continue
            if not member.directory:
                continue  # whoever counts its vote must be able to tell when it comes back without its data
            if state.match + CAUGHT_UP_ENTRIES < core.last_index or state.match < core.raft.pending_membership_index:
                continue
            promoted = msgspec.structs.replace(member, promote=False)
            context = encode(ChangeContext(core.raft.id, 0, (promoted,)))
            change = MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, member.id),), context=context)
            try:
                self.append(encode(change))
            except (Dropped, MembershipError):
                return  # looked at again in a moment
            return

    def best_successor(self) -> NodeId:
        """The voter that could lead the soonest; NONE without one that is alive."""
        core = self._driver.core
        voters = core.raft.tracker.configuration.state().voters
        candidates = [
            (progress.match, node_id)
            for node_id, progress in core.raft.tracker.progress.items()
            if node_id != core.raft.id and node_id in voters and self.is_alive(node_id)
        ]
        return max(candidates)[1] if candidates else NONE

    def is_alive(self, node_id: NodeId) -> bool:
        """Whether a member is connected and was heard within an election timeout.

        The core's own `recent_active` starts anew with every check of the quorum: for a moment nobody is active then.
        """
        link = self._driver.parts.transport.stats().get(node_id)
        if link is None or not link.connected:
            return False
        progress = self._driver.core.raft.tracker.progress.get(node_id)
        if progress is not None and progress.recent_active:
            return True
        return link.last_contact_s is not None and link.last_contact_s < self._driver.config.election_s

    # -- on every node ------------------------------------------------------------------------------------------------

    def applied(self, entry: Entry) -> None:
        """A change was committed and its turn has come."""
        driver = self._driver
        change = decode_change(entry)
        context = decode_context(change.context)
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
            self.sync_peers()
            driver.emit(EventKind.MEMBERSHIP, detail=f"index {entry.index}")
            if entry.index > driver.parts.wal.recovery.last_index:
                self._leave_if_removed()
        if context is not None and context.origin == driver.core.raft.id:
            driver.proposals.resolved(context.number, entry.index, entry.term, answer)

    def announced(self, member: Member) -> None:
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

    def update(self, record: Member) -> None:
        """Propose that the registry takes the address of this record of a member. It is not waited for."""
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
        )
        if known == mine or known.incarnation > mine.incarnation or are_forked(known.incarnation, mine.incarnation):
            return
        try:
            future = driver.proposals.new(driver.loop, len(mine.address), driver.loop.time() + ANNOUNCE_S)
        except Dropped:
            return  # tried again in a moment
        self._announcing = future
        driver.propose(future, DATA, encode(Proposal(Kind.ANNOUNCE, identity.node_id, future.number, encode(mine))))

    def sync_peers(self) -> None:
        """Have the transport keep links to just the members."""
        driver = self._driver
        me = driver.core.raft.id
        members = members_of(driver.core.raft.tracker.configuration.state())
        for member in driver.parts.book.members.values():
            if member.id != me and member.address and member.id in members:
                driver.parts.transport.set_peer(member.id, member.address)
            if member.id != me:
                driver.parts.guard.registered(member)
        for gone in driver.parts.book.removed:
            driver.parts.transport.remove_peer(gone)

    def refuse_peer(self, hello: Hello) -> Refusal | None:
        """For the transport: why this dialler may not connect."""
        if hello.sender in self._driver.parts.book.removed:
            return Refusal(f"node {format_id(hello.sender)} is not a member: {REMOVED}", RefusalCode.REMOVED)
        return self._driver.founding.refuse(hello) or self._driver.parts.guard.refuse(hello)

    def _refused_by_quorum(self, code: RefusalCode) -> bool:
        """Whether a quorum of the newest membership that this node knows refuses it, in both halves of a joint one."""
        raft, stats = self._driver.core.raft, self._driver.parts.transport.stats()
        state = raft.tracker.configuration.state()
        halves = [voters for voters in (state.voters, state.voters_outgoing) if voters]
        return bool(halves) and all(refused_by_quorum(stats, voters, code, me=raft.id) for voters in halves)

    def _told(self, code: RefusalCode) -> bool:
        """Whether a member refuses this node with this code."""
        stats = self._driver.parts.transport.stats()
        return any(peer.last_refusal is not None and peer.last_refusal.code == code for peer in stats.values())

    def _leave_if_removed(self) -> None:
        driver = self._driver
        me = driver.core.raft.id
        if me in driver.parts.book.removed and driver.core.state is not StateType.LEADER:
            self.removed = True
            driver.loop.call_soon(driver.fail, NodeFailed(removed_text(driver.config.name, me)))


def _updated(change: MembershipChange) -> frozenset[NodeId]:
    """The members whose address a change sets."""
    return frozenset(single.node_id for single in change.changes if single.type is ChangeType.UPDATE_NODE)


def removed_text(name: str, node_id: NodeId) -> str:
    return (
        f"node {name} ({format_id(node_id)}) was removed from the cluster and has stopped. To bring the machine back "
        "as a new member, run `syncline repair --replace` on its data directory, or let it join from an empty one."
    )
