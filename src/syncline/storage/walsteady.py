"""The short way through a log: frames that only carry it on.

Nearly every frame of a log holds the next entries, of the same term as before, or a commit index that moves on, or
both. A start reads millions of them, and would spend its time on taking each apart into objects (`decode_frame`,
`Replay.take`). Here they are read with the same checks and without objects. Whatever is not such a frame, valid or not,
ends the run and is left to the long way, which knows what to make of it.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import msgspec

from syncline.storage.loglocations import LOCATION_SPACING_BYTES
from syncline.storage.walframe import (
    BLOCK_BYTES,
    ENTRIES_RECORD,
    ENTRIES_RECORD_BYTES,
    FRAME_CHECKED_BYTES,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    FRAME_LIMIT_BYTES,
    FRAME_MAGIC,
    FRAME_TAIL,
    HARD_STATE_RECORD,
    HARD_STATE_RECORD_BYTES,
    RECORD_ENTRIES,
    RECORD_HARD_STATE,
    SECTOR_BYTES,
    unguarded,
)

__all__ = ["Course", "read_steady"]

LAST = SECTOR_BYTES - 1


class Course(msgspec.Struct):
    """What the next frame must carry on; kept up to date from frame to frame.

    `offset` is where it is expected and `previous` the checksum that it continues; `last_offset` and `last_previous`
    are those of the frame before. The rest is the log's last entry and the hard state.
    """

    offset: int
    previous: int
    last_index: int
    last_term: int
    term: int
    vote: int
    commit: int
    last_offset: int
    last_previous: int


def read_steady(data: bytes, start: int, seed: int, course: Course, locate: Callable[[int, int], None]) -> None:
    """Follow the frames in `data`, the next of which begins at `start`, as far as they only carry the log on.

    `seed` is the checksum of the segment's header. `locate` is told of entries (their first index, the offset of their
    frame) often enough to find all of them later.
    """
    offset, previous, last_index, commit = course.offset, course.previous, course.last_index, course.commit
    last_offset, last_previous = course.last_offset, course.last_previous
    last_term, state = course.last_term, (course.term, course.vote)
    shift = offset - start  # what is at data[n] is at offset n + shift of the file
    data_end = len(data) + shift
    locate_from = 0
    while offset + FRAME_HEADER_BYTES <= data_end:
        at = offset - shift
        magic, size, own, before, checksum, records_bytes, sum_, tail = FRAME_HEADER.unpack_from(data, at)
        if (
            magic != FRAME_MAGIC
            or own != offset
            or before != previous
            or tail != FRAME_TAIL
            or crc32(data[at : at + FRAME_CHECKED_BYTES], seed) != sum_
            or not FRAME_HEADER_BYTES + records_bytes < size <= FRAME_LIMIT_BYTES
            or size % BLOCK_BYTES
            or offset + size > data_end
            or records_bytes < HARD_STATE_RECORD_BYTES
            or crc32(data[at + FRAME_HEADER_BYTES : at + size], previous) != checksum
        ):
            break
        plain: bytes | bytearray = data
        position = at + FRAME_HEADER_BYTES
        end = position + records_bytes
        guard = LAST - (position + shift) % SECTOR_BYTES
        if guard < records_bytes and (
            guard < ENTRIES_RECORD_BYTES
            or LAST - (end + shift - HARD_STATE_RECORD_BYTES) % SECTOR_BYTES < HARD_STATE_RECORD_BYTES
        ):  # a guard stands where the records say what they hold
            plain = unguarded(data, position, position + guard, end, shift, at + size)
            position, end = 0, records_bytes
        last, committed, first = last_index, commit, 0
        if plain[position] == RECORD_ENTRIES:
            if records_bytes < ENTRIES_RECORD_BYTES:
                break
            _, entries_bytes, first, count, first_term, term = ENTRIES_RECORD.unpack_from(plain, position)
            if first != last_index + 1 or first_term != last_term or term != last_term or not count:
                break
            last += count
            position += ENTRIES_RECORD_BYTES + entries_bytes
        if position != end:
            if position + HARD_STATE_RECORD_BYTES != end or plain[position] != RECORD_HARD_STATE:
                break
            _, term, vote, committed = HARD_STATE_RECORD.unpack_from(plain, position)
            if (term, vote) != state or not commit <= committed <= last:
                break
        if first and offset >= locate_from:
            locate(first, offset)
            locate_from = offset + LOCATION_SPACING_BYTES
        last_offset, last_previous = offset, previous
        offset, previous, last_index, commit = offset + size, checksum, last, committed
    course.offset, course.previous, course.last_index, course.commit = offset, previous, last_index, commit
    course.last_offset, course.last_previous = last_offset, last_previous
