"""Looking at log and snapshots: everything is shown, damage is named, and nothing is touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.platform.disk import OsDisk
from syncline.storage.inspect import FrameView, SegmentEnd, SegmentStart, check_log, list_snapshots, read_log
from syncline.testing.sim.disk import SimDisk, SimFile, Survival
from tests.helpers.crash_cases import MEMBERS, SNAPSHOTS, WAL, Node, entries_of
from tests.helpers.storage import append, open_wal, row


def worked() -> tuple[SimDisk, Node]:
    disk = SimDisk(random.Random(1))
    node = Node(disk)
    node.append(1, 20, size=120)
    node.append(15, 30, term=2, commit=12, size=120)
    node.snapshot(12, b"twelve" * 100)
    node.install(60, 4, b"sixty" * 100)
    node.append(61, 62, term=4, commit=61)
    disk.before = refuse
    return disk, node


def refuse(operation: str, path: str) -> None:
    raise AssertionError(f"{operation} of {path}: looking must not change anything")


def seen(disk: SimDisk, **options: bool) -> tuple[list[SegmentStart], list[FrameView], list[SegmentEnd]]:
    parts = list(read_log(disk, WAL, **options))
    return (
        [part for part in parts if isinstance(part, SegmentStart)],
        [part for part in parts if isinstance(part, FrameView)],
        [part for part in parts if isinstance(part, SegmentEnd)],
    )


def test_the_log_is_shown_frame_by_frame() -> None:
    disk, node = worked()
    starts, frames, ends = seen(disk)
    assert [start.sequence for start in starts] == list(range(1, len(starts) + 1))
    assert [end.path for end in ends] == [start.path for start in starts]
    assert all(end.damage is None for end in ends)
    assert all(end.end == "zeros to the end of the file" for end in ends)
    assert [frame.next_segment for frame in frames if frame.next_segment] == list(range(2, len(starts) + 1))
    rows = [(frame.first_index, frame.last_index, frame.last_term) for frame in frames if frame.first_index is not None]
    assert rows == [(1, 20, 1), (15, 30, 2), (61, 62, 4)]
    assert SnapshotMeta(60, 4, MEMBERS) in [frame.snapshot for frame in frames]
    assert frames[-1].hard_state == node.image.state
    assert not any(frame.entries for frame in frames)


def test_the_entries_are_shown_where_they_are_asked_for() -> None:
    disk, _ = worked()
    _, frames, _ = seen(disk, entries=True)
    shown = [entry for frame in frames for entry in frame.entries]
    assert shown == [*entries_of(1, 20, 1, 120), *entries_of(15, 30, 2, 120), *entries_of(61, 62, 4, 60)]


def test_a_sound_log_is_reported_as_a_start_would_find_it() -> None:
    disk, node = worked()
    report = check_log(disk, WAL)
    assert report.damage is None
    assert report.torn is None
    assert (report.first_index, report.last_index, report.last_term) == (61, 62, 4)
    assert report.hard_state == node.image.state == HardState(4, 1, 61)
    assert report.snapshot == SnapshotMeta(60, 4, MEMBERS)
    assert check_log(disk, WAL, log_id=5).damage is None
    assert "another node's" in (check_log(disk, WAL, log_id=6).damage or "")


def test_a_torn_write_is_told_from_damage() -> None:
    disk, node = worked()
    crashes: list[SimDisk] = []

    def crash(operation: str, _path: str) -> None:
        if operation == "sync":
            crashes.append(disk.crashed(Survival.SECTORS, random.Random(3)))

    disk.before = crash
    node.append(63, 70, term=4, size=200)
    report = check_log(crashes[-1], WAL)
    assert report.damage is None
    assert "will be cut when the node starts" in (report.torn or "")
    assert report.last_index == 62


def test_damage_is_named_and_the_rest_is_still_shown() -> None:
    disk, _ = worked()
    starts, frames, _ = seen(disk)
    path = starts[0].path
    disk.flip_bit(path, frames[1].offset + 40)
    damaged, shown, ends = seen(disk)
    assert damaged == starts
    assert f"offset {frames[1].offset}" in (ends[0].damage or "")
    assert ends[1].damage is None
    assert shown[0] == frames[0]
    assert len(shown) < len(frames)
    assert "Entries 1 to" in (check_log(disk, WAL).damage or "")
    disk.empty(path)
    assert seen(disk)[2][0].end == "unreadable"
    assert check_log(disk, WAL).damage is not None


# Beside a node that runs.


def while_reading(
    patch: pytest.MonkeyPatch, disk: SimDisk, work: Callable[[int], None], *, chance: float, seed: int
) -> None:
    """Have `work` done now and then between the reads of whoever looks."""
    rng = random.Random(seed)
    plain = SimFile.read_at
    turn = 0
    busy = False

    def read_at(self: SimFile, offset: int, size: int) -> bytes:
        nonlocal turn, busy
        if not busy and rng.random() < chance:
            turn, busy = turn + 1, True
            work(turn)
            busy = False
        return plain(self, offset, size)

    disk.before = None
    patch.setattr(SimFile, "read_at", read_at)


@pytest.mark.parametrize("seed", range(12))
def test_a_log_that_is_written_to_meanwhile_is_sound(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, whole segments and compactions that come while one reads are not taken for damage."""
    disk, node = worked()
    rng = random.Random(seed)

    def work(turn: int) -> None:
        last = node.image.last_index
        node.append(last + 1, last + rng.randrange(1, 6), term=4, commit=last, size=rng.randrange(1, 900))
        if turn % 7 == 0:
            node.snapshot(last - 1, b"view")
            node.compact()

    while_reading(monkeypatch, disk, work, chance=0.4, seed=seed)
    for _ in range(6):
        report = check_log(disk, WAL, log_id=5)
        assert report.damage is None
        assert report.torn is None
        assert all(end.damage is None for end in seen(disk)[2])
        assert all(view.damage is None for view in list_snapshots(disk, SNAPSHOTS, verify=True))
    assert node.image.last_index > 80


