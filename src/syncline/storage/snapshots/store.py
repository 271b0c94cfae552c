"""The snapshots of one node on disk: written under a temporary name, then renamed; the newest intact one counts.

A snapshot is one file, `<index>-<term>.snap` in hexadecimal. It gets that name by a rename after its bytes were
synced, and counts once the directory was synced, too. So a file under that name is always complete; otherwise it is
corrupt.

- A snapshot is never replaced, and never followed by an older one: `commit` refuses.
- The `retain` newest are kept. The log is compacted only as far as the *oldest* of them, so that each can replace
  a corrupt newer one; unless the log has grown above its bound, then as far as the newest (`compaction_index`).
- Opening the store verifies the newest one as a whole. A corrupt one is moved aside (`.broken`), reported in
  `damage`,
  and the next older one is tried.
- A snapshot from a peer grows in a `.part` file, which outlives a broken connection and a restart: the next attempt
  continues at its end. Leftovers of all other kinds are removed when the store is opened.

One snapshot may be written, one received and any number read at the same time, on different threads.
"""

from __future__ import annotations

import builtins
import logging
import re
import threading
from typing import Final

from syncline.consensus.types import MembershipState
from syncline.errors import CorruptionError, DiskFull, NothingToSnapshot, StorageError, UsageError, WrongDirectory
from syncline.platform.disk import Disk, File
from syncline.storage.snapshots.file import (
    UNKNOWN_SHA256,
    SnapshotManifest,
    SnapshotReader,
    check_length,
    encode_header,
    read_header,
)
from syncline.storage.snapshots.write import SnapshotPart, SnapshotWriter, refusals, write_again
from syncline.storage.space import SpaceGuard
from syncline.version import __version__

__all__ = ["SnapshotManifest", "SnapshotReader", "SnapshotPart", "SnapshotStore", "SnapshotWriter"]

log: logging.Logger = logging.getLogger("syncline.storage")

RETAIN: Final = 2
"""One to use and one to fall back to."""

BROKEN_FILES_LIMIT: Final = 2
"""Corrupt snapshots that are kept for an analysis."""

SNAPSHOT_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.snap")
TEMPORARY_SUFFIX: Final = ".tmp"
PARTIAL_SUFFIX: Final = ".part"
BROKEN_SUFFIX: Final = ".broken"


def snapshot_name(index: int, term: int) -> str:
    return f"{index:016x}-{term:016x}.snap"


def check_intact(file: File, name: str, *, verify: bool = True) -> SnapshotManifest:
    """Return the manifest of a snapshot that stands under this name. `verify` reads all of its data.

    Raises:
        CorruptionError: header, length, name or data are not those of a snapshot that was written.
        FormatVersionError: another version wrote it.
    """
    manifest, offset = read_header(file)
    check_length(file, manifest, offset)
    if name != snapshot_name(manifest.index, manifest.term):
        raise CorruptionError(f"{file.path} is a copy of the snapshot at {manifest.index}: renamed", file=file.path)
    if verify:
        SnapshotReader(file, manifest, offset).verify()
    return manifest


