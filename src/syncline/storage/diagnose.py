"""Check whether a node could start on its data directory, and list what is wrong. Nothing is changed.

The checks are those of a start, in the same order. A start stops at the first failure; this goes on.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import msgspec

from syncline.consensus.types import SnapshotMeta
from syncline.errors import CorruptionError, WrongDirectory
from syncline.platform.disk import Disk
from syncline.storage.datadir import (
    SNAPSHOTS_NAME,
    WAL_NAME,
    Identity,
    check_unused,
    read_identity,
)
from syncline.storage.snapshots.store import SNAPSHOT_NAME, check_intact
from syncline.storage.stored_log import settle
from syncline.storage.wal.format import segment_sequence
from syncline.storage.wal.recovery import recover
from syncline.storage.wal.scan import SegmentScan
from syncline.storage.wal.writer import Recovery

__all__ = ["Diagnosis", "diagnose", "older_copy_problem"]


class Diagnosis(msgspec.Struct, frozen=True):
    """The result of `diagnose`. `problems` keep a node from starting; `notes` are damage that it can start with.

    `node_id` and `cluster_id` are from the identity, or else from the files themselves; 0 if neither has them.
    `empty`: there are no files of a node.
    """

    identity: Identity | None
    node_id: int
    cluster_id: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    empty: bool

    @property
    def sound(self) -> bool:
        return not self.problems and not self.empty


def diagnose(disk: Disk, path: str) -> Diagnosis:
    """Look at the data directory `path`, whose lock the caller holds.

    Raises:
        FormatVersionError: it, or a file in it, was written by another version, which is no damage.
        OSError: it can't be read, for another reason than a failing disk.
    """
    examination = _Examination(disk, path)
    examination.identity()
    snapshot = examination.snapshots()
    examination.log(snapshot)
    return examination.result()


def older_copy_problem(path: str) -> str:
    """The problem of a directory that a quorum of the members has refused. Its files are intact."""
    return (
        f"{path} is an older copy of the node's directory, or a copy in use elsewhere: the members of the cluster have"
        " refused it"
    )


class _Examination:
    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._identity: Identity | None = None
        self._node_id = 0
        self._cluster_id = 0
        self._problems: list[str] = []
        self._notes: list[str] = []

    def result(self) -> Diagnosis:
        empty = self._identity is None and not self._problems
        return Diagnosis(
            identity=self._identity,
            node_id=self._node_id,
            cluster_id=self._cluster_id,
            problems=tuple(self._problems),
            notes=tuple(self._notes),
            empty=empty,
        )

    def identity(self) -> None:
        with self._noting(self._problems, f"{self._path}/identity"):
            self._identity = read_identity(self._disk, self._path)
            if self._identity is None:
                check_unused(self._disk, self._path)
        if self._identity is not None:
            self._node_id, self._cluster_id = self._identity.node_id, self._identity.cluster_id
            if self._identity.older_copy:
                self._problems.append(older_copy_problem(self._path))

    def snapshots(self) -> SnapshotMeta | None:
        """Check the snapshots; return the newest intact one, which a start would use."""
        names = sorted(filter(SNAPSHOT_NAME.fullmatch, self._names(SNAPSHOTS_NAME)), reverse=True)
        for name in names:
            path = f"{self._path}/{SNAPSHOTS_NAME}/{name}"
            with self._noting(self._notes, path):
                file = self._disk.open(path)
                try:
                    manifest = check_intact(file, name)
                finally:
                    file.close()
                if self._identity is not None and manifest.cluster_id != self._identity.cluster_id:
                    self._problems.append(f"{path} is a snapshot of another cluster, {manifest.cluster_id:016x}")
                    continue
                self._cluster_id = manifest.cluster_id
                return manifest.meta
        return None

    def log(self, snapshot: SnapshotMeta | None) -> None:
        """Read the whole log as a start does, and check that it fits the snapshot."""
        path = f"{self._path}/{WAL_NAME}"
        first = next((name for name in self._names(WAL_NAME) if segment_sequence(name) is not None), None)
        if first is None:
            if self._identity is not None and self._identity.started:
                self._problems.append(f"{path} holds no log, and this node has had one: its files are missing.")
            return
        if not self._node_id:
            with contextlib.suppress(CorruptionError):  # reported below
                self._node_id = self._log_id(f"{path}/{first}")
        with self._noting(self._problems, path):
            found = recover(self._disk, path, log_id=self._node_id, repair=False)
            assert found is not None
            found.active.close()
            recovery = Recovery.of(found)
            self._notes += [*recovery.notes, *([recovery.torn] if recovery.torn else [])]
            settle(recovery, snapshot, path=path)

    def _log_id(self, path: str) -> int:
        file = self._disk.open(path)
        try:
            return SegmentScan(file).header.log_id
        finally:
            file.close()

    def _names(self, directory: str) -> list[str]:
        path = f"{self._path}/{directory}"
        return self._disk.list(path) if self._disk.exists(path) else []

    @contextlib.contextmanager
    def _noting(self, found: list[str], path: str) -> Iterator[None]:
        """Add damage to `found`; an error that is no damage is raised."""
        try:
            yield
        except (CorruptionError, WrongDirectory) as error:
            found.append(str(error))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found.append(f"{path} can't be read: {error.strerror}. The disk itself seems to fail: see to it first.")
