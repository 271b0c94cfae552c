"""Access to files. The layers above reach the disk through `Disk`; the simulator replaces it.

Paths are plain strings. Errors are `OSError` as the operating system raises them; callers decide what they mean
(a failed write or sync stops the node, see `storage`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from typing import Final, Protocol

from syncline.errors import DirectoryLocked
from syncline.platform.forks import forget_in_child

__all__ = ["Disk", "File", "LockHandle", "OsDisk"]


class File(Protocol):
    """An open file. Reads and writes name their offset: there is no shared position.

    Data written is durable only after `sync`; a new or renamed name only after `Disk.sync_dir` of its directory.
    Each method may raise OSError. Example: `Disk`.
    """

    @property
    def path(self) -> str: ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; shorter only at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` (a short write is continued)."""
        ...

    def sync(self) -> None:
        """Make the file's data and length durable (`fdatasync`). Never call it again after it has failed."""
        ...

    def allocate(self, size: int) -> None:
        """Reserve space and extend the file with zeros to `size` bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def size(self) -> int:
        """Return the length of the file in bytes."""
        ...

    def close(self) -> None:
        """Close the file. It need not be durable."""
        ...


class LockHandle(Protocol):
    """A held lock. The kernel releases it when the process ends, however it ends. Example: `Disk`."""

    def release(self) -> None:
        """Release the lock."""
        ...


class Disk(Protocol):
    """A file system. A test replaces it by `World`.

        class FullDisk(OsDisk):
            def free_bytes(self, path: str) -> int:
                return 0

        raft = await Raft.open(config, fsm, world=World(disk=FullDisk()))

    The system's is `syncline.platform.disk.OsDisk`. Each method may raise OSError, as the operating system raises it.
    """

    def open(self, path: str, *, create: bool = False, write: bool = False) -> File:
        """Open a file. `create`: it must not exist yet."""
        ...

    def exists(self, path: str) -> bool:
        """Return whether there is a file or a directory of this name."""
        ...

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def make_dirs(self, path: str) -> None:
        """Make a directory and its parents, each durable in its own parent; no error if they exist."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomically replace `target`. Durable after `sync_dir` of the directory (of both, if they differ)."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file. Durable after `sync_dir` of its directory."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory with all that is in it."""
        ...

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        ...

    def lock(self, path: str, content: bytes) -> LockHandle:
        """Take an exclusive lock on a file (made if absent) and put `content` into it.

        Raises:
            DirectoryLocked: another process holds the lock; with the pid in the file.
        """
        ...

    def free_bytes(self, path: str) -> int:
        """Return the bytes that this process may still write on the file system of `path`."""
        ...


FILE_MODE: Final = 0o600
"""Logs and snapshots hold their users' data: only the owner reads them."""

DIRECTORY_MODE: Final = 0o700

ZERO_CHUNK_BYTES: Final = 1 << 20
"""How much is written at once if the file system can't reserve space."""

LOCK_CONTENT_BYTES: Final = 256
"""How much of a lock file is read to find its holder: a pid and a name fit many times."""

CANNOT_RESERVE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""Errors of a file system that can't reserve space."""


DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a file system that has no space left, or none for this user."""


def flush_data(descriptor: int) -> None:
    """Make a file's data and length durable, as strongly as the platform can."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync alone leaves the data in the drive's own cache there
    else:
        os.fdatasync(descriptor)


class OsFile:
    """A file of the operating system. Safe for use by several threads: no call has a position of its own."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def path(self) -> str:
        return self._path

    @property
    def descriptor(self) -> int:
        """The system's number for it; -1 once it is closed."""
        return self._descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        missing = size - len(data)
        while missing > 0:  # a short read is not yet the end of the file
            data = os.pread(self._descriptor, missing, offset + size - missing)
            if not data:
                break
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        if written == len(data):
            return
        view = memoryview(data).cast("B")
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], offset + written)

    def sync(self) -> None:
        flush_data(self._descriptor)

    def allocate(self, size: int) -> None:
        if size <= self.size():
            return
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._descriptor, 0, size)
                return
            except OSError as error:
                if error.errno not in CANNOT_RESERVE:
                    raise
        zeros = bytes(ZERO_CHUNK_BYTES)
        for offset in range(self.size(), size, ZERO_CHUNK_BYTES):
            self.write_at(offset, zeros[: size - offset])

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1  # the system reuses numbers
            os.close(descriptor)


class OsLock:
    """A `flock` on an open file. It goes with the process, so a lock is never left behind by a crash."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        forget_in_child(self)

    def descriptors(self) -> list[int]:
        """The lock's descriptor, for `forks`."""
        return [self._descriptor] if self._descriptor >= 0 else []

    def release(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class OsDisk:
    """The operating system's file system. Holds no state: one object serves any number of nodes and threads."""

    def open(self, path: str, *, create: bool = False, write: bool = False) -> OsFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write or create else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return OsFile(path, os.open(path, flags, FILE_MODE))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def make_dirs(self, path: str) -> None:
        parent = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(path):
            with contextlib.suppress(PermissionError):  # made, but perhaps not synced, by a process that crashed there
                self.sync_dir(parent)
            return
        _check_can_be_directory(path)
        if not os.path.isdir(parent):
            self.make_dirs(parent)
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except FileExistsError:
            if not os.path.isdir(path):  # another process may have made it meanwhile
                raise
        self.sync_dir(parent)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: str, content: bytes) -> OsLock:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, FILE_MODE)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            os.unlink(path)  # a link: what it leads to is another's, and must be neither locked nor written
            descriptor = os.open(path, flags, FILE_MODE)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise locked_error(path, os.pread(descriptor, LOCK_CONTENT_BYTES, 0)) from None
            try:
                os.pwrite(descriptor, content, 0)
                os.ftruncate(descriptor, len(content))
            except OSError as error:
                if error.errno not in DISK_FULL:  # the lock is held; its content only names the process for people
                    raise
        except BaseException:
            os.close(descriptor)
            raise
        return OsLock(descriptor)

    def free_bytes(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def _check_can_be_directory(path: str) -> None:
    """Raise `OSError` that says what `path` is, if it is something that can't become a directory."""
    try:
        os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise FileNotFoundError(
                errno.ENOENT, f"it is a symbolic link to {os.readlink(path)}, which does not exist", path
            ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link that leads to itself", path) from None
        raise
    else:
        raise FileExistsError(errno.EEXIST, "it is a file and not a directory", path)


def locked_error(path: str, holder: bytes) -> DirectoryLocked:
    """Return the error for a lock that another process holds. `holder` is the file's content: its pid comes first."""
    found = re.match(rb"\s*(\d{1,10})", holder)
    pid = int(found.group(1)) if found else None
    if pid == os.getpid():
        return DirectoryLocked(
            f"{path} is held by this process (pid {pid}): it has opened a node there and has not closed it. A node is"
            " open once: call `close` on the first one, or open it in a `with` or `async with` block.",
            pid=pid,
        )
    who = f"the process with pid {pid}" if pid is not None else "another process"
    return DirectoryLocked(
        f"{path} is held by {who}: one data directory serves one process. "
        "Stop that process first, or give this one a directory of its own. A node is one process: a web server with"
        " several workers opens it in one of them, or talks to a node beside it.",
        pid=pid,
    )
