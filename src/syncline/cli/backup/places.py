"""Where backups are kept: a directory of this machine, or a URL that fsspec knows (the extra `fsspec`)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

from syncline.cli.exits import EXIT_FAILED, EXIT_USAGE, Failure
from syncline.contrib.urls import is_url, shown, split_path, without_slash
from syncline.platform.once import start_once

__all__ = ["BackupPlace", "UrlPlace", "beside", "is_url", "place_of", "shown", "split_place", "without_slash"]

Result = TypeVar("Result")

READ_BYTES: Final = 1 << 20


async def beside(work: Callable[[], Result]) -> Result:
    """Do work with a place, or with large files, on a thread of its own.

    An upload takes minutes, and a store that hangs takes more: meanwhile the event loop takes signals. If it is
    cancelled the thread is left behind, and ends with the command.
    """
    return await asyncio.wrap_future(start_once("syncline-backup", work))


def split_place(path: str) -> tuple[str, str]:
    """The directory and the name in it, of a path or URL."""
    directory, name = split_path(path)
    if not name:
        raise Failure(f"{shown(path)} names no file", EXIT_USAGE)
    return directory, name


class BackupPlace(Protocol):
    """A directory of files by name. Errors are `Failure` or `OSError`."""

    def path(self, name: str) -> str:
        """The file as people name it."""
        ...

    def prepare(self) -> None:
        """Make the directory if it is not there."""
        ...

    def names(self) -> list[str]:
        """All files; none if the directory is not there."""
        ...

    def exists(self, name: str) -> bool: ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


def place_of(directory: str) -> BackupPlace:
    """The place that a path or URL names. Raises `Failure` if it can't be reached."""
    return UrlPlace(directory) if is_url(directory) else _Directory(directory)


class _Directory:
    def __init__(self, path: str) -> None:
        self._path = path

    def path(self, name: str) -> str:
        return os.path.join(self._path, name)

    def prepare(self) -> None:
        if os.path.lexists(self._path) and not os.path.isdir(self._path):
            raise Failure(f"{self._path} is no directory: name one for the backups", EXIT_FAILED)
        os.makedirs(self._path, mode=0o700, exist_ok=True)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._path)) if os.path.isdir(self._path) else []

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path(name))


class UrlPlace:
    """A directory of a file system of fsspec. Object stores have no renames: a file without its sum is not complete."""

    def __init__(self, url: str) -> None:
        self._url = without_slash(url)
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            text = f"{shown(url)} is a URL, which needs the extra fsspec: pip install 'syncline[fsspec]'"
            raise Failure(text, EXIT_USAGE, code="extra_missing") from error
        with self._reported(""):
            self._files, self._root = url_to_fs(self._url)

    def path(self, name: str) -> str:
        return self._url + name if self._url.endswith("/") else f"{self._url}/{name}"

    def prepare(self) -> None:
        with self._reported(""):
            self._files.makedirs(self._root, exist_ok=True)

    def names(self) -> list[str]:
        with self._reported(""):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:  # object stores have no empty directories
                return []
            return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def exists(self, name: str) -> bool:
        with self._reported(name):
            self._files.invalidate_cache()  # others write there, too
            return bool(self._files.exists(self._inner(name)))

    def store(self, local: str, name: str, sha256: str) -> None:
        """Copy a local file there, and read it again: it is complete and has this sum, or an error is raised."""
        with self._reported(name):
            self._files.put_file(local, self._inner(name))
            with self._files.open(self._inner(name), "rb") as written:
                found = _sum(written)
        _check(found, sha256, self.path(name))

    def fetch(self, name: str, local: str) -> None:
        """Copy a file from there."""
        with self._reported(name):
            self._files.get_file(self._inner(name), local)

    def remove(self, name: str) -> None:
        with self._reported(name), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._inner(name))

    def _inner(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        """Errors as failures of the command: each file system raises its own."""
        try:
            yield
        except FileNotFoundError as error:
            raise Failure(f"{shown(self.path(name))}: No such file or directory", EXIT_FAILED) from error
        except Exception as error:
            where = self.path(name) if name else self._url
            raise Failure(shown(f"{where}: {type(error).__name__}: {error}"), EXIT_FAILED) from error


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _sum(file: _Readable) -> str:
    digest = hashlib.sha256()
    while piece := file.read(READ_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _check(found: str, sha256: str, path: str) -> None:
    if found != sha256:
        raise Failure(
            f"{shown(path)} was written and reads differently: it has the SHA-256 {found}, and {sha256} was written",
            EXIT_FAILED,
            code="corruption_error",
        )
