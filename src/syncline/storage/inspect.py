"""Read a node's log and snapshots without changing them: stopped or running, sound or damaged.

Nothing here writes, locks or removes. Memory is bounded whatever the log's size: one frame at a time is held.

A running node writes at the same time. A write under way may look like a torn write, and a second look finds the
frame. Damage stays at its place. Files that the node drops meanwhile are no loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from syncline.consensus.types import HardState, LogEntry, SnapshotMeta
from syncline.errors import CorruptionError, StorageError
from syncline.platform.disk import Disk
from syncline.storage.snapshots.file import SnapshotManifest, SnapshotReader, check_length, read_header
from syncline.storage.snapshots.store import SNAPSHOT_NAME
from syncline.storage.wal.format import segment_name, segment_sequence
from syncline.storage.wal.frame import BodyError, Frame, decode_entries
from syncline.storage.wal.recovery import Recovered, recover
from syncline.storage.wal.scan import EndKind, SegmentScan

__all__ = [
    "FrameView",
    "LogReport",
    "SegmentEnd",
    "SegmentStart",
    "SnapshotView",
    "check_log",
    "list_snapshots",
    "read_log",
]

LOOKS_LIMIT: Final = 5
"""How often a read starts again because the running node dropped the next segment."""


class SegmentStart(msgspec.Struct, frozen=True):
    """A segment follows. Its frames come after the entry at `base_index`, of `base_term`."""

    path: str
    sequence: int
    size_bytes: int
    base_index: int
    base_term: int
    version: int
    """The format of the segment."""


class FrameView(msgspec.Struct, frozen=True):
    """One frame: the content of one write. `entries` are present if they were asked for."""

    offset: int
    size_bytes: int
    first_index: int | None = None
    last_index: int | None = None
    first_term: int | None = None
    last_term: int | None = None
    hard_state: HardState | None = None
    snapshot: SnapshotMeta | None = None
    next_segment: int | None = None
    entries: tuple[LogEntry, ...] = ()


class SegmentEnd(msgspec.Struct, frozen=True):
    """Where the frames of a segment end, and how. `damage` is set where it is damaged, or can't be read at all."""

    path: str
    offset: int
    end: str
    damage: str | None = None


class LogReport(msgspec.Struct, frozen=True):
    """Whether a node could start on a log, and with which content. `damage` is the reason why it could not."""

    damage: str | None = None
    torn: str | None = None
    notes: tuple[str, ...] = ()
    first_index: int = 1
    last_index: int = 0
    last_term: int = 0
    hard_state: HardState = HardState()
    snapshot: SnapshotMeta | None = None
    segments: int = 0
    size_bytes: int = 0


class SnapshotView(msgspec.Struct, frozen=True):
    """One snapshot file; `damage` is set if it is damaged, and then there may be no manifest."""

    path: str
    size_bytes: int
    manifest: SnapshotManifest | None = None
    damage: str | None = None


def read_log(disk: Disk, path: str, *, entries: bool = False) -> Iterator[SegmentStart | FrameView | SegmentEnd]:
    """Read the log in the directory `path` frame by frame, oldest segment first, each segment as far as it is
    readable.
    """
    for name in disk.list(path):
        if segment_sequence(name) is not None:
            yield from _segment(disk, f"{path}/{name}", entries=entries)


def _segment(disk: Disk, path: str, *, entries: bool) -> Iterator[SegmentStart | FrameView | SegmentEnd]:
    try:
        file = disk.open(path)
    except FileNotFoundError:  # dropped since it was listed
        return
    try:
        scan = SegmentScan(file)
        header = scan.header
        yield SegmentStart(path, header.sequence, scan.size_bytes, header.base_index, header.base_term, header.version)
        while True:
            while (frame := scan.next()) is not None:
                yield _view(frame, path, entries=entries)
            ending = scan.ending()
            if ending.kind is EndKind.CLEAN or not scan.look_again():
                break
        damage = None if ending.kind is not EndKind.ROT else f"{path} at offset {ending.offset}: {ending.reason}"
        yield SegmentEnd(path, ending.offset, ending.reason, damage)
    except StorageError as error:
        offset = error.offset if isinstance(error, CorruptionError) and error.offset is not None else 0
        yield SegmentEnd(path, offset, "unreadable", str(error))
    finally:
        file.close()


def _view(frame: Frame, path: str, *, entries: bool) -> FrameView:
    record = frame.entries
    shown: tuple[LogEntry, ...] = ()
    if entries and record is not None:
        try:
            shown = tuple(decode_entries(record))
        except BodyError as error:
            raise CorruptionError(
                f"{path} at offset {frame.offset}: {error}", file=path, offset=frame.offset
            ) from error
    return FrameView(
        frame.offset,
        frame.size_bytes,
        first_index=record.first_index if record is not None else None,
        last_index=record.last_index if record is not None else None,
        first_term=record.first_term if record is not None else None,
        last_term=record.last_term if record is not None else None,
        hard_state=frame.hard_state,
        snapshot=frame.marker,
        next_segment=frame.seal,
        entries=shown,
    )


def check_log(disk: Disk, path: str, *, log_id: int | None = None) -> LogReport:
    """Read the whole log as a starting node would, with every checksum, and change nothing.

    Without `log_id` the one in the first segment is assumed to be right.
    """
    try:
        found = _recovered(disk, path, log_id)
    except StorageError as error:
        return LogReport(damage=str(error))
    if found is None:
        return LogReport(damage=f"{path} holds no log")
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
        size_bytes=sum(segment.size_bytes for segment in found.segments[:-1]) + found.active.end,
    )


def _recovered(disk: Disk, path: str, log_id: int | None) -> Recovered | None:
    if not disk.exists(path):
        return None
    for _ in range(LOOKS_LIMIT):
        sequences = [number for name in disk.list(path) if (number := segment_sequence(name)) is not None]
        if not sequences:
            return None
        try:
            known = _log_id(disk, f"{path}/{segment_name(min(sequences))}") if log_id is None else log_id
            return recover(disk, path, log_id=known, repair=False)
        except FileNotFoundError:
            continue
    raise StorageError(f"{path}: the node drops segments faster than they can be read: try again")


def _log_id(disk: Disk, path: str) -> int:
    file = disk.open(path)
    try:
        return SegmentScan(file).header.log_id
    finally:
        file.close()


def list_snapshots(disk: Disk, path: str, *, verify: bool = False) -> list[SnapshotView]:
    """The snapshots in the directory `path`, newest first. `verify` reads all of their data."""
    names = sorted(filter(SNAPSHOT_NAME.fullmatch, disk.list(path)), reverse=True)
    views = (_snapshot(disk, f"{path}/{name}", verify=verify) for name in names)
    return [view for view in views if view is not None]


def _snapshot(disk: Disk, path: str, *, verify: bool) -> SnapshotView | None:
    manifest = None
    try:
        file = disk.open(path)
    except FileNotFoundError:  # a newer one has taken its place since it was listed
        return None
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
