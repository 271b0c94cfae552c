"""A node's data directory: whose it is, and that one process at a time uses it.

    LOCK         held for the life of the process; holds its pid
    identity     cluster id, node id, name, format version, incarnations of the newest starts
    identity.spare  holds nothing: space for the next identity file on a full disk
    peers        the newest start of each peer that this node has welcomed
    wal/         the log
    snapshots/   the snapshots
    replacement  only while a repair is under way: no node starts then

The identity is written first, then the log is begun, then the identity is written again with `started` set. So a crash
in between is told from a lost file: a directory with a log but without an identity, or with an identity that is marked
as started but without a log, has lost a file, and is refused.
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
and of the snapshots, so that an older version is refused by the first file that it reads, and says what is wrong."""

OLDEST_FORMAT_VERSION: Final = 1
"""The oldest version that is still read."""

LOCK_NAME: Final = "LOCK"
IDENTITY_NAME: Final = "identity"
WAL_NAME: Final = "wal"
SNAPSHOTS_NAME: Final = "snapshots"
JOINING_NAME: Final = "joining"
FIRST_PEERS_NAME: Final = "first-peers"
"""The id that a node chose which joins a cluster, until it is a member and has started."""
REPLACEMENT_NAME: Final = "replacement"
"""The note of a repair that is under way (`storage.replace`)."""

IDENTITY_SPARE_NAME: Final = "identity.spare"
IDENTITY_SPARE_BYTES: Final = 8 << 10
"""Space for one more identity file beside the present one: two blocks of most file systems."""

IDENTITY_LIMIT_BYTES: Final = 64 << 10
"""No identity file is larger: a name and a few numbers."""


class Identity(msgspec.Struct, frozen=True):
    """Who a node is."""

    cluster_id: int
    node_id: int
    name: str
    format_version: int = FORMAT_VERSION
    started: bool = False
    """Its log was begun: from then on a missing log is a loss."""
    directory_id: int = 0
    """Drawn when the directory was made, so that others can tell an emptied directory from the one that they know."""
    founding: bool = False
    """It is to start a cluster with others, and has not heard from all of them yet: it has promised nothing so far."""
    founders: dict[int, int] = {}
    """The others with whom it started the cluster: node id, and the id of the data directory that each had."""
    incarnations: tuple[int, ...] = ()
    """Of the newest starts from this directory, the newest first; the node knows what each is made of."""
    older_copy: bool = False
    """A quorum of the members has refused it as an older copy, or a copy in use elsewhere: no node starts on it."""


class DataDir:
    """An open data directory. Make one with `DataDir.open`."""

    def __init__(self, disk: Disk, path: str, lock: LockHandle) -> None:
        self.path = path
        self._disk = disk
        self._lock = lock
        self._identity: Identity | None = None

    @classmethod
    def open(cls, disk: Disk, path: str) -> DataDir:
        """Make the directory where there is none, lock it, and read whose it is.

        Raises:
            DirectoryLocked: another process uses it.
            RepairNeeded: a repair of it was begun and is not complete.
            CorruptionError: the identity is damaged, or missing where it must have been.
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
        """Whose the directory is; None where it is new."""
        return self._identity

    @property
    def wal_path(self) -> str:
        return f"{self.path}/{WAL_NAME}"

    @property
    def snapshots_path(self) -> str:
        return f"{self.path}/{SNAPSHOTS_NAME}"

    def write_identity(self, identity: Identity) -> None:
        """Make the directory a node's, durably. Once it is one's, it is never another's.

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
        """Write the identity file. Each start does, on a full disk too: so the space for it is kept in a file."""
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
        """The log was begun and holds what it must: from now on it is expected to be there."""
        assert self._identity is not None, "a directory is someone's before its log is begun"
        if not self._identity.started:
            self.write_identity(msgspec.structs.replace(self._identity, started=True))

    def raise_format(self) -> None:
        """Make the directory one of this version, durably; to be called before a file of its new formats is written."""
        assert self._identity is not None, "a directory is someone's before its log is begun"
        if self._identity.format_version != FORMAT_VERSION:
            self.write_identity(msgspec.structs.replace(self._identity, format_version=FORMAT_VERSION))

    @property
    def started(self) -> bool:
        """Whether the log must be there: what `Wal.open` wants to know as `must_exist`."""
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
        self._identity = read_identity(self._disk, self.path)
        if self._identity is None:
            check_unused(self._disk, self.path)


def lock_directory(disk: Disk, path: str) -> LockHandle:
    """Make the data directory where there is none, and lock it. Raises `DirectoryLocked`, `StorageError`."""
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
    """Whose the data directory `path` is; None where it does not say. Only looks: takes no lock.

    Raises:
        CorruptionError: the identity is damaged.
        FormatVersionError: another version wrote it.
    """
    name = f"{path}/{IDENTITY_NAME}"
    if not disk.exists(name):
        return None
    return decode_identity(name, read_file(disk, name, limit_bytes=IDENTITY_LIMIT_BYTES))


def check_unused(disk: Disk, path: str) -> None:
    """Raise `CorruptionError` where the data directory `path`, which has no identity, must have had one."""
    name = f"{path}/{IDENTITY_NAME}"
    for directory in (f"{path}/{WAL_NAME}", f"{path}/{SNAPSHOTS_NAME}"):
        if disk.exists(directory) and disk.list(directory):
            raise CorruptionError(
                f"{name} is missing, and {directory} is not empty: this was a node's data directory. Put the file "
                f"back. Or: {how_to_repair(path)}",
                file=name,
            )


class _IdentityFile(msgspec.Struct, omit_defaults=True):
    """The file: readable by people, and by programs that come later. Later fields are left out where they are unset."""

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
    """The identity file: one JSON object, with a checksum over all of it but the checksum."""
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
    """The inverse, for the bytes of the file at `path`.

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
