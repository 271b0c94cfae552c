"""The log after a crash: a torn write is cut and kept, rot is refused, and an interrupted recovery recovers."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.types import EntryType, HardState, LogEntry, SnapshotMeta
from syncline.errors import CorruptionError, FormatVersionError, StorageError, WrongDirectory
from syncline.platform.disk import OsDisk
from syncline.storage.wal.recovery import recover
from syncline.storage.wal.scan import SegmentScan
from syncline.storage.wal.writer import Wal
from tests.helpers.storage import SEGMENT_BYTES, TroubledDisk, append, copy_of, held, open_wal, row

SECTOR = 512
FIRST = "0000000000000001.wal"


def frames(path: Path) -> list[tuple[int, int]]:
    """(offset, end) of each frame of a segment."""
    scan = SegmentScan(OsDisk().open(str(path)))
    found = []
    while (frame := scan.next()) is not None:
        found.append((frame.offset, frame.end))
    scan.file.close()
    return found


def two_batches(path: Path, *, last_size: int = 200, last_count: int = 10) -> tuple[int, int]:
    """A log of two batches; returns where the second one's frame begins and ends."""
    wal = open_wal(str(path))
    append(wal, row(1, 5), HardState(1, 1, 3))
    append(wal, row(6, 5 + last_count, size=last_size), HardState(1, 1, 5))
    wal.close()
    return frames(path / FIRST)[-1]


def expect_torn(path: Path, entries: list[LogEntry], state: HardState) -> None:
    """The log in `path` recovers to this, says that it cut something, and is clean from then on."""
    wal = open_wal(str(path))
    assert wal.recovery.torn is not None
    assert "never acknowledged" in wal.recovery.torn
    assert held(wal) == entries
    assert wal.recovery.hard_state == state
    more = row(len(entries) + 1, len(entries) + 3, term=2)
    append(wal, more, HardState(2, 1, state.commit))
    wal.close()
    again = open_wal(str(path))
    assert again.recovery.torn is None
    assert held(again) == entries + more
    again.close()


