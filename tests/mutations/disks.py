"""Bugs around the disk that escaped before, or that one test alone noticed."""

from __future__ import annotations

import pytest

from syncline.consensus.log import RaftLog
from syncline.consensus.types import Snapshot
from syncline.storage.wal import Wal
from syncline.testing.simdisk import SimDisk

__all__ = [
    "removals_without_a_directory_sync",
    "segment_dropped_one_too_early",
    "snapshot_does_not_raise_the_commit_index",
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
        committed = log.committed
        original(log, snapshot)
        log.committed = committed

    patch.setattr(RaftLog, "restore", restore)
