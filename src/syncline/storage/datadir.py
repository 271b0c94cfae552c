"""A node's data directory: its identity, and the lock that keeps it to one process.

    LOCK         held for the life of the process; holds its pid
    identity     cluster id, node id, name, format version, incarnations of the newest starts
    identity.spare  holds nothing: space for the next identity file on a full disk
    peers        the newest start of each peer that this node has welcomed
    wal/         the log
    snapshots/   the snapshots
    replacement  only while a repair is under way: no node starts then
    recovery     only while a recovery after a lost quorum is under way: no node starts then
    recovering/  the new files of such a recovery

The identity is written first, then the log is begun, then the identity is written again with `started` set. This
order separates a crash in between from a lost file. A directory with a log but without an identity has lost a file. So
has one that is marked as started but has no log. Both are refused.
"""

from __future__ import annotations

import os
import re
import zlib
from typing import Final

import msgspec

from syncline.errors import CorruptionError, FormatVersionError, RepairNeeded, StorageError, WrongDirectory
from syncline.platform.disk import Disk, LockHandle
from syncline.storage.advice import how_to_repair
from syncline.storage.atomic_file import TEMPORARY_SUFFIX, read_file, replace_file
from syncline.storage.space import is_disk_full
from syncline.version import __version__

__all__ = [
    "FIRST_PEERS_NAME",
    "FORMAT_VERSION",
    "IDENTITY_NAME",
    "IDENTITY_SPARE_NAME",
    "JOINING_NAME",
    "LOCK_NAME",
    "RECOVERY_NAME",
    "REPLACEMENT_NAME",
    "SNAPSHOTS_NAME",
    "WAL_NAME",
    "DataDir",
    "Identity",
    "decode_identity",
    "encode_identity",
    "check_unused",
    "lock_directory",
    "read_identity",
]

FORMAT_VERSION: Final = 2
"""The version of the directory as a whole: its files and what they mean together. It rises with the formats of the log
and of the snapshots. So an older version fails at the first file that it reads, with an error that names the format."""

OLDEST_FORMAT_VERSION: Final = 1
"""The oldest version that is still read."""

LOCK_NAME: Final = "LOCK"
IDENTITY_NAME: Final = "identity"
WAL_NAME: Final = "wal"
SNAPSHOTS_NAME: Final = "snapshots"
JOINING_NAME: Final = "joining"
FIRST_PEERS_NAME: Final = "first-peers"
"""The id that a joining node has chosen, until it is a member and has started."""
REPLACEMENT_NAME: Final = "replacement"
"""The note of a repair that is under way (`storage.replace`)."""
RECOVERY_NAME: Final = "recovery"
"""The note of a recovery that is under way (`storage.new_cluster`)."""

IDENTITY_SPARE_NAME: Final = "identity.spare"
IDENTITY_SPARE_BYTES: Final = 8 << 10
"""Space for one more identity file beside the present one: two blocks of most file systems."""

IDENTITY_LIMIT_BYTES: Final = 64 << 10
"""No identity file is larger: a name and a few numbers."""


class Identity(msgspec.Struct, frozen=True):
    """The identity of a node, as its data directory holds it."""

    cluster_id: int
    node_id: int
    name: str
    format_version: int = FORMAT_VERSION
    started: bool = False
    """Its log was begun: from then on a missing log is a loss."""
    directory_id: int = 0
    """Random, drawn when the directory was made: peers detect by it that the directory was emptied."""
    founding: bool = False
    """An initial member that has not heard from all others yet: it has given no vote and no acknowledgement."""
    founders: dict[int, int] = {}
    """The other initial members: node id, and the id of the data directory that each had."""
    incarnations: tuple[int, ...] = ()
    """Incarnations of the newest starts from this directory, the newest first (see `node.starts.incarnations`)."""
    older_copy: bool = False
    """A quorum of the members has refused it as an older copy, or as a copy in use elsewhere: no node starts on it."""


