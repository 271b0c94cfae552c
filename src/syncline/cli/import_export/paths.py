"""Keys as files and files as keys: rules that keep one tree equal to the other, and touch nothing outside it.

A key is the prefix followed by the file's relative path with `/` between its parts, as the bytes that the file system
has. A key that can't be a file below the target directory is refused with the reason.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

import msgspec

__all__ = ["FoundFile", "KeyPaths", "Skipped", "UnsafeKey", "walk_files"]

MAX_PART_BYTES: Final = 255
"""The limit of a file name on every common file system."""


class UnsafeKey(Exception):
    """A key that can't be written as a file; the message says why."""


class FoundFile(msgspec.Struct, frozen=True):
    """A regular file below the directory, and its path relative to it."""

    path: bytes
    relative: bytes
    size_bytes: int


class Skipped(msgspec.Struct, frozen=True):
    """Something below the directory that is not stored."""

    relative: bytes
    reason: str


_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def walk_files(root: bytes) -> Iterator[FoundFile | Skipped]:
    """Everything below a directory, in the order of names. Links are reported and not followed.

    Raises `OSError` if the directory itself can't be read; what can't be read below it is reported.
    """
    pending = [(root, b"")]
    while pending:
        directory, relative = pending.pop()
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not relative:
                raise
            yield Skipped(relative, f"can't be read: {error.strerror}")
            continue
        below = []
        for entry in entries:
            name = relative + entry.name
            if entry.is_dir(follow_symlinks=False):
                below.append((entry.path, name + b"/"))
            else:
                yield _file_or_reason(entry, name)
        pending.extend(reversed(below))


def _file_or_reason(entry: os.DirEntry[bytes], relative: bytes) -> FoundFile | Skipped:
    try:
        state = entry.stat(follow_symlinks=False)
    except OSError as error:
        return Skipped(relative, f"can't be read: {error.strerror}")
    if stat.S_ISREG(state.st_mode):
        return FoundFile(entry.path, relative, state.st_size)
    kind = next((words for is_kind, words in _KINDS if is_kind(state.st_mode)), "not a regular file")
    return Skipped(relative, f"{kind}, not a regular file" if kind != "not a regular file" else kind)


class KeyPaths:
    """Gives each key of an ordered listing its file path below `root`.

    Keys must come in their order: a key that is also a directory of other keys is noticed because it comes first.
    """

    def __init__(self, root: bytes, prefix: bytes) -> None:
        self._root = root
        self._prefix = prefix
        self._beginnings: list[bytes] = []
        self._last: bytes | None = None
        self._real_directories: set[bytes] = {root}

    def path(self, key: bytes) -> bytes:
        """The key's path. Raises `UnsafeKey`; the key takes no part in later conflicts then."""
        assert key.startswith(self._prefix)
        assert self._last is None or key > self._last, "keys come in order"
        self._last = key
        relative = key[len(self._prefix) :]
        _check_parts(relative)
        self._check_conflict(relative)
        self._check_links(relative)
        return os.path.join(self._root, relative)

    def _check_conflict(self, relative: bytes) -> None:
        """Refuse a key that needs another key as its directory.

        All keys that begin with a key follow it without a gap, so the keys that this one begins with form a stack.
        """
        while self._beginnings and not relative.startswith(self._beginnings[-1]):
            self._beginnings.pop()
        for beginning in self._beginnings:
            if relative.startswith(beginning + b"/"):
                raise UnsafeKey(f"{os.fsdecode(beginning)!r} is a key itself, so it can't be a directory, too")
        self._beginnings.append(relative)

    def _check_links(self, relative: bytes) -> None:
        """Refuse a symbolic link among the directories that exist already: it would lead out of the tree."""
        directory = self._root
        for part in relative.split(b"/")[:-1]:
            directory = os.path.join(directory, part)
            if directory in self._real_directories:
                continue
            try:
                mode = os.lstat(directory).st_mode
            except FileNotFoundError:
                return
            except OSError as error:
                raise UnsafeKey(f"{os.fsdecode(directory)!r} can't be used: {error.strerror}") from error
            if stat.S_ISLNK(mode):
                raise UnsafeKey(f"{os.fsdecode(directory)!r} is a symbolic link, which might lead elsewhere")
            if not stat.S_ISDIR(mode):
                raise UnsafeKey(f"{os.fsdecode(directory)!r} is there already and is no directory")
            self._real_directories.add(directory)


def _check_parts(relative: bytes) -> None:
    if not relative:
        raise UnsafeKey("nothing is left of it after the prefix")
    if relative.startswith(b"/"):
        raise UnsafeKey("it would be an absolute path")
    for part in relative.split(b"/"):
        if not part:
            raise UnsafeKey("it has an empty part (a double slash, or one at the end)")
        if part in {b".", b".."}:
            raise UnsafeKey(f"its part {os.fsdecode(part)!r} would lead elsewhere")
        if b"\0" in part:
            raise UnsafeKey("it holds a zero byte, which no file name can")
        if len(part) > MAX_PART_BYTES:
            raise UnsafeKey(f"a part of it is longer than {MAX_PART_BYTES} bytes, which no file name can be")
