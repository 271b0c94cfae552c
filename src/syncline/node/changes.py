"""Membership operations for callers: on any node, retried until they are committed or their deadline passes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import msgspec

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
from syncline.node.envelope import MEMBERSHIP, ChangeContext, MemberRecord, encode
from syncline.node.member_registry import Member, Membership, format_id, parse_id
from syncline.node.runtime import Driver
from syncline.transport.messages import PeerAddress

__all__ = ["Changes"]

_ID: Final = re.compile("(?!0{16})[0-7][0-9a-f]{15}")

RETRIED = (Dropped, NotLeader, NoLeader, Superseded)
"""Refusals after which a retry may succeed: another change is under way, the leader is changing."""

EARLY_S: Final = 0.001
"""How much too early a timer may fire: loops round to a millisecond or to the clock's resolution. A loop that waits
for a deadline would spin in that time."""

ATTEMPT_S = 5.0
"""One attempt's share of the deadline: after a change of leader it is not known whether it is in the log."""


class Changes:
    """Proposes changes of the membership for one node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

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
        deadline_s = self._driver.loop.time() + timeout_s
        await self._settled(timeout_s)
        present = self._find(name, address, node_id)
        if present is not None:
            return await self._present(present, deadline_s)
        new = MemberRecord(node_id or self._driver.rng.getrandbits(62) + 1, name, address, http, promote)
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

    async def _present(self, present: Member, deadline_s: float) -> Member:
        """Return a member that was added before, perhaps by an attempt of unknown outcome."""
        membership = await self._durable(self._membership().index, deadline_s)
        return membership.members.get(present.id, present)

    def _find(self, name: str, address: str, node_id: NodeId) -> Member | None:
        """The existing member with this name, address or id; raises MembershipError if one of them is another
        member's.
        """
        if node_id in self._driver.parts.book.removed:
            raise MembershipError(
                f"node {format_id(node_id)} was removed from this cluster and can't come back under its old id:"
                " run `syncline repair --replace` on its data directory, or let it join from an empty one"
            )
        for member in self._membership().members.values():
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
        deadline_s = self._driver.loop.time() + timeout_s
        await self._settled(timeout_s)
        book = self._driver.parts.book.members
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
        deadline_s = self._driver.loop.time() + timeout_s
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
        record = self._driver.parts.book.members.get(node_id) or MemberRecord(node_id, "", "")
        settled = msgspec.structs.replace(record, promote=False)
        return await self.many([(kind, node_id)], (settled,), expected, self._left_s(deadline_s), force=force)

    async def update(self, who: str | int, address: str, expected: int | None, timeout_s: float) -> Member:
        """Set another address of a member in the registry, or find it set."""
        deadline_s = self._driver.loop.time() + timeout_s
        await self._settled(timeout_s)
        node_id = self.id_of(who)
        record = self._driver.parts.book.members.get(node_id)
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
        driver = self._driver
        if expected is not None and expected <= 0:
            raise MembershipError(f"{expected} is not the index of a membership")
        deadline_s = driver.loop.time() + timeout_s
        singles = tuple(SingleChange(kind, node_id) for kind, node_id in changes)
        outcome: Outcome | None = None
        while True:
            attempt_s = min(deadline_s, driver.loop.time() + max(ATTEMPT_S, 2 * driver.config.election_s))
            try:
                index = await self._propose(singles, brought, expected or 0, attempt_s, force=force)
                break
            except RETRIED as error:
                if driver.stopped or driver.loop.time() >= deadline_s:
                    error.outcome = outcome or error.outcome  # an earlier attempt may still be in the log
                    raise
                await self.wait(min(deadline_s, driver.loop.time() + driver.config.heartbeat_s))
            except DeadlineExceeded as error:
                if error.outcome is Outcome.UNKNOWN:
                    outcome = Outcome.UNKNOWN
                if expected is not None or driver.stopped or driver.loop.time() >= deadline_s:
                    error.outcome = outcome or error.outcome
                    raise  # all changes are idempotent, so that one of unknown outcome may be made again
            except MembershipError as error:
                error.outcome = outcome or error.outcome  # an earlier attempt may be the reason of the refusal
                raise
            except (Closed, NodeFailed):
                driver.check_running(begun=outcome is not None)  # the error is shared: another one, not another outcome
                raise
        return await self._durable(index, deadline_s)

    async def _durable(self, index: int, deadline_s: float) -> Membership:
        """Wait until the change at `index` is durable on a quorum of the membership that it made (see `settlement`).

        The returned membership is durable, too: it may hold a later change of another caller.

        A node that asked for its own removal may have lost its link to the leader by then: it is answered when it may
        leave. Raises DeadlineExceeded, Closed, NodeFailed (all `unknown`).
        """
        driver = self._driver
        settlement = driver.settlement
        with settlement.awaited():
            while not driver.reconfiguration.leaving:
                membership = self._membership()
                if settlement.index >= max(index, membership.index) and not membership.joint:
                    return membership
                if isinstance(driver.stopped_by, Closed):
                    raise Closed("the node was closed before the change was durable on a quorum")
                driver.check_running(begun=True)
                if driver.loop.time() >= deadline_s:
                    raise DeadlineExceeded(
                        f"the change at index {index} is committed, and was not durable on a quorum of the new"
                        " membership before the deadline"
                    )
                await self.wait(min(deadline_s, driver.loop.time() + driver.config.heartbeat_s))
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
        driver = self._driver
        driver.check_running()
        future = driver.proposals.new(driver.loop, 0, deadline_s)
        context = encode(ChangeContext(driver.core.id, future.number, brought, expected, force))
        driver.propose(future, MEMBERSHIP, encode(MembershipChange(changes=singles, context=context)))
        await future
        return future.index

    async def _settled(self, timeout_s: float) -> None:
        """Wait for the present membership by a linearizable read."""
        driver = self._driver
        driver.check_running()
        deadline_s = driver.loop.time() + timeout_s
        driver.schedule()
        await driver.reads.new(driver.loop, deadline_s, driver.config.heartbeat_s)

    def _left_s(self, deadline_s: float) -> float:
        """The time left until the deadline of a call of several steps."""
        return max(deadline_s - self._driver.loop.time(), EARLY_S)

    def id_of(self, member: str | int) -> int:
        """The id of a member by its name, or by its id as a number or as sixteen hexadecimal digits.

        An id need not be a member's. Raises MembershipError if no member has this name.
        """
        if isinstance(member, int):
            return int(member)
        book = self._driver.parts.book
        found = next((known.id for known in book.members.values() if known.name == member), None)
        if found is None and _ID.fullmatch(member):
            return parse_id(member)
        if found is None:
            known = ", ".join(sorted(book.label(node_id) for node_id in book.members)) or "not known yet"
            raise MembershipError(f"no member is named {member!r}: the members are {known}")
        return found

    def successor(self, to: int) -> int:
        """The voter that shall lead next; raises MembershipError, NoLeader."""
        driver = self._driver
        if driver.core.leader == NONE:
            raise NoLeader("no node leads at the moment: there is nothing to transfer")
        voters = driver.core.membership.voters
        if to != NONE:
            if to not in voters:
                raise MembershipError(f"node {format_id(to)} is no voter and can't lead")
            return to
        if driver.core.state is StateType.LEADER:
            target = driver.reconfiguration.best_successor()
        else:
            me = driver.core.id  # a follower does not know which others are alive
            target = me if me in voters else next((voter for voter in voters if voter != driver.core.leader), NONE)
        if target == NONE:
            raise MembershipError("there is no other voter alive to take over the leadership")
        return target

    async def wait(self, until_s: float) -> None:
        """Wait for a change of the node's state, at most this time. Callers check the clock themselves."""
        future = self._driver.changed()
        handle = self._driver.loop.call_at(until_s + EARLY_S, _wake, future)
        try:
            await future
        finally:
            handle.cancel()

    def _membership(self) -> Membership:
        driver = self._driver
        return driver.parts.book.membership(driver.core.membership)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
