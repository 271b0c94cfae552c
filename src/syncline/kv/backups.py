"""Backups of the key-value store: files that `GET /backup` streams, checked, and made the start of a new cluster.

A file is the stream of one snapshot of the state machine (`kv.snapshots`). Beside it stands its SHA-256, in the form of
`sha256sum`. Each frame has a checksum, and the last one the digest of the state: so a file proves itself.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Collection
from typing import Final

import msgspec

from syncline.errors import ConfigError, CorruptionError, UsageError
from syncline.kv.backup_parts import USERS, leave_out
from syncline.kv.machine import KvMachine
from syncline.kv.snapshots import KvSnapshot, read_snapshot
from syncline.node.envelope import FIRST_LEVEL, ClusterLevels, MemberRecord
from syncline.node.member_registry import MemberRegistry, format_id
from syncline.node.naming import check_name
from syncline.node.quorum_loss.first_snapshot import FirstState, drawn_id, write_first_snapshot
from syncline.node.renumbering import REVISION_JUMP
from syncline.node.session_snapshots import SessionsView
from syncline.platform.disk import Disk, File
from syncline.sessions.table import SessionTable
from syncline.storage import new_cluster
from syncline.storage.datadir import LOCK_NAME, lock_directory
from syncline.storage.new_cluster import NewCluster
from syncline.storage.replace import free_folder

__all__ = ["SUM_SUFFIX", "BackupFacts", "RestoredBackup", "reduce_backup", "restore_backup", "verify_backup"]

SUM_SUFFIX: Final = ".sha256"
READ_BYTES: Final = 1 << 20
SUM_LIMIT_BYTES: Final = 4096

FIRST: Final = 1
"""Index and term of the state with which the new cluster begins."""


class BackupFacts(msgspec.Struct, frozen=True):
    """What a backup holds. `summed`: a file with its SHA-256 stands beside it, and agrees.

    `credentials`: clients of the cluster needed some. `stripped`: its users were left out, or were all removed.
    """

    revision: int
    keys: int
    leases: int
    users: int
    size_bytes: int
    sha256: str
    summed: bool
    credentials: bool = False
    stripped: bool = False


class RestoredBackup(msgspec.Struct, frozen=True):
    """The new cluster, and the revision from which it goes on. Ids have 16 hexadecimal digits.

    `credentials`: its clients need some.
    """

    cluster_id: str
    node_id: str
    name: str
    data_dir: str
    revision: int
    backup_revision: int
    credentials: bool = False


class _Source(io.RawIOBase):
    """A file, read in order, with the SHA-256 of what was read."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self._file = file
        self.offset = 0
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read_at(self.offset, READ_BYTES if size < 0 else size)
        self.offset += len(data)
        self.hash.update(data)
        return data


def verify_backup(disk: Disk, path: str) -> BackupFacts:
    """Read the whole file, and check every byte of it. Needs memory for the state.

    Raises:
        CorruptionError: it is no backup, cut short or damaged, or its SHA-256 is not the one beside it.
        FormatVersionError: a later version wrote it.
        OSError: it can't be read.
    """
    file = disk.open(path)
    try:
        source = _Source(file)
        store = read_snapshot(source)  # type: ignore[arg-type]  # it reads bytes alone
        found = source.hash.hexdigest()
        summed = _check_sum(disk, path, found)
        return BackupFacts(
            revision=store.revision,
            keys=len(store),
            leases=len(store.leases),
            users=len(store.auth.users),
            size_bytes=source.offset,
            sha256=found,
            summed=summed,
            credentials=store.auth.enabled,
            stripped=bool(store.auth.revision) and not store.auth.users,
        )
    finally:
        file.close()


def _check_sum(disk: Disk, path: str, found: str) -> bool:
    """Compare with the file beside it. Whether there is one."""
    if not disk.exists(path + SUM_SUFFIX):
        return False
    file = disk.open(path + SUM_SUFFIX)
    try:
        told = file.read_at(0, SUM_LIMIT_BYTES).split(b" ", 1)[0].decode("ascii", "replace").strip()
    finally:
        file.close()
    if told != found:
        raise CorruptionError(
            f"{path} has the SHA-256 {found}, and {path}{SUM_SUFFIX} says {told[:64]}: it is another file, or damaged",
            file=path,
        )
    return True


