"""Copy a tree of files into keys and back, many at a time, with a report for each file."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from syncline.cli.import_export.paths import FoundFile, KeyPaths, Skipped, UnsafeKey, walk_files
from syncline.client import AsyncClient, KeyInfo
from syncline.errors import OperationError, Outcome, Unreachable

__all__ = ["Problem", "CopyProgress", "TreeReport", "copy_in", "copy_out", "survey"]

CONCURRENCY: Final = 32
"""Files under way at a time: enough to fill the log's group commits, few enough for their contents to be held."""

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""Larger files are not sent: no server takes a value of that size, and up to 32 files are held in memory."""

OWNER_ONLY: Final = 0o600

PROBLEMS_KEPT: Final = 1000
"""Problems that are listed; more are counted only."""

Item = TypeVar("Item")


class Problem(msgspec.Struct, frozen=True):
    """A file or key that was not copied, and the reason."""

    name: bytes
    reason: str


class TreeReport(msgspec.Struct):
    """The result for a whole tree."""

    files: int = 0
    size_bytes: int = 0
    skipped: list[Problem] = []
    failed: list[Problem] = []
    skipped_count: int = 0
    failed_count: int = 0

    def skip(self, name: bytes, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < PROBLEMS_KEPT:
            self.skipped.append(Problem(name, reason))

    def fail(self, name: bytes, reason: str) -> None:
        self.failed_count += 1
        if len(self.failed) < PROBLEMS_KEPT:
            self.failed.append(Problem(name, reason))


class CopyProgress(Protocol):
    """Called for each file that is done."""

    def advance(self, size_bytes: int) -> None: ...


def survey(root: bytes) -> int:
    """Count the regular files below a directory, for the progress bar."""
    return sum(isinstance(found, FoundFile) for found in walk_files(root))


async def copy_in(
    client: AsyncClient,
    root: bytes,
    prefix: bytes,
    progress: CopyProgress,
    report: TreeReport,
    *,
    concurrency: int = CONCURRENCY,
) -> None:
    """Store every regular file below `root` under its key.

    Writing a file's content twice is harmless, so writes whose outcome is unknown are tried again. A file that can't be
    stored is reported and the others go on; only a cluster that can't be reached ends it (`OperationError`).
    """

    async def store(found: FoundFile) -> None:
        try:
            data = await asyncio.to_thread(_read, found.path)
        except OSError as error:
            report.fail(found.relative, f"can't be read: {error.strerror}")
            progress.advance(found.size_bytes)
            return
        try:
            await client.put(prefix + found.relative, data, idempotent=True)
        except OperationError as error:
            _pass_on(error)
            report.fail(found.relative, str(error))
        else:
            report.files += 1
            report.size_bytes += len(data)
        progress.advance(found.size_bytes)

    async def files() -> AsyncIterator[FoundFile]:
        for found in walk_files(root):
            if isinstance(found, Skipped):
                report.skip(found.relative, found.reason)
            elif found.size_bytes > MAX_FILE_BYTES:
                report.fail(found.relative, f"{found.size_bytes} bytes are more than a value can have")
                progress.advance(found.size_bytes)
            else:
                yield found

    await _each(files(), store, concurrency)


async def copy_out(
    client: AsyncClient,
    root: bytes,
    prefix: bytes,
    progress: CopyProgress,
    report: TreeReport,
    *,
    consistency: str | None = None,
    concurrency: int = CONCURRENCY,
) -> None:
    """Write every key below a prefix to its file. Each file is replaced as a whole or not at all, durably on return.

    Keys are read one by one, so keys written meanwhile may or may not be among them. A key that can't be a file is
    reported and the others go on.
    """
    paths = KeyPaths(root, prefix)
    directories = {root}

    async def fetch(found: tuple[KeyInfo, bytes]) -> None:
        info, path = found
        try:
            value = await client.get(info.key, consistency=consistency)
        except OperationError as error:
            _pass_on(error)
            report.fail(info.key, str(error))
            progress.advance(info.size_bytes)
            return
        if value is None:
            report.skip(info.key, "was deleted meanwhile")
        else:
            try:
                await asyncio.to_thread(_write, path, value.value)
            except OSError as error:
                report.fail(info.key, f"can't be written: {error.strerror}")
            else:
                _add_directories(directories, path, root)
                report.files += 1
                report.size_bytes += len(value.value)
        progress.advance(info.size_bytes)

    async def keys() -> AsyncIterator[tuple[KeyInfo, bytes]]:
        async for info in client.scan(prefix, consistency=consistency):
            try:
                yield info, paths.path(info.key)
            except UnsafeKey as reason:
                report.fail(info.key, f"can't be a file: {reason}")
                progress.advance(info.size_bytes)

    await _each(keys(), fetch, concurrency)
    for directory in directories:
        await asyncio.to_thread(sync_directory, directory)


def _add_directories(directories: set[bytes], path: bytes, root: bytes) -> None:
    """Add the directories between `root` and the file: they are synced once, after all files in them."""
    directory = os.path.dirname(path)
    while directory not in directories and len(directory) > len(root):
        directories.add(directory)
        directory = os.path.dirname(directory)


def _pass_on(error: OperationError) -> None:
    """Raise an error that the next file will meet as well; report an error of this file alone."""
    if isinstance(error, Unreachable) or error.outcome is Outcome.UNKNOWN or error.code in _CLUSTER_CODES:
        raise error


_CLUSTER_CODES: Final = frozenset({"no_leader", "not_leader", "dropped", "closed", "deadline_exceeded", "disk_full"})


async def _each(items: AsyncIterator[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Run `work` on every item, so many at a time; the first failure ends all."""
    turn = asyncio.Lock()

    async def worker() -> None:
        while True:
            async with turn:
                item = await anext(items, None)
            if item is None:
                return
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def sync_directory(path: bytes) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: bytes) -> bytes:
    # The file may have become a link or a pipe since it was seen.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _write(path: bytes, data: bytes) -> None:
    """Write beside the target and rename: a reader, or an interruption, never sees half a file.

    The new file has the mode of the one that it replaces: what only its owner could read stays so.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    temporary = os.path.join(directory, f".syncline-{secrets.token_hex(8)}".encode())
    try:
        mode = _mode_of(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(temporary, flags, 0o666 if mode is None else OWNER_ONLY), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # before anything is in it
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or after a power cut it could have its name and be empty
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def _mode_of(path: bytes) -> int | None:
    """The permissions of the regular file at `path`; None if there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return stat.S_IMODE(found.st_mode) if stat.S_ISREG(found.st_mode) else None
