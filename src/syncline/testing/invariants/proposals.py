"""Proposals: the number of one is never that of another."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.consensus.types import Entry, EntryType, NodeId, StateType
from syncline.node.envelope import Unreadable, decode_proposal
from syncline.testing.invariants.base import Facts, Invariant, Verdict, View

__all__ = ["OneNumberOneProposal"]


class OneNumberOneProposal(Invariant):
    """A node gives a number to one proposal only, over all its lives: by it the answer finds its caller.

    Otherwise an entry that an earlier life has left in a log answers the caller of another command. The same proposal
    may stand in several logs, or be made again.
    """

    name = "one number, one proposal"

    def __init__(self, facts: Facts, verdict: Verdict) -> None:
        super().__init__(facts, verdict)
        self._proposals: dict[tuple[NodeId, int], tuple[int, bytes]] = {}

    def appended(self, view: View, entries: Sequence[Entry]) -> None:
        if view.core.state is not StateType.LEADER:
            return
        for entry in entries:
            if entry.type is EntryType.NORMAL and entry.data:
                self._check(view, entry)

    def _check(self, view: View, entry: Entry) -> None:
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
