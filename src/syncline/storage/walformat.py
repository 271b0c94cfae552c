"""The bytes of the log: segment headers, frames, records. Byte by byte in `docs/formats.md`.

A segment file is preallocated and reads as zeros where nothing was written yet:

    segment header (64 bytes) | frame | frame | … | zeros

A frame is what one write puts there, and is what one sync makes durable. It starts at a multiple of 32 bytes and is a
multiple of 32 bytes long:

    frame header (32 bytes) | body

The body is a row of records (log entries, hard state, snapshot marker, seal) that ends with bytes of 0xFF. On its way
to the file it is *guarded*: wherever a byte of the frame would be the last of a 512-byte sector, a byte 0xFF is put in
between, and the frame's own last byte is 0xFF as well. What was never written reads as zero, so a guard tells of each
sector whether it reached the disk. That is what lets a reader tell a torn write from rot, even in the last frame
(`walscan` has the rule).

Three checksums, all crc32: one over the segment header; one over the frame header, which also holds the frame's own
offset and starts from the checksum of its segment, so that a frame is valid in its own place only; one over the body as
it is in the file, which starts from the checksum of the frame before it. A frame can't be left out, moved, or come
from another file without being noticed.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final

import msgspec

from syncline.consensus.types import Entry, HardState, SnapshotMeta
from syncline.errors import CorruptionError, FormatVersionError

__all__ = [
    "BLOCK_BYTES",
    "BodyError",
    "EntriesRecord",
    "FORMAT_VERSION",
    "FRAME_HEADER_BYTES",
    "FRAME_LIMIT_BYTES",
    "FrameHeader",
    "Records",
    "SEAL_BYTES",
    "SEGMENT_HEADER_BYTES",
    "SEGMENT_LIMIT_BYTES",
    "SegmentHeader",
    "decode_body",
    "decode_entries",
    "decode_frame_header",
    "decode_segment_header",
    "encode_frame",
    "encode_records",
    "encode_segment_header",
    "rot",
    "segment_name",
    "segment_sequence",
]

FORMAT_VERSION: Final = 1
"""The version of the segment format. Another one is refused: see `decode_segment_header`."""

SEGMENT_MAGIC: Final = b"SYNCWAL\n"
FRAME_MAGIC: Final = b"\xf7SL\x1a"

SECTOR_BYTES: Final = 512
"""The unit that a disk writes from its start to its end. Drives with larger ones write these in order too."""

BLOCK_BYTES: Final = 32
"""Frames start and end on multiples of this: a frame header never crosses a sector's end, and padding stays small."""

GUARD: Final = b"\xff"

SEGMENT_HEADER_BYTES: Final = 64
FRAME_HEADER_BYTES: Final = 32

FRAME_LIMIT_BYTES: Final = 256 << 20
"""No frame is larger. It bounds what a reader holds in memory; far above what one write of the core can hold."""

SEGMENT_LIMIT_BYTES: Final = 1 << 30
"""No segment is larger: offsets fit 32 bits with room."""

SEGMENT_HEADER: Final = struct.Struct("<8sHHIQQQQIIII")
FRAME_HEADER: Final = struct.Struct("<4sIIIIII4s")
FRAME_CHECKED_BYTES: Final = 24
FRAME_TAIL: Final = b"\0\0\0" + GUARD

RECORD_ENTRIES: Final = 1
RECORD_HARD_STATE: Final = 2
RECORD_MARKER: Final = 3
RECORD_SEAL: Final = 4
RECORD_END: Final = 0xFF

ENTRIES_RECORD: Final = struct.Struct("<BIQIQQ")
HARD_STATE_RECORD: Final = struct.Struct("<BQQQ")
MARKER_RECORD: Final = struct.Struct("<BI")
SEAL_RECORD: Final = struct.Struct("<BQ")

SEAL_BYTES: Final = 2 * BLOCK_BYTES
"""Room kept at the end of each segment for the frame that seals it."""

SEGMENT_NAME: Final = re.compile(r"([0-9a-f]{16})\.wal")

_encoder: Final = msgspec.msgpack.Encoder()
_entries_decoder: Final = msgspec.msgpack.Decoder(list[Entry])
_marker_decoder: Final = msgspec.msgpack.Decoder(SnapshotMeta)


