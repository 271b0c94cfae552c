"""Looking at a node's log and snapshots without touching them: stopped or running, sound or damaged.

Nothing here writes, locks or removes. On a running node the end of the log may look torn: a write is under way.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.errors import CorruptionError, StorageError
from syncline.platform.disk import Disk
from syncline.storage.snapshotfile import SnapshotManifest, SnapshotReader, check_length, read_header
from syncline.storage.snapshots import SNAPSHOT_NAME
from syncline.storage.walformat import segment_sequence
from syncline.storage.walrecovery import recover
from syncline.storage.walscan import EndKind, SegmentScan

__all__ = ["FrameView", "LogReport", "SegmentView", "SnapshotView", "check_log", "list_snapshots", "read_log"]


class FrameView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One frame: what one write put into the log."""

    offset: int
    size_bytes: int
    first_index: int | None = None
    last_index: int | None = None
    first_term: int | None = None
    last_term: int | None = None
    hard_state: HardState | None = None
    snapshot: SnapshotMeta | None = None
    next_segment: int | None = None


class SegmentView(msgspec.Struct, frozen=True):
    """One segment. `end` says how its frames end; `damage` is set where it is damaged."""

    path: str
    sequence: int
    size_bytes: int
    base_index: int
    base_term: int
    frames: tuple[FrameView, ...]
    used_bytes: int
    end: str
    damage: str | None = None


class LogReport(msgspec.Struct, frozen=True):
    """Whether a node could start on a log, and what it would find. `damage` says why it could not."""

    damage: str | None = None
    torn: str | None = None
    notes: tuple[str, ...] = ()
    first_index: int = 1
    last_index: int = 0
    last_term: int = 0
    hard_state: HardState = HardState()
    snapshot: SnapshotMeta | None = None
    segments: int = 0


class SnapshotView(msgspec.Struct, frozen=True):
    """One snapshot file; `damage` is set where it is damaged, and then there may be no manifest."""

    path: str
    size_bytes: int
    manifest: SnapshotManifest | None = None
    damage: str | None = None


def read_log(disk: Disk, path: str) -> Iterator[SegmentView]:
    """The segments of the log in the directory `path`, oldest first, each as far as it can be read."""
    for name in disk.list(path):
        sequence = segment_sequence(name)
        if sequence is not None:
            yield _segment(disk, f"{path}/{name}", sequence)


def _segment(disk: Disk, path: str, sequence: int) -> SegmentView:
    file = disk.open(path)
    frames: list[FrameView] = []
    try:
        scan = SegmentScan(file)
        try:
            while (frame := scan.next()) is not None:
                entries = frame.entries
                frames.append(
                    FrameView(
                        frame.offset,
                        frame.size_bytes,
                        first_index=entries.first_index if entries is not None else None,
                        last_index=entries.last_index if entries is not None else None,
                        first_term=entries.first_term if entries is not None else None,
                        last_term=entries.last_term if entries is not None else None,
                        hard_state=frame.hard_state,
                        snapshot=frame.marker,
                        next_segment=frame.seal,
                    )
                )
            ending = scan.ending()
            reason = None if ending.kind is not EndKind.ROT else f"{path} at offset {ending.offset}: {ending.reason}"
            end = ending.reason if ending.kind is not EndKind.CLEAN else EndKind.CLEAN.value
        except CorruptionError as error:
            reason = end = str(error)
        header = scan.header
        return SegmentView(
            path,
            sequence,
            scan.size_bytes,
            header.base_index,
            header.base_term,
            tuple(frames),
            scan.offset,
            end,
            reason,
        )
    except StorageError as error:
        return SegmentView(path, sequence, file.size(), 0, 0, (), 0, "unreadable", str(error))
    finally:
        file.close()


def check_log(disk: Disk, path: str, *, log_id: int | None = None) -> LogReport:
    """Read the whole log as a starting node would, every checksum included, and change nothing.

    Without `log_id` the one in the first segment is taken for right.
    """
    try:
        first = next((name for name in disk.list(path) if segment_sequence(name) is not None), None)
        if first is None:
            return LogReport(damage=f"{path} holds no log")
        found = recover(disk, path, log_id=_log_id(disk, f"{path}/{first}") if log_id is None else log_id, repair=False)
    except StorageError as error:
        return LogReport(damage=str(error))
    assert found is not None
    found.active.close()
    replay = found.replay
    return LogReport(
        torn=found.torn,
        notes=tuple(found.notes),
        first_index=replay.base_index + 1,
        last_index=replay.last_index,
        last_term=replay.last_term,
        hard_state=replay.hard_state,
        snapshot=replay.marker,
        segments=len(found.segments),
    )


def _log_id(disk: Disk, path: str) -> int:
    file = disk.open(path)
    try:
        return SegmentScan(file).header.log_id
    finally:
        file.close()


def list_snapshots(disk: Disk, path: str, *, verify: bool = False) -> list[SnapshotView]:
    """The snapshots in the directory `path`, newest first. `verify` reads all of their data."""
    names = sorted(filter(SNAPSHOT_NAME.fullmatch, disk.list(path)), reverse=True)
    return [_snapshot(disk, f"{path}/{name}", verify=verify) for name in names]


def _snapshot(disk: Disk, path: str, *, verify: bool) -> SnapshotView:
    manifest = None
    file = disk.open(path)
    try:
        size = file.size()
        manifest, offset = read_header(file)
        check_length(file, manifest, offset)
        if verify:
            SnapshotReader(file, manifest, offset).verify()
    except StorageError as error:
        return SnapshotView(path, size, manifest, str(error))
    finally:
        file.close()
    return SnapshotView(path, size, manifest)