def patched(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


# Torn writes.


def sectors_of(start: int, end: int) -> list[tuple[int, int]]:
    """The parts of [start, end) that lie in one sector each."""
    cuts = [start, *range(start - start % SECTOR + SECTOR, end, SECTOR), end]
    return list(pairwise(cuts))


def test_any_sectors_of_the_last_write_may_be_missing(tmp_path: Path) -> None:
    start, end = two_batches(tmp_path / "log")
    sectors = sectors_of(start, end)
    assert len(sectors) >= 5
    for missing in range(1, 2 ** len(sectors)):
        path = tmp_path / str(missing)
        copy_of(str(tmp_path / "log"), str(path))
        for number, (left, right) in enumerate(sectors):
            if missing >> number & 1:
                patched(path / FIRST, lambda data, a=left, b=right: data.__setitem__(slice(a, b), bytes(b - a)))  # type: ignore[misc]
        wal = open_wal(str(path))
        nothing_left = missing == 2 ** len(sectors) - 1
        assert (wal.recovery.torn is None) == nothing_left
        assert held(wal) == row(1, 5)
        assert wal.recovery.hard_state == HardState(1, 1, 3)
        wal.close()
        shutil.rmtree(path)


def test_the_last_write_may_end_at_any_byte(tmp_path: Path) -> None:
    start, end = two_batches(tmp_path / "log", last_count=3)
    whole = (tmp_path / "log" / FIRST).read_bytes()
    for cut in range(start + 1, end, 3):
        path = tmp_path / str(cut)
        path.mkdir()
        (path / FIRST).write_bytes(whole[:cut].ljust(len(whole), b"\0"))
        wal = open_wal(str(path))
        assert wal.recovery.torn is not None
        assert held(wal) == row(1, 5)
        wal.close()
        shutil.rmtree(path)


def test_each_sector_of_the_last_write_may_end_at_any_byte(tmp_path: Path) -> None:
    start, end = two_batches(tmp_path / "log")
    whole = (tmp_path / "log" / FIRST).read_bytes()
    rng = random.Random(4)
    for number in range(300):
        data = bytearray(whole)
        torn = False
        for left, right in sectors_of(start, end):
            kept = rng.choice((left, right, rng.randint(left, right)))
            torn = torn or kept < right
            data[kept:right] = bytes(right - kept)
        path = tmp_path / str(number)
        path.mkdir()
        (path / FIRST).write_bytes(data)
        wal = open_wal(str(path))
        assert held(wal) == (row(1, 5) if torn else row(1, 5) + row(6, 15, size=200))
        wal.close()
        shutil.rmtree(path)


def test_the_cut_bytes_are_kept(tmp_path: Path) -> None:
    start, end = two_batches(tmp_path)
    patched(tmp_path / FIRST, lambda data: data.__setitem__(slice(start + 600, start + 1200), bytes(600)))
    torn = (tmp_path / FIRST).read_bytes()[start:end]
    expect_torn(tmp_path, row(1, 5), HardState(1, 1, 3))
    broken = [file for file in tmp_path.iterdir() if file.name.endswith(".broken")]
    assert [file.name for file in broken] == [f"{FIRST}.{start:08x}.broken"]
    assert broken[0].read_bytes() == torn


def test_zeros_in_the_entries_are_not_taken_for_a_missing_sector(tmp_path: Path) -> None:
    wal = open_wal(str(tmp_path))
    entries = [LogEntry(1, 1, EntryType.NORMAL, bytes(3000))]
    append(wal, entries)
    wal.close()
    start, end = frames(tmp_path / FIRST)[-1]
    wal = open_wal(str(tmp_path))
    assert held(wal) == entries
    wal.close()
    patched(tmp_path / FIRST, lambda data: data.__setitem__(start + 700, 1))
    with pytest.raises(CorruptionError, match="written in full"):
        open_wal(str(tmp_path))
    assert end - start > 3000


def test_few_broken_files_are_kept(tmp_path: Path) -> None:
    wal = open_wal(str(tmp_path))
    append(wal, row(1, 1))
    wal.close()
    for index in range(2, 20):
        wal = open_wal(str(tmp_path))
        append(wal, row(index, index, size=1000))
        wal.close()
        start, _ = frames(tmp_path / FIRST)[-1]
        patched(tmp_path / FIRST, lambda data, at=start: data.__setitem__(slice(at, at + 600), bytes(600)))  # type: ignore[misc]
        wal = open_wal(str(tmp_path))
        assert wal.recovery.torn is not None
        append(wal, row(index, index))
        wal.close()
    assert sum(file.name.endswith(".broken") for file in tmp_path.iterdir()) == 8


@pytest.mark.parametrize(
    ("operation", "torn"),
    [
        ("create", True),
        ("write", True),
        ("sync", True),
        ("rename", True),
        ("sync_dir", True),
        ("write", False),
        ("sync", False),
        ("sync_dir", False),
    ],
)
def test_a_recovery_that_fails_half_way_is_repeated(tmp_path: Path, operation: str, torn: bool) -> None:
    start, _ = two_batches(tmp_path)
    expected = row(1, 5) + row(6, 15, size=200)
    if torn:
        patched(tmp_path / FIRST, lambda data: data.__setitem__(slice(start + 100, start + 2000), bytes(1900)))
        expected = row(1, 5)
    disk = TroubledDisk()
    disk.trouble.arm(operation)
    with pytest.raises(OSError, match="as told"):
        open_wal(str(tmp_path), disk=disk)
    wal = open_wal(str(tmp_path))
    assert held(wal) == expected
    wal.close()


def test_the_last_frame_is_written_and_synced_again(tmp_path: Path) -> None:
    two_batches(tmp_path)
    disk = TroubledDisk()
    wal = open_wal(str(tmp_path), disk=disk)
    names = [name for name, _ in disk.trouble.log]
    assert names[-3:] == ["write", "sync", "sync_dir"], "what was read may be in the system's cache only"
    wal.close()


def test_a_look_without_repair_changes_nothing(tmp_path: Path) -> None:
    start, _ = two_batches(tmp_path)
    patched(tmp_path / FIRST, lambda data: data.__setitem__(slice(start + 100, start + 2000), bytes(1900)))
    (tmp_path / "0000000000000002.wal.tmp").write_bytes(b"x")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    recovered = recover(OsDisk(), str(tmp_path), log_id=7, repair=False)
    assert recovered is not None
    assert recovered.torn is not None
    recovered.active.close()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# Rot.


def several_segments(path: Path) -> list[LogEntry]:
    wal = open_wal(str(path), segment_bytes=4096)
    entries = WITHOUT_THE_LAST_FRAME
    for first in range(0, 40, 4):
        part = entries[first : first + 4]
        append(wal, part, HardState(part[0].term, 1, first))
    append(wal, row(39, 40, term=3, size=300), HardState(3, 2, 38))
    wal.close()
    assert sum(file.name.endswith(".wal") for file in path.iterdir()) >= 4
    return entries[:38] + row(39, 40, term=3, size=300)


WITHOUT_THE_LAST_FRAME = row(1, 12, size=300) + row(13, 40, term=2, size=300)
"""The entries of `several_segments` before the last write, which replaced two."""


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def put_back(path: Path, files: dict[str, bytes]) -> None:
    for file in path.iterdir():
        if file.name not in files:
            file.unlink()
    for name, data in files.items():
        if not (path / name).exists() or (path / name).read_bytes() != data:
            (path / name).write_bytes(data)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    """Refused, or in unused space and without any effect. (Every single bit: `test_rot.py`, in memory.)"""
    expected = several_segments(tmp_path)
    pristine = contents(tmp_path)
    rng = random.Random(1)
    refused = harmless = 0
    for name, data in sorted(pristine.items()):
        seal_or_last = frames(tmp_path / name)[-1]
        used_until = seal_or_last[1] if name == max(pristine) else seal_or_last[0]  # the next segment proves the rest
        for position in range(rng.randrange(13), len(data), 13):
            damaged = bytearray(data)
            damaged[position] ^= 1 << rng.randrange(8)
            (tmp_path / name).write_bytes(damaged)
            if position < used_until:
                refused += 1
                with pytest.raises(CorruptionError, match="syncline repair") as caught:
                    open_wal(str(tmp_path), segment_bytes=4096)
                assert caught.value.file in str(caught.value)
                assert contents(tmp_path) == {**pristine, name: bytes(damaged)}, "a refusal changes nothing"
            else:
                harmless += 1
                wal = open_wal(str(tmp_path), segment_bytes=4096)
                assert wal.recovery.torn is not None or wal.recovery.notes
                assert held(wal) == expected
                assert wal.recovery.hard_state == HardState(3, 2, 38)
                wal.close()
            put_back(tmp_path, pristine)
    assert refused > harmless > 0


def test_a_flip_in_the_last_frame_is_rot_and_not_a_torn_write(tmp_path: Path) -> None:
    start, end = two_batches(tmp_path)
    pristine = contents(tmp_path)
    for position in range(start, end):
        damaged = bytearray(pristine[FIRST])
        damaged[position] ^= 1 << position % 8
        (tmp_path / FIRST).write_bytes(damaged)
        with pytest.raises(CorruptionError) as caught:
            open_wal(str(tmp_path))
        assert caught.value.offset == start
        assert caught.value.first_index == 6


def test_rot_in_the_middle_names_file_offset_and_entries(tmp_path: Path) -> None:
    wal = open_wal(str(tmp_path))
    for index in range(1, 40, 3):
        append(wal, row(index, index + 2, size=100))
    wal.close()
    start, end = frames(tmp_path / FIRST)[5]
    patched(tmp_path / FIRST, lambda data: data.__setitem__(slice(start, end), bytes(end - start)))
    with pytest.raises(CorruptionError, match=r"Entries 13 to 15 can't be read") as caught:
        open_wal(str(tmp_path))
    error = caught.value
    assert (error.file, error.offset) == (str(tmp_path / FIRST), start)
    assert (error.first_index, error.last_index) == (13, 15)
    assert "syncline repair" in str(error)


def test_a_damaged_frame_in_an_older_segment(tmp_path: Path) -> None:
    several_segments(tmp_path)
    start, end = frames(tmp_path / FIRST)[-2]
    patched(tmp_path / FIRST, lambda data: data.__setitem__(slice(start, end), bytes(end - start)))
    with pytest.raises(CorruptionError, match="offset"):
        open_wal(str(tmp_path), segment_bytes=4096)


def test_frames_lost_at_the_end_of_an_older_segment(tmp_path: Path) -> None:
    """The segment looks like one that ends early; the next one knows better."""
    several_segments(tmp_path)
    start, _ = frames(tmp_path / FIRST)[-2]
    patched(tmp_path / FIRST, lambda data: data.__setitem__(slice(start, len(data)), bytes(len(data) - start)))
    with pytest.raises(CorruptionError, match="segment 2 says that they reached"):
        open_wal(str(tmp_path), segment_bytes=4096)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 96, 1000, 4095])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_segment_that_was_cut_short(tmp_path: Path, size: int, which: int) -> None:
    several_segments(tmp_path)
    victim = sorted(tmp_path.iterdir())[which]
    victim.write_bytes(victim.read_bytes()[:size])
    with pytest.raises(CorruptionError) as caught:
        open_wal(str(tmp_path), segment_bytes=4096)
    assert caught.value.file == str(victim)