def rot(
    path: str, offset: int | None, reason: str, first_index: int | None = None, last_index: int | None = None
) -> CorruptionError:
    """The error for a log that is not what was written: names the file, the offset, the entries and the next step."""
    where = path if offset is None else f"{path} at offset {offset}"
    if first_index is None:
        entries = ""
    elif last_index is None:
        entries = f" Entries from {first_index} on can't be read."
    elif first_index <= last_index:
        entries = f" Entries {first_index} to {last_index} can't be read."
    else:
        entries = " No entry is affected, but a vote or a term may be."
    return CorruptionError(
        f"The log is damaged: {where}: {reason}.{entries} This node may have forgotten a vote or an acknowledgement, "
        "so it must not go on under its id. Replace it as a member of its cluster with `syncline repair`, or put an "
        "intact copy of this very directory in place.",
        file=path,
        offset=offset,
        first_index=first_index,
        last_index=last_index,
    )


class BodyError(ValueError):
    """A body with a valid checksum that is not a row of records: written by something else."""


class SegmentHeader(msgspec.Struct, frozen=True):
    """What a segment knows of itself and of the log before it.

    `log_id` names the log that it belongs to. `base_index` and `base_term` are those of the log's last entry when the
    segment began. `previous_end` is the offset at which the frames of the segment before it ended, `previous_checksum`
    their last checksum: together they prove that nothing of that segment was lost. `size_bytes` is what was allocated.
    """

    log_id: int
    sequence: int
    base_index: int
    base_term: int
    previous_end: int
    previous_checksum: int
    size_bytes: int


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """`size_bytes` counts header and body. `previous` is the checksum of the frame before it."""

    size_bytes: int
    previous: int
    checksum: int


class EntriesRecord(msgspec.Struct, frozen=True, gc=False):
    """A row of entries without gaps. Their msgpack form, not yet looked at, is in `buffer` from `start` on."""

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


class Records(msgspec.Struct, frozen=True):
    """What one frame holds. They take effect in this order: marker, entries, hard state, all or nothing."""

    marker: SnapshotMeta | None = None
    entries: EntriesRecord | None = None
    hard_state: HardState | None = None
    seal: int | None = None
    """The sequence number of the segment that follows: set in the last frame of a segment."""


def segment_name(sequence: int) -> str:
    return f"{sequence:016x}.wal"


def segment_sequence(name: str) -> int | None:
    """The sequence number in a file name; None where it is no segment's name."""
    found = SEGMENT_NAME.fullmatch(name)
    return int(found.group(1), 16) if found else None


def encode_segment_header(header: SegmentHeader) -> bytes:
    fields = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        0,
        header.size_bytes,
        header.log_id,
        header.sequence,
        header.base_index,
        header.base_term,
        header.previous_end,
        header.previous_checksum,
        0,
        0,
    )[:-4]
    data = fields + zlib.crc32(fields).to_bytes(4, "little")
    assert len(data) == SEGMENT_HEADER_BYTES
    return data


