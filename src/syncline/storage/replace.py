"""Making a node's data directory that of the member that takes the node's place.

A node that lost a part of its log has forgotten what it promised under its id, so the cluster replaces it by a member
with the same name and address and a new id. On disk that happens in this order, and a crash at any point leaves a
directory on which no node starts, and a note by which the next call goes on:

1. `begin`: the note (`replacement`) is written. From here on `DataDir.open` refuses.
2. Meanwhile the cluster replaces the member; what the note says is what it is asked for, however often.
3. `complete`: everything that was the old node's is moved to the folder that the note names, the new identity is
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
    """Who takes whose place. Ids are sixteen hexadecimal digits; `old_id` is empty where there is nobody to remove.

    `address` is where the peers reach the node, `http` where clients do. `endpoints` are the other members' servers.
    `folder` is where the old files go, within the data directory.
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
    """The name of a folder for the old files that is not there yet."""
    number = 1
    while disk.exists(f"{path}/{FOLDER_NAME}{number}"):
        number += 1
    return f"{FOLDER_NAME}{number}"


def read_note(disk: Disk, path: str) -> Replacement | None:
    """The replacement that is under way in the data directory `path`, if there is one. Raises `CorruptionError`."""
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
    """Write the note: from here on no node starts on the data directory, until `complete`."""
    content = msgspec.json.format(msgspec.json.encode(replacement), indent=2) + b"\n"
    replace_file(disk, f"{path}/{REPLACEMENT_NAME}", content)


def give_up(disk: Disk, path: str) -> None:
    """Take the note back. Only where the cluster certainly has changed nothing."""
    disk.remove(f"{path}/{REPLACEMENT_NAME}")
    disk.sync_dir(path)


def complete(disk: Disk, path: str, replacement: Replacement) -> str:
    """Move the old files away and make the directory the new member's; returns the folder's path.

    The caller holds the lock and has seen the cluster agree. Called again after a crash it goes on where it was.
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
    """Whether the identity that is in place is not the old node's: it is `new`, or that of a member that never ran,
    of a repair that was begun anew."""
    try:
        return disk.exists(f"{folder}/{IDENTITY_NAME}") or read_identity(disk, path) == new
    except CorruptionError:
        return False
