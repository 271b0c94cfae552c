"""Frames: the form of one write in a segment, made durable by one sync. Byte by byte in `docs/formats.md`.

    frame header (32 bytes) | records | table | 0xFF …

A frame starts at a multiple of 32 bytes of the file and is a multiple of 32 bytes long. Records are the log's
entries, a hard state, a snapshot marker, the seal of a segment.

The bytes after the header are *guarded*. 0xFF replaces each byte that would be the last of a 512-byte sector, and the
frame's own last byte is 0xFF as well. Bytes that were never written read as zero, so the guards show for each sector
of the frame whether it reached the disk. A reader can therefore separate a torn write from corruption, even in the
last frame (`scan` has the rule). The bytes that the guards displaced from the records are in the table; the table
leaves the guards' places out. (NTFS protects its records in this manner, with sequence numbers for guards.)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from zlib import crc32

import msgspec

from syncline.consensus.types import HardState, LogEntry, SnapshotMeta
from syncline.decoding import UNDECODABLE
from syncline.storage.wal.layout import (
    GROUP,
    NEWEST,
    RECORD_ENTRIES,
    RECORD_HARD_STATE,
    RECORD_MARKER,
    RECORD_SEAL,
    RecordLayout,
)

__all__ = [
    "BLOCK_BYTES",
    "BodyError",
    "EntriesRecord",
    "FRAME_HEADER_BYTES",
    "FRAME_LIMIT_BYTES",
    "FrameBuilder",
    "Frame",
    "FrameHeader",
    "GroupError",
    "SEAL_BYTES",
    "decode_frame",
    "decode_entries",
    "decode_frame_header",
    "first_guard",
    "unguarded",
    "frame_bound",
]

FRAME_MAGIC: Final = b"\xf7SL\x1a"

SECTOR_BYTES: Final = 512
"""The unit that a disk writes from its start to its end. Drives with larger ones write these in order too."""

BLOCK_BYTES: Final = 32
"""Frames start and end on multiples of this: a frame header never crosses a sector's end, and padding stays small."""

GUARD: Final = b"\xff"

FRAME_HEADER_BYTES: Final = 32

FRAME_LIMIT_BYTES: Final = 256 << 20
"""No frame is larger. It bounds a reader's memory, and is far above the size of one write of the core."""

KEPT_BUFFER_BYTES: Final = 4 << 20
"""A builder's buffer that has grown beyond this is freed after its frame."""

FRAME_HEADER: Final = struct.Struct("<4sIIIIII4s")
FRAME_CHECKED_BYTES: Final = 24
FRAME_TAIL: Final = b"\0\0\0" + GUARD

SEAL_BYTES: Final = 2 * BLOCK_BYTES
"""Room kept at the end of each segment for the frame that seals it."""

_encoder: Final = msgspec.msgpack.Encoder(enc_hook=int)  # a public `NodeId` is written as the integer that it is
_entries_decoder: Final = msgspec.msgpack.Decoder(list[LogEntry])
_marker_decoder: Final = msgspec.msgpack.Decoder(SnapshotMeta)


class BodyError(ValueError):
    """A body with a valid checksum that is not a sequence of records: another program wrote it."""


class GroupError(BodyError):
    """A record of a Raft group that this version does not know."""


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """`size_bytes` counts the whole frame, `records_bytes` its records. `previous` is the checksum before it."""

    size_bytes: int
    records_bytes: int
    previous: int
    checksum: int


