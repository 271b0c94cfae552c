"""A disk in memory that fails as disks fail, as one seed decides.

What a program sees is the system's cache; what a crash leaves is the platter, and chance:

- **Data.** The unit is the sector, 512 bytes. Each sector that was written since its file was last synced survives as
  any of its versions, the synced one included, independently of all others: any subset, in any order. A sector may also
  be torn: its first bytes from a later version, the rest from an earlier one.
- **Lengths.** A file's length since its last sync survives as any of the lengths that it has had.
- **Names.** Creations, renames and removals since their directory was last synced survive as any subset. A rename
  happens as a whole or not at all. Syncing a file does not make its name durable.

Beside crashes: errors of any operation on order, of which a failed sync is the nastiest (some sectors are lost, yet
read as if they were there, and later syncs report success; names are in the file system's journal, which stops it after
an error, so that a failed sync of a directory loses none); a capacity; a time that syncs take; flipped bits; files
that vanish or are emptied.

`crashed` gives another disk and leaves this one as it is. So one run of a program can be crashed at each step in many
ways. Not for several threads. The contents of files are in `file`.
"""

from __future__ import annotations

import builtins
import errno
import os
import posixpath
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from syncline.platform.disk import DISK_FULL, locked_error
from syncline.testing.sim.file import Chance, Inode, Survival

__all__ = ["CAPACITY_BYTES", "DiskFault", "SimDisk", "SimFile", "Survival"]

CAPACITY_BYTES: Final = 1 << 40
"""More than any simulation writes: a disk is full only if a fault makes it so."""


PATHS_KNOWN: Final = 4096
"""How many paths are taken apart once only. A node has a few dozen, and asks for them all the time."""


class DiskFault:
    """An ordered error: `operation` is a method's name (`write_at`, `sync`, `rename`, …), `suffix` ends the path.

    The path of an open file is the one that the file has now, after all renames. The first `skip` operations of that
    kind succeed, then `times` fail; all later ones fail if `times` is negative.
    """

    def __init__(self, operation: str, *, suffix: str, error: int, skip: int, times: int) -> None:
        self.operation = operation
        self.suffix = suffix
        self.error = error
        self.skip: int = skip
        self.times: int = times
        self.happened: int = 0
        """How many operations have failed by it."""

    def hits(self, operation: str, path: str) -> bool:
        if self.times == 0 or operation != self.operation or not path.endswith(self.suffix):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.happened += 1
        return True


class NameOperation:
    """A change of a directory: `dirs` are those that must still be synced for it to be durable."""

    def __init__(self, serial: int, node: Inode | None, source: str | None, target: str) -> None:
        self.serial = serial
        self.node = node
        self.source = source
        self.target = target
        self.dirs: set[str] = {_parent(path) for path in (source, target) if path is not None}

    def apply(self, names: dict[str, Inode]) -> None:
        """If an earlier operation did not survive, this one may find nothing to work on: then it is lost, too."""
        if self.source is not None:
            for path in [path for path in names if path == self.source or path.startswith(f"{self.source}/")]:
                names[self.target + path[len(self.source) :]] = names.pop(path)
        elif self.node is not None:
            names[self.target] = self.node
        else:
            names.pop(self.target, None)