def test_a_missing_segment(tmp_path: Path) -> None:
    several_segments(tmp_path)
    pristine = contents(tmp_path)
    names = sorted(pristine)
    for name in names[1:]:
        (tmp_path / name).unlink()
        with pytest.raises(CorruptionError, match="missing") as caught:
            open_wal(str(tmp_path), segment_bytes=4096)
        assert caught.value.file == str(tmp_path / name)
        put_back(tmp_path, pristine)
    (tmp_path / names[0]).unlink()
    wal = open_wal(str(tmp_path), segment_bytes=4096)
    assert wal.recovery.first_index > 1, "told from a compacted log by the snapshots only: see StoredLog"
    wal.close()


def test_all_segments_missing(tmp_path: Path) -> None:
    with pytest.raises(CorruptionError, match="its files are missing"):
        Wal.open(OsDisk(), str(tmp_path), must_exist=True)
    open_wal(str(tmp_path)).close()
    Wal.open(OsDisk(), str(tmp_path), must_exist=True, log_id=7).close()


def test_a_renamed_segment(tmp_path: Path) -> None:
    several_segments(tmp_path)
    last = max(tmp_path.iterdir())
    number = int(last.name[:16], 16)
    shutil.copy(last, tmp_path / f"{number + 1:016x}.wal")
    with pytest.raises(CorruptionError, match="renamed or copied"):
        open_wal(str(tmp_path), segment_bytes=4096)