class DataDir:
    """An open data directory. Make one with `DataDir.open`."""

    def __init__(self, disk: Disk, path: str, lock: LockHandle) -> None:
        self.path = path
        self._disk = disk
        self._lock = lock
        self._identity: Identity | None = None

    @classmethod
    def open(cls, disk: Disk, path: str) -> DataDir:
        """Make the directory if there is none, lock it, and read its identity.

        Raises:
            DirectoryLocked: another process uses it.
            RepairNeeded: a repair or a recovery of it was begun and is not complete.
            CorruptionError: the identity is damaged, or missing although there was one.
            FormatVersionError: another version wrote it.
            StorageError: it can't be made or used.
        """
        path = path.rstrip("/") or path
        lock = lock_directory(disk, path)
        directory = cls(disk, path, lock)
        try:
            directory._load()
        except BaseException:
            lock.release()
            raise
        return directory

    @property
    def identity(self) -> Identity | None:
        """The identity of the directory; None if it is new."""
        return self._identity

    @property
    def wal_path(self) -> str:
        return f"{self.path}/{WAL_NAME}"

    @property
    def snapshots_path(self) -> str:
        return f"{self.path}/{SNAPSHOTS_NAME}"

    def write_identity(self, identity: Identity) -> None:
        """Write a node's identity, durably. It is never replaced by another node's.

        Raises:
            WrongDirectory: it is another node's already.
        """
        held = self._identity
        if held is not None and (held.cluster_id, held.node_id) != (identity.cluster_id, identity.node_id):
            raise WrongDirectory(
                f"{self.path} belongs to node {held.node_id:016x} ({held.name}) of cluster {held.cluster_id:016x}, "
                f"not to node {identity.node_id:016x} ({identity.name}) of cluster {identity.cluster_id:016x}. "
                "Give each node a data directory of its own."
            )
        self._replace(encode_identity(identity))
        self._identity = identity

    def _replace(self, content: bytes) -> None:
        """Write the identity file. Each start does so, on a full disk too: the spare file keeps the space for it."""
        spare = f"{self.path}/{IDENTITY_SPARE_NAME}"
        try:
            replace_file(self._disk, f"{self.path}/{IDENTITY_NAME}", content)
        except OSError as error:
            if not is_disk_full(error) or not self._disk.exists(spare):
                raise
            self._disk.remove(spare)
            replace_file(self._disk, f"{self.path}/{IDENTITY_NAME}", content)
        if self._disk.exists(spare):
            return
        try:
            file = self._disk.open(spare, create=True, write=True)
            try:
                file.allocate(IDENTITY_SPARE_BYTES)
            finally:
                file.close()
        except OSError as error:
            if not is_disk_full(error):
                raise
            if self._disk.exists(spare):
                self._disk.remove(spare)  # it holds less than it should; the next write tries again

    def mark_started(self) -> None:
        """Record durably that the log was begun: from now on a missing log is corruption."""
        assert self._identity is not None, "a directory has an identity before its log is begun"
        if not self._identity.started:
            self.write_identity(msgspec.structs.replace(self._identity, started=True))

    def raise_format(self) -> None:
        """Raise the directory to the formats of this version, durably. Call it before a file of a new format is
        written.
        """
        assert self._identity is not None, "a directory has an identity before its log is begun"
        if self._identity.format_version != FORMAT_VERSION:
            self.write_identity(msgspec.structs.replace(self._identity, format_version=FORMAT_VERSION))

    @property
    def started(self) -> bool:
        """Whether the log must exist: the argument `must_exist` of `Wal.open`."""
        return self._identity is not None and self._identity.started

    def release(self) -> None:
        """Give up the lock. The directory must not be used after it."""
        self._lock.release()

    def _load(self) -> None:
        path = f"{self.path}/{IDENTITY_NAME}"
        temporary = path + TEMPORARY_SUFFIX
        if self._disk.exists(temporary):
            self._disk.remove(temporary)
        self._disk.sync_dir(self.path)  # what is seen here may not be durable yet: LOCK, and what a crash left
        if self._disk.exists(f"{self.path}/{REPLACEMENT_NAME}"):
            raise RepairNeeded(
                f"{self.path} is in the middle of a repair, and no node may start on it. "
                f"Run `syncline repair --data-dir {self.path}` again to complete it."
            )
        if self._disk.exists(f"{self.path}/{RECOVERY_NAME}"):
            raise RepairNeeded(
                f"{self.path} is in the middle of a recovery after a lost quorum, and no node may start on it. "
                f"Run `syncline recover --data-dir {self.path}` (or `Raft.recover`) again to complete it."
            )
        self._identity = read_identity(self._disk, self.path)
        if self._identity is None:
            check_unused(self._disk, self.path)


def lock_directory(disk: Disk, path: str) -> LockHandle:
    """Make the data directory if there is none, and lock it. Raises `DirectoryLocked`, `StorageError`."""
    try:
        disk.make_dirs(path)
        return disk.lock(f"{path}/{LOCK_NAME}", b"%d\n" % os.getpid())
    except OSError as error:
        where = f"{error.filename}: " if error.filename not in (None, path) else ""
        raise StorageError(
            f"the data directory {path} can't be used: {where}{error.strerror or error}. "
            "Name a directory that this user may write to, or make it one."
        ) from error