class SimDisk:
    """Implements `platform.disk.Disk` in memory. See the module's text for how it fails.

    `before`, if set, is called with the operation and the path before each one that changes or syncs anything.
    `on_sync` is called with the path at each sync of a file. `sync_s` is the duration of each sync: `busy_s` adds
    them up for the simulation of time.
    """

    def __init__(self, rng: random.Random, *, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.rng = rng
        self.capacity_bytes = capacity_bytes
        self.before: Callable[[str, str], None] | None = None
        self.on_sync: Callable[[str], None] | None = None
        self.sync_s: float = 0.0
        self.busy_s: float = 0.0
        self.serial: int = 0
        self.generation: int = 0
        self._names: dict[str, Inode] = {"": Inode(is_dir=True), "/": Inode(is_dir=True)}
        self._durable_names = dict(self._names)
        self._pending: list[NameOperation] = []
        self._faults: list[DiskFault] = []
        self._locks: dict[str, SimLock] = {}

    # The `Disk` protocol.

    def open(self, path: str, *, create: bool = False, write: bool = False) -> SimFile:
        path = _normal(path)
        if create:
            self.enter("create", path)
            if path in self._names:
                raise _error(errno.EEXIST, path)
            self._check_parent(path)
            self._change(Inode(), None, path)
        else:
            self.enter("open", path, changes=False)
        return SimFile(self, self._file(path), path, writable=create or write)

    def exists(self, path: str) -> bool:
        return _normal(path) in self._names

    def list(self, path: str) -> builtins.list[str]:
        path = _normal(path)
        if not self._node(path).is_dir:
            raise _error(errno.ENOTDIR, path)
        return sorted(posixpath.basename(child) for child in self._children(path))

    def make_dirs(self, path: str) -> None:
        path = _normal(path)
        parent = _parent(path)
        node = self._names.get(path)
        if node is not None:
            if not node.is_dir:
                raise _error(errno.EEXIST, path)
            self.sync_dir(parent)
            return
        if parent not in self._names:
            self.make_dirs(parent)
        self.enter("mkdir", path)
        self._change(Inode(is_dir=True), None, path)
        self.sync_dir(parent)

    def rename(self, source: str, target: str) -> None:
        source, target = _normal(source), _normal(target)
        self.enter("rename", target)
        self._node(source)
        self._check_parent(target)
        self._change(None, source, target)

    def remove(self, path: str) -> None:
        path = _normal(path)
        self.enter("remove", path)
        self._file(path)
        self._change(None, None, path)

    def remove_tree(self, path: str) -> None:
        path = _normal(path)
        self._node(path)
        for child in self._children(path):
            if self._names[child].is_dir:
                self.remove_tree(child)
            else:
                self.remove(child)
        self.enter("rmdir", path)
        self._change(None, None, path)

    def sync_dir(self, path: str) -> None:
        path = _normal(path)
        self.enter("sync_dir", path)
        if not self._node(path).is_dir:
            raise _error(errno.ENOTDIR, path)
        for operation in self._pending[:]:
            operation.dirs.discard(path)
            if not operation.dirs:
                operation.apply(self._durable_names)
                self._pending.remove(operation)

    def lock(self, path: str, content: bytes) -> SimLock:
        path = _normal(path)
        if path in self._locks:
            raise locked_error(path, self._file(path).read(0, 256))
        file = self.open(path, create=not self.exists(path), write=True)
        try:
            file.write_at(0, content)
            file.truncate(len(content))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
        lock = self._locks[path] = SimLock(self._locks, path)
        return lock

    def free_bytes(self, path: str) -> int:
        self._node(_normal(path))
        return max(0, self.capacity_bytes - self.used_bytes())

    # Faults.

    def fail(
        self, operation: str, *, suffix: str = "", error: int = errno.EIO, skip: int = 0, times: int = 1
    ) -> DiskFault:
        """Order an error. Operations are `create`, `open`, `read_at`, `write_at`, `sync`, `allocate`, `truncate`,
        `mkdir`, `rename`, `remove`, `rmdir` and `sync_dir`."""
        fault = DiskFault(operation, suffix=suffix, error=error, skip=skip, times=times)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Take back all orders to fail."""
        self._faults.clear()

    def flip_bit(self, path: str, offset: int, bit: int | None = None) -> None:
        """Change one bit of a file, in the cache and on the platter."""
        self._file(_normal(path)).flip(offset, self.rng.randrange(8) if bit is None else bit)

    def lose(self, path: str) -> None:
        """A file vanishes, durably."""
        path = _normal(path)
        self._file(path)
        self._names.pop(path)
        self._durable_names.pop(path, None)

    def empty(self, path: str) -> None:
        """A file's content vanishes, durably: what some file systems leave of a file that was not synced."""
        self._file(_normal(path)).clear()

    # Crashes.

    def crashed(self, survival: Survival, rng: random.Random | None = None) -> SimDisk:
        """The disk that a machine would find that starts again after a crash at this moment. This one is unchanged."""
        rng = rng or self.rng
        chance = Chance(rng, survival, self.serial)
        disk = SimDisk(rng, capacity_bytes=self.capacity_bytes)
        names = self._durable_names.copy()
        for operation in self._pending:
            if chance.survives(operation.serial):
                operation.apply(names)
        for path in sorted(names):
            if _parent(path) in disk._names:  # a file is nowhere where its directory is not
                disk._names[path] = names[path].after_crash(chance)
                disk._names[path].path = path
        disk._durable_names = disk._names.copy()
        disk.sync_s = self.sync_s
        return disk

    def crash(self, survival: Survival) -> None:
        """Become what `crashed` gives. Open files and locks are gone."""
        after = self.crashed(survival)
        self._names, self._durable_names = after._names, after._durable_names
        self._pending.clear()
        self.kill()

    def kill(self) -> None:
        """The process ended and the machine went on: open files and locks are gone, the cache is as it was."""
        self._locks.clear()
        self.generation += 1

    # For tests.

    def paths(self) -> builtins.list[str]:
        """All files, sorted."""
        return sorted(path for path, node in self._names.items() if not node.is_dir)

    def read_file(self, path: str) -> bytes:
        node = self._file(_normal(path))
        return node.read(0, node.size)

    def is_durable(self, path: str) -> bool:
        """Whether a crash at this moment would leave the file as it is, under this name."""
        node = self._names.get(_normal(path))
        return node is not None and self._durable_names.get(_normal(path)) is node and node.is_durable()

    def write_file(self, path: str, data: bytes) -> None:
        """Put a file there, durably, whatever was there before."""
        path = _normal(path)
        self._check_parent(path)
        node = Inode()
        node.write(0, data, 0)
        node.sync()
        node.path = path
        self._names[path] = self._durable_names[path] = node

    def fingerprint(self) -> int:
        """Equal for disks on which a program that starts would find the same (and, all but surely, for no others)."""
        return hash(frozenset((path, node.fingerprint()) for path, node in self._names.items()))

    def used_bytes(self) -> int:
        return sum(node.taken_bytes() for node in self._names.values())

    # Used by the files.

    def enter(self, operation: str, path: str, *, changes: bool = True) -> None:
        """An operation begins: the hook sees it, and it fails if that was ordered."""
        if changes:
            self.serial += 1
            if self.before is not None:
                self.before(operation, path)
        for fault in self._faults:
            if fault.hits(operation, path):
                raise _error(fault.error, path)

    def check_room(self, more_bytes: int, path: str) -> None:
        if more_bytes > 0 and self.used_bytes() + more_bytes > self.capacity_bytes:
            raise _error(errno.ENOSPC, path)

    def _change(self, node: Inode | None, source: str | None, target: str) -> None:
        operation = NameOperation(self.serial, node, source, target)
        operation.apply(self._names)
        self._pending.append(operation)
        for path in [path for path in self._names if path == target or path.startswith(f"{target}/")]:
            self._names[path].path = path

    def _children(self, path: str) -> builtins.list[str]:
        return [name for name in self._names if name and name != path and _parent(name) == path]

    def _check_parent(self, path: str) -> None:
        if not self._node(_parent(path)).is_dir:
            raise _error(errno.ENOTDIR, path)

    def _node(self, path: str) -> Inode:
        node = self._names.get(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _file(self, path: str) -> Inode:
        node = self._node(path)
        if node.is_dir:
            raise _error(errno.EISDIR, path)
        return node


class SimFile:
    """Implements `platform.disk.File`. Gone after a crash of its disk, like all that a process holds."""

    def __init__(self, disk: SimDisk, node: Inode, path: str, *, writable: bool) -> None:
        self._disk = disk
        self._node = node
        self._path = path
        self._writable = writable
        self._generation: int | None = disk.generation

    @property
    def path(self) -> str:
        return self._path

    def read_at(self, offset: int, size: int) -> bytes:
        self._enter("read_at", changes=False)
        return self._node.read(offset, size)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        content = bytes(data)
        try:
            self._enter("write_at")
            self._disk.check_room(self._node.growth(offset, len(content)), self._path)
        except OSError:
            if self._generation == self._disk.generation and self._writable:  # a part of it may have been written
                self._node.write(offset, content[: self._disk.rng.randrange(len(content) + 1)], self._disk.serial)
            raise
        self._node.write(offset, content, self._disk.serial)

    def sync(self) -> None:
        disk = self._disk
        try:
            self._enter("sync")
        except OSError:
            self._node.fail_sync(disk.rng)
            raise
        disk.busy_s += disk.sync_s
        if disk.on_sync is not None:
            disk.on_sync(self._path)
        self._node.sync()

    def allocate(self, size: int) -> None:
        self._enter("allocate")
        if size > self._node.size:
            self._disk.check_room(size - self._node.taken_bytes(), self._path)
            self._node.reserve(size, self._disk.serial)

    def truncate(self, size: int) -> None:
        self._enter("truncate")
        self._node.resize(size, self._disk.serial)

    def size(self) -> int:
        self._check_open()
        return self._node.size

    def close(self) -> None:
        self._generation = None

    def _enter(self, operation: str, *, changes: bool = True) -> None:
        self._check_open()
        if changes and not self._writable:
            raise _error(errno.EBADF, self._path)
        self._disk.enter(operation, self._node.path, changes=changes)

    def _check_open(self) -> None:
        if self._generation != self._disk.generation:
            raise _error(errno.EBADF, self._path)


class SimLock:
    """Implements `platform.disk.LockHandle`."""

    def __init__(self, locks: dict[str, SimLock], path: str) -> None:
        self._locks = locks
        self._path = path

    def release(self) -> None:
        if self._locks.get(self._path) is self:
            del self._locks[self._path]


@lru_cache(PATHS_KNOWN)
def _normal(path: str) -> str:
    return posixpath.normpath(path) if path else ""


@lru_cache(PATHS_KNOWN)
def _parent(path: str) -> str:
    return posixpath.dirname(path)


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
