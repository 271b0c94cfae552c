"""Membership operations for callers: on any node, retried until they are committed or their deadline passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, ChangeType, MembershipChange, NodeId, SingleChange, StateType
from syncline.errors import (
    Closed,
    DeadlineExceeded,
    Dropped,
    MembershipError,
    NodeFailed,
    NoLeader,
    NotLeader,
    Outcome,
    Superseded,
)
from syncline.node.config import Config
from syncline.node.envelope import MEMBERSHIP, ChangeContext, MemberRecord, encode
from syncline.node.futures import Waiter
from syncline.node.member_registry import Member, MemberRegistry, Membership, format_id, parse_id
from syncline.node.membership import Reconfiguration
from syncline.node.naming import is_id
from syncline.node.proposals import Proposals
from syncline.node.read_batches import ReadBatches
from syncline.node.running import EARLY_S, Running
from syncline.node.settlement import Settlement
from syncline.transport.messages import PeerAddress

__all__ = ["ChangeCallbacks", "ChangeParts", "Changes"]

RETRIED = (Dropped, NotLeader, NoLeader, Superseded)
"""Refusals after which a retry may succeed: another change is under way, the leader is changing."""

ATTEMPT_S = 5.0
"""One attempt's share of the deadline: after a change of leader it is not known whether it is in the log."""


@dataclass(frozen=True, slots=True)
class ChangeParts:
    """Components of the node that its membership operations use."""

    core: RawNode
    book: MemberRegistry
    proposals: Proposals
    reads: ReadBatches
    reconfiguration: Reconfiguration
    settlement: Settlement
    running: Running


@dataclass(frozen=True, slots=True)
class ChangeCallbacks:
    """Functions of the node that its membership operations use."""

    propose: Callable[[Waiter, int, bytes], None]
    """Queue a proposal of this node: its waiter, its kind, its bytes."""
    schedule: Callable[[], None]
    """Call for a turn: reads that have gathered leave in it."""


