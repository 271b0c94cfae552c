"""The key-value state as a stream: how a snapshot is written and read.

    magic  b"syncline-kv\\n"   12 bytes
    version                    u32, little-endian
    frames                     kind u8, length u32, crc32 of the payload u32, payload (MessagePack)

    HEADER   once, first    [revision, count, oldest, changes, leases]: the numbers of records, changes and leases
    LEASES   as many as needed, in the order of the grants
    RECORDS  as many as needed, in ascending order of the keys
    CHANGES  as many as needed, in the order of revisions, from revision `oldest` on
    AUTH     as many as needed: the settings, the roles, the users and the tokens, each in ascending order
    TRAILER  once, last     [revision, count, digest]   (digest: 16 bytes, big-endian)

A change is [record, previous]. `record` is the key alone if it is the key's present record, else the record (a
tombstone has version 0). `previous` is the version before, if that was written before `oldest`. Otherwise it is nil:
the version before is then the record of the key's last change, if there was one.

Replicas with the same state write the same bytes. What is read is believed only when the trailer's digest is that of
the state: neither a lost frame nor a wrong one can pass. Version 1 has neither leases nor changes,
version 2 no AUTH. A state that never had users is written as version 2: members that don't know version 3 read it.
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
from syncline.kv.auth.records import AuthRecord, encoded_size
from syncline.kv.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.kv.loading import ChangeRow, StoreLoader
from syncline.kv.records import KeyRecord, LeaseRecord
from syncline.kv.store import KeyStore, StoreView
from syncline.node.fsm import SnapshotSink

__all__ = ["FORMAT_VERSION", "KvSnapshot", "read_snapshot"]

MAGIC: Final = b"syncline-kv\n"
FORMAT_VERSION: Final = 3
VERSION_WITHOUT_AUTH: Final = 2

FRAME_TARGET_BYTES: Final = 128 * 1024
"""A frame of records is ended at this size. Each is encoded and checksummed in one go, during which no other thread
runs: at this size for some tens of microseconds."""

MAX_FRAME_BYTES: Final = FRAME_TARGET_BYTES + 2 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 1024
"""The largest frame that is ever written: one change of two records beyond the target. A larger length is damage."""

_RECORD_OVERHEAD_BYTES: Final = 48
"""Numbers and lengths around a record's key and value, at most."""

_LEASES_PER_FRAME: Final = 2_000
"""A lease is below 50 bytes."""

_NAME: Final = "snapshot"
_VERSION: Final = Struct("<I")
_FRAME: Final = Struct("<BII")
_Shape = TypeVar("_Shape")


class FrameKind(IntEnum):
    """Part of the format: never renumbered."""

    HEADER = 1
    RECORDS = 2
    TRAILER = 3
    LEASES = 4
    CHANGES = 5
    AUTH = 6


_SECTIONS: Final = {
    1: (FrameKind.RECORDS, FrameKind.TRAILER),
    2: (FrameKind.LEASES, FrameKind.RECORDS, FrameKind.CHANGES, FrameKind.TRAILER),
    3: (FrameKind.LEASES, FrameKind.RECORDS, FrameKind.CHANGES, FrameKind.AUTH, FrameKind.TRAILER),
}
"""By version, the frames after the header, in their order. All but the trailer may be absent, or be many."""


