"""Turn a node's data directory into that of the first member of a new cluster, from a snapshot.

After the loss of a quorum one node's state goes on in a new cluster (`node.quorum_loss`). On disk that happens in this
order. A crash at any point leaves the old node as it was, or a note that tells the next call where to continue:

1. The snapshot of the new cluster is written to the folder `recovering`. The old node's files are untouched.
2. `begin`: the note (`recovery`) is written. From here on `DataDir.open` refuses.
3. `complete`: all files of the old node are moved to the folder that the note names. The new snapshot takes their
   place, then the new identity is written, and at last the note follows the old files. Nothing is ever deleted.

The new directory has no log. A start makes one behind the snapshot, as after an InstallSnapshot.
"""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.errors import CorruptionError
from syncline.platform.disk import Disk
from syncline.storage.atomic_file import read_file, replace_file
from syncline.storage.datadir import IDENTITY_NAME, RECOVERY_NAME, SNAPSHOTS_NAME, Identity, encode_identity
from syncline.storage.replace import MOVED

__all__ = ["NewCluster", "begin", "complete", "prepare", "read_note", "snapshots_path"]

PREPARED_NAME: Final = "recovering"
"""The folder of the new files, until the old ones have made room."""

NOTE_LIMIT_BYTES: Final = 64 << 10


class NewCluster(msgspec.Struct, frozen=True):
    """The note of a recovery. Ids are sixteen hexadecimal digits. `folder` is the place of the old files, within the
    data directory. `index` is the entry up to which the old log was applied.
    """

    old_cluster_id: str
    old_node_id: str
    cluster_id: str
    node_id: str
    name: str
    folder: str
    index: int


def read_note(disk: Disk, path: str) -> NewCluster | None:
    """Read the note of a recovery under way in the data directory `path`; None if there is none.

    Raises:
        CorruptionError: the note is damaged.
    """
    name = f"{path}/{RECOVERY_NAME}"
    if not disk.exists(name):
        return None
    try:
        return msgspec.json.decode(read_file(disk, name, limit_bytes=NOTE_LIMIT_BYTES), type=NewCluster)
    except UNDECODABLE as error:
        raise CorruptionError(
            f"{name} is damaged: {error}. It is the note of a recovery that was under way. The old node's files are in"
            f" {path} and in its newest folder `set-aside-…`. Keep all of them, and recover from another copy.",
            file=name,
        ) from error


def prepare(disk: Disk, path: str) -> None:
    """Make the folder for the new files empty: an earlier attempt may have left some."""
    if disk.exists(f"{path}/{PREPARED_NAME}"):
        disk.remove_tree(f"{path}/{PREPARED_NAME}")
    disk.make_dirs(f"{path}/{PREPARED_NAME}")


def snapshots_path(path: str) -> str:
    """The directory in which the new cluster's snapshot is made."""
    return f"{path}/{PREPARED_NAME}/{SNAPSHOTS_NAME}"


def begin(disk: Disk, path: str, note: NewCluster) -> None:
    """Write the note: from here on no node starts on the data directory until `complete`.

    The new snapshot is durable in `snapshots_path` already.
    """
    disk.sync_dir(f"{path}/{PREPARED_NAME}")
    disk.sync_dir(path)  # the note must not be durable before the folder that it relies on
    replace_file(disk, f"{path}/{RECOVERY_NAME}", msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n")


def complete(disk: Disk, path: str, note: NewCluster) -> str:
    """Move the old files away and the new ones in; returns the folder of the old files. The caller holds the lock.

    After a crash it continues where it was.
    """
    folder = f"{path}/{note.folder}"
    disk.make_dirs(folder)
    prepared = snapshots_path(path)
    for name in MOVED:
        # What is in the folder already is the old file: the one in place is new then. Without the prepared snapshot
        # all old files were moved before.
        if disk.exists(prepared) and disk.exists(f"{path}/{name}") and not disk.exists(f"{folder}/{name}"):
            disk.rename(f"{path}/{name}", f"{folder}/{name}")
    disk.sync_dir(folder)
    disk.sync_dir(path)
    if disk.exists(prepared):
        disk.rename(prepared, f"{path}/{SNAPSHOTS_NAME}")
    disk.sync_dir(path)
    if disk.exists(f"{path}/{PREPARED_NAME}"):
        disk.sync_dir(f"{path}/{PREPARED_NAME}")
        disk.remove_tree(f"{path}/{PREPARED_NAME}")
    identity = Identity(int(note.cluster_id, 16), int(note.node_id, 16), note.name)
    replace_file(disk, f"{path}/{IDENTITY_NAME}", encode_identity(identity))
    disk.rename(f"{path}/{RECOVERY_NAME}", f"{folder}/{RECOVERY_NAME}")
    disk.sync_dir(folder)
    disk.sync_dir(path)
    return folder