def test_a_segment_of_another_log(tmp_path: Path) -> None:
    open_wal(str(tmp_path), log_id=8).close()
    with pytest.raises(WrongDirectory, match="another node's"):
        open_wal(str(tmp_path), log_id=7)


def test_a_segment_of_another_history_of_the_same_log(tmp_path: Path) -> None:
    """A copy of the directory went on by itself; its newer segment does not fit the other one's older ones."""
    wal = open_wal(str(tmp_path / "a"), segment_bytes=4096)
    append(wal, row(1, 5, size=300))
    wal.close()
    copy_of(str(tmp_path / "a"), str(tmp_path / "b"))
    for name, term in (("a", 1), ("b", 2)):
        wal = open_wal(str(tmp_path / name), segment_bytes=4096)
        append(wal, row(6, 9, term=term, size=300))
        append(wal, row(10, 15, term=term, size=300))
        wal.close()
    second = "0000000000000002.wal"
    shutil.copy(tmp_path / "a" / second, tmp_path / "b" / second)
    with pytest.raises(CorruptionError, match="other frames than those"):
        open_wal(str(tmp_path / "b"), segment_bytes=4096)


def test_another_format_version(tmp_path: Path) -> None:
    open_wal(str(tmp_path)).close()
    (path,) = tmp_path.glob("*.wal")
    content = bytearray(path.read_bytes())
    content[8:10] = struct.pack("<H", 3)
    content[60:64] = struct.pack("<I", crc32(content[:60]))
    path.write_bytes(content)
    with pytest.raises(FormatVersionError, match=r"format 3; .* reads formats 1 to 2"):
        open_wal(str(tmp_path))


