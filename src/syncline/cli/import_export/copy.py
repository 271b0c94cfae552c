"""Copy a tree of files into keys and back, many at a time, with a report for each file."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final

from syncline.cli.import_export.paths import FoundFile, KeyPaths, Skipped, UnsafeKey, walk_files
from syncline.cli.import_export.work import CopyProgress, CopyReport, pass_on, run_each
from syncline.client import AsyncClient, KeyInfo, PutOp
from syncline.errors import OperationError

__all__ = [
    "EXPORT_CONCURRENCY",
    "IMPORT_CONCURRENCY",
    "TreeReport",
    "copy_in",
    "copy_out",
    "survey",
]

IMPORT_CONCURRENCY: Final = 128
"""Files under way at a time: four requests of small ones, so that the servers have no pause between two."""

EXPORT_CONCURRENCY: Final = 32
"""Files under way at a time; each has a request of its own, and its content is held."""

FILES_PER_REQUEST: Final = 32
"""Small files that share a request of `import`."""

ALONE_BYTES: Final = 256 * 1024
"""A larger file has a request of its own."""

REQUEST_BYTES: Final = 1024 * 1024
"""Contents of a request with several files: below what the server takes, though a file may have grown meanwhile."""

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""Larger files are not sent: no server takes a value of that size, and several files are held in memory."""

OWNER_ONLY: Final = 0o600


class TreeReport(CopyReport):
    """The result for a whole tree."""

    files: int = 0


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
    concurrency: int = IMPORT_CONCURRENCY,
) -> None:
    """Store every regular file below `root` under its key. Small files share a request, `concurrency` files at most.

    Writing a file's content twice is harmless, so writes whose outcome is unknown are tried again. A file that can't be
    stored is reported and the others go on; only a cluster that can't be reached ends it (`OperationError`).
    """

    def note(found: FoundFile, size_bytes: int, error: OperationError | None) -> None:
        if error is None:
            report.files += 1
            report.size_bytes += size_bytes
        else:
            pass_on(error)
            report.fail(found.relative, str(error))
        progress.advance(found.size_bytes)

    async def store(files: list[FoundFile]) -> None:
        contents: list[tuple[FoundFile, bytes]] = []
        for found, data in await asyncio.to_thread(_read_all, files):
            if isinstance(data, OSError):
                report.fail(found.relative, f"can't be read: {data.strerror}")
                progress.advance(found.size_bytes)
            else:
                contents.append((found, data))
        for part in _requests(contents):
            for (found, data), error in zip(part, await _store(client, prefix, part), strict=True):
                note(found, len(data), error)

    async def bundles() -> AsyncIterator[list[FoundFile]]:
        bundle: list[FoundFile] = []
        size_bytes = 0
        for found in walk_files(root):
            if isinstance(found, Skipped):
                report.skip(found.relative, found.reason)
            elif found.size_bytes > MAX_FILE_BYTES:
                report.fail(found.relative, f"{found.size_bytes} bytes are more than a value can have")
                progress.advance(found.size_bytes)
            elif found.size_bytes > ALONE_BYTES:
                yield [found]
            else:
                bundle.append(found)
                size_bytes += found.size_bytes
                if len(bundle) >= per_request or size_bytes > REQUEST_BYTES:
                    yield bundle
                    bundle, size_bytes = [], 0
        if bundle:
            yield bundle

    per_request = min(concurrency, FILES_PER_REQUEST)
    await run_each(bundles(), store, max(1, concurrency // per_request))


def _requests(contents: list[tuple[FoundFile, bytes]]) -> Iterator[list[tuple[FoundFile, bytes]]]:
    """The files that share a request: a file may have grown since it was counted."""
    part: list[tuple[FoundFile, bytes]] = []
    size_bytes = 0
    for item in contents:
        if part and size_bytes + len(item[1]) > 2 * REQUEST_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(item)
        size_bytes += len(item[1])
    if part:
        yield part


async def _store(
    client: AsyncClient, prefix: bytes, files: list[tuple[FoundFile, bytes]]
) -> Sequence[OperationError | None]:
    """Store the files of one request; for each of them its error, or None."""
    try:
        if len(files) == 1:
            ((found, data),) = files
            await client.put(prefix + found.relative, data, idempotent=True)
            return [None]
        puts = [PutOp(prefix + found.relative, data) for found, data in files]
        results = await client.batch(puts, idempotent=True)
    except OperationError as error:
        return [error] * len(files)
    return [one if isinstance(one, OperationError) else None for one in results]


async def copy_out(
    client: AsyncClient,
    root: bytes,
    prefix: bytes,
    progress: CopyProgress,
    report: TreeReport,
    *,
    consistency: str | None = None,
    concurrency: int = EXPORT_CONCURRENCY,
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
            pass_on(error)
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

    await run_each(keys(), fetch, concurrency)
    for directory in directories:
        await asyncio.to_thread(sync_directory, directory)


def _add_directories(directories: set[bytes], path: bytes, root: bytes) -> None:
    """Add the directories between `root` and the file: they are synced once, after all files in them."""
    directory = os.path.dirname(path)
    while directory not in directories and len(directory) > len(root):
        directories.add(directory)
        directory = os.path.dirname(directory)


def sync_directory(path: bytes) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_all(files: Iterable[FoundFile]) -> list[tuple[FoundFile, bytes | OSError]]:
    """The files with their contents, or with the error of their reading."""
    contents: list[tuple[FoundFile, bytes | OSError]] = []
    for found in files:
        try:
            contents.append((found, _read(found.path)))
        except OSError as error:
            contents.append((found, error))
    return contents


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
