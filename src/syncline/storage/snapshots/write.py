"""Write a snapshot file: taken here, or received from a peer.

Fail-stop for one file: after an error of the disk nothing more is written to it, and it never gets a name. A sync
is never repeated after it failed, because it may then report success for data that is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec

from syncline.errors import CorruptionError, DiskFull, StorageError, UsageError
from syncline.platform.disk import File
from syncline.storage.snapshots.file import SnapshotManifest, SnapshotReader, check_length, encode_header, header_size
from syncline.storage.space import is_disk_full

__all__ = ["SnapshotOwner", "SnapshotPart", "SnapshotWriter", "refusals", "write_again"]

BUFFER_BYTES: Final = 1 << 20
"""State machines write small pieces; they are written to the disk in pieces of this size."""

SYNC_EVERY_BYTES: Final = 8 << 20
"""A snapshot is synced as it grows. One large sync at its end would delay the log's own syncs."""


class SnapshotOwner(Protocol):
    """The parts of the store that a writer and a receiver use."""

    def adopt(self, path: str, manifest: SnapshotManifest) -> None:
        """Rename a complete, synced file to the name under which it counts; durable on return."""
        ...

    def check_room(self, size_bytes: int) -> None:
        """Raise `DiskFull` if `size_bytes` more would leave too little space for the log."""
        ...

    def discard(self, path: str) -> None:
        """Remove a file that did not become a snapshot."""
        ...

    def distrust_part(self) -> None:
        """The disk failed while the part was written: its bytes must be written again before it is continued."""
        ...

    def ended(self, *, writing: bool) -> None:
        """The writer, or else the receiver, is done."""
        ...


class _GrowingFile:
    """What writing and receiving share: a file that is synced as it grows, until it gets its name."""

    def __init__(self, store: SnapshotOwner, file: File, data_offset: int, *, written: int, writing: bool) -> None:
        self._store = store
        self._file: File | None = file
        self._path = file.path
        self._data_offset = data_offset
        self._written = written
        """Bytes of data in the file."""
        self._writing = writing
        self._unsynced = 0

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        file = self._open_file()
        file.write_at(self._data_offset + self._written, data)
        self._written += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_EVERY_BYTES:
            file.sync()
            self._unsynced = 0

    def _open_file(self) -> File:
        if self._file is None:
            raise UsageError("this snapshot was committed or aborted already")
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._store.ended(writing=self._writing)

    def _discard(self) -> None:
        with refusals(self._path):
            self._store.discard(self._path)


