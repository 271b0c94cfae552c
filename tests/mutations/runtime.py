"""Bugs planted in storage and in the runtime. Each function makes one, by replacing as little as it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from syncline.consensus.types import HardState, Message, SnapshotMeta
from syncline.node.fsm import FSMSnapshot
from syncline.node.log_writer import LogWriter
from syncline.node.snapshots import Snapshotter
from syncline.platform.disk import Disk
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotStore
from syncline.storage.wal.format import SegmentHeader
from syncline.storage.wal.segment import ActiveSegment
from syncline.storage.wal.writer import Wal, WalWrite, WriteResult

__all__ = [
    "acknowledge_before_the_sync",
    "new_segment_not_synced",
    "older_snapshot_replaces_a_newer_one",
    "snapshot_ahead_of_its_state",
    "vote_and_term_apart",
]


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    """Answers to peers leave when the write is queued."""
    original = LogWriter.append

    def append(writer: LogWriter, message: Message) -> None:
        early = [response for response in message.responses if response.to != message.sender]
        message.responses = [response for response in message.responses if response.to == message.sender]
        original(writer, message)
        writer._loop.call_soon(writer._durable, early)

    patch.setattr(LogWriter, "append", append)


class _WithoutDirectorySync:
    """A disk that forgets to make names durable."""

    def __init__(self, disk: Disk) -> None:
        self.open = disk.open
        self.rename = disk.rename

    def sync_dir(self, path: str) -> None:
        """Does nothing."""


def new_segment_not_synced(patch: pytest.MonkeyPatch) -> None:
    """A new segment of the log gets its name, and nothing makes the name durable."""
    original = ActiveSegment.create

    def create(
        disk: Disk, directory: str, header: SegmentHeader, hard_state: HardState, marker: SnapshotMeta | None
    ) -> ActiveSegment:
        careless = cast("Disk", _WithoutDirectorySync(disk))
        return original(careless, directory, header, hard_state, marker)

    patch.setattr(ActiveSegment, "create", create)


def older_snapshot_replaces_a_newer_one(patch: pytest.MonkeyPatch) -> None:
    """The store keeps what it was given last, whatever index that has."""

    def adopt(store: SnapshotStore, path: str, manifest: SnapshotManifest) -> None:
        with store._lock:
            store._disk.rename(path, store._path_of(manifest))
            store._disk.sync_dir(store.path)
            for held in store._manifests:
                store._disk.remove(store._path_of(held))
            store._manifests = (manifest,)

    patch.setattr(SnapshotStore, "adopt", adopt)
    patch.setattr(SnapshotStore, "_check_newer", lambda _store, _index: None)


def snapshot_ahead_of_its_state(patch: pytest.MonkeyPatch) -> None:
    """The index of a snapshot is read when it is written, a little after the state was looked at."""
    original = Snapshotter.viewed

    def viewed(snapshotter: Snapshotter, view: FSMSnapshot) -> None:
        snapshotter._loop.call_later(0.01, original, snapshotter, view)

    patch.setattr(Snapshotter, "viewed", viewed)


def vote_and_term_apart(patch: pytest.MonkeyPatch) -> None:
    """A new vote and its new term are written one after the other, each with a sync of its own."""
    original = Wal.write

    def write(wal: Wal, batch: Sequence[WalWrite]) -> WriteResult:
        states = [one.hard_state for one in batch if one.hard_state is not None]
        old = wal._hard_state
        if states and states[-1].vote and states[-1].term > old.term:
            wal._hard_state = HardState(old.term, 0, old.commit)  # its own checks would not have it
            original(wal, [WalWrite((), HardState(old.term, states[-1].vote, old.commit))])
        return original(wal, batch)

    patch.setattr(Wal, "begin", lambda *_: None)  # all of them are for `write`
    patch.setattr(Wal, "write", write)
