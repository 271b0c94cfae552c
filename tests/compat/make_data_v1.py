"""Made the golden data directory of format 1, `tests/fixtures/data-v1`, once, with a version that wrote format 1.

That directory is never made again: it stands for the directories that are out there. What was written into it is the
same for later formats (`make_data_v2`): each has a directory of its own, made by this code in a version that writes
it.
"""

from __future__ import annotations

import sys

from syncline.consensus.types import EntryType, HardState, LogEntry, MembershipState, SnapshotMeta
from syncline.platform.disk import Disk, OsDisk
from syncline.storage.datadir import DataDir, Identity
from syncline.storage.snapshots.store import SnapshotStore
from syncline.storage.wal.writer import Wal, WalWrite

IDENTITY = Identity(cluster_id=0x0123456789ABCDEF, node_id=0x1A2B3C4D5E6F7081, name="golden", started=True)
MEMBERS = MembershipState((1, 2, 0x1A2B3C4D5E6F7081), (4,), (1, 2), (5,), True)
SEGMENT_BYTES = 4096
SNAPSHOT_DATA = b"the state of a machine " * 40
RUNTIME = b"\x00runtime\xff"


def entry(term: int, index: int, kind: EntryType = EntryType.NORMAL) -> LogEntry:
    return LogEntry(
        term, index, kind, b"entry %d of term %d" % (index, term) + bytes(index % 7 * 31) + b"\xff" * (index % 3)
    )


STATE = HardState(7, 2, 77)
ENTRIES = [
    *(entry(6, index) for index in range(61, 72)),
    entry(6, 72, EntryType.CONF_CHANGE),
    entry(6, 73, EntryType.CONF_CHANGE_V2),
    *(entry(7, index) for index in range(74, 84)),
]
"""From the marker's index on: what the log of the directory ends with."""


def write_log(disk: Disk, path: str) -> None:
    """Every record and every situation: batches, an overwritten suffix, rotations, a marker, a compaction."""
    wal = Wal.open(disk, path, segment_bytes=SEGMENT_BYTES, reserve_bytes=0, log_id=IDENTITY.node_id)
    wal.write([WalWrite((), HardState(1, 1, 0))])
    for first in range(1, 40, 6):
        wal.write([WalWrite([entry(1, index) for index in range(first, first + 6)], HardState(1, 1, first - 1))])
    wal.write([WalWrite([entry(2, index) for index in range(40, 44)], HardState(2, 0, 39))])
    wal.write([WalWrite((), HardState(5, 0, 60), SnapshotMeta(60, 5, MEMBERS))])
    wal.compact(60)
    wal.write([WalWrite([entry(5, index) for index in range(61, 63)]), WalWrite([entry(5, 63)], HardState(5, 3, 60))])
    wal.write([WalWrite(ENTRIES[:13], HardState(6, 0, 66))])
    wal.write([WalWrite([entry(6, index) for index in range(74, 90)], HardState(6, 1, 73))])
    wal.write([WalWrite(ENTRIES[13:], HardState(7, 2, 77))])
    wal.close()


def main(path: str) -> None:
    disk = OsDisk()
    directory = DataDir.open(disk, path)
    directory.write_identity(IDENTITY)
    store = SnapshotStore.open(disk, directory.snapshots_path, cluster_id=IDENTITY.cluster_id)
    for index, term in ((40, 4), (60, 5)):
        writer = store.create(index, term, MEMBERS, RUNTIME)
        writer.write(SNAPSHOT_DATA)
        writer.commit()
    write_log(disk, directory.wal_path)
    directory.release()


if __name__ == "__main__":
    main(sys.argv[1])
