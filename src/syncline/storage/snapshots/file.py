"""The bytes of a snapshot file: a header with the manifest, then the data. Byte by byte in `docs/formats.md`.

    fixed header (32 bytes) | manifest (msgpack) | zeros to a multiple of 512 | data

The fixed header has a checksum over itself, the manifest and the zeros; the manifest has the size and the SHA-256 of
the data. So each byte of the file is covered, and the file's length, too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import struct
import zlib
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from syncline.consensus.types import MembershipState, SnapshotMeta
from syncline.decoding import UNDECODABLE
from syncline.errors import CorruptionError, FormatVersionError
from syncline.storage.advice import data_dir_of, how_to_repair
from syncline.storage.wal.layout import GROUP

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "HEADER_LIMIT_BYTES",
    "MANIFEST_LIMIT_BYTES",
    "ReadableFile",
    "SnapshotManifest",
    "SnapshotReader",
    "check_length",
    "decode_manifest",
    "encode_header",
    "encode_manifest",
    "header_size",
    "read_header",
    "snapshot_rot",
]

FORMAT_VERSION: Final = 2
"""The version in which snapshots are written: their manifest names the Raft group."""

OLDEST_FORMAT_VERSION: Final = 1
"""The oldest version that is still read."""

MAGIC: Final = b"SYNCSNP\n"

FIXED_HEADER: Final = struct.Struct("<8sHHIII4sI")  # magic, version, flags, manifest size, data offset, 0, 0, checksum

ALIGNMENT_BYTES: Final = 512
"""Where the data starts: a whole sector, so that writing the header last does not touch the data."""

MANIFEST_LIMIT_BYTES: Final = 16 << 20
"""No manifest is larger. The runtime's part of it grows with the membership and with the sessions it remembers."""

HEADER_LIMIT_BYTES: Final = FIXED_HEADER.size + MANIFEST_LIMIT_BYTES + ALIGNMENT_BYTES
"""Data never start later than this."""

READ_BYTES: Final = 1 << 20
"""How much is read at once."""

UNKNOWN_SIZE: Final = 2**63 - 1
UNKNOWN_SHA256: Final = "0" * 64


class ReadableFile(Protocol):
    """The part of `platform.disk.File` that reads."""

    @property
    def path(self) -> str: ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; shorter only at the end of the file."""
        ...

    def size(self) -> int:
        """Return the length of the file in bytes."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class SnapshotManifest(msgspec.Struct, frozen=True):
    """The description of a snapshot: its index and term, its cluster, and the checksum of its data.

    `sha256` is the data's, in hexadecimal. `created_by` is the version of the program. `runtime` is the runtime's own
    replicated state, opaque to the storage. `group` is the Raft group: 0 is the only one today. `sessions` is the
    format of the table of sessions, which stands before the state machine's data; 0: there is none.
    """

    index: int
    term: int
    membership: MembershipState
    cluster_id: int
    size_bytes: int
    sha256: str
    created_by: str
    runtime: bytes = b""
    group: int = GROUP
    sessions: int = 0

    @property
    def meta(self) -> SnapshotMeta:
        """The part of the manifest that the consensus core uses."""
        return SnapshotMeta(self.index, self.term, self.membership)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=int)  # a public `NodeId` is written as the integer that it is
_decoder: Final = msgspec.msgpack.Decoder(SnapshotManifest)


def encode_manifest(manifest: SnapshotManifest) -> bytes:
    """The manifest as bytes, for the file and for the way to a peer."""
    data = _encoder.encode(manifest)
    assert len(data) <= MANIFEST_LIMIT_BYTES, len(data)
    return data