def decode_segment_header(path: str, data: bytes) -> tuple[SegmentHeader, int]:
    """The header and its checksum, which starts those of the frames.

    A segment gets its name only after its header was synced, so a bad header is never a torn write.

    Raises:
        CorruptionError: not a segment, cut short, or damaged.
        FormatVersionError: a segment of another format version.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        raise rot(path, 0, f"the file holds {len(data)} bytes, less than a header")
    fields = SEGMENT_HEADER.unpack(data[:SEGMENT_HEADER_BYTES])
    magic, version, _flags, size, log_id, sequence, base_index, base_term, end, previous, _, checksum = fields
    if magic != SEGMENT_MAGIC:
        raise rot(path, 0, "this is not the start of a log segment")
    if zlib.crc32(data[: SEGMENT_HEADER_BYTES - 4]) != checksum:
        raise rot(path, 0, "the segment's header is damaged")
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} is a log segment of format {version}; this version of Syncline reads format {FORMAT_VERSION}. "
            "Start the node with the version that wrote it."
        )
    header = SegmentHeader(log_id, sequence, base_index, base_term, end, previous, size)
    return header, checksum


def encode_records(
    marker: SnapshotMeta | None, entries: list[Entry], hard_state: HardState | None, seal: int | None = None
) -> bytes:
    """The unguarded body of a frame. The entries must be in a row without gaps: asserted at both ends."""
    parts = []
    if marker is not None:
        data = _encoder.encode(marker)
        parts += [MARKER_RECORD.pack(RECORD_MARKER, len(data)), data]
    if entries:
        first, last = entries[0], entries[-1]
        assert last.index - first.index + 1 == len(entries), (first.index, last.index, len(entries))
        data = _encoder.encode(entries)
        parts.append(ENTRIES_RECORD.pack(RECORD_ENTRIES, len(data), first.index, len(entries), first.term, last.term))
        parts.append(data)
    if hard_state is not None:
        state = hard_state
        parts.append(HARD_STATE_RECORD.pack(RECORD_HARD_STATE, state.term, state.vote, state.commit))
    if seal is not None:
        parts.append(SEAL_RECORD.pack(RECORD_SEAL, seal))
    return b"".join(parts)


def first_guard(start: int) -> int:
    """Where in a body that starts at file offset `start` the first guard stands; others follow every 512 bytes."""
    return SECTOR_BYTES - 1 - start % SECTOR_BYTES


def encode_frame(records: bytes, offset: int, seed: int, previous: int) -> tuple[bytes, int]:
    """The frame that holds `records` at `offset`, and its checksum.

    `seed` is the checksum of the segment's header, `previous` that of the frame before (of the header, for the first).
    """
    guard = first_guard(offset + FRAME_HEADER_BYTES)
    step = SECTOR_BYTES - 1
    if len(records) > guard:
        parts = [records[:guard]]
        parts += [records[start : start + step] for start in range(guard, len(records), step)]
        records = GUARD.join(parts)
    size = FRAME_HEADER_BYTES + len(records) + 1
    size += -size % BLOCK_BYTES
    body = records.ljust(size - FRAME_HEADER_BYTES, GUARD)
    checksum = zlib.crc32(body, previous)
    header = FRAME_HEADER.pack(FRAME_MAGIC, size, offset, previous, checksum, 0, 0, FRAME_TAIL)[:FRAME_CHECKED_BYTES]
    return b"".join((header, zlib.crc32(header, seed).to_bytes(4, "little"), FRAME_TAIL, body)), checksum


def decode_frame_header(data: bytes, start: int, offset: int, seed: int) -> FrameHeader | None:
    """The header that is in `data` at `start`, of the frame at `offset` in its file.

    None where these 32 bytes are not a header that was written just there.
    """
    if start + FRAME_HEADER_BYTES > len(data):
        return None
    magic, size, own_offset, previous, checksum, reserved, sum_, tail = FRAME_HEADER.unpack_from(data, start)
    if magic != FRAME_MAGIC or own_offset != offset or reserved or tail != FRAME_TAIL:
        return None
    if zlib.crc32(data[start : start + FRAME_CHECKED_BYTES], seed) != sum_:
        return None
    if size <= FRAME_HEADER_BYTES or size % BLOCK_BYTES or size > FRAME_LIMIT_BYTES:
        return None
    return FrameHeader(size, previous, checksum)


def decode_body(data: bytes, start: int, end: int, offset: int) -> Records:
    """The records of a body that is in `data` from `start` to `end`, and in its file at `offset`.

    Its checksum must have been found right.

    Raises:
        BodyError: it is not a row of records.
    """
    guard = first_guard(offset)
    try:
        if guard >= end - start:
            return _decode_records(data, start, end)
        plain = bytearray(data[start:end])
        del plain[guard::SECTOR_BYTES]
        return _decode_records(plain, 0, len(plain))
    except (struct.error, msgspec.MsgspecError, IndexError) as error:
        raise BodyError(str(error)) from error


def _decode_records(data: bytes | bytearray, position: int, end: int) -> Records:
    marker = entries = hard_state = seal = None
    while position < end and (kind := data[position]) != RECORD_END:
        if kind == RECORD_ENTRIES:
            _, size, first_index, count, first_term, last_term = ENTRIES_RECORD.unpack_from(data, position)
            position += ENTRIES_RECORD.size
            if not count or not first_index or first_term > last_term:
                raise BodyError(f"entries {first_index}+{count} of terms {first_term} to {last_term}")
            last_index = first_index + count - 1
            entries = EntriesRecord(first_index, last_index, first_term, last_term, data, position, size)
            position += size
        elif kind == RECORD_HARD_STATE:
            _, term, vote, commit = HARD_STATE_RECORD.unpack_from(data, position)
            hard_state = HardState(term, vote, commit)
            position += HARD_STATE_RECORD.size
        elif kind == RECORD_MARKER:
            _, size = MARKER_RECORD.unpack_from(data, position)
            position += MARKER_RECORD.size
            marker = _marker_decoder.decode(data[position : position + size])
            position += size
        elif kind == RECORD_SEAL:
            _, seal = SEAL_RECORD.unpack_from(data, position)
            position += SEAL_RECORD.size
        else:
            raise BodyError(f"a record of unknown kind {kind}")
    if position > end:
        raise BodyError(f"a record reaches {position - end} bytes beyond its frame")
    return Records(marker, entries, hard_state, seal)


def decode_entries(record: EntriesRecord) -> list[Entry]:
    """The entries of a record, checked against what the record says of them.

    Raises:
        BodyError: the record does not hold the entries that it names.
    """
    try:
        entries = _entries_decoder.decode(memoryview(record.buffer)[record.start : record.start + record.size_bytes])
    except msgspec.MsgspecError as error:
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