def read_identity(disk: Disk, path: str) -> Identity | None:
    """Read the identity of the data directory `path`; None if there is none. Takes no lock and changes nothing.

    Raises:
        CorruptionError: the identity is damaged.
        FormatVersionError: another version wrote it.
    """
    name = f"{path}/{IDENTITY_NAME}"
    if not disk.exists(name):
        return None
    return decode_identity(name, read_file(disk, name, limit_bytes=IDENTITY_LIMIT_BYTES))


def check_unused(disk: Disk, path: str) -> None:
    """Raise `CorruptionError` if the data directory `path`, which has no identity, must have had one."""
    name = f"{path}/{IDENTITY_NAME}"
    for directory in (f"{path}/{WAL_NAME}", f"{path}/{SNAPSHOTS_NAME}"):
        if disk.exists(directory) and disk.list(directory):
            raise CorruptionError(
                f"{name} is missing, and {directory} is not empty: this was a node's data directory. Put the file "
                f"back. Or: {how_to_repair(path)}",
                file=name,
            )


class _IdentityFile(msgspec.Struct, omit_defaults=True):
    """The identity file as JSON. People and later versions read it. Later fields are left out if they are unset."""

    format_version: int
    written_by: str
    cluster_id: str
    node_id: str
    name: str
    started: bool
    checksum: str
    directory_id: str = ""
    founding: bool = False
    founders: dict[str, str] = {}
    incarnations: tuple[str, ...] = ()
    older_copy: bool = False


class _VersionOnly(msgspec.Struct):
    format_version: int
    written_by: str = "a later version"


_HEX: Final = re.compile(r"[0-9a-f]{16}")


def encode_identity(identity: Identity) -> bytes:
    """The identity file: one JSON object, with a checksum over its other fields."""
    content = _IdentityFile(
        format_version=identity.format_version,
        written_by=__version__,
        cluster_id=_hex(identity.cluster_id),
        node_id=_hex(identity.node_id),
        name=identity.name,
        started=identity.started,
        checksum="",
        directory_id=_hex(identity.directory_id) if identity.directory_id else "",
        founding=identity.founding,
        founders={_hex(node_id): _hex(identity.founders[node_id]) for node_id in sorted(identity.founders)},
        incarnations=tuple(map(_hex, identity.incarnations)),
        older_copy=identity.older_copy,
    )
    content.checksum = _checksum(content)
    return _encode(content)


def decode_identity(path: str, data: bytes) -> Identity:
    """Decode the bytes of the identity file at `path`.

    Raises:
        CorruptionError: not what was written.
        FormatVersionError: another format.
    """
    try:
        version = msgspec.json.decode(data, type=_VersionOnly)
        if not OLDEST_FORMAT_VERSION <= version.format_version <= FORMAT_VERSION:
            raise FormatVersionError(
                f"{path} says format {version.format_version}, written by Syncline {version.written_by}; this is "
                f"Syncline {__version__}, which reads formats {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}. "
                "Start the node with the version that wrote it."
            )
        content = msgspec.json.decode(data, type=_IdentityFile)
        intact = content.checksum == _checksum(content) and _encode(content) == data
        ids = [content.cluster_id, content.node_id, content.directory_id or _hex(0)]
        ids += [*content.founders, *content.founders.values(), *content.incarnations]
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not intact or not all(map(_HEX.fullmatch, ids)):
        raise _damaged(path, "its checksum does not fit")
    return Identity(
        cluster_id=int(content.cluster_id, 16),
        node_id=int(content.node_id, 16),
        name=content.name,
        format_version=content.format_version,
        started=content.started,
        directory_id=int(content.directory_id or "0", 16),
        founding=content.founding,
        founders={int(node_id, 16): int(directory, 16) for node_id, directory in content.founders.items()},
        incarnations=tuple(int(incarnation, 16) for incarnation in content.incarnations),
        older_copy=content.older_copy,
    )


def _hex(number: int) -> str:
    return f"{number:016x}"


def _encode(content: _IdentityFile) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _checksum(content: _IdentityFile) -> str:
    plain = msgspec.structs.replace(content, checksum="")
    return f"{zlib.crc32(msgspec.json.encode(plain)):08x}"


def _damaged(path: str, reason: str) -> CorruptionError:
    return CorruptionError(
        f"{path} is damaged: {reason}. Put back a copy of it. Or: {how_to_repair(os.path.dirname(path))}",
        file=path,
    )