def decode_manifest(data: bytes | memoryview) -> SnapshotManifest:
    """Decode a manifest.

    Raises:
        FormatVersionError: the snapshot is of another Raft group.
        ValueError: this is no manifest that could have been written.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ValueError(f"a manifest of {len(data)} bytes is above the limit of {MANIFEST_LIMIT_BYTES}")
    try:
        manifest = _decoder.decode(data)
    except UNDECODABLE as error:
        raise ValueError(str(error)) from error
    if manifest.index < 1 or manifest.term < 1 or not 0 <= manifest.size_bytes <= UNKNOWN_SIZE:
        raise ValueError(f"a manifest at index {manifest.index}, term {manifest.term}, of {manifest.size_bytes} bytes")
    if len(manifest.sha256) != 64 or manifest.sha256.strip("0123456789abcdef"):
        raise ValueError("a manifest whose SHA-256 is not one")
    if manifest.group != GROUP:
        raise FormatVersionError(
            f"the snapshot is of Raft group {manifest.group}, and this version of Syncline knows group {GROUP} alone."
        )
    return manifest


def header_size(manifest: SnapshotManifest) -> int:
    """The offset of a snapshot's data; it does not depend on the manifest's size and SHA-256."""
    widest = msgspec.structs.replace(manifest, size_bytes=UNKNOWN_SIZE, sha256=UNKNOWN_SHA256)
    size = FIXED_HEADER.size + len(encode_manifest(widest))
    return size + -size % ALIGNMENT_BYTES


def encode_header(manifest: SnapshotManifest) -> bytes:
    """The file up to its data."""
    data = encode_manifest(manifest)
    offset = header_size(manifest)
    fixed = FIXED_HEADER.pack(MAGIC, FORMAT_VERSION, 0, len(data), offset, 0, b"", 0)[:-4]
    rest = data.ljust(offset - FIXED_HEADER.size, b"\0")
    return fixed + zlib.crc32(rest, zlib.crc32(fixed)).to_bytes(4, "little") + rest


def read_header(file: ReadableFile) -> tuple[SnapshotManifest, int]:
    """The manifest of a file and the offset of its data.

    Raises:
        CorruptionError: the file is not an intact snapshot, as far as its header and its length tell.
        FormatVersionError: another version wrote it.
    """
    fixed = _read(file, 0, FIXED_HEADER.size)
    if len(fixed) < FIXED_HEADER.size or not fixed.startswith(MAGIC):
        raise snapshot_rot(file.path, 0, "this is not the start of a snapshot")
    _, version, _flags, size, offset, _, _, checksum = FIXED_HEADER.unpack(fixed)
    plausible = size <= MANIFEST_LIMIT_BYTES and FIXED_HEADER.size + size <= offset <= file.size()
    plausible = plausible and offset <= HEADER_LIMIT_BYTES
    rest = _read(file, FIXED_HEADER.size, offset - FIXED_HEADER.size) if plausible else b""
    if not plausible or zlib.crc32(rest, zlib.crc32(fixed[:-4])) != checksum:
        raise snapshot_rot(file.path, 0, "the header is damaged")
    if not OLDEST_FORMAT_VERSION <= version <= FORMAT_VERSION:
        raise FormatVersionError(
            f"{file.path} is a snapshot of format {version}; this version of Syncline reads formats "
            f"{OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}. Start the node with the version that wrote it."
        )
    try:
        manifest = decode_manifest(rest[:size])
    except FormatVersionError as error:
        raise FormatVersionError(f"{file.path}: {error} Start the node with the version that wrote it.") from error
    except ValueError as error:
        raise snapshot_rot(file.path, FIXED_HEADER.size, f"the manifest is not one ({error})") from error
    return manifest, offset


def check_length(file: ReadableFile, manifest: SnapshotManifest, offset: int) -> None:
    """Raise `CorruptionError` if the file is longer or shorter than its manifest says."""
    size = file.size()
    if size != offset + manifest.size_bytes:
        reason = f"the file has {size} bytes and should have {offset + manifest.size_bytes}"
        raise snapshot_rot(file.path, min(size, offset + manifest.size_bytes), reason)


def _read(file: ReadableFile, offset: int, size: int) -> bytes:
    """Read bytes; an error of the disk counts as corruption, because both need another copy."""
    try:
        return file.read_at(offset, size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise snapshot_rot(file.path, offset, f"the disk can't read it ({error.strerror})") from error


def snapshot_rot(path: str, offset: int, reason: str) -> CorruptionError:
    """Return the error for a corrupt snapshot."""
    return CorruptionError(
        f"The snapshot is damaged: {path} at offset {offset}: {reason}. The node falls back to an older snapshot and "
        f"its log if these reach far enough. If not: {how_to_repair(data_dir_of(path))}",
        file=path,
        offset=offset,
    )


class SnapshotReader(io.RawIOBase):
    """Reads a snapshot's data: in order as a binary file, verified as a whole at its end, or anywhere with `read_at`.

    Reading in order raises `CorruptionError` instead of the last bytes if the data are not what was written: the
    caller must then discard the bytes that it read before. `buffered` gives the form with all of a file's methods.
    """

    def __init__(self, file: ReadableFile, manifest: SnapshotManifest, data_offset: int) -> None:
        super().__init__()
        self.manifest = manifest
        self._file = file
        self._data_offset = data_offset
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._chunk = memoryview(b"")

    @property
    def path(self) -> str:
        """The file's path."""
        return self._file.path

    def header(self) -> bytes:
        """The file up to its data, as it was written: with the data behind it, it is a copy of the file."""
        return _read(self._file, 0, self._data_offset)

    def buffered(self) -> io.BufferedReader:
        return io.BufferedReader(self, READ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        target = memoryview(buffer).cast("B")
        if not self._chunk and len(target):
            self._chunk = memoryview(self._next_chunk())
        size = min(len(target), len(self._chunk))
        target[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes of the data from `offset`; shorter only at the end. Not verified: the receiver verifies
        them.
        """
        size = min(size, self.manifest.size_bytes - offset)
        if size <= 0:
            return b""
        data = _read(self._file, self._data_offset + offset, size)
        if len(data) != size:
            raise snapshot_rot(self._file.path, self._data_offset + offset + len(data), "the file was cut short")
        return data

    def verify(self) -> None:
        """Read the rest of the data, and raise `CorruptionError` if the data are not what was written."""
        while self._next_chunk():
            pass

    def _next_chunk(self) -> bytes:
        chunk = self.read_at(self._hashed, READ_BYTES)
        self._hash.update(chunk)
        self._hashed += len(chunk)
        if self._hashed == self.manifest.size_bytes and self._hash.hexdigest() != self.manifest.sha256:
            raise snapshot_rot(self._file.path, self._data_offset, "the data do not have the SHA-256 of the manifest")
        return chunk

    def close(self) -> None:
        self._file.close()
        super().close()
