"""The key-value state as a stream: how a snapshot is written and read.

    magic  b"syncline-kv\\n"   12 bytes
    version                    u32, little-endian
    frames                     kind u8, length u32, crc32 of the payload u32, payload (MessagePack)

    HEADER   once, first    [revision, count]
    RECORDS  as many as needed, in ascending order of the keys
    TRAILER  once, last     [revision, count, digest]   (digest: 16 bytes, big-endian)

Records are written in key order, so that replicas with the same state write the same bytes. What is read is believed
only when the trailer's digest is that of the records: neither a lost frame nor a wrong one can pass.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import BinaryIO, Final, NoReturn, TypeVar

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.errors import CorruptionError, FormatVersionError
from syncline.kv.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.kv.records import KeyRecord
from syncline.kv.store import Store, StoreView
from syncline.node.fsm import SnapshotSink

__all__ = ["FORMAT_VERSION", "KvSnapshot", "read_snapshot"]

MAGIC: Final = b"syncline-kv\n"
FORMAT_VERSION: Final = 1

FRAME_TARGET_BYTES: Final = 128 * 1024
"""A frame of records is ended at this size. Each is encoded and checksummed in one go, during which no other thread
runs: at this size for some tens of microseconds."""

MAX_FRAME_BYTES: Final = FRAME_TARGET_BYTES + MAX_KEY_BYTES + MAX_VALUE_BYTES + 1024
"""The largest frame that is ever written: one record beyond the target. A larger length is damage."""

_RECORD_OVERHEAD_BYTES: Final = 48
"""Numbers and lengths around a record's key and value, at most."""

_NAME: Final = "snapshot"
_VERSION: Final = Struct("<I")
_FRAME: Final = Struct("<BII")
_Shape = TypeVar("_Shape")


class FrameKind(IntEnum):
    """Part of the format: never renumbered."""

    HEADER = 1
    RECORDS = 2
    TRAILER = 3


class _SnapshotHead(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    revision: int
    count: int


class _Trailer(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    revision: int
    count: int
    digest: bytes


class KvSnapshot:
    """A consistent view of the state (an `FSMSnapshot`). Later commands don't show in it."""

    def __init__(self, view: StoreView) -> None:
        self._view = view
        self.revision: int = view.revision

    def persist(self, sink: SnapshotSink) -> None:
        """Write the whole view. Uses memory for two frames, whatever the size of the state."""
        view = self._view
        encode = msgspec.msgpack.Encoder().encode
        sink.write(MAGIC + _VERSION.pack(FORMAT_VERSION))
        _write_frame(sink, FrameKind.HEADER, encode(_SnapshotHead(view.revision, view.count)))
        count = 0
        for batch in _batches(view):
            _write_frame(sink, FrameKind.RECORDS, encode(batch))
            count += len(batch)
        assert count == view.count, "the view changed while it was written"
        trailer = _Trailer(view.revision, count, view.digest.to_bytes(16, "big"))
        _write_frame(sink, FrameKind.TRAILER, encode(trailer))

    def release(self) -> None:
        """Release the view."""
        self._view.release()


def read_snapshot(source: BinaryIO, *, max_bytes: int = 0) -> Store:
    """Build the store that a stream holds. 0 as `max_bytes`: of any size.

    Raises `StoreTooLarge` as soon as the records count for more than `max_bytes`, `CorruptionError` (with the offset)
    if the stream is cut short, damaged or foreign, and `FormatVersionError` for a later version's.
    """
    reader = _Reader(source)
    reader.preamble()
    header = reader.decode(_SnapshotHead, reader.frame(FrameKind.HEADER))
    if header.revision < 0 or header.count < 0:
        reader.corrupt("negative numbers in the header")
    try:
        store = Store.from_records(header.revision, reader.records(), max_bytes=max_bytes)
    except ValueError as error:
        reader.corrupt(str(error))
    trailer = reader.decode(_Trailer, reader.payload)
    if len(store) != header.count or (trailer.revision, trailer.count) != (header.revision, header.count):
        reader.corrupt(f"{len(store)} records where {header.count} were announced, {trailer.count} at the end")
    if trailer.digest != store.digest.to_bytes(16, "big"):
        reader.corrupt("the digest of the records is not the one that was written")
    if source.read(1):
        reader.corrupt("bytes after the end")
    return store


def _batches(view: StoreView) -> Iterator[list[KeyRecord]]:
    batch: list[KeyRecord] = []
    size_bytes = 0
    for records in view:
        for record in records:
            batch.append(record)
            size_bytes += len(record.key) + len(record.value) + _RECORD_OVERHEAD_BYTES
            if size_bytes >= FRAME_TARGET_BYTES:
                yield batch
                batch = []
                size_bytes = 0
    if batch:
        yield batch


def _write_frame(sink: SnapshotSink, kind: FrameKind, payload: bytes) -> None:
    assert len(payload) <= MAX_FRAME_BYTES
    sink.write(_FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload)


class _Reader:
    """Frames from a stream, each verified before it is decoded."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._offset = 0
        self._records_decoder = msgspec.msgpack.Decoder(list[KeyRecord])
        self.payload = b""

    def preamble(self) -> None:
        magic = self._read(len(MAGIC))
        if magic != MAGIC:
            self.corrupt(f"it begins with {magic!r}: not a snapshot of a key-value store")
        (version,) = _VERSION.unpack(self._read(_VERSION.size))
        if version != FORMAT_VERSION:
            raise FormatVersionError(
                f"the key-value snapshot has format version {version}; this version reads {FORMAT_VERSION}: "
                "start the version of Syncline that wrote it, or a later one"
            )

    def frame(self, *kinds: FrameKind) -> bytes:
        """The payload of the next frame, which must be of one of `kinds`."""
        return self._frame(kinds)[1]

    def records(self) -> Iterator[list[KeyRecord]]:
        """The batches of records; ends at the trailer, whose payload is then in `payload`."""
        while True:
            kind, self.payload = self._frame((FrameKind.RECORDS, FrameKind.TRAILER))
            if kind is FrameKind.TRAILER:
                return
            try:
                yield self._records_decoder.decode(self.payload)
            except UNDECODABLE as error:
                self.corrupt(str(error))

    def decode(self, as_type: type[_Shape], payload: bytes) -> _Shape:
        try:
            return msgspec.msgpack.decode(payload, type=as_type)
        except UNDECODABLE as error:
            self.corrupt(str(error))

    def corrupt(self, what: str) -> NoReturn:
        raise CorruptionError(
            f"the key-value snapshot can't be used: {what} (before byte {self._offset})",
            file=_NAME,
            offset=self._offset,
        )

    def _frame(self, kinds: tuple[FrameKind, ...]) -> tuple[FrameKind, bytes]:
        number, length, checksum = _FRAME.unpack(self._read(_FRAME.size))
        if number not in kinds:
            self.corrupt(f"a frame of kind {number} where one of {[kind.name for kind in kinds]} belongs")
        if length > MAX_FRAME_BYTES:
            self.corrupt(f"a frame of {length} bytes; none is larger than {MAX_FRAME_BYTES}")
        payload = self._read(length)
        if zlib.crc32(payload) != checksum:
            self.corrupt("a frame's checksum is wrong")
        return FrameKind(number), payload

    def _read(self, size: int) -> bytes:
        data = self._source.read(size)
        while len(data) < size:  # a raw stream may give less than was asked for
            more = self._source.read(size - len(data))
            if not more:
                self.corrupt("it ends too early")
            data += more
        self._offset += size
        return data
