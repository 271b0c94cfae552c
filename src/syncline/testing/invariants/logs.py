"""Logs: how they agree, how a leader's grows, and that what is committed stays what it is."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.consensus.types import LogEntry, StateType
from syncline.testing.invariants.base import Invariant, Known, WatchedMember

__all__ = ["CommitAgreement", "CommitsByItsOwnTerm", "LeaderAppendOnly", "LogMatching", "NeverBack"]


class LogMatching(Invariant):
    """Two logs with an entry of the same index and term are equal up to it (thesis, figure 3.2).

    By induction: an index and a term name one entry, which has one predecessor. So it is enough to compare each entry
    that a node takes into its log with the first one of that name.
    """

    name = "log matching"

    def started(self, view: WatchedMember) -> None:
        log = view.core.raft.log
        if log.first_index <= log.last_index:
            self.appended(view, log.entries(log.first_index, 1 << 40))

    def appended(self, view: WatchedMember, entries: Sequence[LogEntry]) -> None:
        log, known = view.core.raft.log, self.facts.entries
        first = entries[0]
        previous_term: int | None = log.term_or_zero(first.index - 1) if first.index > log.first_index - 1 else None
        for entry in entries:
            earlier = known.get((entry.index, entry.term))
            if earlier is None:
                known[entry.index, entry.term] = Known(entry, previous_term)
            elif earlier.entry != entry:
                self.broken(f"{view.name} has another entry {entry.index}@{entry.term} than others have had")
            elif earlier.previous_term != previous_term:
                before = f"{earlier.previous_term} in one log, {previous_term} in that of {view.name}"
                self.broken(f"before entry {entry.index}@{entry.term} comes one of term {before}")
            previous_term = entry.term


class LeaderAppendOnly(Invariant):
    """A leader never changes or removes an entry of its own log (thesis, figure 3.2)."""

    name = "leader append-only"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.state is not StateType.LEADER:
            return
        if view.state is not StateType.LEADER or view.term != core.term:
            view.leads_from = core.raft.log.unstable.offset_in_progress
        elif core.raft.log.last_index + 1 < view.leads_from:
            self.broken(f"{view.name} leads and has lost entries: its log ends at {core.raft.log.last_index}")

    def appended(self, view: WatchedMember, entries: Sequence[LogEntry]) -> None:
        if view.core.state is not StateType.LEADER:
            return
        if entries[0].index < view.leads_from:
            self.broken(f"{view.name} leads and replaces its entry {entries[0].index}")
        view.leads_from = entries[-1].index + 1


class CommitAgreement(Invariant):
    """A committed index has the same entry on all nodes, and never changes (state machine safety, in the log)."""

    name = "committed entries never change"

    def started(self, view: WatchedMember) -> None:
        self._check(view, view.core.raft.log.first_index - 1, view.core.commit_index)

    def looked(self, view: WatchedMember) -> None:
        if view.core.commit_index > view.commit:
            self._check(view, view.commit, view.core.commit_index)

    def _check(self, view: WatchedMember, before: int, commit: int) -> None:
        facts, log = self.facts, view.core.raft.log
        for index in range(max(before + 1, log.first_index), commit + 1):
            term = log.term(index)
            first = facts.committed.setdefault(index, term)
            if first != term:
                self.broken(f"{view.name} has {index}@{term} committed, and {index}@{first} was committed before")
        if commit > facts.last_committed:
            facts.last_committed = commit
            facts.commits.append((view.core.term, commit))


class CommitsByItsOwnTerm(Invariant):
    """A leader commits entries of earlier terms only together with one of its own (thesis, 3.6.2)."""

    name = "a leader commits by an entry of its own term"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        led = view.state is StateType.LEADER and view.term == core.term
        if led and core.state is StateType.LEADER and core.commit_index > view.commit:
            term = core.raft.log.term(core.commit_index)
            if term != core.term:
                self.broken(f"{view.name} leads term {core.term}, and commits {core.commit_index}@{term}")


class NeverBack(Invariant):
    """Term, commit index and applied index never go back on a node.

    Over restarts: what was durable is judged by `durability`. What is shown never goes back, either: a node that has
    applied less than in an earlier life says that it is catching up, and shows nothing of its own.
    """

    name = "nothing goes back"

    def looked(self, view: WatchedMember) -> None:
        core = view.core
        if core.term < view.term:
            self.broken(f"the term of {view.name} went from {view.term} back to {core.term}")
        if core.commit_index < view.commit:
            self.broken(f"the commit index of {view.name} went from {view.commit} back to {core.commit_index}")
        if core.term == view.term and view.vote and core.raft.vote != view.vote:
            self.broken(f"{view.name} changed its vote in term {core.term}")

    def applied(self, view: WatchedMember) -> None:
        if view.driver.applied < view.applied:
            self.broken(f"the applied index of {view.name} went from {view.applied} back to {view.driver.applied}")
        if view.driver.applied < view.most_applied and view.driver.recovery_barrier.reached:
            shown = f"{view.driver.applied}, and had {view.most_applied} before it was started again"
            self.broken(f"{view.name} shows its state at {shown}")