class SnapshotStore:
    """The snapshots of one node. Make one with `SnapshotStore.open`."""

    def __init__(self, disk: Disk, path: str, *, cluster_id: int, retain: int, reserve_bytes: int) -> None:
        self.path = path
        self._disk = disk
        self._cluster_id = cluster_id
        self._retain = retain
        self._space = SpaceGuard(disk, path, reserve_bytes=reserve_bytes)
        self._lock = threading.Lock()
        self._manifests: tuple[SnapshotManifest, ...] = ()  # newest first; replaced, never changed
        self._damage: list[str] = []
        self._writing = False
        self._receiving = False
        self._trusted_part = ""  # the part that this process wrote completely, without an error

    def limit(self, *, retain: int, reserve_bytes: int) -> None:
        """Have other limits, from the next snapshot on."""
        assert retain >= 1
        self._retain = retain
        self._space.keep(reserve_bytes)

    @classmethod
    def open(
        cls, disk: Disk, path: str, *, cluster_id: int, retain: int = RETAIN, reserve_bytes: int = 0
    ) -> SnapshotStore:
        """Open the store in the directory `path`, or begin one; verifies the newest snapshot.

        Half of `reserve_bytes` of the disk are left to the log: a snapshot that would use them is refused.

        Raises:
            FormatVersionError: another version wrote a snapshot here.
            WrongDirectory: a snapshot belongs to another cluster.
            OSError: the disk refused.
        """
        assert retain >= 1
        disk.make_dirs(path)
        store = cls(disk, path, cluster_id=cluster_id, retain=retain, reserve_bytes=reserve_bytes)
        store._load()
        return store

    @property
    def damage(self) -> tuple[str, ...]:
        """Sentences for the operator about snapshots that were corrupt and moved aside since the store was opened."""
        return tuple(self._damage)

    def list(self) -> builtins.list[SnapshotManifest]:
        """The durable snapshots, newest first."""
        return [*self._manifests]

    def newest(self) -> SnapshotManifest | None:
        return self._manifests[0] if self._manifests else None

    def compaction_index(self, *, log_bytes: int, max_log_bytes: int) -> int:
        """The index up to which the log may be compacted: the oldest retained snapshot, so that each one has its log.

        If the log takes more than `max_log_bytes`, the newest one. 0 while there are fewer than `retain`.
        """
        manifests = self._manifests
        if manifests and log_bytes > max_log_bytes:
            return manifests[0].index
        return manifests[-1].index if len(manifests) >= self._retain else 0

    def read(self, manifest: SnapshotManifest) -> SnapshotReader:
        """Open a snapshot. It stays readable while it is open, even if the store drops it for a newer one.

        Raises:
            CorruptionError: its header or its length is wrong.
            StorageError: it is no longer there.
        """
        path = self._path_of(manifest)
        try:
            file = self._disk.open(path)
        except FileNotFoundError:
            raise StorageError(f"{path}: the snapshot is no longer there: ask for the newest one") from None
        try:
            found, offset = read_header(file)
            check_length(file, found, offset)
            return SnapshotReader(file, found, offset)
        except BaseException:
            file.close()
            raise

    def drop_older(self) -> None:
        """Keep the newest snapshot alone: for a full disk, whose log does not reach back further either."""
        with self._lock:
            self._drop_surplus(retain=1)

    def set_aside(self, manifest: SnapshotManifest, reason: str) -> None:
        """Move a corrupt snapshot aside: it no longer counts, and its file is kept under another name."""
        with self._lock:
            self._manifests = tuple(held for held in self._manifests if held.index != manifest.index)
            self._break_off(snapshot_name(manifest.index, manifest.term), reason)

    def create(
        self, index: int, term: int, membership: MembershipState, runtime: bytes = b"", *, sessions: int = 0
    ) -> SnapshotWriter:
        """Begin a snapshot of the state machine as of `index`. `sessions` is the format of its table of sessions.

        Raises:
            NothingToSnapshot: there is one of that index, or a newer one.
            UsageError: another one is being made.
            StorageError: the disk refused.
        """
        self._check_newer(index)
        manifest = SnapshotManifest(
            *(index, term, membership, self._cluster_id, 0, UNKNOWN_SHA256, __version__, runtime), sessions=sessions
        )
        with self._lock:
            if self._writing:
                raise UsageError("another snapshot is being made: end or abort that one first")
            self._writing = True
        path = self._path_of(manifest) + TEMPORARY_SUFFIX
        try:
            with refusals(path):
                self.discard(path)
                return SnapshotWriter(self, self._disk.open(path, create=True, write=True), manifest)
        except BaseException:
            self._writing = False
            raise

    def receive(self, manifest: SnapshotManifest) -> SnapshotPart:
        """Begin to receive a snapshot from a peer, or continue one of which a part is stored already.

        Raises:
            NothingToSnapshot: there is one of that index, or a newer one: the sender need not send it.
            UsageError: another one is being received.
            WrongDirectory: it is another cluster's.
            StorageError: the disk refused.
        """
        self._check_newer(manifest.index)
        self._check_cluster(manifest, "the snapshot that a peer offers")
        with self._lock:
            if self._receiving:
                raise UsageError("another snapshot is being received: end or abort that one first")
            self._receiving = True
        try:
            return self._open_receiver(manifest)
        except BaseException:
            self._receiving = False
            raise

    def _open_receiver(self, manifest: SnapshotManifest) -> SnapshotPart:
        name = f"{snapshot_name(manifest.index, manifest.term)}-{manifest.sha256[:16]}{PARTIAL_SUFFIX}"
        path = f"{self.path}/{name}"
        with refusals(path):
            for other in self._names(PARTIAL_SUFFIX):
                if other != name:
                    self._disk.remove(f"{self.path}/{other}")
            header = encode_header(manifest)
            if self._disk.exists(path):
                file = self._disk.open(path, write=True)
                if file.read_at(0, len(header)) == header:
                    if name != self._trusted_part:
                        write_again(file)
                    received = min(file.size() - len(header), manifest.size_bytes)
                    self.check_room(manifest.size_bytes - received)
                    self._trusted_part = name
                    return SnapshotPart(self, file, manifest, len(header), received)
                file.close()
                self._disk.remove(path)
            self.check_room(manifest.size_bytes)
            file = self._disk.open(path, create=True, write=True)
            file.write_at(0, header)
            self._trusted_part = name
            return SnapshotPart(self, file, manifest, len(header), 0)

    # Used by the writer and the receiver (`write.SnapshotOwner`).

    def adopt(self, path: str, manifest: SnapshotManifest) -> None:
        """Rename a complete, synced file to the name under which it counts; durable on return."""
        with self._lock:
            newest = self.newest()
            if newest is not None and newest.index >= manifest.index:
                self.discard(path)
                raise _outdated(manifest.index, newest)
            self._disk.rename(path, self._path_of(manifest))
            try:
                # The name is durable before the snapshot counts: the log's entries up to it are dropped for its sake.
                self._disk.sync_dir(self.path)
            except OSError:
                self._rename_back(manifest, path)
                raise
            self._manifests = (manifest, *self._manifests)
            self._drop_surplus()
            self._drop_useless_part()

    def _rename_back(self, manifest: SnapshotManifest, path: str) -> None:
        """Take the name from a snapshot that does not count. With it the file would stay until the next start."""
        try:
            self._disk.rename(self._path_of(manifest), path)
        except OSError as error:
            log.warning("a snapshot that does not count stays for now: %s: %s", self._path_of(manifest), error)

    def check_room(self, size_bytes: int) -> None:
        """Raise `DiskFull` if `size_bytes` more would leave too little space for the log."""
        if not self._space.has_half(size_bytes):
            raise DiskFull(
                f"{self.path}: {size_bytes} more bytes of a snapshot don't fit: {self._space.free_bytes()} are free, "
                "of which a part is kept for the log. The older ones are untouched."
            )

    def discard(self, path: str) -> None:
        if self._disk.exists(path):
            self._disk.remove(path)

    def distrust_part(self) -> None:
        self._trusted_part = ""

    def ended(self, *, writing: bool) -> None:
        if writing:
            self._writing = False
        else:
            self._receiving = False

    def _drop_surplus(self, *, retain: int | None = None) -> None:
        """Remove snapshots that are older than the retained ones. A failed removal is tried again next time.

        The newest one is durable already: an error here must not look like a failed write of it.
        """
        retain = retain or self._retain
        kept = list(self._manifests[:retain])
        for manifest in self._manifests[retain:]:
            try:
                self._disk.remove(self._path_of(manifest))
            except OSError as error:
                log.warning("an old snapshot stays for now: %s can't be removed: %s", self._path_of(manifest), error)
                kept.append(manifest)
        self._manifests = tuple(kept)

    def _drop_useless_part(self) -> None:
        """Remove a part of a snapshot that no sender needs to continue: one that is as new is durable by now."""
        newest = self.newest()
        if self._receiving or newest is None:
            return
        try:
            for name in self._names(PARTIAL_SUFFIX):
                if _index_of(name) <= newest.index:
                    self._disk.remove(f"{self.path}/{name}")
        except OSError as error:
            log.warning("a part of an old snapshot stays for now in %s: %s", self.path, error)

    # Opening.

    def _load(self) -> None:
        for name in self._names(TEMPORARY_SUFFIX):
            self._disk.remove(f"{self.path}/{name}")
        manifests: builtins.list[SnapshotManifest] = []
        for name in sorted(filter(SNAPSHOT_NAME.fullmatch, self._disk.list(self.path)), reverse=True):
            manifest = self._load_one(name, verify=not manifests)
            if manifest is not None:
                manifests.append(manifest)
        self._manifests = tuple(manifests)
        self._drop_surplus()
        self._drop_old_partials()
        self._disk.sync_dir(self.path)

    def _load_one(self, name: str, *, verify: bool) -> SnapshotManifest | None:
        path = f"{self.path}/{name}"
        file = self._disk.open(path)
        try:
            manifest = check_intact(file, name, verify=verify)
        except CorruptionError as error:
            self._break_off(name, str(error))
            return None
        finally:
            file.close()
        self._check_cluster(manifest, path)
        return manifest

    def _drop_old_partials(self) -> None:
        """Remove partial snapshots but for the newest, and that one too if a complete snapshot is as new."""
        for name in self._names(PARTIAL_SUFFIX)[:-1]:
            self._disk.remove(f"{self.path}/{name}")
        self._drop_useless_part()

    def _break_off(self, name: str, reason: str) -> None:
        path = f"{self.path}/{name}"
        self._disk.rename(path, path + BROKEN_SUFFIX)
        for old in self._names(BROKEN_SUFFIX)[:-BROKEN_FILES_LIMIT]:
            self._disk.remove(f"{self.path}/{old}")
        self._disk.sync_dir(self.path)
        self._damage.append(f"{reason} The file is kept as {name}{BROKEN_SUFFIX}.")

    def _names(self, suffix: str) -> builtins.list[str]:
        return [name for name in self._disk.list(self.path) if name.endswith(suffix)]

    def _path_of(self, manifest: SnapshotManifest) -> str:
        return f"{self.path}/{snapshot_name(manifest.index, manifest.term)}"

    def _check_newer(self, index: int) -> None:
        newest = self.newest()
        if newest is not None and newest.index >= index:
            raise _outdated(index, newest)

    def _check_cluster(self, manifest: SnapshotManifest, what: str) -> None:
        if manifest.cluster_id != self._cluster_id:
            raise WrongDirectory(
                f"{what} belongs to cluster {manifest.cluster_id:016x}, and this node to {self._cluster_id:016x}: "
                "give each cluster directories and addresses of its own."
            )


def _index_of(part_name: str) -> int:
    """The index of the snapshot that a partial file is for; 0 if the name is none that is written here."""
    found = SNAPSHOT_NAME.match(part_name)
    return int(found[1], 16) if found is not None else 0


def _outdated(index: int, newest: SnapshotManifest) -> NothingToSnapshot:
    return NothingToSnapshot(f"a snapshot at {index} is of no use: one at {newest.index} is durable already")