class Changes:
    """Proposes changes of the membership for one node."""

    def __init__(self, config: Config, parts: ChangeParts, callbacks: ChangeCallbacks, rng: random.Random) -> None:
        self._config = config
        self._step_s = config.heartbeat_s
        """The resolution of deadlines of reads, which stays."""
        self._parts = parts
        self._callbacks = callbacks
        self._rng = rng
        self._running = parts.running
        self._clock = parts.running.loop.time

    def reload(self, config: Config) -> None:
        """Go on with other settings."""
        self._config = config

    async def add(
        self,
        name: str,
        address: str,
        *,
        http: str,
        node_id: NodeId,
        voter: bool,
        promote: bool,
        expected: int | None,
        force: bool,
        timeout_s: float,
    ) -> Member:
        """Add a member, or return it if it exists already."""
        PeerAddress.parse(address, setting="address")
        deadline_s = self._clock() + timeout_s
        await self._settled(timeout_s)
        present = self._find(name, address, node_id)
        if present is not None:
            return await self._present(present, deadline_s)
        new = MemberRecord(node_id or self._rng.getrandbits(62) + 1, name, address, http, promote)
        kind = ChangeType.ADD_NODE if voter else ChangeType.ADD_LEARNER_NODE
        try:
            membership = await self.many([(kind, new.id)], (new,), expected, self._left_s(deadline_s), force=force)
        except MembershipError:
            await self._settled(self._left_s(deadline_s))  # another caller may have added the same member meanwhile
            if (present := self._find(name, address, node_id)) is not None:
                return await self._present(present, deadline_s)
            raise
        added = membership.members.get(new.id)
        if added is None:
            raise MembershipError(f"{name!r} was added, and removed again at once")
        return added

    async def replace(
        self,
        dead: str | int,
        name: str,
        address: str,
        *,
        http: str,
        node_id: NodeId,
        expected: int | None,
        force: bool,
        timeout_s: float,
    ) -> Member:
        """Remove a dead member, and add a learner that takes its role, in one change. Or find that made already."""
        deadline_s = self._clock() + timeout_s
        await self._settled(timeout_s)
        membership = self._membership()
        replaced = self._replaced(membership, dead, node_id)
        if replaced is None:
            present = self._find(name, address, node_id)
            if present is None:
                raise MembershipError(f"there is no member {dead!r} to replace: `add_learner` adds a node")
            return await self._present(present, deadline_s)
        if (present := self._find(name, address, node_id, leaving=replaced.id)) is not None:
            raise MembershipError(
                f"{present.name!r} is a member already, and so is {replaced.name!r}: `remove` it if it is dead"
            )
        if not force:
            self._check_dead(replaced)
        promote = replaced.voter or replaced.promote
        new = MemberRecord(node_id or self._rng.getrandbits(62) + 1, name, address, http, promote)
        changes = [(ChangeType.REMOVE_NODE, replaced.id), (ChangeType.ADD_LEARNER_NODE, new.id)]
        try:
            membership = await self.many(changes, (new,), expected, self._left_s(deadline_s), force=force)
        except MembershipError:
            await self._settled(self._left_s(deadline_s))  # an attempt of unknown outcome may have made it
            if replaced.id in self._membership().members or new.id not in self._membership().members:
                raise
            membership = await self._durable(self._membership().index, deadline_s)
        added = membership.members.get(new.id)
        if added is None:
            raise MembershipError(f"{name!r} was added, and removed again at once")
        return added

    def _replaced(self, membership: Membership, dead: str | int, node_id: NodeId) -> Member | None:
        """The member to replace; None if there is none any more, because it was replaced before."""
        if isinstance(dead, str) and not is_id(dead):
            found = membership.by_name(dead)
        else:
            found = membership.members.get(self.id_of(dead))
        return None if found is None or found.id == node_id else found

    def _check_dead(self, member: Member) -> None:
        """Raise if it is known here that this member is alive."""
        if member.id == self._parts.core.id:
            raise MembershipError(f"{member.name!r} is this node itself, which is alive: ask another one")
        if self._parts.reconfiguration.seems_alive(member.id):
            raise MembershipError(
                f"{member.name!r} ({format_id(member.id)}) seems to be alive: it is connected to this node. Stop it"
                " first, or add the new node with `add_learner` and then `remove` this one; or force it"
            )

    async def _present(self, present: Member, deadline_s: float) -> Member:
        """Return a member that was added before, perhaps by an attempt of unknown outcome."""
        membership = await self._durable(self._membership().index, deadline_s)
        return membership.members.get(present.id, present)

    def _find(self, name: str, address: str, node_id: NodeId, leaving: NodeId = NONE) -> Member | None:
        """The existing member with this name, address or id; raises MembershipError if one of them is another
        member's. One that is `leaving` does not count.
        """
        if node_id in self._parts.book.removed:
            raise MembershipError(
                f"node {format_id(node_id)} was removed from this cluster and can't come back under its old id:"
                " run `syncline repair --replace` on its data directory, or let it join from an empty one"
            )
        for member in self._membership().members.values():
            if member.id == leaving:
                continue
            if member.name == name and (member.id == node_id or (node_id == NONE and member.address == address)):
                return member  # with its own id it may give another address: it announces that one itself
            if member.name == name:
                raise MembershipError(
                    f"{name!r} is already the name of member {format_id(member.id)} at {member.address}:"
                    f" if its data is lost, `syncline repair --name {name}` on its data directory replaces that member"
                )
            if member.address == address:
                raise MembershipError(f"{address} is already the address of member {member.name!r}")
        return None

    async def known(
        self, changes: Sequence[tuple[ChangeType, str | int]], expected: int | None, timeout_s: float, *, force: bool
    ) -> Membership:
        """Change members of the membership, any of them."""
        deadline_s = self._clock() + timeout_s
        await self._settled(timeout_s)
        book = self._parts.book.members
        if any(kind is ChangeType.UPDATE_NODE for kind, _ in changes):
            raise MembershipError("an address is changed by `update_member`, on its own")
        found = [(kind, self.id_of(member)) for kind, member in changes]
        strangers = [format_id(node_id) for _, node_id in found if node_id not in book]
        if not changes or strangers:
            raise MembershipError(f"no members: {', '.join(strangers)}" if strangers else "no change is given")
        if len({node_id for _, node_id in found}) != len(found):
            raise MembershipError("one member is named twice, by its name and its id: give each one change")
        settled = tuple(
            msgspec.structs.replace(book[node_id], promote=False)
            for kind, node_id in found
            if kind is not ChangeType.REMOVE_NODE
        )
        return await self.many(found, settled, expected, self._left_s(deadline_s), force=force)

    async def single(
        self, kind: ChangeType, who: str | int, expected: int | None, timeout_s: float, *, force: bool
    ) -> Membership:
        """Promote, demote or remove one member. A member that has this role already is not changed.

        In a joint membership its role is not certain: a voter may be about to become a learner.
        """
        deadline_s = self._clock() + timeout_s
        await self._settled(timeout_s)
        membership, node_id = self._membership(), self.id_of(who)
        member = membership.members.get(node_id)
        if kind is ChangeType.REMOVE_NODE:
            if member is None:  # perhaps by an earlier call, whose outcome was unknown
                return await self._durable(membership.index, deadline_s)
            if member.voter and sum(other.voter for other in membership.members.values()) == 1:
                raise MembershipError(f"{member.name!r} is the last voter: without it there is no cluster")
            return await self.many([(kind, node_id)], (), expected, self._left_s(deadline_s), force=force)
        if member is None:
            raise MembershipError(f"there is no member {format_id(node_id)}")
        if member.voter is (kind is ChangeType.ADD_NODE) and not membership.joint:
            return await self._durable(membership.index, deadline_s)
        record = self._parts.book.members.get(node_id) or MemberRecord(node_id, "", "")
        settled = msgspec.structs.replace(record, promote=False)
        return await self.many([(kind, node_id)], (settled,), expected, self._left_s(deadline_s), force=force)

    async def update(self, who: str | int, address: str, expected: int | None, timeout_s: float) -> Member:
        """Set another address of a member in the registry, or find it set."""
        deadline_s = self._clock() + timeout_s
        await self._settled(timeout_s)
        node_id = self.id_of(who)
        record = self._parts.book.members.get(node_id)
        if record is None:
            raise MembershipError(f"there is no member {format_id(node_id)}")
        membership = self._membership()
        if record.address != address:
            moved = msgspec.structs.replace(record, address=address)
            left_s = self._left_s(deadline_s)
            membership = await self.many([(ChangeType.UPDATE_NODE, node_id)], (moved,), expected, left_s, force=False)
        updated = membership.members.get(node_id)
        if updated is None or updated.address != address:
            raise MembershipError(
                f"node {record.name} ({format_id(node_id)}) has announced another address itself, or was removed, while"
                " the update was under way"
            )
        return updated

    async def many(
        self,
        changes: Sequence[tuple[ChangeType, NodeId]],
        brought: tuple[MemberRecord, ...],
        expected: int | None,
        timeout_s: float,
        *,
        force: bool,
    ) -> Membership:
        """Propose until it is committed and applied here, or the deadline.

        `expected` is checked by the leader, between two changes; so an attempt of unknown outcome is not made again.
        """
        if expected is not None and expected <= 0:
            raise MembershipError(f"{expected} is not the index of a membership")
        deadline_s = self._clock() + timeout_s
        singles = tuple(SingleChange(kind, node_id) for kind, node_id in changes)
        outcome: Outcome | None = None
        while True:
            attempt_s = min(deadline_s, self._clock() + max(ATTEMPT_S, 2 * self._config.election_s))
            try:
                index = await self._propose(singles, brought, expected or 0, attempt_s, force=force)
                break
            except RETRIED as error:
                if self._running.stopped or self._clock() >= deadline_s:
                    error.outcome = outcome or error.outcome  # an earlier attempt may still be in the log
                    raise
                await self._running.wait(min(deadline_s, self._clock() + self._config.heartbeat_s))
            except DeadlineExceeded as error:
                if error.outcome is Outcome.UNKNOWN:
                    outcome = Outcome.UNKNOWN
                if expected is not None or self._running.stopped or self._clock() >= deadline_s:
                    error.outcome = outcome or error.outcome
                    raise  # all changes are idempotent, so that one of unknown outcome may be made again
            except MembershipError as error:
                error.outcome = outcome or error.outcome  # an earlier attempt may be the reason of the refusal
                raise
            except (Closed, NodeFailed):
                self._running.check(begun=outcome is not None)  # the error is shared: another one, not another outcome
                raise
        return await self._durable(index, deadline_s)

    async def _durable(self, index: int, deadline_s: float) -> Membership:
        """Wait until the change at `index` is durable on a quorum of the membership that it made (see `settlement`).

        The returned membership is durable, too: it may hold a later change of another caller.

        A node that asked for its own removal may have lost its link to the leader by then: it is answered when it may
        leave. Raises DeadlineExceeded, Closed, NodeFailed (all `unknown`).
        """
        settlement, running = self._parts.settlement, self._running
        with settlement.awaited():
            while not self._parts.reconfiguration.leaving:
                membership = self._membership()
                if settlement.index >= max(index, membership.index) and not membership.joint:
                    return membership
                if isinstance(running.stopped_by, Closed):
                    raise Closed("the node was closed before the change was durable on a quorum")
                self._running.check(begun=True)
                if self._clock() >= deadline_s:
                    raise DeadlineExceeded(
                        f"the change at index {index} is committed, and was not durable on a quorum of the new"
                        " membership before the deadline"
                    )
                await self._running.wait(min(deadline_s, self._clock() + self._config.heartbeat_s))
        return self._membership()

    async def _propose(
        self,
        singles: tuple[SingleChange, ...],
        brought: tuple[MemberRecord, ...],
        expected: int,
        deadline_s: float,
        *,
        force: bool,
    ) -> int:
        """Propose once; returns the index of the change when it is applied here."""
        self._running.check()
        future = self._parts.proposals.new(self._running.loop, 0, deadline_s)
        context = encode(ChangeContext(self._parts.core.id, future.number, brought, expected, force))
        self._callbacks.propose(future, MEMBERSHIP, encode(MembershipChange(changes=singles, context=context)))
        await future
        return future.index

    async def _settled(self, timeout_s: float) -> None:
        """Wait for the present membership by a linearizable read."""
        self._running.check()
        deadline_s = self._clock() + timeout_s
        self._callbacks.schedule()
        await self._parts.reads.new(self._running.loop, deadline_s, self._step_s)

    def _left_s(self, deadline_s: float) -> float:
        """The time left until the deadline of a call of several steps."""
        return max(deadline_s - self._clock(), EARLY_S)

    def id_of(self, member: str | int) -> int:
        """The id of a member by its name, or by its id as a number or as sixteen hexadecimal digits.

        An id need not be a member's. Raises MembershipError if no member has this name.
        """
        if isinstance(member, int):
            return int(member)
        if is_id(member):
            try:
                return parse_id(member)
            except ValueError:
                raise MembershipError(f"no member has the id {member}: the first digit of an id is below 8") from None
        book = self._parts.book
        found = next((known.id for known in book.members.values() if known.name == member), None)
        if found is not None:
            return found
        if not book.members:
            raise MembershipError(
                f"node {self._config.name} ({format_id(self._parts.core.id)}) has applied nothing of the log yet and"
                f" knows no member's name: give the id of {member!r}, or ask another node"
            )
        known = ", ".join(sorted(book.label(node_id) for node_id in book.members))
        raise MembershipError(f"no member is named {member!r}: the members are {known}")

    def present_leader(self) -> NodeId:
        """The node whose leadership can be transferred; raises NoLeader if this node knows none."""
        leader = self._parts.core.leader
        if leader == NONE:
            raise NoLeader("no node leads at the moment: there is nothing to transfer")
        return leader

    def successor(self, to: int, tried: Collection[NodeId] = ()) -> int:
        """The voter that shall lead next: `to`, or one that is not in `tried`. Raises MembershipError."""
        core = self._parts.core
        voters = core.membership.voters
        if to != NONE:
            if to not in voters:
                raise MembershipError(f"node {format_id(to)} is no voter and can't lead")
            return to
        if core.state is StateType.LEADER:
            target = self._parts.reconfiguration.best_successor(tried)
        else:
            me, unasked = core.id, (voter for voter in voters if voter != core.leader and voter not in tried)
            target = me if me in voters else next(unasked, NONE)  # a follower does not know which others are alive
        if target == NONE:
            raise MembershipError("there is no other voter alive to take over the leadership")
        return target

    def next_successor(self, asked: list[NodeId]) -> int:
        """The voter to ask after these have not taken over. If there is no other one: the one asked longest ago."""
        try:
            return self.successor(NONE, asked)
        except MembershipError:
            return next((voter for voter in asked if self._parts.reconfiguration.seems_alive(voter)), asked[-1])

    def is_given_up(self) -> bool:
        """Whether this leader transfers its leadership to no voter, or to one that is not alive any more."""
        transferee = self._parts.core.transferee
        return transferee == NONE or not self._parts.reconfiguration.is_alive(transferee)

    def _membership(self) -> Membership:
        return self._parts.book.membership(self._parts.core.membership)
