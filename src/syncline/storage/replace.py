"""Turn a node's data directory into that of the member that replaces the node.

A node that lost a part of its log has lost votes or acknowledgements that it gave under its id. So the cluster
replaces it by a member with the same name and address and a new id. On disk that happens in this order. After a crash
at any point no node starts on the directory, and the note tells the next call where to continue:

1. `begin`: the note (`replacement`) is written. From here on `DataDir.open` refuses.
2. Meanwhile the cluster replaces the member. Each attempt asks for what the note says.
3. `complete`: all files of the old node are moved to the folder that the note names. Then the new identity is
   written, and at last the note follows the old files. Nothing is ever deleted.
"""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.errors import CorruptionError
from syncline.platform.disk import Disk
from syncline.storage.atomic_file import read_file, replace_file
from syncline.storage.datadir import (
    FIRST_PEERS_NAME,
    IDENTITY_NAME,
    IDENTITY_SPARE_NAME,
    JOINING_NAME,
    REPLACEMENT_NAME,
    SNAPSHOTS_NAME,
    WAL_NAME,
    Identity,
    encode_identity,
    read_identity,
)
from syncline.storage.peer_starts import PEERS_NAME

__all__ = ["Replacement", "begin", "complete", "free_folder", "give_up", "read_note"]

FOLDER_NAME: Final = "set-aside-"
"""Followed by the first free number."""

MOVED: Final = (
    SNAPSHOTS_NAME,
    WAL_NAME,
    PEERS_NAME,
    FIRST_PEERS_NAME,
    JOINING_NAME,
    IDENTITY_SPARE_NAME,
    IDENTITY_NAME,
)

NOTE_LIMIT_BYTES: Final = 1 << 20


class Replacement(msgspec.Struct, frozen=True):
    """The note of a replacement. Ids are sixteen hexadecimal digits; `old_id` is empty if there is no member to
    remove.

    `address` is for the node's peers, `http` for its clients. `endpoints` are the other members' servers. `folder` is
    the place of the old files, within the data directory.
    """

    cluster_id: str
    old_id: str
    new_id: str
    name: str
    address: str
    http: str
    voter: bool
    endpoints: tuple[str, ...]
    folder: str


def free_folder(disk: Disk, path: str) -> str:
    """Return a name for the folder of the old files that does not exist yet."""
    number = 1
    while disk.exists(f"{path}/{FOLDER_NAME}{number}"):
        number += 1
    return f"{FOLDER_NAME}{number}"


def read_note(disk: Disk, path: str) -> Replacement | None:
    """Read the note of a replacement under way in the data directory `path`, if there is one. Raises
    `CorruptionError`.
    """
    name = f"{path}/{REPLACEMENT_NAME}"
    if not disk.exists(name):
        return None
    try:
        return msgspec.json.decode(read_file(disk, name, limit_bytes=NOTE_LIMIT_BYTES), type=Replacement)
    except UNDECODABLE as error:
        raise CorruptionError(
            f"{name} is damaged: {error}. It is the note of a repair that was under way. Move it away and run "
            "`syncline repair` with --replace.",
            file=name,
        ) from error


def begin(disk: Disk, path: str, replacement: Replacement) -> None:
    """Write the note: from here on no node starts on the data directory until `complete`."""
    content = msgspec.json.format(msgspec.json.encode(replacement), indent=2) + b"\n"
    replace_file(disk, f"{path}/{REPLACEMENT_NAME}", content)


def give_up(disk: Disk, path: str) -> None:
    """Remove the note. Call it only if the cluster certainly has changed nothing."""
    disk.remove(f"{path}/{REPLACEMENT_NAME}")
    disk.sync_dir(path)


def complete(disk: Disk, path: str, replacement: Replacement) -> str:
    """Move the old files away and write the new member's identity; returns the folder's path.

    The caller holds the lock and knows that the cluster has committed the change. After a crash it continues.
    """
    folder = f"{path}/{replacement.folder}"
    disk.make_dirs(folder)
    new = Identity(int(replacement.cluster_id, 16), int(replacement.new_id, 16), replacement.name)
    for name in MOVED:
        if disk.exists(f"{path}/{name}") and not (name == IDENTITY_NAME and _is_set_aside(disk, path, folder, new)):
            disk.rename(f"{path}/{name}", f"{folder}/{name}")
    disk.sync_dir(folder)
    disk.sync_dir(path)
    replace_file(disk, f"{path}/{IDENTITY_NAME}", encode_identity(new))
    disk.rename(f"{path}/{REPLACEMENT_NAME}", f"{folder}/{REPLACEMENT_NAME}")
    disk.sync_dir(folder)
    disk.sync_dir(path)
    return folder


def _is_set_aside(disk: Disk, path: str, folder: str, new: Identity) -> bool:
    """Whether the identity in place is not the old node's any more.

    It may be `new`, or that of a member that never ran, from a repair that was started again.
    """
    try:
        return disk.exists(f"{folder}/{IDENTITY_NAME}") or read_identity(disk, path) == new
    except CorruptionError:
        return False
