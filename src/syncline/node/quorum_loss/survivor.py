"""The data directory of a node that has survived, read without changing it: its snapshot, its log, its memberships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from syncline.consensus.membership import (
    Changer,
    Configuration,
    MembershipRefused,
    ProgressMap,
    decode_change,
    restore,
)
from syncline.consensus.types import EntryType, LogEntry, NodeId, SnapshotMeta
from syncline.errors import RepairNeeded, StorageError
from syncline.node.envelope import (
    ClusterLevels,
    Kind,
    MemberRecord,
    Unreadable,
    decode_level,
    decode_proposal,
)
from syncline.node.known_members import known_members
from syncline.node.member_registry import RegistryState
from syncline.platform.disk import Disk
from syncline.storage.datadir import REPLACEMENT_NAME, SNAPSHOTS_NAME, WAL_NAME, Identity
from syncline.storage.diagnose import diagnose, older_copy_problem
from syncline.storage.inspect import list_snapshots
from syncline.storage.snapshots.file import SnapshotManifest, SnapshotReader, read_header
from syncline.storage.snapshots.store import snapshot_name
from syncline.storage.stored_log import settle
from syncline.storage.wal.reader import EntryReader
from syncline.storage.wal.recovery import Recovered, recover
from syncline.storage.wal.writer import Recovery

__all__ = ["Survivor", "read_survivor"]

CHUNK_BYTES: Final = 4 << 20
"""Entries that are read and applied at once."""

_LEVEL_START: Final = bytes([Kind.LEVEL])


@dataclass(frozen=True, slots=True)
class Survivor:
    """What one node has on disk."""

    path: str
    identity: Identity
    manifest: SnapshotManifest | None
    """The newest intact snapshot."""
    snapshot_index: int
    last_index: int
    last_term: int
    commit_index: int
    """The last entry that this node durably knows to be committed."""
    memberships: tuple[Configuration, ...]
    """Those that may have been in force when an entry behind `commit_index` was committed, the newest last."""
    members: dict[NodeId, MemberRecord]
    """All members, past and present, that the directory knows."""
    levels: ClusterLevels
    """The levels that the entries of the log may need."""
    _log: Recovered | None
    _disk: Disk

    @property
    def position(self) -> tuple[int, int]:
        """Last term and last index: the log with the larger one is the newer log (Raft paper, 5.4.1)."""
        return self.last_term, self.last_index

    @property
    def label(self) -> str:
        """The node for people."""
        return f"{self.identity.name} ({self.identity.node_id:016x})"

    def entries(self) -> Iterator[list[LogEntry]]:
        """The entries behind the snapshot, in order, some at a time."""
        yield from _entries(self._disk, self._log, self.snapshot_index, self.last_index)

    def open_snapshot(self) -> SnapshotReader | None:
        """Open the newest intact snapshot; None if there is none. The caller closes it."""
        if self.manifest is None:
            return None
        name = snapshot_name(self.manifest.index, self.manifest.term)
        file = self._disk.open(f"{self.path}/{SNAPSHOTS_NAME}/{name}")
        try:
            return SnapshotReader(file, *read_header(file))
        except BaseException:
            file.close()
            raise


def read_survivor(disk: Disk, path: str) -> Survivor:
    """Read the data directory `path`, whose node must not run. Nothing is changed.

    Raises:
        RepairNeeded: it is in the middle of a repair.
        StorageError: it holds no node's data, or damaged ones.
    """
    if disk.exists(f"{path}/{REPLACEMENT_NAME}"):
        raise RepairNeeded(
            f"{path} is in the middle of a repair: complete it by `syncline repair`, or use another copy"
        )
    found = diagnose(disk, path)
    identity = found.identity
    # An older copy may be all that is left: the report says what it means.
    problems = [problem for problem in found.problems if problem != older_copy_problem(path)]
    if problems:
        raise StorageError(f"{path} is damaged, and the state in it can't be relied on: {problems[0]}")
    if identity is None:
        raise StorageError(f"{path} is no node's data directory: name the directory of a node that has run")
    manifest = _newest(disk, path, identity)
    meta = manifest.meta if manifest is not None else SnapshotMeta()
    log = recover(disk, f"{path}/{WAL_NAME}", log_id=identity.node_id, repair=False) if _has_log(disk, path) else None
    last_index, last_term, commit = meta.index, meta.term, meta.index
    if log is not None:
        log.active.close()
        recovery = Recovery.of(log)
        write = settle(recovery, meta if meta.index else None, path=f"{path}/{WAL_NAME}")
        if write is None or write.snapshot is None:
            last_index, last_term = recovery.last_index, recovery.last_term
            commit = max(meta.index, recovery.hard_state.commit)
    if not last_index or identity.founding:
        raise StorageError(f"{path} is of a node that has never taken part in a decision: it holds nothing to recover")
    memberships, levels = _followed(disk, log, manifest, last_index, commit)
    return Survivor(
        path,
        identity,
        manifest,
        meta.index,
        last_index,
        last_term,
        commit,
        memberships,
        known_members(disk, path),
        levels,
        log,
        disk,
    )


def _has_log(disk: Disk, path: str) -> bool:
    return disk.exists(f"{path}/{WAL_NAME}")


def _newest(disk: Disk, path: str, identity: Identity) -> SnapshotManifest | None:
    """The newest intact snapshot of this cluster; its data are verified."""
    directory = f"{path}/{SNAPSHOTS_NAME}"
    if not disk.exists(directory):
        return None
    for view in list_snapshots(disk, directory, verify=True):
        manifest = view.manifest
        if manifest is not None and view.damage is None and manifest.cluster_id == identity.cluster_id:
            return manifest
    return None


def _entries(disk: Disk, log: Recovered | None, after: int, last: int) -> Iterator[list[LogEntry]]:
    if log is None:
        return
    segments = tuple(log.segments)
    reader = EntryReader(disk, log.replay.locations, lambda: segments)
    try:
        index = after + 1
        while index <= last:
            entries = reader.read(index, last + 1, CHUNK_BYTES)
            yield entries
            index = entries[-1].index + 1
    finally:
        reader.close()


def _followed(
    disk: Disk, log: Recovered | None, manifest: SnapshotManifest | None, last: int, commit: int
) -> tuple[tuple[Configuration, ...], ClusterLevels]:
    """The memberships from the commit index on, and the levels at the end of the log."""
    configuration, levels, after = Configuration(), ClusterLevels(), 0
    progress: ProgressMap = {}
    if manifest is not None:
        (configuration, progress), after = restore(manifest.membership, manifest.index), manifest.index
        levels = msgspec.msgpack.decode(manifest.runtime, type=RegistryState).levels
    found = [configuration]
    for entries in _entries(disk, log, after, last):
        for entry in entries:
            if entry.type is not EntryType.NORMAL:
                try:
                    changer = Changer(configuration, progress, entry.index)
                    configuration, progress = changer.change(decode_change(entry))
                except (MembershipRefused, ValueError):
                    continue  # a node that applies it ignores it, too
                found = [*(found if entry.index > commit else ()), configuration]
            elif entry.data[1:2] == _LEVEL_START:
                levels = _raised(levels, entry)
    return tuple(found), levels


def _raised(levels: ClusterLevels, entry: LogEntry) -> ClusterLevels:
    """The levels if the change in this entry took effect. All members could do them when the leader proposed it."""
    try:
        proposal = decode_proposal(entry.data)
        change = decode_level(proposal.data) if proposal.kind == Kind.LEVEL else None
    except Unreadable:
        return levels
    if change is None:
        return levels
    return msgspec.structs.replace(
        levels,
        level=max(levels.level, change.level),
        machine_version=max(levels.machine_version, change.machine_version),
        written_by=change.written_by,
    )
