"""A process that writes to a data directory until it is killed: the log, snapshots and compactions, as a node does.

    python -m tests.helpers.killed_writer DIRECTORY SEED

Before each step it says on its output what it is about to do, and after it that it is durable.
"""

from __future__ import annotations

import random
import sys

from syncline.consensus.types import EntryType, HardState, LogEntry, MembershipState
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.snapshots.store import SnapshotStore
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import Wal, WalWrite

__all__ = ["SEGMENT_BYTES", "Opened", "entry"]

SEGMENT_BYTES = 32 << 10
IDENTITY = Identity(cluster_id=3, node_id=9, name="killed")
MEMBERS = MembershipState((9,))


def entry(term: int, index: int) -> LogEntry:
    """The one entry that there can be at this position: anybody can check it."""
    size = (index * 7919 + term * 104729) % 1500
    return LogEntry(term, index, EntryType.NORMAL, b"%d@%d" % (index, term) + b"." * size)


class Opened:
    """A data directory as a node opens it."""

    def __init__(self, path: str) -> None:
        disk = OsDisk()
        self.directory = DataDir.open(disk, path)
        if self.directory.identity is None:
            self.directory.write_identity(IDENTITY)
        self.wal = Wal.open(
            disk,
            self.directory.wal_path,
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=8 << 20,
            log_id=IDENTITY.node_id,
            must_exist=self.directory.started,
        )
        self.snapshots = SnapshotStore.open(disk, self.directory.snapshots_path, cluster_id=IDENTITY.cluster_id)
        newest = self.snapshots.newest()
        self.log = StoredLog.open(self.wal, newest.meta if newest is not None else None)
        self.directory.mark_started()

    def close(self) -> None:
        self.wal.close()
        self.directory.release()


class Writer:
    """Makes up the next step from what is there, says it, does it, says that it is done."""

    def __init__(self, opened: Opened, seed: int) -> None:
        self._opened = opened
        self._rng = random.Random(seed)

    def step(self) -> None:
        log, rng = self._opened.log, self._rng
        state, last = log.hard_state, log.last_index()
        if rng.random() < 0.03 and state.commit > self._newest():
            self._snapshot(rng.randint(self._newest() + 1, state.commit))
            return
        term = max(1, state.term) + (rng.random() < 0.05)
        first = last + 1
        if term > state.term and last > state.commit and rng.random() < 0.7:
            first = rng.randint(state.commit + 1, last)
        final = first + rng.randrange(12)
        commit = rng.randint(state.commit, first - 1)
        vote = state.vote if term == state.term else rng.randrange(1, 4)
        print("write", first, final, term, vote, commit, flush=True)
        entries = [entry(term, index) for index in range(first, final + 1)]
        write = WalWrite(entries, HardState(term, vote, commit))
        log.appended(write, self._opened.wal.write([write]))
        print("done", flush=True)

    def _newest(self) -> int:
        newest = self._opened.snapshots.newest()
        return newest.index if newest is not None else 0

    def _snapshot(self, index: int) -> None:
        opened = self._opened
        print("snapshot", index, flush=True)
        writer = opened.snapshots.create(index, opened.log.term(index), MEMBERS)
        writer.write(b"%d" % index * 3000)
        opened.log.installed(writer.commit().meta)
        print("done", flush=True)
        give_up = opened.snapshots.compaction_index(log_bytes=0, max_log_bytes=1)
        if give_up >= opened.log.first_index():
            opened.log.compacted(give_up)
            opened.wal.compact(give_up)


def main() -> None:
    writer = Writer(Opened(sys.argv[1]), int(sys.argv[2]))
    print("ready", flush=True)
    while True:
        writer.step()


if __name__ == "__main__":
    main()