class EntriesRecord(msgspec.Struct, frozen=True, gc=False):
    """A sequence of entries without gaps. Their msgpack form, not decoded yet, is in `buffer` from `start` on."""

    first_index: int
    last_index: int
    first_term: int
    last_term: int
    buffer: bytes | bytearray
    start: int
    size_bytes: int

    @property
    def count(self) -> int:
        return self.last_index - self.first_index + 1


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One valid frame, its place and its content. `previous` is the checksum of the frame that it continues.

    Its records take effect in this order: marker, entries, hard state, all or nothing.
    """

    offset: int
    size_bytes: int
    previous: int
    checksum: int
    marker: SnapshotMeta | None = None
    entries: EntriesRecord | None = None
    hard_state: HardState | None = None
    seal: int | None = None
    """The sequence number of the segment that follows: set in the last frame of a segment."""

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes


def frame_bound(records_bytes: int) -> int:
    """No frame with so many bytes of records is larger than this."""
    return FRAME_HEADER_BYTES + records_bytes + records_bytes // (SECTOR_BYTES // 2) + 3 * BLOCK_BYTES


def first_guard(start: int) -> int:
    """The place of the first guard in bytes that start at file offset `start`; others follow every 512 bytes."""
    return SECTOR_BYTES - 1 - start % SECTOR_BYTES


class FrameBuilder:
    """Builds one frame after the other in one reused buffer. For one thread.

    A new large buffer for each frame would cost more in page faults than all other work on the frame.
    """

    def __init__(self, layout: RecordLayout = NEWEST) -> None:
        self._layout = layout
        self._buffer = bytearray()
        self._kept = self._buffer

    def take(
        self,
        marker: SnapshotMeta | None,
        entries: Sequence[LogEntry],
        hard_state: HardState | None,
        seal: int | None = None,
    ) -> int:
        """Encode the records of the next frame, and return their size in bytes.

        The entries must be contiguous: asserted at both ends.
        """
        layout = self._layout
        before = b""
        if marker is not None:
            data = _encoder.encode(marker)
            before = layout.marker.pack(layout.marker_kind, len(data)) + data
        if entries:
            self._buffer = self._kept
            self._put_entries(entries, before)
        else:
            self._buffer = bytearray(FRAME_HEADER_BYTES) + before
        if hard_state is not None:
            state = hard_state
            self._buffer += layout.hard_state.pack(layout.hard_state_kind, state.term, state.vote, state.commit)
        if seal is not None:
            self._buffer += layout.seal.pack(layout.seal_kind, seal)
        return len(self._buffer) - FRAME_HEADER_BYTES

    def _put_entries(self, entries: Sequence[LogEntry], before: bytes) -> None:
        first, last = entries[0], entries[-1]
        assert last.index - first.index + 1 == len(entries), (first.index, last.index, len(entries))
        # Encoded separately and copied: `encode_into` cuts the buffer down before it fills it. The system then takes
        # all its pages away and gives them back, which costs five times as much as the copy.
        data = _encoder.encode(entries)
        layout = self._layout
        record = layout.entries.pack(layout.entries_kind, len(data), first.index, len(entries), first.term, last.term)
        start = FRAME_HEADER_BYTES + len(before) + len(record)
        end = start + len(data)
        buffer = self._buffer
        if len(buffer) < end:
            buffer.extend(bytes(end - len(buffer)))
        del buffer[end:]
        with memoryview(buffer) as view:  # through a view nothing is copied twice
            view[FRAME_HEADER_BYTES:start] = before + record
            view[start:end] = data

    def finish(self, offset: int, seed: int, previous: int) -> tuple[memoryview, int]:
        """Return the frame of the records taken last, for `offset` of its file, and its checksum.

        `seed` is the checksum of the segment's header, `previous` that of the frame before (of the header, for the
        first). The view must be released before the next frame.
        """
        buffer = self._buffer
        records_bytes = len(buffer) - FRAME_HEADER_BYTES
        start = offset + FRAME_HEADER_BYTES
        guard = first_guard(start)
        if guard < records_bytes:
            places = slice(FRAME_HEADER_BYTES + guard, None, SECTOR_BYTES)
            table = bytes(buffer[places])
            buffer[places] = GUARD * len(table)
            buffer += _spread(table, start + records_bytes)
        buffer += GUARD * (1 + -(len(buffer) + 1) % BLOCK_BYTES)
        if len(buffer) > KEPT_BUFFER_BYTES:
            self._kept = bytearray()
        frame = memoryview(buffer)
        checksum = crc32(frame[FRAME_HEADER_BYTES:], previous)
        header = FRAME_HEADER.pack(FRAME_MAGIC, len(buffer), offset, previous, checksum, records_bytes, 0, FRAME_TAIL)[
            :FRAME_CHECKED_BYTES
        ]
        frame[:FRAME_HEADER_BYTES] = header + crc32(header, seed).to_bytes(4, "little") + FRAME_TAIL
        return frame, checksum


def _spread(table: bytes, start: int) -> bytes:
    """Insert the guards into the table for file offset `start`."""
    guard = first_guard(start)
    step = SECTOR_BYTES - 1
    if len(table) <= guard:
        return table
    return GUARD.join([table[:guard], *(table[at : at + step] for at in range(guard, len(table), step))])


def _gathered(spread: bytes, start: int) -> bytes | bytearray:
    """Remove the guards from the table; the bytes may continue behind the table."""
    guard = first_guard(start)
    if len(spread) <= guard:
        return spread
    table = bytearray(spread)
    del table[guard::SECTOR_BYTES]
    return table


def decode_frame_header(data: bytes, start: int, offset: int, seed: int) -> FrameHeader | None:
    """Decode the header in `data` at `start`, of the frame at `offset` in its file.

    None if these 32 bytes are no header that was written at this offset.
    """
    if start + FRAME_HEADER_BYTES > len(data):
        return None
    magic, size, own_offset, previous, checksum, records_bytes, sum_, tail = FRAME_HEADER.unpack_from(data, start)
    if magic != FRAME_MAGIC or own_offset != offset or tail != FRAME_TAIL:
        return None
    if crc32(data[start : start + FRAME_CHECKED_BYTES], seed) != sum_:
        return None
    if size <= FRAME_HEADER_BYTES or size % BLOCK_BYTES or size > FRAME_LIMIT_BYTES:
        return None
    return FrameHeader(size, records_bytes, previous, checksum)


def decode_frame(data: bytes, start: int, header: FrameHeader, offset: int, layout: RecordLayout = NEWEST) -> Frame:
    """Decode the frame at `offset` of its file, which is in `data` from `start` on. `layout` is that of its segment.

    The caller has verified its checksums.

    Raises:
        GroupError: a record is of another Raft group.
        BodyError: it does not hold a sequence of records.
    """
    records_bytes = header.records_bytes
    body = start + FRAME_HEADER_BYTES
    end = body + records_bytes
    if end >= start + header.size_bytes:
        raise BodyError(f"{records_bytes} bytes of records in a frame of {header.size_bytes}")
    place = body + first_guard(offset + FRAME_HEADER_BYTES)
    try:
        if place >= end:
            return _decode_records(data, body, end, header, offset, layout)
        plain = unguarded(data, body, place, end, offset - start, start + header.size_bytes)
        return _decode_records(plain, 0, records_bytes, header, offset, layout)
    except BodyError:
        raise
    except (struct.error, *UNDECODABLE, ValueError, IndexError) as error:
        raise BodyError(str(error)) from error


def unguarded(data: bytes, start: int, place: int, end: int, shift: int, limit: int) -> bytes | bytearray:
    """Return the records in `data` from `start` to `end` without their guards, the first of which is at `place`.

    The byte `data[n]` is at offset `n + shift` of the file. The table is within `limit`.
    """
    if place + SECTOR_BYTES >= end and (end + shift) % SECTOR_BYTES != SECTOR_BYTES - 1:  # one byte, and it comes next
        return b"%b%b%b" % (data[start:place], data[end : end + 1], data[place + 1 : end])
    count = (end - place - 1) // SECTOR_BYTES + 1
    plain = bytearray(data[start:end])
    plain[place - start :: SECTOR_BYTES] = _gathered(data[end : min(end + 2 * count, limit)], end + shift)[:count]
    return plain


def _decode_records(
    data: bytes | bytearray, position: int, end: int, header: FrameHeader, offset: int, layout: RecordLayout
) -> Frame:
    marker = entries = hard_state = seal = None
    while position < end:
        kind = data[position]
        if (group := layout.group_at(data, position)) != GROUP:
            raise GroupError(f"a record of Raft group {group}, and this version of Syncline knows group {GROUP} alone")
        if kind == RECORD_ENTRIES:
            _, size, first_index, count, first_term, last_term = layout.entries.unpack_from(data, position)
            if not count or not first_index or first_term > last_term:
                raise BodyError(f"entries {first_index}+{count} of terms {first_term} to {last_term}")
            position += layout.entries.size
            entries = EntriesRecord(first_index, first_index + count - 1, first_term, last_term, data, position, size)
            position += size
        elif kind == RECORD_HARD_STATE:
            _, term, vote, commit = layout.hard_state.unpack_from(data, position)
            hard_state = HardState(term, vote, commit)
            position += layout.hard_state.size
        elif kind == RECORD_MARKER:
            _, size = layout.marker.unpack_from(data, position)
            position += layout.marker.size
            marker = _marker_decoder.decode(data[position : position + size])
            position += size
        elif kind == RECORD_SEAL:
            _, seal = layout.seal.unpack_from(data, position)
            position += layout.seal.size
        else:
            raise BodyError(f"a record of unknown kind {kind}")
    if position > end:
        raise BodyError(f"a record reaches {position - end} bytes beyond its frame")
    return Frame(offset, header.size_bytes, header.previous, header.checksum, marker, entries, hard_state, seal)


def decode_entries(record: EntriesRecord) -> list[LogEntry]:
    """Decode the entries of a record and check them against the record's numbers.

    Raises:
        BodyError: the record does not hold the entries that it names.
    """
    try:
        entries = _entries_decoder.decode(memoryview(record.buffer)[record.start : record.start + record.size_bytes])
    except UNDECODABLE as error:
        raise BodyError(str(error)) from error
    if (
        len(entries) != record.count
        or entries[0].index != record.first_index
        or entries[-1].index != record.last_index
        or entries[0].term != record.first_term
        or entries[-1].term != record.last_term
    ):
        raise BodyError(f"entries {record.first_index}+{record.count} are not what their record names")
    return entries
