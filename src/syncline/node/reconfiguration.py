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
        self._check_current(context)
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

    def _check_current(self, context: ChangeContext | None) -> None:
        """What only the leader can judge, with no other change under way: conditions, and names that are taken."""
        if context is None:
            return
        book = self._driver.parts.book
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

    def became_leader(self) -> None:
        self._ticks = 0

    def tick(self) -> None:
        """Now and then: announce this node; on a leader, promote learners that have caught up."""
        self._ticks += 1
        if self._ticks % HOUSEKEEPING_TICKS:
            return
        driver = self._driver
        if driver.core.leader == NONE:
            known = driver.parts.book.members
            # A node that was let in without being known may be anyone, if there is no secret.
            if any(peer in known or not known for peer in self._refused_by(RefusalCode.REMOVED)):
                driver.fail(NodeFailed(removed_text(driver.config.name, driver.core.raft.id)))
            else:
                driver.founding.look_for_doubts(self._refused_by(RefusalCode.DIRECTORY))
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
            driver.parts.book.changed(entry.index, state, context.members if context is not None else ())
            self.sync_peers()
            driver.emit(EventKind.MEMBERSHIP, detail=f"index {entry.index}")
            if entry.index > driver.parts.wal.recovery.last_index:
                self._leave_if_removed()
        if context is not None and context.origin == driver.core.raft.id:
            driver.proposals.resolved(context.number, entry.index, entry.term, answer)

    def announced(self, member: Member) -> None:
        """A member has told its name and addresses."""
        if member.id in members_of(self._driver.core.raft.tracker.configuration.state()):
            known = self._driver.parts.book.members.get(member.id)
            promote = known.promote if known is not None else False
            if self._driver.parts.book.announce(msgspec.structs.replace(member, promote=promote)):
                self.sync_peers()

    def _announce(self) -> None:
        """Tell the cluster this node's addresses, where the book does not have them right."""
        driver = self._driver
        identity, config = driver.parts.identity, driver.config
        known = driver.parts.book.members.get(identity.node_id)
        if known is None or (self._announcing is not None and not self._announcing.done()):
            return  # not a member yet, or already on its way
        mine = Member(
            identity.node_id, identity.name, config.address, config.http, known.promote, identity.directory_id
        )
        if known == mine:
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
        for gone in driver.parts.book.removed:
            driver.parts.transport.remove_peer(gone)

    def refuse_peer(self, hello: Hello) -> Refusal | None:
        """For the transport: why this dialler may not connect."""
        if hello.sender in self._driver.parts.book.removed:
            return Refusal(f"node {format_id(hello.sender)} is not a member: {REMOVED}", RefusalCode.REMOVED)
        return self._driver.founding.refuse(hello)

    def _refused_by(self, code: RefusalCode) -> list[NodeId]:
        """The nodes that refuse this one with this code."""
        stats = self._driver.parts.transport.stats()
        return [
            peer for peer, link in stats.items() if link.last_refusal is not None and link.last_refusal.code == code
        ]

    def _leave_if_removed(self) -> None:
        driver = self._driver
        me = driver.core.raft.id
        if me in driver.parts.book.removed and driver.core.state is not StateType.LEADER:
            self.removed = True
            driver.loop.call_soon(driver.fail, NodeFailed(removed_text(driver.config.name, me)))


def removed_text(name: str, node_id: NodeId) -> str:
    return (
        f"node {name} ({format_id(node_id)}) was removed from the cluster and has stopped. To bring the machine back "
        "as a new member, run `syncline repair --replace` on its data directory, or let it join from an empty one."
    )
