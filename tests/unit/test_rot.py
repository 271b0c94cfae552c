"""Rot: every single bit of a log and of a snapshot, every file lost or emptied. Noticed, or without any effect."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.types import HardState
from syncline.errors import CorruptionError, StorageError
from syncline.storage.datadir import IDENTITY_SPARE_NAME
from syncline.storage.wal.scan import SegmentScan
from syncline.storage.wal.writer import Wal
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.crash_cases import CLUSTER, NODE, SEGMENT_BYTES, SNAPSHOTS, WAL, Crashes, Image, Node, Started


def grown() -> tuple[SimDisk, Image]:
    """A node's disk after some time: several segments, overwritten entries, two snapshots."""
    disk = SimDisk(random.Random(1))
    node = Node(disk)
    node.append(1, 20, size=120)
    node.append(21, 30, commit=10, size=120)
    node.append(26, 45, term=2, commit=25, size=120)
    node.snapshot(22, b"twenty-two " * 50)
    node.append(46, 80, term=2, commit=44, size=120)
    node.snapshot(40, b"forty " * 60)
    node.compact()
    node.append(81, 83, term=3, commit=60, size=300)
    node.started.close()
    disk.sync_dir(WAL)
    return disk, node.image


def segments(disk: SimDisk) -> list[str]:
    return [path for path in disk.paths() if path.startswith(WAL)]


def snapshot_files(disk: SimDisk) -> list[str]:
    return [path for path in disk.paths() if path.startswith(SNAPSHOTS)]


def seal_or_end(disk: SimDisk, path: str, *, newest: bool) -> int:
    """Where the part of a segment ends that nothing else can stand in for."""
    scan = SegmentScan(disk.open(path))
    at = scan.offset
    while (frame := scan.next()) is not None:
        if frame.seal is not None:
            return frame.offset
        at = frame.end
    assert newest
    return at


def flips(disk: SimDisk, path: str, *, first: int = 0, each: int = 1) -> Iterator[tuple[int, SimDisk]]:
    """The disk with one bit of a file flipped: each byte, or each of so many, one bit of it or another."""
    for offset in range(first, len(disk.read_file(path)), each):
        damaged = disk.crashed(Survival.EVERYTHING)
        damaged.flip_bit(path, offset, (offset * 5 + offset // 8) % 8)
        yield offset, damaged


EACH_BYTE = 4
"""Every fourth byte is tried in each run, and all in the soak."""


@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=[pytest.mark.slow] if first else []) for first in range(EACH_BYTE)]
)
def test_a_flipped_bit_anywhere_in_the_log(first: int) -> None:
    disk, image = grown()
    assert len(segments(disk)) >= 3
    for path in segments(disk):
        newest = path == segments(disk)[-1]
        used = seal_or_end(disk, path, newest=newest)
        for offset, damaged in flips(disk, path, first=first, each=EACH_BYTE):
            if offset < used:
                with pytest.raises(CorruptionError, match="syncline repair") as caught:
                    Started(damaged)
                error = caught.value
                assert error.file in str(error)
                assert error.file.startswith(WAL)
                assert error.offset is None or f"offset {error.offset}" in str(error)
                assert error.offset is None or error.file != path or error.offset <= offset
            else:
                started = Started(damaged)
                recovery = started.wal.recovery
                assert recovery.torn is not None or recovery.notes, "even where it harms nothing it is told"
                assert started.image(image.first_index) == image


def test_every_bit_of_the_last_frame() -> None:
    """Nothing follows it, and still rot is told from a torn write: it may have been acknowledged."""
    disk, _ = grown()
    path = segments(disk)[-1]
    scan = SegmentScan(disk.open(path))
    frames = []
    while (frame := scan.next()) is not None:
        frames.append(frame)
    last = frames[-1]
    for offset in range(last.offset, last.end):
        for bit in range(8):
            damaged = disk.crashed(Survival.EVERYTHING)
            damaged.flip_bit(path, offset, bit)
            with pytest.raises(CorruptionError) as caught:
                Wal.open(damaged, WAL, segment_bytes=SEGMENT_BYTES, log_id=5)
            assert (caught.value.file, caught.value.offset) == (path, last.offset)
            assert caught.value.first_index == 81


def test_flipped_bit_in_the_newest_snapshot_gives_the_older_one() -> None:
    disk, image = grown()
    older, newest = snapshot_files(disk)
    for _, damaged in flips(disk, newest):
        started = Started(damaged)
        held = started.snapshots.newest()
        assert held is not None
        assert held.index == 22
        assert newest in started.snapshots.damage[0]
        assert started.log.first_index() <= 23, "the log reaches back to the older one"
        assert started.log.last_index() == image.last_index
        assert started.log.hard_state == image.state
    assert disk.exists(older)


def test_unreadable_newest_snapshot_gives_way_to_the_older_one() -> None:
    disk, image = grown()
    disk.fail("read_at", suffix=snapshot_files(disk)[1].rsplit("/", 1)[1], skip=2, times=-1)
    started = Started(disk)
    held = started.snapshots.newest()
    assert held is not None
    assert held.index == 22
    assert "the disk can't read it" in started.snapshots.damage[0]
    assert started.log.last_index() == image.last_index


