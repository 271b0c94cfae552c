"""The log: its unstable end, what is read across both parts, the marks that move along it, and the stable one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.log import RaftLog, Unstable
from syncline.consensus.sizes import encoded_size, entry_size, limit_size, payload_size
from syncline.consensus.storage import MemoryStorage
from syncline.consensus.types import (
    NO_LIMIT,
    Compacted,
    EntryType,
    LogEntry,
    MembershipState,
    Snapshot,
    SnapshotMeta,
    Unavailable,
)


def entries(*terms: int, first: int = 1, data: bytes = b"") -> list[LogEntry]:
    return [LogEntry(term, index, data=data) for index, term in enumerate(terms, first)]


def snapshot(index: int, term: int) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term))


def stored(*terms: int, start: int = 0, start_term: int = 0, data: bytes = b"") -> MemoryStorage:
    storage = MemoryStorage()
    if start:
        storage.apply_snapshot(snapshot(start, start_term))
    storage.append(entries(*terms, first=start + 1, data=data))
    return storage


def log_of(*terms: int, stable: int = 0, start: int = 0, start_term: int = 0, data: bytes = b"") -> RaftLog:
    """A log with entries of these terms, of which the first `stable` are in stable storage."""
    log = RaftLog(stored(*terms[:stable], start=start, start_term=start_term, data=data))
    if len(terms) > stable:
        log.append(entries(*terms[stable:], first=start + stable + 1, data=data))
    return log


def contents(log: RaftLog) -> list[tuple[int, int]]:
    return [(entry.index, entry.term) for entry in log.entries(log.first_index, NO_LIMIT)]


# -- the unstable end ---------------------------------------------------------------------------------------------


def test_entries_are_returned_once_and_leave_when_stable() -> None:
    unstable = Unstable(5)
    unstable.truncate_and_append(entries(1, 1, first=5))
    assert [entry.index for entry in unstable.next_entries()] == [5, 6]
    unstable.accept_in_progress()
    assert not unstable.has_next_entries
    unstable.truncate_and_append(entries(1, first=7))
    assert [entry.index for entry in unstable.next_entries()] == [7]
    assert unstable.stable_to(6, 1)
    assert (unstable.offset, unstable.offset_in_progress, unstable.last_index) == (7, 7, 7)


@pytest.mark.parametrize(("index", "term"), [(4, 1), (5, 2), (8, 1)])
def test_a_confirmation_of_another_entry_is_ignored(index: int, term: int) -> None:
    unstable = Unstable(5)
    unstable.truncate_and_append(entries(1, 1, 1, first=5))
    assert not unstable.stable_to(index, term)
    assert len(unstable.entries) == 3


@pytest.mark.parametrize(
    ("first", "offset", "in_progress", "left"),
    [
        (8, 5, 8, [5, 6, 7, 8]),  # behind everything
        (7, 5, 7, [5, 6, 7]),  # replaces one that is being written: it is written again
        (5, 5, 5, [5]),  # replaces everything
        (3, 3, 3, [3]),  # and a part of the stable log
    ],
)
def test_new_entries_replace_what_was_at_their_places(
    first: int, offset: int, in_progress: int, left: list[int]
) -> None:
    unstable = Unstable(5)
    unstable.truncate_and_append(entries(1, 1, 1, first=5))
    unstable.accept_in_progress()
    unstable.truncate_and_append(entries(2, first=first))
    assert (unstable.offset, unstable.offset_in_progress) == (offset, in_progress)
    assert [entry.index for entry in unstable.entries] == left
    assert unstable.entries[-1].term == 2


def test_snapshot_waits_for_its_storage_and_not_for_a_newer_one() -> None:
    unstable = Unstable(5)
    unstable.restore(snapshot(9, 2))
    assert unstable.next_snapshot() == snapshot(9, 2)
    unstable.accept_in_progress()
    assert unstable.next_snapshot() is None
    assert unstable.term(9) == 2
    unstable.restore(snapshot(12, 2))
    unstable.stable_snapshot_to(9)
    assert unstable.next_snapshot() == snapshot(12, 2)
    unstable.stable_snapshot_to(12)
    assert unstable.next_snapshot() is None
    assert unstable.last_index == 12


# -- reading across both parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stable", range(5))
def test_a_slice_reads_the_same_wherever_the_log_is_stable(stable: int) -> None:
    log = log_of(1, 1, 2, 3, stable=stable, start=6, start_term=1, data=b"data")
    assert contents(log) == [(7, 1), (8, 1), (9, 2), (10, 3)]
    one = entry_size(LogEntry(1, 7, data=b"data"))
    for limit, count in ((0, 1), (one, 1), (2 * one - 1, 1), (2 * one, 2), (3 * one, 3), (NO_LIMIT, 4)):
        assert [entry.index for entry in log.slice(7, 11, limit)] == list(range(7, 7 + count))
    with pytest.raises(Compacted):
        log.slice(6, 8, NO_LIMIT)
    assert log.slice(9, 9, NO_LIMIT) == ()
    assert log.entries(11, NO_LIMIT) == ()


@pytest.mark.parametrize("stable", range(4))
def test_terms_are_known_from_just_below_the_first_index_to_the_last(stable: int) -> None:
    log = log_of(2, 2, 3, stable=stable, start=6, start_term=1)
    assert [log.term(index) for index in range(6, 10)] == [1, 2, 2, 3]
    with pytest.raises(Compacted):
        log.term(5)
    with pytest.raises(Unavailable):
        log.term(10)
    assert (log.term_or_zero(5), log.term_or_zero(10)) == (0, 0)
    assert (log.last_term, log.last_index) == (3, 9)


@pytest.mark.parametrize(
    ("index", "term", "expected"), [(5, 2, True), (4, 2, True), (3, 2, False), (1, 3, True), (9, 1, False)]
)
def test_the_later_last_term_then_the_longer_log_is_more_up_to_date(index: int, term: int, expected: bool) -> None:
    assert log_of(1, 1, 1, 2).is_up_to_date(index, term) is expected


# -- taking entries over ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prev", "new", "commit", "agreed", "terms", "committed"),
    [
        ((3, 3), (), 3, 3, [1, 2, 3], 3),
        ((3, 3), (4,), 3, 4, [1, 2, 3, 4], 3),
        ((3, 3), (4,), 9, 4, [1, 2, 3, 4], 4),  # commits no more than it has
        ((3, 2), (4,), 9, None, [1, 2, 3], 1),  # the logs don't agree
        ((4, 4), (4,), 9, None, [1, 2, 3], 1),  # a gap
        ((2, 2), (4,), 2, 3, [1, 2, 4], 2),  # replaces a conflicting suffix
        ((1, 1), (2,), 1, 2, [1, 2, 3], 1),  # old: what is behind it stays
        ((1, 1), (2, 3, 3), 1, 4, [1, 2, 3, 3], 1),
        ((1, 1), (4, 4), 3, 3, [1, 4, 4], 3),
    ],
)
def test_a_follower_takes_a_leaders_entries_over(
    prev: tuple[int, int],
    new: tuple[int, ...],
    commit: int,
    agreed: int | None,
    terms: list[int],
    committed: int,
) -> None:
    for stable in range(4):
        log = log_of(1, 2, 3, stable=stable)
        log.commit_to(1)
        assert log.maybe_append(*prev, commit, entries(*new, first=prev[0] + 1)) == agreed
        assert [term for _, term in contents(log)] == terms
        assert log.commit_index == committed


def test_what_is_known_already_is_not_written_again() -> None:
    log = log_of(1, 1, 1)
    log.unstable.accept_in_progress()
    log.maybe_append(1, 1, 0, entries(1, 1, 2, first=2))
    assert [entry.index for entry in log.unstable.next_entries()] == [4]


def test_replacing_a_committed_entry_is_a_fault() -> None:
    log = log_of(1, 1, 1)
    log.commit_to(2)
    with pytest.raises(AssertionError):
        log.append(entries(2, first=2))
    with pytest.raises(AssertionError):
        log.commit_to(4)


def naive_find_conflict_by_term(log: RaftLog, index: int, term: int) -> tuple[int, int]:
    while index > 0:
        try:
            own = log.term(index)
        except (Compacted, Unavailable):
            return index, 0
        if own <= term:
            return index, own
        index -= 1
    return 0, 0


@given(st.lists(st.integers(1, 5), max_size=8).map(sorted), st.integers(0, 3), st.integers(0, 14), st.integers(0, 6))
def test_finding_where_logs_may_meet_equals_the_naive_version(
    terms: list[int], start: int, index: int, term: int
) -> None:
    log = log_of(*terms, stable=len(terms) // 2, start=start, start_term=1 if start else 0)
    assert log.find_conflict_by_term(index, term) == naive_find_conflict_by_term(log, index, term)


@given(st.data())
def test_log_operations_equal_a_list(data: st.DataObject) -> None:
    """Appends, overwrites, confirmations and compactions, against a plain list of terms."""
    storage = MemoryStorage()
    log, model = RaftLog(storage), list[int]()
    for _ in range(data.draw(st.integers(1, 25))):
        what = data.draw(st.sampled_from(["append", "write", "commit", "compact"]))
        if what == "append":
            prev = data.draw(st.integers(log.commit_index, len(model)))
            prev_term = model[prev - 1] if prev else 0
            new = sorted(data.draw(st.lists(st.integers(max(prev_term, 1), 9), max_size=3)))
            overlap = min(len(new), len(model) - prev)
            if new[:overlap] != model[prev : prev + overlap]:
                model = model[:prev] + new
            elif len(new) > overlap:
                model = model[: prev + overlap] + new[overlap:]
            assert log.maybe_append(prev, prev_term, 0, entries(*new, first=prev + 1)) == prev + len(new)
        elif what == "write":
            storage.append(log.unstable.next_entries())
            log.unstable.accept_in_progress()
            if model:
                log.unstable.stable_to(len(model), model[-1])
        elif what == "commit":
            log.commit_to(data.draw(st.integers(0, len(model))))
        elif storage.first_index() <= min(log.commit_index, log.unstable.offset - 1):
            storage.compact(min(log.commit_index, log.unstable.offset - 1))
        first = log.first_index
        assert contents(log) == list(enumerate(model, 1))[first - 1 :]
        assert log.last_index == len(model)
        assert [log.term(index) for index in range(first, len(model) + 1)] == model[first - 1 :]


# -- committing and applying --------------------------------------------------------------------------------------


def test_a_leader_commits_only_up_to_an_entry_of_its_own_term() -> None:
    log = log_of(1, 2, 2)
    assert not log.maybe_commit(1, 2)
    assert not log.maybe_commit(4, 2)
    assert log.maybe_commit(3, 2)
    assert not log.maybe_commit(3, 2)
    assert log.commit_index == 3


def test_entries_are_applied_when_committed_and_stable_here() -> None:
    log = log_of(1, 1, 1, stable=1)
    log.commit_to(2)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [1, 2]
    assert [entry.index for entry in log.next_committed(allow_unstable=False)] == [1]
    log.accept_applying(log.next_committed(allow_unstable=False), allow_unstable=False)
    assert not log.has_next_committed(allow_unstable=False)
    assert log.has_next_committed(allow_unstable=True)


def test_nothing_is_applied_while_a_snapshot_waits() -> None:
    log = log_of(1, 1, stable=2)
    log.restore(snapshot(7, 2))
    log.append(entries(2, first=8))
    log.commit_to(8)
    assert not log.has_next_committed(allow_unstable=True)
    assert log.first_index == 8
    log.unstable.stable_snapshot_to(7)
    log.applied_to(7)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [8]


def test_what_is_being_applied_is_limited_in_bytes_across_batches() -> None:
    one = entry_size(LogEntry(1, 1, data=b"x" * 10))
    log = RaftLog(stored(1, 1, 1, 1, 1, data=b"x" * 10), max_applying_bytes=3 * one - 1)
    log.commit_to(5)
    batch = log.next_committed(allow_unstable=True)
    assert len(batch) == 2
    log.accept_applying(batch, allow_unstable=True)
    assert log.next_committed(allow_unstable=True) == ()  # the next one would exceed the limit
    log.applied_to(2)
    batch = log.next_committed(allow_unstable=True)
    assert [entry.index for entry in batch] == [3, 4]
    log.accept_applying(batch[:1], allow_unstable=True)
    assert not log.has_next_committed(allow_unstable=True)  # what was cut short pauses, until it is acknowledged
    log.applied_to(3)
    assert [entry.index for entry in log.next_committed(allow_unstable=True)] == [4, 5]


def test_an_entry_beyond_the_limit_is_applied_alone() -> None:
    log = RaftLog(stored(1, 1, data=b"x" * 100), max_applying_bytes=1)
    log.commit_to(2)
    for index in (1, 2):
        batch = log.next_committed(allow_unstable=True)
        assert [entry.index for entry in batch] == [index]
        log.accept_applying(batch, allow_unstable=True)
        assert not log.has_next_committed(allow_unstable=True)
        log.applied_to(index)


def test_the_applied_index_never_goes_back_nor_beyond_the_commit_index() -> None:
    log = log_of(1, 1, 1)
    log.commit_to(2)
    log.applied_to(2)
    with pytest.raises(AssertionError):
        log.applied_to(1)
    with pytest.raises(AssertionError):
        log.applied_to(3)


def test_log_unapplied_change_is_between_applied_and_committed() -> None:
    log = log_of(1)
    log.append([LogEntry(1, 2, EntryType.CONF_CHANGE_V2), LogEntry(1, 3)])
    assert not log.has_unapplied_change()
    log.commit_to(3)
    assert log.has_unapplied_change()
    log.applied_to(2)
    assert not log.has_unapplied_change()


# -- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "size"),
    [
        (LogEntry(0, 0), 6),
        (LogEntry(1, 127), 6),
        (LogEntry(1, 128), 7),
        (LogEntry(1, 1, data=b"x"), 9),
        (LogEntry(1, 1, data=b"x" * 127), 135),
        (LogEntry(1, 1, data=b"x" * 128), 137),
        (LogEntry(1 << 62, 1, EntryType.CONF_CHANGE_V2, b"xy"), 18),
    ],
)
def test_an_entry_counts_as_its_protobuf_encoding(entry: LogEntry, size: int) -> None:
    assert entry_size(entry) == size


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 20000), st.integers(0, 1000))
def test_sizes_of_many_are_sums_and_a_limit_cuts_at_the_sum(lengths: list[int], first: int, limit: int) -> None:
    batch = [LogEntry(1, index, data=b"x" * length) for index, length in enumerate(lengths, first)]
    assert encoded_size(batch) == sum(entry_size(entry) for entry in batch)
    assert payload_size(batch) == sum(lengths)
    cut = limit_size(batch, limit)
    assert list(cut) == batch[: len(cut)]
    assert encoded_size(cut) <= limit or len(cut) <= 1
    if len(cut) < len(batch):
        assert encoded_size(batch[: len(cut) + 1]) > limit


# -- the stable log in memory -------------------------------------------------------------------------------------


def test_a_compacted_log_knows_the_term_just_below_its_first_entry() -> None:
    storage = stored(1, 2, 3)
    storage.compact(2)
    assert (storage.first_index(), storage.last_index(), storage.term(2)) == (3, 3, 2)
    with pytest.raises(Compacted):
        storage.term(1)
    with pytest.raises(Compacted):
        storage.entries(2, 4)
    with pytest.raises(Unavailable):
        storage.entries(3, 5)
    with pytest.raises(Compacted):
        storage.compact(2)
    with pytest.raises(ValueError, match="last index is 3"):
        storage.compact(4)


def test_appending_replaces_a_suffix_and_ignores_what_is_compacted() -> None:
    storage = stored(1, 1, 1)
    storage.compact(1)
    storage.append(entries(1, 2, first=1))
    assert [(entry.index, entry.term) for entry in storage.entries(2, 3)] == [(2, 2)]
    storage.append(entries(1, first=1))
    assert storage.last_index() == 2
    with pytest.raises(ValueError, match="gap"):
        storage.append(entries(3, first=9))


def test_a_snapshot_is_created_from_the_log_and_never_goes_back() -> None:
    storage = stored(1, 1, 2)
    membership = MembershipState(voters=(1,))
    made = storage.create_snapshot(3, membership, b"state")
    assert made == storage.snapshot() == Snapshot(SnapshotMeta(3, 2, membership), b"state")
    with pytest.raises(Compacted):
        storage.create_snapshot(2)
    with pytest.raises(Compacted):
        storage.apply_snapshot(snapshot(3, 2))
    with pytest.raises(ValueError, match="last index is 3"):
        storage.create_snapshot(4)
    storage.apply_snapshot(snapshot(9, 4))
    assert (storage.first_index(), storage.last_index(), storage.term(9)) == (10, 9, 4)
