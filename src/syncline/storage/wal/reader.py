"""Reading entries back from the log's files, for those that are no longer in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

from syncline.consensus.types import Compacted, LogEntry, Unavailable
from syncline.platform.disk import Disk, File
from syncline.storage.wal.format import rot
from syncline.storage.wal.frame import (
    FRAME_HEADER_BYTES,
    BodyError,
    Frame,
    decode_entries,
    decode_frame,
    decode_frame_header,
)
from syncline.storage.wal.locations import Locations
from syncline.storage.wal.segment import Segment

__all__ = ["ENTRY_OVERHEAD_BYTES", "EntryReader", "entry_size"]

READ_BYTES: Final = 256 << 10
"""Bytes read at once: several locations."""

ENTRY_OVERHEAD_BYTES: Final = 24
"""Bytes of an entry beside its data: an upper bound of the core's count (`consensus.sizes`), and much cheaper."""

OPEN_FILES_LIMIT: Final = 4
"""Segments kept open for reading: a node feeds few slow followers at a time."""


def entry_size(entry: LogEntry) -> int:
    """The size of an entry under a limit in bytes."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class EntryReader:
    """Reads entries by index. For one thread, which may differ from the writer's.

    It has files of its own: a segment that the writer removes meanwhile stays readable through them.
    """

    def __init__(self, disk: Disk, locations: Locations, segments: Callable[[], tuple[Segment, ...]]) -> None:
        self._disk = disk
        self._locations = locations
        self._segments = segments
        self._files: dict[int, tuple[File, Segment]] = {}

    def read(self, low: int, high: int, max_bytes: int) -> list[LogEntry]:
        """The entries from `low` up to but not including `high`, at most `max_bytes` of them but at least one.

        Every frame's checksums are verified on the way.

        Raises:
            Compacted: entries from `low` on were dropped.
            Unavailable: the log does not have them yet.
            CorruptionError: the bytes on disk are not what was written.
        """
        assert 0 < low < high, (low, high)
        entries: list[LogEntry] = []
        room = max_bytes
        while low < high and (room > 0 or not entries):
            found = self._locations.find(low)
            if found is None:
                raise Compacted(f"entry {low} is no longer in the log")
            sequence, offset, until = found
            stop = high if until is None else min(high, until)
            part, room = self._read_from(sequence, offset, low, stop, room, first=not entries)
            entries += part
            low += len(part)
            if low < stop:
                break
        return entries

    def _read_from(
        self, sequence: int, offset: int, low: int, stop: int, room: int, *, first: bool
    ) -> tuple[list[LogEntry], int]:
        """Entries from one location on, until `stop` or until `room` is used up."""
        file, segment = self._open(sequence)
        frames = _Frames(file, segment, offset)
        entries: list[LogEntry] = []
        while (low < stop and room > 0) or (first and not entries):
            at = frames.offset
            frame = frames.next(low)
            if frame.seal is not None:
                raise Unavailable(f"entry {low} is beyond the end of the log")
            if frame.entries is None or frame.entries.last_index < low:
                continue
            try:
                held = decode_entries(frame.entries)
            except BodyError as error:
                raise rot(segment.path, at, str(error), low) from error
            skip = low - frame.entries.first_index
            if skip < 0:
                raise rot(segment.path, at, f"entry {frame.entries.first_index} where {low} should be", low)
            for entry in held[skip : stop - frame.entries.first_index]:
                room -= entry_size(entry)
                if room < 0 and not (first and not entries):
                    return entries, 0
                entries.append(entry)
            low = entries[-1].index + 1
        return entries, room

    def _open(self, sequence: int) -> tuple[File, Segment]:
        known = self._files.get(sequence)
        if known is not None:
            return known
        segment = next((segment for segment in self._segments() if segment.sequence == sequence), None)
        try:
            if segment is None:
                raise FileNotFoundError(sequence)
            file = self._disk.open(segment.path)
        except FileNotFoundError:
            raise Compacted(f"segment {sequence} was dropped") from None
        while len(self._files) >= OPEN_FILES_LIMIT:
            oldest = next(iter(self._files))
            self._files.pop(oldest)[0].close()
        self._files[sequence] = file, segment
        return file, segment

    def close(self) -> None:
        for file, _ in self._files.values():
            file.close()
        self._files.clear()


class _Frames:
    """Reads the frames of a segment from an offset on, each verified separately."""

    def __init__(self, file: File, segment: Segment, offset: int) -> None:
        self._file = file
        self._segment = segment
        self.offset = offset
        self._window = b""
        self._window_start = offset

    def next(self, wanted: int) -> Frame:
        """The next frame. `wanted` is the entry looked for: the error names it."""
        path, offset = self._segment.path, self.offset
        start = self._hold(offset, FRAME_HEADER_BYTES)
        header = decode_frame_header(self._window, start, offset, self._segment.seed)
        if header is None:
            raise rot(path, offset, "a frame header that was valid when it was written", wanted)
        size = header.size_bytes
        start = self._hold(offset, size)
        body = self._window[start + FRAME_HEADER_BYTES : start + size]
        if crc32(body, header.previous) != header.checksum:
            raise rot(path, offset, "a frame whose checksum was right when it was written", wanted)
        self.offset = offset + size
        try:
            return decode_frame(self._window, start, header, offset, self._segment.layout)
        except BodyError as error:
            raise rot(path, offset, str(error), wanted) from error

    def _hold(self, offset: int, size: int) -> int:
        """Read these bytes into the window; return their place in it."""
        start = offset - self._window_start
        if start + size > len(self._window):
            self._window = self._file.read_at(offset, max(size, READ_BYTES))
            self._window_start = offset
            return 0
        return start
