"""The log as the core sees it: the same answers whether entries are in memory or on disk, and after a restart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncline.consensus.storage import LogStorage, MemoryStorage
from syncline.consensus.types import (
    NO_LIMIT,
    Compacted,
    HardState,
    LogEntry,
    MembershipState,
    Snapshot,
    SnapshotMeta,
    SnapshotUnavailable,
    Unavailable,
)
from syncline.errors import CorruptionError
from syncline.storage.stored_log import StoredLog, settle
from syncline.storage.wal.locations import TermRuns
from syncline.storage.wal.reader import entry_size
from syncline.storage.wal.writer import Recovery, Wal, WalWrite
from tests.helpers.storage import open_wal, row

THREE = MembershipState((1, 2, 3))


def write(wal: Wal, log: StoredLog, *writes: WalWrite) -> None:
    """What the runtime does: a batch becomes durable, then the log is told of each of its writes."""
    result = wal.write(writes)
    for done in writes:
        log.appended(done, result)


def opened(path: Path, snapshot: SnapshotMeta | None = None, *, tail_bytes: int = 1 << 20) -> tuple[Wal, StoredLog]:
    wal = open_wal(str(path))
    return wal, StoredLog.open(wal, snapshot, tail_bytes=tail_bytes)


def test_it_is_what_the_core_asks_for(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    storage: LogStorage = log
    assert storage.first_index() == 1
    assert storage.last_index() == 0
    assert storage.term(0) == 0
    assert storage.initial_state() == (HardState(), MembershipState())
    with pytest.raises(SnapshotUnavailable):
        storage.snapshot()
    wal.close()


def test_it_knows_what_is_durable_and_nothing_else(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    batch = WalWrite(row(1, 4), HardState(1, 2, 0))
    result = wal.write([batch])
    assert log.last_index() == 0, "nobody has told it yet"
    log.appended(batch, result)
    assert log.last_index() == 4
    assert log.entries(1, 5, NO_LIMIT) == row(1, 4)
    assert log.hard_state == HardState(1, 2, 0)
    wal.close()


def test_ranges_out_of_reach(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    write(wal, log, WalWrite(row(1, 10), HardState(1, 0, 8)))
    with pytest.raises(Compacted):
        log.entries(0, 3, NO_LIMIT)
    with pytest.raises(Unavailable):
        log.entries(5, 12, NO_LIMIT)
    with pytest.raises(Unavailable):
        log.term(11)
    assert log.entries(11, 11, NO_LIMIT) == []
    log.installed(SnapshotMeta(6, 1))
    log.compacted(6)
    with pytest.raises(Compacted):
        log.entries(6, 8, NO_LIMIT)
    with pytest.raises(Compacted):
        log.term(5)
    assert log.term(6) == 1
    assert log.first_index() == 7
    log.compacted(3)
    assert log.first_index() == 7
    wal.close()


def test_memory_is_bounded_and_older_entries_come_from_disk(tmp_path: Path) -> None:
    wal, log = opened(tmp_path, tail_bytes=5000)
    for index in range(1, 400, 4):
        write(wal, log, WalWrite(row(index, index + 3, term=1 + index // 100, size=100)))
        assert log.tail_bytes <= 5000
    expected = [entry for first in range(1, 400, 4) for entry in row(first, first + 3, term=1 + first // 100, size=100)]
    assert log.entries(1, 401, NO_LIMIT) == expected, "from disk, then from memory"
    assert [log.term(index) for index in range(1, 401)] == [entry.term for entry in expected]
    for low in (1, 50, 350, 365, 380, 399, 400):
        for high in (low + 1, low + 20, 401):
            if high <= 401:
                assert log.entries(low, high, NO_LIMIT) == expected[low - 1 : high - 1]
    wal.close()


def test_byte_limits_hold_over_disk_and_memory(tmp_path: Path) -> None:
    wal, log = opened(tmp_path, tail_bytes=3000)
    for index in range(1, 101):
        write(wal, log, WalWrite(row(index, index, size=100)))
    size = entry_size(row(1, 1, size=100)[0])
    for low in (1, 60, 70, 75, 80, 95):
        for count in (1, 2, 5, 30):
            for slack in (0, size - 1):
                got = log.entries(low, 101, count * size + slack)
                assert got == row(low, min(100, low + count - 1), size=100)
        assert log.entries(low, 101, 0) == row(low, low, size=100)
    wal.close()


def test_a_single_write_larger_than_the_memory_bound(tmp_path: Path) -> None:
    wal, log = opened(tmp_path, tail_bytes=1000)
    write(wal, log, WalWrite(row(1, 5, size=1000)))
    assert log.tail_bytes == 0
    assert log.entries(1, 6, NO_LIMIT) == row(1, 5, size=1000)
    write(wal, log, WalWrite(row(6, 6, size=10)))
    assert log.entries(5, 7, NO_LIMIT) == row(5, 5, size=1000) + row(6, 6, size=10)
    wal.close()


def test_a_received_snapshot_restarts_the_log(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    write(wal, log, WalWrite(row(1, 10), HardState(1, 0, 4)))
    meta = SnapshotMeta(30, 3, THREE)
    write(wal, log, WalWrite((), HardState(3, 0, 30), meta), WalWrite(row(31, 32, term=3)))
    assert (log.first_index(), log.last_index()) == (31, 32)
    assert log.term(30) == 3
    assert log.snapshot() == Snapshot(meta)
    assert log.initial_state() == (HardState(3, 0, 30), THREE)
    wal.close()
    wal, log = opened(tmp_path, meta)
    assert (log.first_index(), log.last_index()) == (31, 32)
    assert log.entries(31, 33, NO_LIMIT) == row(31, 32, term=3)
    wal.close()


def test_a_newer_snapshot_is_never_replaced_by_an_older_one(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    write(wal, log, WalWrite(row(1, 10), HardState(1, 0, 9)))
    log.installed(SnapshotMeta(8, 1, THREE))
    log.installed(SnapshotMeta(5, 1))
    assert log.snapshot() == Snapshot(SnapshotMeta(8, 1, THREE))
    wal.close()


# Starting: the log and the snapshots must fit.


def recovery(base: tuple[int, int], terms: list[int], state: HardState) -> Recovery:
    runs = TermRuns(*base)
    for index, term in enumerate(terms, base[0] + 1):
        runs.append(index, term)
    last = base[0] + len(terms)
    return Recovery(state, None, base[0], base[1], last, runs.term(last), runs)


def test_a_snapshot_within_the_log_needs_nothing() -> None:
    state = recovery((0, 0), [1, 1, 2, 2], HardState(2, 0, 3))
    assert settle(state, None, path="wal") is None
    for index, term in ((1, 1), (2, 1), (3, 2)):
        assert settle(state, SnapshotMeta(index, term), path="wal") is None


def test_what_a_snapshot_holds_is_committed() -> None:
    state = recovery((0, 0), [1, 1, 2, 2], HardState(2, 3, 2))
    assert settle(state, SnapshotMeta(4, 2), path="wal") == WalWrite(hard_state=HardState(2, 3, 4))


def test_an_interrupted_installation_is_completed() -> None:
    state = recovery((0, 0), [1, 1, 2, 2], HardState(2, 3, 2))
    beyond = SnapshotMeta(9, 2, THREE)
    assert settle(state, beyond, path="wal") == WalWrite((), HardState(2, 3, 9), beyond)
    later = SnapshotMeta(9, 4, THREE)
    assert settle(state, later, path="wal") == WalWrite((), HardState(4, 0, 9), later)
    conflicting = SnapshotMeta(4, 3, THREE)
    assert settle(state, conflicting, path="wal") == WalWrite((), HardState(3, 0, 4), conflicting)


def test_a_completed_installation_is_durable(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    write(wal, log, WalWrite(row(1, 10), HardState(1, 2, 4)))
    wal.close()
    meta = SnapshotMeta(40, 2, THREE)
    for _ in range(2):
        wal, log = opened(tmp_path, meta)
        assert (log.first_index(), log.last_index(), log.term(40)) == (41, 40, 2)
        assert log.initial_state() == (HardState(2, 0, 40), THREE)
        wal.close()


def test_a_gap_between_snapshot_and_log_is_refused() -> None:
    state = recovery((20, 2), [2, 2], HardState(2, 0, 21))
    assert settle(state, SnapshotMeta(20, 2), path="wal") is None
    for snapshot in (None, SnapshotMeta(19, 2)):
        with pytest.raises(CorruptionError, match="syncline repair") as caught:
            settle(state, snapshot, path="wal")
        assert caught.value.last_index == 20


def test_a_snapshot_that_contradicts_what_is_committed_is_refused() -> None:
    state = recovery((0, 0), [1, 1, 2, 2], HardState(2, 0, 3))
    with pytest.raises(CorruptionError, match="another entry 3 committed"):
        settle(state, SnapshotMeta(3, 3), path="wal")


def test_a_missing_oldest_segment_is_noticed(tmp_path: Path) -> None:
    wal, log = opened(tmp_path)
    for index in range(1, 200):
        write(wal, log, WalWrite(row(index, index, size=200), HardState(1, 0, index)))
    wal.close()
    (tmp_path / "0000000000000001.wal").unlink()
    wal = open_wal(str(tmp_path))
    with pytest.raises(CorruptionError, match="what is between is lost"):
        StoredLog.open(wal, None)
    wal.close()


# Against the core's own storage in memory.


class AgainstMemory(RuleBasedStateMachine):
    """Whatever is done to it, it answers as `MemoryStorage` does, also after restarts."""

    path: Path

    @initialize()
    def start(self) -> None:
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.wal, self.log = opened(self.path, tail_bytes=1500)
        self.model = MemoryStorage()
        self.state = HardState()
        self.pending: list[WalWrite] = []
        self.last = 0
        self.terms = {0: 0}
        self.snapshot: SnapshotMeta | None = None

    @rule(count=st.integers(1, 12), back=st.integers(0, 6), up=st.integers(0, 1), size=st.integers(1, 200))
    def append(self, count: int, back: int, up: int, size: int) -> None:
        floor = max(self.state.commit, 0)
        first = max(floor + 1, self.last + 1 - back)
        term = max(self.terms[self.last], 1) + (1 if first <= self.last else up)
        entries = row(first, first + count - 1, term=term, size=size)
        self.state = HardState(max(term, self.state.term), 0, self.state.commit)
        self.pending.append(WalWrite(entries, self.state))
        self.model.append(entries)
        self.model.set_hard_state(self.state)
        self.last = first + count - 1
        self.terms.update({entry.index: term for entry in entries})

    @precondition(lambda self: self.last > self.state.commit)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.state = HardState(self.state.term, 0, data.draw(st.integers(self.state.commit + 1, self.last)))
        self.pending.append(WalWrite((), self.state))
        self.model.set_hard_state(self.state)

    @rule(ahead=st.integers(1, 30))
    def install(self, ahead: int) -> None:
        meta = SnapshotMeta(self.last + ahead, self.state.term + 1, THREE)
        self.state = HardState(meta.term, 0, meta.index)
        self.pending.append(WalWrite((), self.state, meta))
        self.model.apply_snapshot(Snapshot(meta))
        self.model.set_hard_state(self.state)
        self.last = meta.index
        self.terms[self.last] = meta.term
        self.snapshot = meta
        self.flush()

    @rule()
    def flush(self) -> None:
        write(self.wal, self.log, *self.pending)
        self.pending = []

    @precondition(lambda self: not self.pending and self.state.commit > self.log.first_index())
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.log.first_index(), self.state.commit))
        self.model.create_snapshot(index, THREE, b"")
        self.model.compact(index)
        if self.snapshot is None or index > self.snapshot.index:
            self.snapshot = SnapshotMeta(index, self.terms[index], THREE)
            self.log.installed(self.snapshot)
        self.log.compacted(index)
        self.wal.compact(index)

    @rule()
    def restart(self) -> None:
        self.flush()
        self.wal.close()
        self.wal, self.log = opened(self.path, self.snapshot, tail_bytes=1500)
        if self.log.first_index() < self.model.first_index():
            self.log.compacted(self.model.first_index() - 1)

    @invariant()
    def agrees(self) -> None:
        if self.pending or not hasattr(self, "log"):
            return
        first, last = self.model.first_index(), self.model.last_index()
        assert (self.log.first_index(), self.log.last_index()) == (first, last)
        assert self.log.hard_state == self.state
        assert [self.log.term(i) for i in range(first - 1, last + 1)] == [
            self.model.term(i) for i in range(first - 1, last + 1)
        ]
        entries: list[LogEntry] = list(self.model.entries(first, last + 1)) if first <= last else []
        assert self.log.entries(first, last + 1, NO_LIMIT) == entries

    def teardown(self) -> None:
        if hasattr(self, "wal"):
            self.wal.close()
            self.directory.cleanup()


TestAgainstMemory = AgainstMemory.TestCase
TestAgainstMemory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_tail_bytes_after_truncations_are_those_of_what_is_left(tmp_path: Path) -> None:
    """Batches are counted as a whole: a truncation may cut one in two, and compaction counts on what is left of it."""
    rng = random.Random(3)
    wal, log = opened(tmp_path)
    sizes: list[int] = []
    for term in range(1, 60):
        first = rng.randint(max(1, len(sizes) - 6), len(sizes) + 1)
        batch = WalWrite(row(first, first + rng.randint(0, 8), term=term, size=100))
        result = wal.write([batch])
        log.appended(batch, result)
        sizes[first - 1 :] = [result.entry_bytes] * len(batch.entries)
        assert log.tail_bytes == sum(sizes), f"the batch of term {term} begins at {first}"
    log.installed(SnapshotMeta(len(sizes), 59, THREE))
    for index in range(1, len(sizes) + 1, 3):
        log.compacted(index)
        assert log.tail_bytes == sum(sizes[index:])
    wal.close()