def test_a_file_that_is_no_segment(tmp_path: Path) -> None:
    (tmp_path / FIRST).write_bytes(b"#!/bin/sh\n" * 100)
    with pytest.raises(CorruptionError, match="not the start of a log segment"):
        open_wal(str(tmp_path))


def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"mine")
    open_wal(str(tmp_path)).close()
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


def test_a_log_kept_as_a_value_in_the_log_is_not_taken_for_the_log(tmp_path: Path) -> None:
    """The bytes of valid frames inside an entry do not make a torn write look like rot."""
    start, _ = two_batches(tmp_path / "a")
    copied = (tmp_path / "a" / FIRST).read_bytes()[:4000]
    wal = open_wal(str(tmp_path / "b"))
    append(wal, row(1, 5), HardState(1, 1, 3))
    append(wal, [LogEntry(1, 6, EntryType.NORMAL, copied + copied[7:])])
    wal.close()
    last, end = frames(tmp_path / "b" / FIRST)[-1]
    assert last == start
    patched(tmp_path / "b" / FIRST, lambda data: data.__setitem__(slice(last, last + SECTOR), bytes(SECTOR)))
    assert end > last + 2 * SECTOR
    expect_torn(tmp_path / "b", row(1, 5), HardState(1, 1, 3))


# Crashes between the steps of a rotation, of a compaction, of an installation.


class CopyingDisk(TroubledDisk):
    """Copies the directory before each operation that changes it: what `kill -9` leaves at that moment."""

    def __init__(self, source: Path, target: Path) -> None:
        super().__init__()
        self.copies: list[Path] = []
        self.armed = False
        self.trouble.hits = self._copy
        self._source = source
        self._target = target

    def _copy(self, operation: str, _path: str) -> bool:
        if self.armed and operation not in ("open", "read"):
            copy = self._target / str(len(self.copies))
            shutil.copytree(self._source, copy)
            self.copies.append(copy)
        return False


def test_a_process_killed_at_any_step_of_a_rotation(tmp_path: Path) -> None:
    disk = CopyingDisk(tmp_path / "log", tmp_path / "copies")
    wal = open_wal(f"{tmp_path}/log", disk=disk)
    append(wal, row(1, 100, size=100), HardState(2, 3, 90))
    disk.armed = True
    append(wal, row(101, 200, term=2, size=100), HardState(2, 3, 150))
    wal.close()
    assert len(disk.copies) >= 11
    for copy in disk.copies:
        again = open_wal(str(copy))
        assert held(again)[:100] == row(1, 100, size=100)
        assert again.recovery.last_index in (100, 200)
        assert again.recovery.hard_state == HardState(2, 3, 90 if again.recovery.last_index == 100 else 150)
        last = again.recovery.last_index
        append(again, row(last + 1, last + 100, term=3, size=100))
        again.close()
        third = open_wal(str(copy))
        assert third.recovery.last_index == last + 100
        third.close()


def test_a_process_killed_at_any_step_of_a_compaction(tmp_path: Path) -> None:
    disk = CopyingDisk(tmp_path / "log", tmp_path / "copies")
    wal = open_wal(f"{tmp_path}/log", disk=disk)
    append(wal, row(1, 100, size=100), HardState(1, 1, 10))
    append(wal, row(101, 200, size=100), HardState(1, 1, 60))
    append(wal, row(90, 190, term=2, size=100), HardState(2, 1, 150))
    append(wal, row(191, 290, term=2, size=100), HardState(2, 1, 280))
    append(wal, row(291, 300, term=2, size=100))
    disk.armed = True
    wal.compact(280)
    wal.close()
    assert len(disk.copies) >= 6
    for copy in disk.copies:
        again = open_wal(str(copy))
        assert again.recovery.first_index <= 281
        assert held(again)[-20:] == row(281, 300, term=2, size=100)
        assert again.recovery.hard_state == HardState(2, 1, 280)
        again.close()


