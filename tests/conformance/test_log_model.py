"""The log against a plain list, through every operation that a node puts it to, in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncline.consensus.log import RaftLog
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import NO_LIMIT, LogEntry, Snapshot, SnapshotMeta

START = 5
"""The log starts behind a snapshot here."""

START_TERM = 2


class LogMachine(RuleBasedStateMachine):
    """`terms[i]` is the term of the entry at `base + 1 + i`. Everything else is told by marks."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()
        self.base = START
        self.base_term = START_TERM
        self.terms: list[int] = []
        self.committed = START
        self.applied = START
        self.writes: list[tuple[list[LogEntry], Snapshot | None]] = []
        """Handed to storage and not written yet, oldest first."""
        self.log: RaftLog

    @initialize(terms=st.lists(st.integers(2, 4), max_size=4).map(sorted))
    def start(self, terms: list[int]) -> None:
        self.storage.apply_snapshot(Snapshot(SnapshotMeta(START, START_TERM)))
        self.terms = terms
        self.storage.append([LogEntry(term, START + 1 + at) for at, term in enumerate(terms)])
        self.log = RaftLog(self.storage)

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        return self.base + len(self.terms)

    def term_at(self, index: int) -> int | None:
        if index == self.base:
            return self.base_term
        return self.terms[index - self.base - 1] if self.base < index <= self.last else None

    # -- operations ---------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3), newer=st.integers(0, 2))
    def a_leader_appends(self, count: int, newer: int) -> None:
        term = (self.term_at(self.last) or 0) + newer
        self.log.append([LogEntry(term, self.last + 1 + at) for at in range(count)])
        self.terms += [term] * count

    @rule(data=st.data(), commit=st.integers(0, 40))
    def a_leader_sends_entries(self, data: st.DataObject, commit: int) -> None:
        prev = data.draw(st.integers(self.committed, self.last + 1), label="prev")
        known = self.term_at(prev)
        prev_term = data.draw(st.sampled_from([known or 1, (known or 1) + 1]), label="prev_term")
        same = data.draw(st.integers(0, 3), label="entries that agree")
        terms = self.terms[max(prev - self.base, 0) :][:same] if known == prev_term else []
        lowest = max([prev_term, *terms])
        terms = terms + sorted(data.draw(st.lists(st.integers(lowest, lowest + 2), max_size=3), label="others"))
        agreed = self.log.maybe_append(
            prev, prev_term, commit, [LogEntry(term, prev + 1 + at) for at, term in enumerate(terms)]
        )
        if known != prev_term:
            assert agreed is None
            return
        assert agreed == prev + len(terms)
        for at, term in enumerate(terms, prev + 1):
            if self.term_at(at) != term:
                del self.terms[at - self.base - 1 :]
                self.terms.append(term)
        self.committed = max(self.committed, min(commit, agreed))

    @rule(index=st.integers(0, 40))
    def an_index_is_committed(self, index: int) -> None:
        term = self.term_at(index)
        moved = self.log.maybe_commit(index, term if term is not None else 1)
        assert moved == (term is not None and index > self.committed)
        if moved:
            self.committed = index

    @rule()
    def storage_is_given_work(self) -> None:
        unstable = self.log.unstable
        work = (unstable.next_entries(), unstable.next_snapshot())
        if work != ([], None):
            self.writes.append(work)
            unstable.accept_in_progress()

    @precondition(lambda self: self.writes)
    @rule()
    def storage_has_written(self) -> None:
        entries, snapshot = self.writes.pop(0)
        if snapshot is not None:
            self.storage.apply_snapshot(snapshot)
            self.log.unstable.stable_snapshot_to(snapshot.meta.index)
            if snapshot.meta.index > self.log.applied:
                self.log.applied_to(snapshot.meta.index)
            self.applied = max(self.applied, snapshot.meta.index)
        self.storage.append(entries)
        # As the core does it: only where all later writes are done is the word about the last entry unambiguous.
        if entries and not self.writes and not self.log.unstable.has_next_entries:
            self.log.unstable.stable_to(entries[-1].index, entries[-1].term)

    @rule()
    def entries_are_applied(self) -> None:
        if self.log.unstable.snapshot is not None:
            assert not self.log.has_next_committed(allow_unstable=True)
            return
        entries = self.log.next_committed(allow_unstable=True)
        assert [entry.index for entry in entries] == list(range(self.applied + 1, self.committed + 1))
        if entries:
            self.log.accept_applying(entries, allow_unstable=True)
            self.log.applied_to(entries[-1].index)
            self.applied = entries[-1].index

    @precondition(lambda self: not self.writes and self.log.unstable.snapshot is None)
    @rule(back=st.integers(0, 3))
    def the_log_is_compacted(self, back: int) -> None:
        index = min(self.applied, self.log.unstable.offset - 1) - back
        if index < self.storage.first_index():
            return
        self.storage.create_snapshot(index)
        self.storage.compact(index)
        base_term = self.term_at(index)
        assert base_term is not None
        del self.terms[: index - self.base]
        self.base, self.base_term = index, base_term

    @rule(ahead=st.integers(1, 4))
    def a_snapshot_arrives(self, ahead: int) -> None:
        index, term = self.committed + ahead, (self.term_at(self.last) or 0) + 1
        self.log.restore(Snapshot(SnapshotMeta(index, term)))
        self.base, self.base_term, self.terms, self.committed = index, term, [], index

    # -- what is seen -------------------------------------------------------------------------------------------------

    @invariant()
    def the_log_is_the_list(self) -> None:
        log = self.log
        assert (log.last_index, log.commit_index, log.applied) == (self.last, self.committed, self.applied)
        assert log.first_index == self.base + 1
        assert [(entry.index, entry.term) for entry in log.entries(log.first_index, NO_LIMIT)] == [
            (self.base + 1 + at, term) for at, term in enumerate(self.terms)
        ]
        for index in range(self.base, self.last + 1):
            term = self.term_at(index)
            assert term is not None
            assert log.term(index) == term
            assert log.matches(index, term)
            assert not log.matches(index, term + 1)
        assert log.last_term == self.term_at(self.last)

    @invariant()
    def logs_meet_where_the_naive_search_says(self) -> None:
        for term in {1, *self.terms, *(term + 1 for term in self.terms)}:
            naive = max((at for at in range(self.base, self.last + 1) if (self.term_at(at) or 0) <= term), default=None)
            if naive is not None:
                assert self.log.find_conflict_by_term(self.last, term) == (naive, self.term_at(naive))


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
test_the_log_is_a_list = LogMachine.TestCase
