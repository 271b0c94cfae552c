"""Proposals in the logs: each has a number of its own.

In the committed log each stands once, those of one node in their order, fenced ones in their term alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from syncline.consensus.types import EntryType, LogEntry, NodeId, StateType
from syncline.errors import OperationError, Outcome, Rejected
from syncline.node.envelope import Kind, Unreadable, decode_proposal
from syncline.node.futures import ApplyFuture
from syncline.node.proposals import COUNTER_BITS
from syncline.testing.invariants.base import Facts, Invariant, Verdict, WatchedMember

__all__ = ["OneNumberOneProposal", "Proposed", "ProposalsInTheLog", "check_proposed", "fenced_in"]

ONCE: Final = "no proposal is applied twice"
ORDER: Final = "the proposals of a node keep their order"
FENCED: Final = "a fenced proposal is applied in its term alone"
TOLD: Final = "what a proposal was told is true"

_FENCE: Final = re.compile(rb"fenced in (\d+):")


def fenced_in(term: int) -> bytes:
    """The data of a fenced proposal in a simulation: nothing in the log tells it otherwise."""
    return b"fenced in %d:" % term


class ProposalsInTheLog(Invariant):
    """Looks at each entry when it is known to be committed.

    The order is that of commands and barriers in one life of a node: a start draws the upper bits of the numbers.
    """

    name = ONCE

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._looked = 0
        self._seen: dict[tuple[NodeId, int], int] = {}
        self._newest: dict[tuple[NodeId, int], tuple[int, int]] = {}

    def applied(self, view: WatchedMember) -> None:
        while self._looked < self.facts.last_committed:
            self._looked += 1
            self._look(self._looked, view)

    def _look(self, index: int, view: WatchedMember) -> None:
        entry = self.facts.committed_entry(index)
        if entry.type is not EntryType.NORMAL or not entry.data:
            return
        proposal = decode_proposal(entry.data)
        if proposal.kind not in (Kind.COMMAND, Kind.BARRIER, Kind.SESSION, Kind.SESSION_COMMAND) or not proposal.number:
            return
        origin, number = proposal.origin, proposal.number
        text = f"{number & ((1 << COUNTER_BITS) - 1)} of {self.facts.name(origin)} ({view.name} has applied {index})"
        first = self._seen.setdefault((origin, number), index)
        if first != index:
            self._verdict.broken(ONCE, f"proposal {text} stands at {first} and at {index}")
        life = origin, number >> COUNTER_BITS
        newest, place = self._newest.get(life, (0, 0))
        if number < newest:
            self._verdict.broken(ORDER, f"proposal {text} stands behind a later one at {place}")
        self._newest[life] = max((newest, place), (number, index))
        fence = _FENCE.search(proposal.data)
        if fence is not None and int(fence[1]) != entry.term:
            self._verdict.broken(FENCED, f"proposal {text} is fenced in term {int(fence[1])}: {index}@{entry.term}")


class OneNumberOneProposal(Invariant):
    """A node gives a number to one proposal only, over all its lives: by it the answer finds its caller.

    Otherwise an entry that an earlier life has left in a log answers the caller of another command. The same proposal
    may stand in several logs, or be made again.
    """

    name = "one number, one proposal"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._proposals: dict[tuple[NodeId, int], tuple[int, bytes]] = {}

    def appended(self, view: WatchedMember, entries: Sequence[LogEntry]) -> None:
        if view.core.state is not StateType.LEADER:
            return
        for entry in entries:
            if entry.type is EntryType.NORMAL and entry.data:
                self._check(view, entry)

    def _check(self, view: WatchedMember, entry: LogEntry) -> None:
        try:
            proposal = decode_proposal(entry.data)
        except Unreadable:
            return
        if not proposal.number:
            return  # nothing waits for it
        content = proposal.kind, proposal.data
        first = self._proposals.setdefault((proposal.origin, proposal.number), content)
        if first != content:
            origin = self.facts.name(proposal.origin)
            self.broken(
                f"{view.name} appends proposal {proposal.number} of {origin} at {entry.index}: it was another one"
            )


class Proposed(msgspec.Struct, frozen=True):
    """A command that was proposed on a node under this number, and what its caller holds."""

    origin: NodeId
    number: int
    future: ApplyFuture[object]


def check_proposed(facts: Facts, proposed: Iterable[Proposed], verdict: Verdict) -> None:
    """At the end of a run: answered proposals are in the log, and those that ended as `not_applied` are not."""
    counts: Counter[tuple[NodeId, int]] = Counter()
    for index in range(1, facts.last_committed + 1):
        entry = facts.committed_entry(index)
        if entry.type is EntryType.NORMAL and entry.data:
            proposal = decode_proposal(entry.data)
            counts[proposal.origin, proposal.number] += 1
    for item in proposed:
        if not item.future.done() or item.future.cancelled():
            continue
        found, error = counts[item.origin, item.number], item.future.exception()
        if error is None or isinstance(error, Rejected):
            sound = found == 1
        else:
            sound = not (found and isinstance(error, OperationError) and error.outcome is Outcome.NOT_APPLIED)
        if not sound:
            number = item.number & ((1 << COUNTER_BITS) - 1)
            name = facts.name(item.origin)
            verdict.broken(
                TOLD, f"proposal {number} of {name} ended with {error!r}, and stands {found} times in the log"
            )