def test_a_process_killed_at_any_step_of_an_installation(tmp_path: Path) -> None:
    disk = CopyingDisk(tmp_path / "log", tmp_path / "copies")
    wal = open_wal(f"{tmp_path}/log", disk=disk)
    append(wal, row(1, 120, size=100), HardState(1, 1, 10))
    disk.armed = True
    append(wal, row(501, 502, term=4), HardState(4, 0, 500), SnapshotMeta(500, 4))
    wal.compact(500)
    append(wal, row(503, 503, term=4))
    wal.close()
    for copy in disk.copies:
        again = open_wal(str(copy))
        if again.recovery.last_index == 120:
            assert again.recovery.snapshot is None
            assert again.recovery.hard_state == HardState(1, 1, 10)
        else:
            assert again.recovery.snapshot == SnapshotMeta(500, 4)
            assert again.recovery.hard_state == HardState(4, 0, 500)
            assert held(again)[:2] == row(501, 502, term=4)
        again.close()


def test_a_last_frame_that_never_reached_the_disk_has_replaced_nothing(tmp_path: Path) -> None:
    several_segments(tmp_path)
    last = max(tmp_path.iterdir())
    patched(last, lambda data: data.__setitem__(frames(last)[-1][0], 0))
    wal = open_wal(str(tmp_path), segment_bytes=4096)
    assert wal.recovery.torn is not None
    assert held(wal) == WITHOUT_THE_LAST_FRAME
    assert wal.recovery.hard_state == HardState(2, 1, 36)
    wal.close()


# Anything at all.


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_files_never_crash_hang_or_invent(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log")
    expected = several_segments(path)
    files = sorted(path.iterdir())
    for _ in range(data.draw(st.integers(1, 3))):
        victim = data.draw(st.sampled_from(files))
        content = bytearray(victim.read_bytes())
        kind = data.draw(st.sampled_from(["flip", "cut", "zero", "splice", "grow", "remove"]))
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        size = data.draw(st.integers(1, 2000))
        if kind == "flip" and content:
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "zero":
            content[at : at + size] = bytes(len(content[at : at + size]))
        elif kind == "splice":
            source = data.draw(st.integers(0, max(0, len(content) - 1)))
            content[at : at + size] = content[source : source + size]
        elif kind == "grow":
            content += data.draw(st.binary(max_size=100))
        victim.write_bytes(content)
        if kind == "remove":
            victim.write_bytes(b"")
    try:
        wal = open_wal(str(path), segment_bytes=4096)
    except StorageError:
        shutil.rmtree(path)
        return
    entries = held(wal)
    # Zeros may look like a last frame that never reached the disk (`wal/scan.py`): what it replaced stands there again.
    assert entries in (expected[: len(entries)], WITHOUT_THE_LAST_FRAME[: len(entries)])
    append(wal, row(wal.last_index + 1, wal.last_index + 1, term=9))
    wal.close()
    open_wal(str(path), segment_bytes=4096).close()
    shutil.rmtree(path)


def test_memory_of_a_recovery_does_not_grow_with_the_log(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for count in (20, 200):
        path = tmp_path / str(count)
        wal = open_wal(str(path), segment_bytes=256 << 10)
        for number in range(count):
            append(wal, row(1 + 10 * number, 10 + 10 * number, size=3000))
        wal.close()
        tracemalloc.start()
        open_wal(str(path), segment_bytes=256 << 10).close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + (64 << 10), peaks


def test_small_segments_are_what_the_tests_above_think(tmp_path: Path) -> None:
    open_wal(str(tmp_path)).close()
    assert (tmp_path / FIRST).stat().st_size == SEGMENT_BYTES