def reduce_backup(disk: Disk, path: str, target: str, *, without: Collection[str]) -> None:
    """Write a backup without some `PARTS` to the new file `target`, durably.

    Raises:
        CorruptionError, FormatVersionError: as `verify_backup`.
        OSError: a file can't be read or written.
    """
    source = disk.open(path)
    try:
        store = read_snapshot(_Source(source))  # type: ignore[arg-type]  # it reads bytes alone
    finally:
        source.close()
    leave_out(store, without)
    view = KvSnapshot(store.view())
    file, offset = disk.open(target, create=True, write=True), 0
    try:
        for piece in view.pieces():
            file.write_at(offset, piece)
            offset += len(piece)
        file.sync()
    finally:
        file.close()
        view.release()


def restore_backup(
    disk: Disk,
    path: str,
    data_dir: str,
    *,
    name: str,
    rng: random.Random,
    without: Collection[str] = (),
    open_access: bool = False,
) -> RestoredBackup:
    """Make the empty directory `data_dir` that of the first member of a new cluster, with the state of a backup.

    Revisions go on far above the backup's, because revisions behind it may have been given to clients. `without`: the
    `PARTS` that are left out. `open_access`: the new cluster may let any client do everything, though the old one
    did not.

    Raises:
        UsageError: the directory is not empty; or without users nothing would protect what was protected.
        CorruptionError, FormatVersionError: as `verify_backup`; nothing was changed.
        StorageError: the disk refused, or another process uses the directory.
    """
    try:
        check_name(name)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    facts = verify_backup(disk, path)
    if not open_access and (facts.stripped or (facts.credentials and USERS in without)):
        raise UsageError(
            f"{path} is of a cluster with users, and without them clients of the new one would need no credentials:"
            " restore a backup with its users; or accept that with --open-access, and add users before other machines"
            " reach it. Nothing was changed"
        )
    _check_empty(disk, data_dir)  # before a lock is put there
    lock = lock_directory(disk, data_dir)
    try:
        _check_empty(disk, data_dir)
        return _restore(disk, path, data_dir, facts, name, rng, without)
    finally:
        lock.release()


def _check_empty(disk: Disk, data_dir: str) -> None:
    if disk.exists(data_dir) and set(disk.list(data_dir)) - {LOCK_NAME}:
        raise UsageError(f"{data_dir} is not empty: name a new directory. Nothing was changed")


def _restore(
    disk: Disk,
    path: str,
    data_dir: str,
    facts: BackupFacts,
    name: str,
    rng: random.Random,
    without: Collection[str],
) -> RestoredBackup:
    machine = KvMachine()
    file = disk.open(path)
    try:
        machine.renumber(REVISION_JUMP - 1, _Source(file))  # type: ignore[arg-type]  # it reads bytes alone
    finally:
        file.close()
    leave_out(machine.store, without)
    note = NewCluster(
        old_cluster_id=format_id(0),
        old_node_id=format_id(0),
        cluster_id=format_id(drawn_id(rng)),
        node_id=format_id(drawn_id(rng)),
        name=name,
        folder=free_folder(disk, data_dir),
        index=FIRST,
    )
    new_cluster.prepare(disk, data_dir)
    view = SessionsView(SessionTable().view(), machine.snapshot())
    try:
        state = FirstState(note, view, FIRST, FIRST, _registry(note, users=bool(machine.store.auth.revision)))
        write_first_snapshot(disk, data_dir, state, reserve_bytes=0)
    finally:
        view.release()
    new_cluster.begin(disk, data_dir, note)
    new_cluster.complete(disk, data_dir, note)
    return RestoredBackup(
        note.cluster_id,
        note.node_id,
        name,
        data_dir,
        machine.store.revision,
        facts.revision,
        machine.store.auth.enabled,
    )


def _registry(note: NewCluster, *, users: bool) -> MemberRegistry:
    """One member, which announces its addresses when it starts. A state with users needs the machine's version."""
    book = MemberRegistry()
    node_id = int(note.node_id, 16)
    book.membership_index = FIRST
    book.members[node_id] = MemberRecord(node_id, note.name, "")
    if users:
        book.levels = ClusterLevels(FIRST_LEVEL, KvMachine.machine_version)
    return book