class _SnapshotHead(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    revision: int
    count: int
    oldest: int = 0
    changes: int = 0
    leases: int = 0


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
        for piece in self.pieces():
            sink.write(piece)

    def pieces(self) -> Iterator[bytes]:
        """The stream of the whole view, a frame at a time: some 128 KiB, or one larger record."""
        view = self._view
        encode = msgspec.msgpack.Encoder().encode
        yield MAGIC + _VERSION.pack(FORMAT_VERSION if view.auth else VERSION_WITHOUT_AUTH)
        head = _SnapshotHead(view.revision, view.count, view.oldest, view.history.count, len(view.leases))
        yield _frame(FrameKind.HEADER, encode(head))
        for low in range(0, len(view.leases), _LEASES_PER_FRAME):
            yield _frame(FrameKind.LEASES, encode(view.leases[low : low + _LEASES_PER_FRAME]))
        count = changes = 0
        for records in _batches(view):
            yield _frame(FrameKind.RECORDS, encode(records))
            count += len(records)
        assert count == view.count, "the view changed while it was written"
        for rows in _change_batches(view):
            yield _frame(FrameKind.CHANGES, encode(rows))
            changes += len(rows)
        assert changes == view.history.count, "the history changed while it was written"
        for rows_of_auth in _auth_batches(view.auth):
            yield _frame(FrameKind.AUTH, encode(rows_of_auth))
        yield _frame(FrameKind.TRAILER, encode(_Trailer(view.revision, count, view.digest.to_bytes(16, "big"))))

    def release(self) -> None:
        """Release the view."""
        self._view.release()


def read_snapshot(source: BinaryIO, *, max_bytes: int = 0) -> KeyStore:
    """Build the store that a stream holds. 0 as `max_bytes`: of any size.

    Raises `StoreTooLarge` as soon as the records count for more than `max_bytes`. `CorruptionError` (with the offset):
    the stream is cut short, damaged or foreign. `FormatVersionError`: it is a later version's.
    """
    reader = _Reader(source)
    version = reader.preamble()
    header = reader.decode(_SnapshotHead, reader.frame((FrameKind.HEADER,))[1])
    if min(header.revision, header.count, header.changes, header.leases) < 0:
        reader.corrupt("negative numbers in the header")
    oldest = header.oldest if version > 1 else header.revision + 1
    try:
        loader = StoreLoader(header.revision, oldest, max_bytes=max_bytes)
        trailer = _read_sections(reader, version, loader)
        store = loader.finish()
    except ValueError as error:
        reader.corrupt(str(error))
    found = (len(store), store.changes_count, len(store.leases))
    announced = (header.count, header.changes, header.leases)
    if found != announced or (trailer.revision, trailer.count) != (header.revision, header.count):
        reader.corrupt(
            f"{found} records, changes and leases, and {announced} were announced, {trailer.count} records at the end"
        )
    digest = store.digest if version > 1 else store.digest_v1
    if trailer.digest != digest.to_bytes(16, "big"):
        reader.corrupt("the digest of the state is not the one that was written")
    if source.read(1):
        reader.corrupt("bytes after the end")
    return store


def _read_sections(reader: _Reader, version: int, loader: StoreLoader) -> _Trailer:
    """Load all frames between header and trailer; the trailer."""
    sections = _SECTIONS[version]
    while True:
        kind, payload = reader.frame(sections)
        sections = sections[sections.index(kind) :]
        match kind:
            case FrameKind.LEASES:
                loader.add_leases(reader.decode(list[LeaseRecord], payload))
            case FrameKind.RECORDS:
                loader.add_records(reader.decode(list[KeyRecord], payload))
            case FrameKind.CHANGES:
                loader.add_changes(reader.decode(list[tuple[bytes | KeyRecord, KeyRecord | None]], payload))
            case FrameKind.AUTH:
                loader.add_auth(reader.decode(list[AuthRecord], payload))
            case _:
                return reader.decode(_Trailer, payload)


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


def _change_batches(view: StoreView) -> Iterator[list[ChangeRow]]:
    batch: list[ChangeRow] = []
    size_bytes = 0
    for changes in view.history:
        for record, previous in changes:
            row = record.key if view.get(record.key) is record else record
            before = previous if previous is not None and previous.mod_revision < view.oldest else None
            batch.append((row, before))
            for part in (row, before):
                if isinstance(part, KeyRecord):
                    size_bytes += len(part.key) + len(part.value) + _RECORD_OVERHEAD_BYTES
            size_bytes += len(record.key) if row is not record else 0
            if size_bytes >= FRAME_TARGET_BYTES:
                yield batch
                batch = []
                size_bytes = 0
    if batch:
        yield batch


def _auth_batches(records: tuple[AuthRecord, ...]) -> Iterator[list[AuthRecord]]:
    batch: list[AuthRecord] = []
    size_bytes = 0
    for record in records:
        batch.append(record)
        size_bytes += encoded_size(record)
        if size_bytes >= FRAME_TARGET_BYTES:
            yield batch
            batch = []
            size_bytes = 0
    if batch:
        yield batch


def _frame(kind: FrameKind, payload: bytes) -> bytes:
    assert len(payload) <= MAX_FRAME_BYTES
    return _FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload


class _Reader:
    """Frames from a stream, each verified before it is decoded."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._offset = 0

    def preamble(self) -> int:
        """The version of the stream."""
        magic = self._read(len(MAGIC))
        if magic != MAGIC:
            self.corrupt(f"it begins with {magic!r}: not a snapshot of a key-value store")
        (version,) = _VERSION.unpack(self._read(_VERSION.size))
        if version not in _SECTIONS:
            raise FormatVersionError(
                f"the key-value snapshot has format version {version}; this version reads 1 to {FORMAT_VERSION}: "
                "start the version of Syncline that wrote it, or a later one"
            )
        return int(version)

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

    def frame(self, kinds: tuple[FrameKind, ...]) -> tuple[FrameKind, bytes]:
        """The next frame, which must be of one of `kinds`."""
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
