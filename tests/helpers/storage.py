"""What the storage tests share: entries by the row, a log on a real directory, and a disk that fails when told to."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence

from syncline.consensus.types import EntryType, HardState, LogEntry, SnapshotMeta
from syncline.platform.disk import Disk, File, LockHandle, OsDisk, OsFile
from syncline.storage.wal.writer import Wal, WalWrite, WriteResult

SEGMENT_BYTES = 16 << 10
"""Small segments: a few hundred small entries make a rotation."""


class QuickDisk(OsDisk):
    """The real disk without its syncs, for tests of what the files say and not of what survives."""

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OsFile:
        file = super().open(path, create=create, write=write)
        file.sync = lambda: None  # type: ignore[method-assign]
        return file

    def sync_dir(self, path: str) -> None:
        pass


def row(first: int, last: int, term: int = 1, size: int = 20) -> list[LogEntry]:
    """Entries `first` to `last`, each with data that names it."""
    return [LogEntry(term, index, EntryType.NORMAL, data_of(term, index, size)) for index in range(first, last + 1)]


def data_of(term: int, index: int, size: int) -> bytes:
    return (b"%d@%d;" % (index, term)).ljust(size, b"x")[: max(size, 1)]


def open_wal(path: str, *, disk: Disk | None = None, segment_bytes: int = SEGMENT_BYTES, log_id: int = 7) -> Wal:
    return Wal.open(disk or QuickDisk(), path, segment_bytes=segment_bytes, reserve_bytes=0, log_id=log_id)


def append(
    wal: Wal,
    entries: Sequence[LogEntry] = (),
    state: HardState | None = None,
    snapshot: SnapshotMeta | None = None,
) -> WriteResult:
    return wal.write([WalWrite(entries, state, snapshot)])


def held(wal: Wal) -> list[LogEntry]:
    """All entries of a freshly opened log, read from disk."""
    recovery = wal.recovery
    if recovery.first_index > recovery.last_index:
        return []
    entries: list[LogEntry] = []
    low = recovery.first_index
    while low <= recovery.last_index:
        entries += wal.read_entries(low, recovery.last_index + 1, 1 << 20)
        low = entries[-1].index + 1
    return entries


def copy_of(path: str, target: str) -> str:
    """The directory as a crash of the process leaves it: whatever was written, synced or not."""
    shutil.copytree(path, target)
    return target


class Trouble:
    """Says which operation fails: the one for which `hits` is true, once armed."""

    def __init__(self) -> None:
        self.hits: Callable[[str, str], bool] = lambda _operation, _path: False
        self.error = errno.EIO
        self.log: list[tuple[str, str]] = []

    def arm(self, operation: str, suffix: str = "", error: int = errno.EIO) -> None:
        self.error = error
        self.hits = lambda name, path: name == operation and path.endswith(suffix)

    def disarm(self) -> None:
        self.hits = lambda _operation, _path: False

    def check(self, operation: str, path: str) -> None:
        self.log.append((operation, path))
        if self.hits(operation, path):
            raise OSError(self.error, "as told")


class TroubledFile:
    def __init__(self, file: File, trouble: Trouble) -> None:
        self._file = file
        self._trouble = trouble

    @property
    def path(self) -> str:
        return self._file.path

    def read_at(self, offset: int, size: int) -> bytes:
        self._trouble.check("read", self.path)
        return self._file.read_at(offset, size)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._trouble.check("write", self.path)
        self._file.write_at(offset, data)

    def sync(self) -> None:
        self._trouble.check("sync", self.path)
        self._file.sync()

    def allocate(self, size: int) -> None:
        self._trouble.check("allocate", self.path)
        self._file.allocate(size)

    def truncate(self, size: int) -> None:
        self._trouble.check("truncate", self.path)
        self._file.truncate(size)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class TroubledDisk:
    """The real disk, with trouble on order and a record of what was done."""

    def __init__(self) -> None:
        self.trouble = Trouble()
        self.free: int | None = None
        self.free_asked = 0
        self._disk = OsDisk()

    def open(self, path: str, *, create: bool = False, write: bool = False) -> File:
        self.trouble.check("create" if create else "open", path)
        return TroubledFile(self._disk.open(path, create=create, write=write), self.trouble)

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def list(self, path: str) -> list[str]:
        return self._disk.list(path)

    def make_dirs(self, path: str) -> None:
        self._disk.make_dirs(path)

    def rename(self, source: str, target: str) -> None:
        self.trouble.check("rename", target)
        self._disk.rename(source, target)

    def remove(self, path: str) -> None:
        self.trouble.check("remove", path)
        self._disk.remove(path)

    def remove_tree(self, path: str) -> None:
        self._disk.remove_tree(path)

    def sync_dir(self, path: str) -> None:
        self.trouble.check("sync_dir", path)
        self._disk.sync_dir(path)

    def lock(self, path: str, content: bytes) -> LockHandle:
        return self._disk.lock(path, content)

    def free_bytes(self, path: str) -> int:
        self.free_asked += 1
        return self._disk.free_bytes(path) if self.free is None else self.free