class SnapshotWriter(_GrowingFile):
    """Writes a new snapshot. For one thread. Ends with `commit` or `abort`; after an error, only `abort` is left.

    A `commit` that fails leaves its file: `abort` behind it removes that.
    """

    def __init__(self, store: SnapshotOwner, file: File, manifest: SnapshotManifest) -> None:
        super().__init__(store, file, header_size(manifest), written=0, writing=True)
        self._manifest = manifest
        self._hash = hashlib.sha256()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._failure: StorageError | None = None
        self._ended = False

    @property
    def size_bytes(self) -> int:
        """The bytes of data written so far."""
        return self._written + self._buffered

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Add data; returns its size. Raises `StorageError` if the disk refuses (`DiskFull` if it is full)."""
        self._open_file()
        piece = bytes(data)
        self._buffer.append(piece)
        self._buffered += len(piece)
        if self._buffered >= BUFFER_BYTES:
            self._flush()
        return len(piece)

    def commit(self) -> SnapshotManifest:
        """Make the snapshot durable and the newest of the store.

        Raises:
            NothingToSnapshot: a newer one became durable meanwhile; this one was removed.
            StorageError: the disk refused; the older snapshots are untouched.
        """
        file = self._open_file()
        self._flush()
        manifest = msgspec.structs.replace(self._manifest, size_bytes=self._written, sha256=self._hash.hexdigest())
        header = encode_header(manifest)
        assert len(header) == self._data_offset
        with self._final_refusals():
            # Last: without its header the file is no snapshot, so a crash before this leaves nothing that could count.
            file.write_at(0, header)
            file.sync()
            self._close()
            self._store.adopt(self._path, manifest)
        self._ended = True
        return manifest

    def abort(self) -> None:
        """Remove what was written, also by a `commit` that failed. Does nothing after one that succeeded."""
        if not self._ended:
            self._ended = True
            self._close()
            self._discard()

    def _flush(self) -> None:
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        if not data:
            return
        self._open_file()
        self._hash.update(data)
        with self._final_refusals():
            self._store.check_room(len(data))
            self._append(data)

    @contextmanager
    def _final_refusals(self) -> Iterator[None]:
        """After a disk error only `abort` is allowed."""
        try:
            with refusals(self._path):
                yield
        except StorageError as error:
            self._failure = error
            raise

    def _open_file(self) -> File:
        if self._failure is not None:
            raise StorageError(str(self._failure))
        return super()._open_file()


class SnapshotPart(_GrowingFile):
    """A snapshot arriving from a peer. Not for two threads at once. Ends with `commit` or `abort`."""

    def __init__(
        self, store: SnapshotOwner, file: File, manifest: SnapshotManifest, data_offset: int, received: int
    ) -> None:
        super().__init__(store, file, data_offset, written=received, writing=False)
        self.manifest = manifest

    @property
    def received(self) -> int:
        """The bytes of data that are stored: the sender continues there."""
        return self._written

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write data at `offset`, which must be `received`.

        Raises:
            UsageError: data from elsewhere, or more than the manifest says.
            StorageError: the disk refused (`DiskFull` if it is full).
        """
        self._open_file()
        if offset != self._written or offset + len(data) > self.manifest.size_bytes:
            raise UsageError(
                f"{len(data)} bytes of the snapshot's data were offered from offset {offset}, and those from "
                f"{self._written} to {self.manifest.size_bytes} are missing"
            )
        try:
            with refusals(self._path):
                self._append(data)
        except StorageError:
            self._give_up()
            raise

    def commit(self) -> SnapshotManifest:
        """Verify the whole, make it durable, and the newest of the store.

        Raises:
            CorruptionError: it is not what its manifest says. The part was removed: the sender must start again.
            NothingToSnapshot: a newer one became durable meanwhile; this one was removed.
            UsageError: data are still missing.
            StorageError: the disk refused.
        """
        file = self._open_file()
        if self._written != self.manifest.size_bytes:
            raise UsageError(f"{self.manifest.size_bytes - self._written} bytes of the snapshot are still missing")
        try:
            with refusals(self._path):
                file.sync()
                check_length(file, self.manifest, self._data_offset)
                SnapshotReader(file, self.manifest, self._data_offset).verify()
                self._close()
                self._store.adopt(self._path, self.manifest)
        except CorruptionError:
            self.abort(keep=False)
            raise
        except StorageError:
            self._give_up()
            raise
        return self.manifest

    def abort(self, *, keep: bool = True) -> None:
        """End the transfer. With `keep` the part stays and the next attempt continues it. Does nothing after
        `commit`.
        """
        if self._file is not None:
            self._close()
            if not keep:
                self._discard()

    def _give_up(self) -> None:
        """Mark the part after a disk error: its bytes can't be trusted before `write_again`."""
        self._store.distrust_part()
        self._close()


def write_again(file: File) -> None:
    """Write a file's bytes once more, so that the next sync makes them durable even if an earlier sync failed.

    After a failed sync a system may show bytes that are not on the disk, and report the next sync as a success.
    """
    for offset in range(0, file.size(), BUFFER_BYTES):
        file.write_at(offset, file.read_at(offset, BUFFER_BYTES))


@contextmanager
def refusals(path: str) -> Iterator[None]:
    """Convert errors of the disk to `StorageError`. Only the snapshot without a name is lost."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if is_disk_full(error) else StorageError
        raise kind(f"{path}: the snapshot could not be written: {error}. The older ones are untouched.") from error