def test_damage_is_told_even_while_the_node_writes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, node = worked()
    starts, frames, _ = seen(disk)
    disk.flip_bit(starts[0].path, frames[1].offset + 40)

    def work(_turn: int) -> None:
        last = node.image.last_index
        node.append(last + 1, last + 1, term=4)

    while_reading(monkeypatch, disk, work, chance=0.5, seed=1)
    assert f"offset {frames[1].offset}" in (check_log(disk, WAL).damage or "")


def test_looking_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for count in (20, 200):
        path = str(tmp_path / str(count))
        wal = open_wal(path, segment_bytes=256 << 10)
        for number in range(count):
            append(wal, row(1 + 10 * number, 10 + 10 * number, size=3000))
        wal.close()
        tracemalloc.start()
        assert check_log(OsDisk(), path).damage is None
        assert sum(1 for _ in read_log(OsDisk(), path, entries=True)) > count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + (64 << 10), peaks


def test_no_log() -> None:
    disk = SimDisk(random.Random(1))
    disk.make_dirs("/empty")
    assert list(read_log(disk, "/empty")) == []
    assert check_log(disk, "/empty").damage == "/empty holds no log"


@pytest.mark.parametrize("verify", [False, True])
def test_snapshots_are_listed_newest_first(verify: bool) -> None:
    disk, _ = worked()
    views = list_snapshots(disk, SNAPSHOTS, verify=verify)
    assert [view.manifest.index for view in views if view.manifest is not None] == [60, 12]
    assert all(view.damage is None for view in views)
    disk.flip_bit(views[0].path, views[0].size_bytes - 1)
    again = list_snapshots(disk, SNAPSHOTS, verify=verify)
    assert ("SHA-256" in (again[0].damage or "")) == verify
    assert again[0].manifest is not None
    disk.flip_bit(views[1].path, 40)
    headless = list_snapshots(disk, SNAPSHOTS)[1]
    assert headless.manifest is None
    assert "header is damaged" in (headless.damage or "")
