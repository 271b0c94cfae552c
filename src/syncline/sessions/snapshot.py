"""The table of sessions as a section of a snapshot: before the state machine's data. `docs/formats.md` has the bytes.

    magic (8) | frames: length (4), then MessagePack | length 0 | BLAKE2b-16 of all before it

A frame is an array of sessions and an array of free texts. The section has a checksum of its own, so that it can be
read without the rest of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Protocol

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.sessions.entries import LARGEST_SEQUENCE
from syncline.sessions.table import Limits, Record, SessionTable, SessionView, TableView

__all__ = ["SECTION_FORMAT", "read_section", "write_section"]

SECTION_FORMAT: Final = 1
"""The version of the section, in the snapshot's manifest; 0 there: the snapshot has no section."""

MAGIC: Final = b"SYNCSES\n"
CHECKSUM_BYTES: Final = 16

FRAME_BYTES: Final = 256 << 10
"""A frame is written when it has about so many bytes. One session is never divided."""

MAX_FRAME_BYTES: Final = 16 << 20
"""No frame is longer: it is one of the size above, and one session more."""

RECORD_BYTES: Final = 24
"""About the bytes of a record without an answer."""

_Number = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEQUENCE)]


class _SessionForm(msgspec.Struct, array_like=True, gc=False, frozen=True):
    id: _Number
    floor: _Number
    used: _Number
    records: dict[_Number, bytes]


class _SectionFrame(msgspec.Struct, array_like=True, frozen=True):
    sessions: tuple[_SessionForm, ...]
    texts: tuple[tuple[bytes, Record], ...]


_decoder = msgspec.msgpack.Decoder(_SectionFrame)


class Source(Protocol):
    """Where a section is read from."""

    def read(self, size: int, /) -> bytes: ...


def write_section(view: TableView, write: Callable[[bytes], object]) -> None:
    """Write a view of the table, in pieces."""
    checksum = hashlib.blake2b(digest_size=CHECKSUM_BYTES)

    def put(data: bytes) -> None:
        checksum.update(data)
        write(data)

    put(MAGIC)
    for frame in _frames(view):
        data = msgspec.msgpack.encode(frame)
        put(len(data).to_bytes(4, "little"))
        put(data)
    put(bytes(4))
    write(checksum.digest())


def _frames(view: TableView) -> Iterator[_SectionFrame]:
    sessions: list[_SessionForm] = []
    size = 0
    for held in view.sessions:
        sessions.append(_SessionForm(held.id, held.floor, held.used, held.records))
        size += RECORD_BYTES * (1 + len(held.records)) + sum(map(len, held.records.values()))
        if size >= FRAME_BYTES:
            yield _SectionFrame(tuple(sessions), ())
            sessions, size = [], 0
    texts: list[tuple[bytes, Record]] = []
    for text, record in view.texts.items():
        texts.append((text, record))
        size += RECORD_BYTES + len(text) + len(record)
        if size >= FRAME_BYTES:
            yield _SectionFrame(tuple(sessions), tuple(texts))
            sessions, texts, size = [], [], 0
    yield _SectionFrame(tuple(sessions), tuple(texts))


def read_section(source: Source, limits: Limits | None = None) -> SessionTable:
    """Read a section, verify it as a whole, and leave `source` behind it. Raises ValueError if it is damaged."""
    checksum = hashlib.blake2b(digest_size=CHECKSUM_BYTES)

    def take(size: int) -> bytes:
        data = source.read(size)
        if len(data) != size:
            raise ValueError("it ends too early")
        checksum.update(data)
        return data

    if take(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as a section of sessions")
    frames: list[_SectionFrame] = []
    while size := int.from_bytes(take(4), "little"):
        if size > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {size} bytes")
        try:
            frames.append(_decoder.decode(take(size)))
        except UNDECODABLE as error:
            raise ValueError(str(error)) from error
    if source.read(CHECKSUM_BYTES) != checksum.digest():
        raise ValueError("its checksum is another one")
    sessions = (SessionView(*msgspec.structs.astuple(held)) for frame in frames for held in frame.sessions)
    return SessionTable.of(sessions, (text for frame in frames for text in frame.texts), limits)