def test_two_corrupt_snapshots_stop_the_start() -> None:
    disk, _ = grown()
    for path in snapshot_files(disk):
        disk.flip_bit(path, 600)
    with pytest.raises(CorruptionError, match="the newest intact snapshot is missing") as caught:
        Started(disk)
    assert (caught.value.first_index, caught.value.last_index) == (1, 20)


def test_corrupt_older_snapshot_does_not_matter_until_needed() -> None:
    disk, image = grown()
    older, newest = snapshot_files(disk)
    disk.flip_bit(older, 600)
    assert Started(disk).image(image.first_index) == image
    disk.kill()
    disk.flip_bit(newest, 600)
    with pytest.raises(CorruptionError):
        Started(disk)


@pytest.mark.parametrize("emptied", [False, True])
def test_a_lost_or_emptied_file(emptied: bool) -> None:
    disk, image = grown()
    disk.sync_dir(NODE)
    for path in disk.paths():
        damaged = disk.crashed(Survival.EVERYTHING)
        if emptied:
            damaged.empty(path)
        else:
            damaged.lose(path)
        if path in (snapshot_files(disk)[0], f"{NODE}/LOCK", f"{NODE}/{IDENTITY_SPARE_NAME}"):
            assert Started(damaged).image(image.first_index) == image
        elif path == segments(disk)[0] and not emptied:
            started = Started(damaged)  # as after a compaction that went as far as the newest snapshot: nothing is lost
            assert 23 < started.log.first_index() <= 41
            assert started.log.hard_state == image.state
            assert started.log.last_index() == image.last_index
        elif path == snapshot_files(disk)[1]:
            started = Started(damaged)
            held = started.snapshots.newest()
            assert held is not None
            assert held.index == 22
        else:
            with pytest.raises(CorruptionError):
                Started(damaged)


def test_a_refused_start_changes_nothing() -> None:
    disk, _ = grown()
    path = segments(disk)[1]
    disk.flip_bit(path, 700)
    before = {name: disk.read_file(name) for name in disk.paths()}
    for _ in range(3):
        with pytest.raises(CorruptionError):
            Started(disk)
        disk.kill()
    assert {name: disk.read_file(name) for name in disk.paths()} == before


def test_rot_that_appears_while_the_node_runs_is_noticed_when_it_is_read() -> None:
    disk, image = grown()
    started = Started(disk)
    path = segments(disk)[1]
    harmless = 0
    for offset in range(300, 3000, 97):
        disk.flip_bit(path, offset, 0)
        noticed = 0
        for low in range(image.first_index, image.last_index, 10):
            try:
                found = started.wal.read_entries(low, image.last_index + 1, 2000)
            except CorruptionError:
                noticed += 1
            else:
                at = low - image.first_index
                assert tuple(found) == image.entries[at : at + len(found)]
        harmless += not noticed  # a frame whose entries were all overwritten is not read
        disk.flip_bit(path, offset, 0)
    assert harmless < 10


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Several faults at once, of any kind: an error of ours, or a log that holds nothing that was never written."""
    disk, image = grown()
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(disk.paths()))
        content = bytearray(disk.read_file(path))
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        size = data.draw(st.integers(1, 1500))
        match data.draw(st.sampled_from(["flip", "cut", "zero", "splice", "grow", "lose", "sector"])):
            case "flip" if content:
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at:]
            case "zero":
                content[at : at + size] = bytes(len(content[at : at + size]))
            case "sector":
                start = at - at % 512
                content[start : start + 512] = bytes(len(content[start : start + 512]))
            case "splice":
                source = data.draw(st.integers(0, max(0, len(content) - 1)))
                content[at : at + size] = content[source : source + size]
            case "grow":
                content += data.draw(st.binary(max_size=200))
            case _:
                disk.lose(path)
                continue
        disk.write_file(path, bytes(content))
    try:
        started = Started(disk)
    except StorageError:
        return
    known = {(entry.term, entry.index): entry for entry in image.entries}
    log = started.log
    assert log.hard_state.term <= image.state.term
    if log.first_index() <= log.last_index():
        for entry in log.entries(max(log.first_index(), image.first_index), log.last_index() + 1, 2**40):
            assert known[entry.term, entry.index] == entry
    found = started.image(log.first_index())
    started.close()
    Crashes(0, each=0, nested=0).go_on(disk, found)


def test_commit_never_points_beyond_the_log() -> None:
    """Zeros in place of the whole last frame look like a write that never happened, where nothing contradicts them."""
    disk, image = grown()
    path = segments(disk)[-1]
    content = bytearray(disk.read_file(path))
    scan = SegmentScan(disk.open(path))
    frames = []
    while (frame := scan.next()) is not None:
        frames.append(frame)
    content[frames[-1].offset : frames[-1].end] = bytes(frames[-1].size_bytes)
    disk.write_file(path, bytes(content))
    started = Started(disk)
    assert started.log.hard_state == HardState(2, image.state.vote, 44)
    assert started.log.last_index() == 80


def test_the_cluster_of_the_cases_is_the_one_of_the_snapshots() -> None:
    disk, _ = grown()
    assert Started(disk).snapshots.list()[0].cluster_id == CLUSTER
