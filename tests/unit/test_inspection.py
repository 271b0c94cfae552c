"""Looking at log and snapshots: everything is shown, damage is named, and nothing is touched."""

from __future__ import annotations

import random

import pytest

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.storage.inspection import check_log, list_snapshots, read_log
from syncline.testing.simdisk import SimDisk, Survival
from tests.crash_cases import MEMBERS, SNAPSHOTS, WAL, Node


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


def test_the_log_is_shown_frame_by_frame() -> None:
    disk, node = worked()
    segments = list(read_log(disk, WAL))
    assert [segment.sequence for segment in segments] == list(range(1, len(segments) + 1))
    assert all(segment.damage is None for segment in segments)
    assert all(segment.end == "zeros to the end of the file" for segment in segments)
    assert [segment.frames[-1].next_segment for segment in segments] == [*range(2, len(segments) + 1), None]
    frames = [frame for segment in segments for frame in segment.frames]
    rows = [(frame.first_index, frame.last_index, frame.last_term) for frame in frames if frame.first_index is not None]
    assert rows == [(1, 20, 1), (15, 30, 2), (61, 62, 4)]
    assert SnapshotMeta(60, 4, MEMBERS) in [frame.snapshot for frame in frames]
    assert frames[-1].hard_state == node.image.state


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
    path = disk.paths()[-2]
    assert path.startswith(WAL)
    first = next(iter(read_log(disk, WAL)))
    disk.flip_bit(first.path, first.frames[1].offset + 40)
    damaged = next(iter(read_log(disk, WAL)))
    assert damaged.damage is not None
    assert f"offset {first.frames[1].offset}" in damaged.damage
    assert damaged.frames == first.frames[:1]
    assert "Entries 1 to" in (check_log(disk, WAL).damage or "")
    disk.empty(first.path)
    assert next(iter(read_log(disk, WAL))).end == "unreadable"
    assert check_log(disk, WAL).damage is not None


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
