"""Fast path through a log: frames that only continue it.

Nearly every frame of a log holds the next entries, of the same term as before, or a new commit index, or both. A
start reads millions of them, and decoding each into objects (`decode_frame`, `Replay.take`) would take most of its
time. Here they are read with the same checks and without objects. Any other frame, valid or not, ends the run and is
left to the general path.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final
from zlib import crc32

import msgspec

from syncline.storage.wal.frame import (
    BLOCK_BYTES,
    FRAME_CHECKED_BYTES,
    FRAME_HEADER_BYTES,
    FRAME_LIMIT_BYTES,
    FRAME_MAGIC,
    FRAME_TAIL,
    SECTOR_BYTES,
    first_guard,
)
from syncline.storage.wal.layout import GUARDED_BYTE, RecordLayout
from syncline.storage.wal.locations import LOCATION_SPACING_BYTES

__all__ = ["Course", "read_steady"]

MAGIC: Final = int.from_bytes(FRAME_MAGIC, "little")
TAIL: Final = int.from_bytes(FRAME_TAIL, "little")
LAST: Final = SECTOR_BYTES - 1

TERM_GUARDED_AT: Final = LAST - FRAME_HEADER_BYTES - GUARDED_BYTE
"""Offset in a sector at which a frame starts whose entries record has a guard in one of its two terms."""


class Course(msgspec.Struct):
    """The state that the next frame must continue; updated from frame to frame.

    `offset` is its expected offset and `previous` the checksum that it continues; `last_offset` and `last_previous`
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


def read_steady(
    data: bytes, start: int, seed: int, course: Course, locate: Callable[[int, int], None], layout: RecordLayout
) -> None:
    """Follow the frames in `data`, the next of which begins at `start`, as far as they only continue the log.

    `seed` is the checksum of the segment's header, `layout` the form of its records. `locate` is called with entries
    (their first index, the offset of their frame) often enough to find all of them later.

    This code runs millions of times: each name and each comparison is a hundredth of a start.
    """
    previous, last_index, commit = course.previous, course.last_index, course.commit
    same_terms = struct.pack("<QQ", course.last_term, course.last_term)
    same_state = layout.hard_state_kind + struct.pack("<QQ", course.term, course.vote)
    entries_kind, entries_bytes, state_bytes = layout.entries_kind, layout.entries.size, layout.hard_state.size
    unpack, unpack_state, guarded_term = layout.head.unpack_from, layout.state.unpack_from, layout.guarded_term
    shift = course.offset - start  # data[n] is at offset n + shift of the file
    at, data_end = start, len(data)
    assert data_end <= FRAME_LIMIT_BYTES  # hence no frame in it is larger
    last_at, last_previous = course.last_offset - shift, course.last_previous
    last_start = data_end - layout.head.size
    locate_from = start
    while at <= last_start:
        magic, size, own, before, checksum, length, sum_, tail, kind, entries, first, count, terms = unpack(data, at)
        records = at + FRAME_HEADER_BYTES
        table = records + length
        end = at + size
        if (
            before != previous
            or own != at + shift
            or magic != MAGIC
            or tail != TAIL
            or crc32(data[at : at + FRAME_CHECKED_BYTES], seed) != sum_
            or not table < end <= data_end
            or size % BLOCK_BYTES
            or crc32(data[records:end], previous) != checksum
        ):
            break
        last = last_index
        if kind == entries_kind:
            if own & LAST == TERM_GUARDED_AT:
                byte = _displaced(data, 0, table, shift, end)
                terms = b"%b%b%b" % (terms[:guarded_term], byte, terms[guarded_term + 1 :])
            if first != last_index + 1 or terms != same_terms or not count:
                break
            last += count
            length -= entries_bytes + entries
        if length:  # the rest can only be a hard state
            if length != state_bytes:
                break
            behind = (table + shift) & LAST
            if behind < state_bytes:  # a sector's end is in it
                state, committed = _guarded_state(data, records, table, behind, shift, end, layout)
            else:
                state, committed = unpack_state(data, table - state_bytes)
            if state != same_state or not commit <= committed <= last:
                break
            commit = committed
        if at >= locate_from and last != last_index:
            locate(first, own)
            locate_from = at + LOCATION_SPACING_BYTES
        last_at = at
        last_previous = previous
        at = end
        previous = checksum
        last_index = last
    course.offset, course.previous, course.last_index, course.commit = at + shift, previous, last_index, commit
    course.last_offset, course.last_previous = last_at + shift, last_previous


def _guarded_state(
    data: bytes, records: int, table: int, behind: int, shift: int, end: int, layout: RecordLayout
) -> tuple[bytes, int]:
    """The hard state record before `table`, in which a guard stands; empty if its byte is not in the table.

    `behind` is the number of the record's bytes after the guard, which are the first of a sector.
    """
    guard = table - 1 - behind
    byte = _displaced(data, (guard - records) // SECTOR_BYTES, table, shift, end)
    record = b"%b%b%b" % (data[table - layout.hard_state.size : guard], byte, data[guard + 1 : table])
    return layout.state.unpack(record) if byte else (b"", 0)


def _displaced(data: bytes, number: int, table: int, shift: int, end: int) -> bytes:
    """The byte that a guard of the records has displaced, their guard `number` from 0 on.

    It is in the table, which has guards of its own; empty if it would be behind the frame's `end`.
    """
    place = table + number
    guard = first_guard(table + shift)
    if number >= guard:
        place += 1 + (number - guard) // LAST
    return data[place : min(place + 1, end)]
