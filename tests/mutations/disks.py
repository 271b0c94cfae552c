"""Bugs around the disk that escaped before, or that one test alone noticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from syncline.consensus.log import RaftLog
from syncline.consensus.types import Snapshot, SnapshotMeta
from syncline.platform.disk import OsDisk
from syncline.platform.kernel_sync import KernelSync
from syncline.storage import stored_log as stored
from syncline.storage.snapshots.store import SnapshotStore
from syncline.storage.snapshots.write import SnapshotPart, SnapshotWriter
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Recovery, Wal, WalWrite
from syncline.testing.sim.disk import SimDisk, SimFile

__all__ = [
    "directory_sync_does_nothing",
    "failed_directory_sync_of_a_snapshot_swallowed",
    "failed_rename_of_a_snapshot_swallowed",
    "failed_sync_of_a_snapshot_swallowed",
    "kernel_sync_error_ignored",
    "removals_without_a_directory_sync",
    "segment_dropped_one_too_early",
    "settling_keeps_the_vote_of_a_newer_term",
    "snapshot_does_not_raise_the_commit_index",
    "tail_chunks_miscounted_after_a_truncation",
]


def segment_dropped_one_too_early(patch: pytest.MonkeyPatch) -> None:
    """Compaction drops one more segment than holds nothing that is needed."""
    original = Wal._droppable

    def droppable(wal: Wal, index: int) -> int:
        count = original(wal, index)
        return min(count + 1, len(wal._segments) - 1) if count else 0

    patch.setattr(Wal, "_droppable", droppable)


def removals_without_a_directory_sync(patch: pytest.MonkeyPatch) -> None:
    """Segments are removed one after the other, and nothing makes one removal durable before the next."""
    original = Wal.compact

    def compact(wal: Wal, index: int) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(SimDisk, "sync_dir", lambda _disk, _path: None)
            original(wal, index)

    patch.setattr(Wal, "compact", compact)


def snapshot_does_not_raise_the_commit_index(patch: pytest.MonkeyPatch) -> None:
    """What a snapshot holds is committed, and the node that takes it over does not know that."""
    original = RaftLog.restore

    def restore(log: RaftLog, snapshot: Snapshot) -> None:
        committed = log.commit_index
        original(log, snapshot)
        log.commit_index = committed

    patch.setattr(RaftLog, "restore", restore)


def settling_keeps_the_vote_of_a_newer_term(patch: pytest.MonkeyPatch) -> None:
    """A start completes a snapshot of a newer term, and takes the vote of the older term into that one."""
    original = stored.settle

    def settle(recovery: Recovery, snapshot: SnapshotMeta | None, *, path: str) -> WalWrite | None:
        write = original(recovery, snapshot, path=path)
        if write is None or write.hard_state is None:
            return write
        kept = msgspec.structs.replace(write.hard_state, vote=recovery.hard_state.vote)
        return msgspec.structs.replace(write, hard_state=kept)

    patch.setattr(stored, "settle", settle)


def tail_chunks_miscounted_after_a_truncation(patch: pytest.MonkeyPatch) -> None:
    """Of a batch in memory that is cut in two, the part that stays is not counted any more."""

    def truncate(log: StoredLog, index: int) -> None:
        log._last_index = index - 1
        if index <= log._tail_first:
            log._clear_tail()
            return
        surplus = len(log._tail) - (index - log._tail_first)
        del log._tail[index - log._tail_first :]
        while surplus > 0:
            count, size = log._chunks.pop()
            log._tail_bytes -= size
            surplus -= count

    patch.setattr(StoredLog, "_truncate", truncate)


def failed_sync_of_a_snapshot_swallowed(patch: pytest.MonkeyPatch) -> None:
    """A snapshot whose bytes could not be made durable is as good as any other."""
    for kind in (SnapshotWriter, SnapshotPart):
        _swallow(patch, kind, "commit", SimFile, "sync")


def failed_rename_of_a_snapshot_swallowed(patch: pytest.MonkeyPatch) -> None:
    """A snapshot that could not be given its name counts."""
    _swallow(patch, SnapshotStore, "adopt", SimDisk, "rename")


def failed_directory_sync_of_a_snapshot_swallowed(patch: pytest.MonkeyPatch) -> None:
    """A snapshot whose name could not be made durable counts."""
    _swallow(patch, SnapshotStore, "adopt", SimDisk, "sync_dir")


def _swallow(patch: pytest.MonkeyPatch, kind: type, method: str, disk: type, operation: str) -> None:
    """While `method` runs, an error of the disk's `operation` is taken for a success."""
    original: Callable[..., Any] = getattr(kind, method)
    real: Callable[..., Any] = getattr(disk, operation)

    def careless(*arguments: Any) -> None:
        with suppress(OSError):
            real(*arguments)

    def replacement(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(disk, operation, careless)
            return original(*arguments)

    patch.setattr(kind, method, replacement)


def kernel_sync_error_ignored(patch: pytest.MonkeyPatch) -> None:
    """The result of a sync that the kernel made is taken for 0."""
    real = KernelSync.result
    patch.setattr(KernelSync, "result", lambda sync: None if real(sync) is None else 0)


def directory_sync_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """On a real disk, names are not made durable."""
    patch.setattr(OsDisk, "sync_dir", lambda *_: None)
