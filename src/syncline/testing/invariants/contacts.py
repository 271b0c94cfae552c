"""Leaders and their quorum: without answers from one a leader steps down, and with them it stays.

Time is counted in ticks of the leader itself: a process that stands still, or whose clock runs fast, is no exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.consensus.types import Message, MessageType, NodeId, StateType
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember

__all__ = ["LeaderHasAQuorum", "LeaderStays"]

ANSWERS: Final = frozenset({MessageType.APP_RESP, MessageType.HEARTBEAT_RESP})

LOOKS: Final = 2
"""A leader checks once in an election timeout for answers since the last check: so it leads for two at most."""


class _Contacts:
    """When each member answered the leader of a term last, in ticks since it leads."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.ticks = 0
        self.answered: dict[NodeId, int] = {}
        self.voters: list[frozenset[NodeId]] = []
        self.since = 0
        """Since when these are the voters. They count as if all had answered then: the earlier ones had a quorum."""
        self.elapsed = 0
        """Ticks of the leader's own clock since it looked last."""
        self.delayed = [0, 0]
        """By how many ticks transfers have put off its last look, and its next one."""

    def ticked(self, elapsed: int) -> None:
        """One more tick. A transfer starts the leader's clock from 0 again, which puts off its next look."""
        self.ticks += 1
        if elapsed == 0:
            self.delayed = [self.delayed[1], 0]
        elif elapsed <= self.elapsed:
            self.delayed[1] += self.elapsed + 1
        self.elapsed = elapsed


class _Quorum(Invariant):
    """Base of both invariants."""

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._contacts: dict[WatchedMember, _Contacts] = {}

    def started(self, view: WatchedMember) -> None:
        self._contacts.pop(view, None)

    def heard(self, view: WatchedMember, message: Message) -> None:
        contacts = self._of(view)
        if contacts is not None and message.type in ANSWERS and message.term == contacts.term:
            contacts.answered[message.sender] = contacts.ticks

    def ticked(self, view: WatchedMember) -> None:
        contacts = self._of(view)
        if contacts is not None:
            contacts.ticked(view.core.raft.election_elapsed)
            if contacts.voters != (halves := _halves(view)):
                contacts.voters, contacts.since = halves, contacts.ticks

    def _of(self, view: WatchedMember) -> _Contacts | None:
        core = view.core
        if core.state is not StateType.LEADER:
            self._contacts.pop(view, None)
            return None
        contacts = self._contacts.get(view)
        if contacts is None or contacts.term != core.term:
            contacts = self._contacts[view] = _Contacts(core.term)
        return contacts


class LeaderHasAQuorum(_Quorum):
    """A leader that no quorum has answered for two election timeouts leads no more (thesis, 6.2)."""

    name = "a leader without a quorum steps down"

    def ticked(self, view: WatchedMember) -> None:
        super().ticked(view)
        contacts = self._contacts.get(view)
        if contacts is None:
            return
        oldest = contacts.ticks - LOOKS * view.core.raft.config.election_ticks - sum(contacts.delayed)
        answered, since = contacts.answered, contacts.since

        def lately(voter: NodeId) -> bool:
            return max(answered.get(voter, 0), since) >= oldest

        if not _is_quorum(view, lately):
            silent = {voter: contacts.ticks - answered.get(voter, 0) for half in _halves(view) for voter in half}
            ticks = ", ".join(f"{self.facts.name(voter)} {silent[voter]}" for voter in sorted(silent))
            self.broken(f"{view.name} leads term {contacts.term}; ticks since its voters have answered: {ticks}")


class LeaderStays(_Quorum):
    """A leader that a quorum has answered within an election timeout is not deposed by its own clock."""

    name = "a leader with a live quorum stays"

    def deposed(self, view: WatchedMember) -> None:
        contacts = self._contacts.pop(view, None)
        if contacts is None or contacts.term != view.core.term:
            return
        since = contacts.ticks - view.core.raft.config.election_ticks
        if _is_quorum(view, lambda voter: contacts.answered.get(voter, -1) > since):
            self.broken(f"{view.name} steps down in term {contacts.term}, and a quorum had answered it just before")


def _halves(view: WatchedMember) -> list[frozenset[NodeId]]:
    voters = view.core.raft.tracker.configuration.voters
    return [frozenset(half.voters) for half in (voters.incoming, voters.outgoing) if half.voters]


def _is_quorum(view: WatchedMember, counts: Callable[[NodeId], bool]) -> bool:
    """Whether those that count are a majority of each half; the node itself always counts."""
    return all(2 * sum(voter == view.id or counts(voter) for voter in half) > len(half) for half in _halves(view))
