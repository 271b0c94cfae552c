"""The files of the log: names, segment headers, and the error for damage. Byte by byte in `docs/formats.md`.

A segment file is preallocated and reads as zeros where nothing was written yet:

    segment header (64 bytes) | frame | frame | … | zeros

Frames are in `frame`. There are three kinds of checksums, all crc32:

- one over the segment header;
- one over each frame's header, with the frame's own offset in it. It starts from the checksum of the segment, so that a
  frame is valid in its own place only;
- one over each frame's body. It starts from that of the frame before it.

A frame can't be left out, moved, or come from another file without being noticed.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final

import msgspec

from syncline.errors import CorruptionError, FormatVersionError
from syncline.storage.advice import data_dir_of, how_to_repair
from syncline.storage.wal.layout import FORMAT_VERSION, OLDEST_FORMAT_VERSION

__all__ = [
    "FORMAT_VERSION",
    "SEGMENT_HEADER_BYTES",
    "SEGMENT_LIMIT_BYTES",
    "SegmentHeader",
    "decode_segment_header",
    "encode_segment_header",
    "other_group",
    "rot",
    "segment_name",
    "segment_sequence",
]

SEGMENT_MAGIC: Final = b"SYNCWAL\n"

SEGMENT_HEADER_BYTES: Final = 64

SEGMENT_LIMIT_BYTES: Final = 1 << 30
"""No segment is larger: offsets fit 32 bits with room."""

SEGMENT_HEADER: Final = struct.Struct("<8sHHIQQQQIIII")

SEGMENT_NAME: Final = re.compile(r"([0-9a-f]{16})\.wal")


def rot(
    path: str, offset: int | None, reason: str, first_index: int | None = None, last_index: int | None = None
) -> CorruptionError:
    """Return the error for a corrupt log: it names the file, the offset, the entries and the next step."""
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
        f"The log is damaged: {where}: {reason}.{entries} This node may have lost a vote or an acknowledgement, "
        f"so it must not go on under its id. {how_to_repair(data_dir_of(path))} (An older "
        "copy of the directory is no repair: it has lost even more.)",
        file=path,
        offset=offset,
        first_index=first_index,
        last_index=last_index,
    )


def other_group(path: str, offset: int, reason: str) -> FormatVersionError:
    """Return the error for a log that a later version shares between several Raft groups."""
    return FormatVersionError(
        f"{path} at offset {offset}: {reason}. Start the node with the version that wrote the log."
    )


class SegmentHeader(msgspec.Struct, frozen=True):
    """The header of a segment: its place in the log, and the end of the segment before it.

    `log_id` names the log that it belongs to. `base_index` and `base_term` are those of the log's last entry when the
    segment began. `previous_end` is the offset at which the frames of the segment before it ended,
    `previous_checksum` their last checksum: together they prove that nothing of that segment was lost. `size_bytes`
    is the allocated size. `version` is the format of the segment.
    """

    log_id: int
    sequence: int
    base_index: int
    base_term: int
    previous_end: int
    previous_checksum: int
    size_bytes: int
    version: int = FORMAT_VERSION


def segment_name(sequence: int) -> str:
    return f"{sequence:016x}.wal"


def segment_sequence(name: str) -> int | None:
    """The sequence number in a file name; None if the file is no segment."""
    found = SEGMENT_NAME.fullmatch(name)
    return int(found.group(1), 16) if found else None


def encode_segment_header(header: SegmentHeader) -> bytes:
    fields = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC,
        header.version,
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
    """Return the header and its checksum, which seeds those of the frames.

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
    if not OLDEST_FORMAT_VERSION <= version <= FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} is a log segment of format {version}; this version of Syncline reads formats "
            f"{OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}. Start the node with the version that wrote it."
        )
    if size > SEGMENT_LIMIT_BYTES:
        raise rot(path, 12, f"a segment of {size} bytes: none is larger than {SEGMENT_LIMIT_BYTES}")
    header = SegmentHeader(log_id, sequence, base_index, base_term, end, previous, size, version)
    return header, checksum
