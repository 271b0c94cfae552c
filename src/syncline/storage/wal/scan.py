"""Read a segment, and separate a torn write from corruption.

**What a crash can do.** The log writes one frame and syncs it before it writes the next. So at any moment at most one
frame is not yet synced, and it is the last one. Of that frame, any of its sectors may have reached the disk and any
may not, in any order; within a sector the bytes are written from its start. Bytes that did not reach the disk still
read as zeros: a segment is filled with zeros, synced and only then named, and it is never used twice. An interrupted
recovery may have put some of the zeros back.

**What a crash can't do.** It can't damage a frame that has a valid frame after it: the later one was written after the
earlier one was synced. It can't damage a segment that has a successor. It can't leave a frame that was written
completely (every sector of it has its guard) with a wrong checksum. It can't shorten the file or damage its header.

**The rule.** The frames of a segment end at the first place without a valid frame that continues the chain. There:

1. Nothing but zeros up to the end of the file: the end of the log.
2. A valid frame anywhere after it: corruption.
3. Another segment after this one: corruption, unless this one ended at the offset that the next one names.
4. The 32 bytes that should be a frame header begin or end with a zero byte: they were never written in full. Torn.
   (Neither byte is zero in a written header, and no single flipped bit makes it so.)
5. They are not a valid header, and yet were written in full: corruption.
6. The header is valid but follows another frame than the one before it: corruption.
7. The header is valid and some guard of the frame is a zero byte: that sector was never written in full. Torn.
8. All guards of the frame are set, or one is neither set nor zero: it was written in full and is not what was
   written.
   Corruption, even though it is the last frame: it may well have been acknowledged.

A torn frame was never acknowledged, because its sync never returned: it may be cut. A corrupt frame may have been
acknowledged: the node must not start. One case can't be recognised: a disk that turns the last sectors of the last
frame into zeros *after* it reported them synced.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final
from zlib import crc32

import msgspec

from syncline.platform.disk import File
from syncline.storage.wal.format import SEGMENT_HEADER_BYTES, SegmentHeader, decode_segment_header, other_group, rot
from syncline.storage.wal.frame import (
    BLOCK_BYTES,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    GUARD,
    SECTOR_BYTES,
    BodyError,
    Frame,
    FrameHeader,
    GroupError,
    decode_frame,
    decode_frame_header,
    first_guard,
)
from syncline.storage.wal.layout import LAYOUTS, RecordLayout
from syncline.storage.wal.steady import Course, read_steady

__all__ = ["Ending", "EndKind", "Frame", "SegmentScan"]

WINDOW_BYTES: Final = 1 << 20
"""Bytes of a segment that are read at once. A larger frame is read whole; nothing larger is ever held."""


class EndKind(Enum):
    """What follows the last valid frame of a segment."""

    CLEAN = "zeros to the end of the file"
    TORN = "a write that a crash interrupted"
    ROT = "bytes that are not what was written"


class Ending(msgspec.Struct, frozen=True):
    """The end of a segment's frames: its place and its kind.

    `dirty_end` is the offset after the last byte that is not zero. If a valid frame follows, `next_offset` is its
    offset and `next_index` its first entry, if any.
    """

    kind: EndKind
    offset: int
    reason: str
    dirty_end: int
    next_offset: int | None = None
    next_index: int | None = None


class SegmentScan:
    """Reads the frames of one segment in order, with a bounded part of it in memory.

    `offset` is where the next frame is expected and `previous` the checksum that it must continue.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self.path: str = file.path
        self.size_bytes: int = file.size()
        self._window = b""
        self._window_start = 0
        self.header: SegmentHeader
        self.seed: int
        self.header, self.seed = self._read_header()
        self.layout: RecordLayout = LAYOUTS[self.header.version]
        self.offset: int = SEGMENT_HEADER_BYTES
        self.previous: int = self.seed

    def _read_header(self) -> tuple[SegmentHeader, int]:
        header, seed = decode_segment_header(self.path, self.raw(0, SEGMENT_HEADER_BYTES))
        if self.size_bytes < header.size_bytes:
            raise rot(self.path, self.size_bytes, f"the file was cut short: {header.size_bytes} bytes were allocated")
        if self.size_bytes > header.size_bytes:
            raise rot(self.path, header.size_bytes, f"the file has grown: {header.size_bytes} bytes were allocated")
        return header, seed

    def next(self) -> Frame | None:
        """The next frame; None if there is no valid one: `ending` says why.

        Raises:
            CorruptionError: a frame with right checksums whose content makes no sense.
            FormatVersionError: a frame with a record of another Raft group.
        """
        offset = self.offset
        start = self._hold(offset, FRAME_HEADER_BYTES)
        header = decode_frame_header(self._window, start, offset, self.seed)
        if header is None or header.previous != self.previous:
            return None
        size = header.size_bytes
        if offset + size > self.size_bytes:
            return None
        if start + size > len(self._window):
            start = self._hold(offset, size)
        window = self._window
        if crc32(window[start + FRAME_HEADER_BYTES : start + size], header.previous) != header.checksum:
            return None
        try:
            frame = decode_frame(window, start, header, offset, self.layout)
        except GroupError as error:
            raise other_group(self.path, offset, str(error)) from error
        except BodyError as error:
            raise rot(self.path, offset, f"a frame that is not one of ours ({error})") from error
        self.offset = offset + size
        self.previous = header.checksum
        return frame

    def follow(self, course: Course, locate: Callable[[int, int], None]) -> None:
        """Read frames that only continue the log, as `read_steady` does, as far as they reach."""
        while True:
            before = self.offset
            start = self._hold(before, FRAME_HEADER_BYTES)
            read_steady(self._window, start, self.seed, course, locate, self.layout)
            self.offset, self.previous = course.offset, course.previous
            if self.offset == before:
                return

    def look_again(self) -> bool:
        """Whether a frame that continues the chain stands at `offset` by now: a running node may have written one."""
        self._window = b""
        header = self._header_at(self.offset)
        return (
            header is not None and header.previous == self.previous and self._body_at(self.offset, header) is not None
        )

    def ending(self) -> Ending:
        """Classify the bytes at `offset`, at which `next` found no frame: the rule above, but for its point 3."""
        dirty_end = self._dirty_end()
        if dirty_end <= self.offset:
            return Ending(EndKind.CLEAN, self.offset, EndKind.CLEAN.value, self.offset)
        later = self._later_frame(dirty_end)
        if later is not None:
            at, next_index = later
            reason = f"a frame is missing or damaged, and a valid one follows at offset {at}"
            return Ending(EndKind.ROT, self.offset, reason, dirty_end, at, next_index)
        kind, reason = self._judge_last_frame()
        return Ending(kind, self.offset, reason, dirty_end)

    def skip_damage(self) -> bool:
        """Go on at the valid frame behind the damage, to read the rest; False without one."""
        found = self.ending().next_offset
        header = self._header_at(found) if found is not None else None
        if found is None or header is None:
            return False
        self.offset, self.previous = found, header.previous
        return True

    def raw(self, offset: int, size: int) -> bytes:
        """The bytes of the file, unchecked."""
        return self.file.read_at(offset, size)

    def _judge_last_frame(self) -> tuple[EndKind, str]:
        data = self.raw(self.offset, FRAME_HEADER_BYTES)
        if len(data) < FRAME_HEADER_BYTES or data[0] == 0 or data[-1] == 0:
            return EndKind.TORN, "a frame whose header was not written in full"
        header = self._header_at(self.offset)
        if header is None:
            return EndKind.ROT, "a frame with a damaged header"
        if header.previous != self.previous:
            return EndKind.ROT, "a frame that does not continue the one before it"
        start = self.offset + FRAME_HEADER_BYTES
        body = self.raw(start, header.size_bytes - FRAME_HEADER_BYTES)
        guards = body[first_guard(start) :: SECTOR_BYTES] + body[-1:]
        missing = guards.count(0)
        if missing and not guards.replace(b"\0", b"").strip(GUARD):
            return EndKind.TORN, f"a frame of which {missing} of {len(guards)} sectors were not written in full"
        return EndKind.ROT, "a frame that was written in full and whose checksum is wrong"

    def _header_at(self, offset: int) -> FrameHeader | None:
        """The header of a frame that is all within the file."""
        start = self._hold(offset, FRAME_HEADER_BYTES)
        header = decode_frame_header(self._window, start, offset, self.seed)
        if header is not None and offset + header.size_bytes > self.size_bytes:
            return None
        return header

    def _body_at(self, offset: int, header: FrameHeader) -> int | None:
        """The place in the window of the frame at `offset`; None if its checksum is wrong."""
        start = self._hold(offset, header.size_bytes)
        body = self._window[start + FRAME_HEADER_BYTES : start + header.size_bytes]
        return start if crc32(body, header.previous) == header.checksum else None

    def _later_frame(self, dirty_end: int) -> tuple[int, int | None] | None:
        """The first valid frame after `offset`, whatever it continues, and the first entry that it holds."""
        position = self.offset + BLOCK_BYTES
        while position < dirty_end:
            chunk = self.raw(position, min(WINDOW_BYTES, dirty_end - position))
            found = chunk.find(FRAME_MAGIC)
            while found >= 0:
                at = position + found
                header = self._header_at(at) if at % BLOCK_BYTES == 0 else None
                if header is not None and (start := self._body_at(at, header)) is not None:
                    return at, self._first_entry(at, start, header)
                found = chunk.find(FRAME_MAGIC, found + 1)
            position += max(BLOCK_BYTES, len(chunk) - len(chunk) % BLOCK_BYTES)
        return None

    def _first_entry(self, offset: int, start: int, header: FrameHeader) -> int | None:
        try:
            frame = decode_frame(self._window, start, header, offset, self.layout)
        except BodyError:
            return None
        return frame.entries.first_index if frame.entries is not None else None

    def _dirty_end(self) -> int:
        end = self.offset
        position = self.offset
        while position < self.size_bytes:
            chunk = self.file.read_at(position, WINDOW_BYTES)
            if not chunk:
                break
            used = len(chunk.rstrip(b"\0"))
            if used:
                end = position + used
            position += len(chunk)
        return end

    def _hold(self, offset: int, size: int) -> int:
        """Read these bytes into the window; return their place in it."""
        start = offset - self._window_start
        if start < 0 or start + size > len(self._window):
            self._window = self.file.read_at(offset, max(size, WINDOW_BYTES))
            self._window_start = offset
            return 0
        return start
