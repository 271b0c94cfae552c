"""The log while it runs: what is written is read back, one sync per batch, old segments go, failures are final."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.types import (
    Compacted,
    EntryType,
    HardState,
    LogEntry,
    MembershipState,
    SnapshotMeta,
    Unavailable,
)
from syncline.errors import CorruptionError, DiskFull, StorageError
from syncline.platform.disk import OsDisk
from syncline.storage.space import SpaceGuard
from syncline.storage.wal import writer as wal_module
from syncline.storage.wal.locations import Locations, TermRuns
from syncline.storage.wal.writer import Wal, WalWrite, combine
from tests.helpers.storage import SEGMENT_BYTES, TroubledDisk, append, held, open_wal, row

NO_LIMIT = 2**62


def segments(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name.endswith(".wal"))


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}/wal")
    recovery = wal.recovery
    assert recovery.is_empty
    assert (recovery.first_index, recovery.last_index, recovery.base_term) == (1, 0, 0)
    assert recovery.hard_state == HardState()
    assert recovery.snapshot is None
    assert recovery.torn is None
    assert wal.failure is None
    wal.close()
    assert (tmp_path / "wal" / "0000000000000001.wal").stat().st_size == SEGMENT_BYTES


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    result = append(wal, row(1, 3), HardState(1, 2, 0))
    assert (result.last_index, result.entries) == (3, 3)
    append(wal, row(4, 4, term=2), HardState(2, 2, 3))
    append(wal, state=HardState(2, 2, 4))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert again.recovery.hard_state == HardState(2, 2, 4)
    assert held(again) == row(1, 3) + row(4, 4, term=2)
    assert [again.recovery.terms.term(index) for index in range(5)] == [0, 1, 1, 1, 2]
    assert again.recovery.last_term == 2
    assert not again.recovery.is_empty
    again.close()


def test_every_kind_of_entry_comes_back(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    entries = [
        LogEntry(1, 1, EntryType.NORMAL, b""),
        LogEntry(1, 2, EntryType.CONF_CHANGE, b"\0\xff"),
        LogEntry(1, 3, EntryType.CONF_CHANGE_V2, b"\xf7SL\x1a" * 100),
        LogEntry(2, 4, EntryType.NORMAL, bytes(5000)),
        LogEntry(5, 5, EntryType.NORMAL, b"\xff" * 5000),
    ]
    append(wal, entries)
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == entries
    again.close()


def test_a_batch_is_one_write_and_one_sync(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    disk.trouble.log.clear()
    writes = [WalWrite(row(1 + 3 * n, 3 + 3 * n), HardState(1, 1, 3 * n)) for n in range(10)]
    result = wal.write(writes)
    assert [name for name, _ in disk.trouble.log] == ["write", "write", "sync"], (
        "the frame, zeros ahead of the next ones"
    )
    assert result.entries == 30
    disk.trouble.log.clear()
    append(wal, row(31, 40))
    assert [name for name, _ in disk.trouble.log] == ["write", "sync"]
    wal.close()


def test_nothing_to_write_costs_nothing(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    disk.trouble.log.clear()
    result = wal.write([WalWrite(), WalWrite()])
    assert (result.entries, result.size_bytes, result.entry_bytes) == (0, 0, 0)
    assert disk.trouble.log == []
    wal.close()


def test_a_conflicting_suffix_is_replaced(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 10))
    append(wal, row(6, 7, term=2))
    append(wal, row(7, 9, term=3))
    expected = row(1, 5) + row(6, 6, term=2) + row(7, 9, term=3)
    assert wal.read_entries(1, 10, NO_LIMIT) == expected
    with pytest.raises((Unavailable, CorruptionError)):
        wal.read_entries(9, 11, NO_LIMIT)
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == expected
    assert [again.recovery.terms.term(index) for index in range(1, 10)] == [entry.term for entry in expected]
    again.close()


def test_a_suffix_replaced_within_one_batch(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    wal.write([WalWrite(row(1, 10)), WalWrite(row(4, 6, term=2)), WalWrite(row(5, 5, term=3), HardState(3, 1, 4))])
    expected = row(1, 3) + row(4, 4, term=2) + row(5, 5, term=3)
    assert wal.read_entries(1, 6, NO_LIMIT) == expected
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == expected
    again.close()


def test_a_marker_restarts_the_log(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 10))
    meta = SnapshotMeta(50, 3, MembershipState((1, 2, 3)))
    wal.write([WalWrite(row(11, 12)), WalWrite((), HardState(3, 0, 50), meta), WalWrite(row(51, 52, term=3))])
    with pytest.raises(Compacted):
        wal.read_entries(50, 51, NO_LIMIT)
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert again.recovery.snapshot == meta
    assert (again.recovery.base_index, again.recovery.base_term) == (50, 3)
    assert held(again) == row(51, 52, term=3)
    again.close()


def test_a_marker_in_the_middle_of_the_log_drops_what_follows_it(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 10), HardState(1, 0, 2))
    append(wal, state=HardState(4, 0, 5), snapshot=SnapshotMeta(5, 4))
    assert wal.last_index == 5
    append(wal, row(6, 7, term=4))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(6, 7, term=4)
    again.close()


def test_the_log_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    for index in range(1, 400, 4):
        append(wal, row(index, index + 3, term=1 + index // 100, size=100), HardState(1 + index // 100, 1, index - 1))
    assert len(segments(tmp_path)) >= 3
    older = (len(segments(tmp_path)) - 1) * SEGMENT_BYTES
    assert older < wal.size_bytes <= older + SEGMENT_BYTES
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert [entry.index for entry in held(again)] == list(range(1, 401))
    assert again.recovery.hard_state == HardState(4, 1, 396)
    again.close()


def test_a_rotation_makes_the_new_segment_durable_before_it_is_used(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    append(wal, row(1, 100, size=100))
    disk.trouble.log.clear()
    append(wal, row(101, 200, size=100))
    first, second = "0000000000000001.wal", "0000000000000002.wal"
    names = [(operation, path.rsplit("/", 1)[-1]) for operation, path in disk.trouble.log]
    assert names == [
        ("create", f"{second}.tmp"),
        ("open", f"{second}.tmp"),
        ("allocate", f"{second}.tmp"),
        ("write", f"{second}.tmp"),
        ("sync", f"{second}.tmp"),
        ("rename", second),
        ("sync_dir", tmp_path.name),
        ("write", f"{first}.tmp"),
        ("sync", f"{first}.tmp"),
        ("write", f"{second}.tmp"),
        ("write", f"{second}.tmp"),
        ("sync", f"{second}.tmp"),
    ]
    wal.close()


def test_an_entry_larger_than_a_segment_gets_one_of_its_own_size(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 1, size=5 * SEGMENT_BYTES))
    append(wal, row(2, 2))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 1, size=5 * SEGMENT_BYTES) + row(2, 2)
    again.close()


def test_a_very_large_batch_is_written_as_several_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "BATCH_SPLIT_BYTES", 1000)
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    disk.trouble.log.clear()
    result = wal.write([WalWrite(row(n, n, size=400), HardState(1, 1, n - 1)) for n in range(1, 9)])
    assert (result.entries, result.last_index) == (8, 8)
    assert [name for name, _ in disk.trouble.log].count("sync") == 4
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 8, size=400)
    again.close()


def test_a_single_write_above_the_limit_is_refused_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_module, "FRAME_LIMIT_BYTES", 1000)
    wal = open_wal(f"{tmp_path}")
    with pytest.raises(StorageError, match="nothing was written"):
        append(wal, row(1, 1, size=2000))
    append(wal, row(1, 1, size=10))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 1, size=10)
    again.close()


# Reading.


def test_reads_are_bounded_in_bytes_but_give_at_least_one(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    for index in range(1, 300, 3):
        append(wal, row(index, index + 2, size=100))
    assert len(segments(tmp_path)) > 2
    assert wal.read_entries(10, 20, 1) == row(10, 10, size=100)
    assert wal.read_entries(10, 20, 124) == row(10, 10, size=100)
    assert wal.read_entries(10, 20, 248) == row(10, 11, size=100)
    assert wal.read_entries(10, 20, 124 * 5 + 1) == row(10, 14, size=100)
    assert wal.read_entries(1, 301, NO_LIMIT) == row(1, 300, size=100), "over the ends of segments"
    for low in (1, 2, 99, 100, 101, 150, 299):
        assert wal.read_entries(low, 300, NO_LIMIT) == row(low, 299, size=100)
    wal.close()


def test_a_damaged_frame_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 10))
    append(wal, row(11, 20))
    path = tmp_path / segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    position = data.index(b"13@1")
    data[position] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match="offset") as caught:
        wal.read_entries(11, 12, NO_LIMIT)
    assert caught.value.file == str(path)
    assert caught.value.offset is not None
    assert caught.value.offset < position
    assert caught.value.first_index == 11
    wal.close()


def test_entries_are_read_while_others_are_written(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 50, size=100))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for index in range(51, 451):
                append(wal, row(index, index, size=100), HardState(1, 1, index - 1))
                if index % 200 == 0:
                    wal.compact(index - 50)
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    compacted = 0
    while writer.is_alive():
        try:
            assert wal.read_entries(20, 50, NO_LIMIT) == row(20, 49, size=100)
        except Compacted:
            compacted += 1
    writer.join()
    assert not failures
    assert wal.read_entries(400, 451, NO_LIMIT) == row(400, 450, size=100)
    wal.close()


# Compaction.


def filled(path: Path, disk: TroubledDisk | None = None) -> Wal:
    wal = open_wal(f"{path}", disk=disk)
    for index in range(1, 500, 5):
        append(wal, row(index, index + 4, size=100), HardState(1, 1, index - 1))
    assert len(segments(path)) >= 4
    return wal


def test_compaction_drops_whole_segments_only(tmp_path: Path) -> None:
    wal = filled(tmp_path)
    before = segments(tmp_path)
    wal.compact(5)
    assert segments(tmp_path) == before
    wal.compact(300)
    assert len(segments(tmp_path)) < len(before)
    assert wal.read_entries(301, 501, NO_LIMIT) == row(301, 500, size=100)
    with pytest.raises(Compacted):
        wal.read_entries(1, 3, NO_LIMIT)
    append(wal, row(501, 510, size=100))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert 1 < again.recovery.first_index <= 301
    assert again.recovery.base_term == 1
    assert held(again) == row(again.recovery.first_index, 510, size=100)
    assert again.recovery.hard_state == HardState(1, 1, 495)
    again.close()


def test_compaction_of_everything_leaves_one_fresh_segment(tmp_path: Path) -> None:
    wal = filled(tmp_path)
    while wal._active.end <= SEGMENT_BYTES // 2:  # less is left as it is
        append(wal, row(wal.last_index + 1, wal.last_index + 1, size=100))
    last = wal.last_index
    wal.compact(last)
    assert len(segments(tmp_path)) == 1
    append(wal, row(last + 1, last + 1))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert (again.recovery.base_index, again.recovery.base_term) == (last, 1)
    assert held(again) == row(last + 1, last + 1)
    assert again.recovery.hard_state == HardState(1, 1, 495)
    again.close()


def test_compaction_removes_the_oldest_first_and_each_durably(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = filled(tmp_path, disk)
    disk.trouble.log.clear()
    wal.compact(400)
    removals = [path for name, path in disk.trouble.log if name == "remove"]
    assert len(removals) >= 2
    assert removals == sorted(removals)
    assert [name for name, _ in disk.trouble.log] == ["remove", "sync_dir"] * len(removals)
    wal.close()


def test_a_segment_stays_while_a_later_one_overwrites_below_its_start(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 100, size=120), HardState(1, 1, 80))
    append(wal, row(101, 200, size=120))
    append(wal, row(90, 150, term=2, size=120), HardState(2, 1, 120))
    append(wal, row(151, 260, term=2, size=120))
    assert len(segments(tmp_path)) == 4
    wal.compact(95)
    expected = row(96, 260, term=2, size=120)
    assert wal.read_entries(96, 261, NO_LIMIT) == expected
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert again.recovery.first_index <= 96
    assert held(again)[-len(expected) :] == expected
    again.close()


def test_an_installed_snapshot_gives_the_space_back_at_once(tmp_path: Path) -> None:
    wal = filled(tmp_path)
    append(wal, state=HardState(2, 0, 900), snapshot=SnapshotMeta(900, 2))
    wal.compact(900)
    assert len(segments(tmp_path)) == 1
    append(wal, row(901, 902, term=2))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert again.recovery.snapshot == SnapshotMeta(900, 2)
    assert held(again) == row(901, 902, term=2)
    again.close()


# Failing disks.


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_after_a_failure_nothing_more_is_written(tmp_path: Path, operation: str) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    append(wal, row(1, 5))
    disk.trouble.arm(operation, ".wal.tmp")  # the name under which the file was opened
    with pytest.raises(StorageError, match="as told"):
        append(wal, row(6, 6))
    assert wal.failure is not None
    disk.trouble.disarm()
    disk.trouble.log.clear()
    with pytest.raises(StorageError, match="as told"):
        append(wal, row(6, 6))
    with pytest.raises(StorageError, match="as told"):
        wal.compact(3)
    assert disk.trouble.log == []
    assert wal.read_entries(1, 6, NO_LIMIT) == row(1, 5), "what is durable can still be read"
    wal.close()


@pytest.mark.parametrize("operation", ["create", "allocate", "write", "sync", "rename", "sync_dir"])
def test_a_failure_in_a_rotation_is_final_and_loses_nothing(tmp_path: Path, operation: str) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    append(wal, row(1, 100, size=100), HardState(1, 1, 50))
    disk.trouble.arm(operation)
    with pytest.raises(StorageError, match="as told"):
        append(wal, row(101, 200, size=100))
    disk.trouble.disarm()
    with pytest.raises(StorageError, match="as told"):
        append(wal, row(101, 101))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 100, size=100)
    assert again.recovery.hard_state == HardState(1, 1, 50)
    append(again, row(101, 101))
    again.close()


def test_a_failed_removal_is_final_and_loses_nothing(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = filled(tmp_path, disk)
    disk.trouble.arm("remove")
    with pytest.raises(StorageError, match="dropping"):
        wal.compact(400)
    with pytest.raises(StorageError, match="dropping"):
        append(wal, row(501, 501))
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 500, size=100)
    again.close()


def test_the_failure_names_a_full_disk(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = open_wal(f"{tmp_path}", disk=disk)
    disk.trouble.arm("write", error=errno.ENOSPC)
    with pytest.raises(StorageError, match="Make space on the disk"):
        append(wal, row(1, 1))
    wal.close()


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    wal = open_wal(f"{tmp_path}")
    wal.close()
    with pytest.raises(StorageError, match="closed"):
        append(wal, row(1, 1))


# What may never be written.


@pytest.mark.parametrize(
    "write",
    [
        WalWrite(row(12, 13)),
        WalWrite(row(5, 6)),
        WalWrite((), HardState(1, 0, 5)),
        WalWrite((), HardState(2, 2, 5)),
        WalWrite((), HardState(2, 1, 4)),
        WalWrite((), HardState(2, 1, 11)),
        WalWrite((), None, SnapshotMeta(4, 2)),
        WalWrite(row(11, 11, term=1)),
        WalWrite((*row(11, 11, term=2), *row(13, 13, term=2))),
    ],
    ids=["gap", "committed", "term back", "second vote", "commit back", "commit beyond", "old marker", "old", "hole"],
)
def test_writes_that_would_break_a_promise_are_refused(tmp_path: Path, write: WalWrite) -> None:
    wal = open_wal(f"{tmp_path}")
    append(wal, row(1, 10, term=2), HardState(2, 1, 5))
    with pytest.raises(AssertionError):
        wal.write([write])
    wal.close()
    again = open_wal(f"{tmp_path}")
    assert held(again) == row(1, 10, term=2)
    assert again.recovery.hard_state == HardState(2, 1, 5)
    again.close()


def test_writes_combine_to_what_they_come_to_one_by_one() -> None:
    meta = SnapshotMeta(20, 2)
    writes = [
        WalWrite(row(1, 5), HardState(1)),
        WalWrite(row(4, 6, term=2), HardState(2)),
        WalWrite((), None, meta),
        WalWrite(row(21, 22, term=2)),
        WalWrite(row(21, 21, term=3), HardState(3, 1, 20)),
    ]
    assert combine(writes) == (meta, row(21, 21, term=3), HardState(3, 1, 20))
    assert combine(writes[:2]) == (None, row(1, 3) + row(4, 6, term=2), HardState(2))
    assert combine([]) == (None, [], None)


# The reserve.


def test_the_reserve_is_kept_and_the_refusal_ends_by_itself(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = Wal.open(disk, str(tmp_path), segment_bytes=SEGMENT_BYTES, reserve_bytes=1000)
    disk.free = 1500
    wal.check_space(400)
    with pytest.raises(DiskFull, match="Reads go on"):
        wal.check_space(501)
    disk.free = 900
    with pytest.raises(DiskFull, match="reserve"):
        wal.check_space(200)
    disk.free = 5000
    wal.check_space(200)
    append(wal, row(1, 1))
    wal.close()


def test_space_is_not_asked_for_at_every_write(tmp_path: Path) -> None:
    disk = TroubledDisk()
    disk.free = 1 << 40
    guard = SpaceGuard(disk, str(tmp_path), reserve_bytes=64 << 20)
    for _ in range(1000):
        guard.check(1000)
    assert disk.free_asked == 1
    for _ in range(9):
        guard.check(1 << 20)
    assert 2 <= disk.free_asked <= 5


def test_what_is_promised_unseen_is_a_small_part_of_the_reserve(tmp_path: Path) -> None:
    disk = TroubledDisk()
    disk.free = 1 << 40
    guard = SpaceGuard(disk, str(tmp_path), reserve_bytes=8 << 20)
    guard.check(1000)
    disk.free = 0
    with pytest.raises(DiskFull):  # noqa: PT012
        for _ in range(11):
            guard.check(100_000)


def test_near_the_reserve_the_log_goes_on_in_small_segments(tmp_path: Path) -> None:
    disk = TroubledDisk()
    wal = Wal.open(disk, str(tmp_path), segment_bytes=4 << 20, reserve_bytes=1 << 20)
    append(wal, row(1, 1, size=3 << 20))
    disk.free = 4 << 20
    append(wal, row(2, 2, size=2 << 20))
    sizes = [(tmp_path / name).stat().st_size for name in segments(tmp_path)]
    assert sizes[0] == 4 << 20
    assert 2 << 20 < sizes[1] < 3 << 20
    append(wal, row(3, 3, size=2 << 20))
    wal.close()
    again = Wal.open(OsDisk(), str(tmp_path), segment_bytes=4 << 20)
    assert [entry.index for entry in held(again)] == [1, 2, 3]
    again.close()


# The tables.


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(0, 3)), max_size=25))
def test_terms_are_what_a_plain_list_says(steps: list[tuple[int, int, int]]) -> None:
    runs = TermRuns()
    terms = [0]
    for first, count, more in steps:
        first = min(first, len(terms))
        term = max(terms[first - 1], 1) + more
        del terms[first:]
        terms += [term] * count
        runs.append(first, term)
        assert [runs.term(index) for index in range(len(terms))] == terms
    base = len(terms) // 2
    runs.drop_before(base)
    assert [runs.term(index) for index in range(base, len(terms))] == terms[base:]


def test_locations_are_sparse_but_never_wrong() -> None:
    locations = Locations()
    for number in range(10_000):
        locations.add(1 + number * 2, 1, 64 + number * 320)
    assert len(locations) < 100
    for number in (0, 1, 777, 9_999):
        found = locations.find(2 + number * 2)
        assert found is not None
        assert found[1] <= 64 + number * 320
    locations.add(5_001, 2, 64, overwrites=True)
    assert locations.find(5_001) == (2, 64, None)
    assert (locations.find(5_000) or (0, 0, None))[2] == 5_001
    assert locations.first_start_after(1) == 5_001
    locations.drop_through(1)
    assert locations.find(5_000) is None
    assert locations.find(9_000) == (2, 64, None)
