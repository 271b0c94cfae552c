"""One segment of the log as a file that is written to: made whole under a temporary name, then appended to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from syncline.consensus.types import HardState, SnapshotMeta
from syncline.errors import DiskFull, StorageError
from syncline.platform.descriptors import NO_DESCRIPTORS
from syncline.platform.disk import Disk, File
from syncline.storage.space import is_disk_full
from syncline.storage.wal.format import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header, segment_name
from syncline.storage.wal.frame import SEAL_BYTES, FrameBuilder, frame_bound
from syncline.storage.wal.layout import LAYOUTS, NEWEST, RecordLayout

__all__ = ["ActiveSegment", "NotBegun", "Segment", "TEMPORARY_SUFFIX", "segment_room"]

TEMPORARY_SUFFIX: Final = ".tmp"

ZERO_AHEAD_BYTES: Final = 512 << 10
"""Space that was only reserved costs a sync of the file system's own tables when it is first written. Zeros written
ahead of the frames, in the sync of one of them, spare the others that: measured, a third of a sync's time. They are
written on the event loop, a quarter of a millisecond long; twice as many saved nothing more."""

ZERO_AHEAD_FRAMES: Final = 4
"""Frames of more than a quarter of that gain less than the zeros cost, and go without."""


class Segment(msgspec.Struct, frozen=True):
    """A segment as readers know it. `seed` is its header's checksum."""

    sequence: int
    path: str
    seed: int
    base_index: int
    size_bytes: int
    layout: RecordLayout = NEWEST


def segment_room(head_bytes: int, records_bytes: int) -> int:
    """The least size of a segment that has a head of `head_bytes` of records and room for a frame of so many."""
    return SEGMENT_HEADER_BYTES + frame_bound(head_bytes) + frame_bound(records_bytes) + SEAL_BYTES


class NotBegun(StorageError):
    """The process has no file descriptor left. Nothing was written: the same call may be made again."""


def _opened_twice(disk: Disk, path: str) -> tuple[File, File]:
    """A new file, and a descriptor that is kept for the sync of its directory: it must not fail for want of one.

    Raises `NotBegun` if the process has no two descriptors left. There is no file then.
    """
    try:
        file = disk.open(path, create=True, write=True)
        try:
            return file, disk.open(path)
        except OSError:
            file.close()
            disk.remove(path)
            raise
    except OSError as error:
        if error.errno not in NO_DESCRIPTORS:
            raise
        message = f"{path} can't be opened: {error.strerror}. Give the process more file descriptors (ulimit -n)."
        raise NotBegun(message) from error


class ActiveSegment:
    """The segment that is written to. For the log's writer."""

    def __init__(self, file: File, header: SegmentHeader, seed: int, path: str, end: int, previous: int) -> None:
        self.file = file
        self.header = header
        self.info: Segment = Segment(
            header.sequence, path, seed, header.base_index, header.size_bytes, LAYOUTS[header.version]
        )
        self.end: int = end
        self.previous: int = previous
        self._zeroed_until = end

    @classmethod
    def create(
        cls, disk: Disk, directory: str, header: SegmentHeader, hard_state: HardState, marker: SnapshotMeta | None
    ) -> ActiveSegment:
        """Make a segment that begins with the hard state and the marker. Durable, name included, on return.

        Raises `DiskFull` if there is no room for it, and `NotBegun` if there is no file descriptor: nothing of it is
        left then, and another one may be tried.
        """
        name = segment_name(header.sequence)
        path = f"{directory}/{name}"
        temporary = path + TEMPORARY_SUFFIX
        head = encode_segment_header(header)
        seed = int.from_bytes(head[-4:], "little")
        builder = FrameBuilder(LAYOUTS[header.version])
        builder.take(marker, (), hard_state)
        frame, checksum = builder.finish(len(head), seed, seed)
        assert len(head) + len(frame) + SEAL_BYTES <= header.size_bytes
        file, kept = _opened_twice(disk, temporary)
        try:
            with _room_wanted(disk, temporary):
                file.allocate(header.size_bytes)
            file.write_at(0, head + bytes(frame))
            file.sync()
            disk.rename(temporary, path)
            kept.close()
            disk.sync_dir(directory)
        except BaseException:
            kept.close()
            file.close()
            raise
        return cls(file, header, seed, path, len(head) + len(frame), checksum)

    def has_room(self, records_bytes: int) -> bool:
        return self.end + frame_bound(records_bytes) + SEAL_BYTES <= self.header.size_bytes

    def put(self, builder: FrameBuilder) -> int:
        """Write the frame of the records that `builder` has taken. Gives its offset. Not durable before `file.sync`."""
        offset = self.end
        frame, checksum = builder.finish(offset, self.info.seed, self.previous)
        size = len(frame)
        end = offset + size
        with frame:
            assert end <= self.header.size_bytes, (end, self.header.size_bytes)
            self.file.write_at(offset, frame)
        if end > self._zeroed_until:
            self._zero_ahead(end, size)
        self.end = end
        self.previous = checksum
        return offset

    def seal(self, next_sequence: int) -> None:
        """Say in this segment, durably, that another one follows: nobody may then lose that one unnoticed."""
        builder = FrameBuilder(self.info.layout)
        builder.take(None, (), None, seal=next_sequence)
        self.put(builder)
        self.file.sync()

    def _zero_ahead(self, end: int, frame_bytes: int) -> None:
        self._zeroed_until = end
        if frame_bytes * ZERO_AHEAD_FRAMES > ZERO_AHEAD_BYTES:
            return
        until = min(end + ZERO_AHEAD_BYTES, self.header.size_bytes)
        if until > end:
            self.file.write_at(end, bytes(until - end))
            self._zeroed_until = until

    def close(self) -> None:
        self.file.close()


@contextmanager
def _room_wanted(disk: Disk, temporary: str) -> Iterator[None]:
    """Where the disk is full, no trace of the attempt is left, and the error says that it was nothing worse."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        disk.remove(temporary)
        # The next attempt uses the same name. After a crash its rename must not be able to find this empty file.
        disk.sync_dir(os.path.dirname(temporary))
        raise DiskFull(f"{temporary}: {error.strerror}") from error
