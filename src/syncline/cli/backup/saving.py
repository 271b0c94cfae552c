"""Save a backup to a file or a URL, with its SHA-256 beside it; and fetch one to check or restore it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator
from functools import partial
from typing import Final

from syncline.cli.backup.places import UrlPlace, beside, is_url, shown, split_place
from syncline.cli.common import Context, make_client
from syncline.cli.exits import EXIT_FAILED, Failure, failure_of
from syncline.client.backup import read_backup
from syncline.errors import CorruptionError, SynclineError
from syncline.kv.backups import SUM_SUFFIX, BackupFacts, reduce_backup, verify_backup
from syncline.platform.disk import OsDisk
from syncline.platform.entropy import system_entropy
from syncline.storage.atomic_file import replace_file

__all__ = ["fetched", "reported", "save_backup"]

TIMEOUT_S: Final = 10.0
PART_SUFFIX: Final = ".part"
REDUCED_SUFFIX: Final = ".reduced"
WRITE_BYTES: Final = 8 << 20
"""A file is synced as it grows: one large sync at its end could take minutes."""


async def save_backup(context: Context, path: str, *, stale: bool, without: Collection[str] = ()) -> BackupFacts:
    """Save to a path or URL that does not exist yet."""
    if is_url(path):
        return await _save_to_url(context, path, stale=stale, without=without)
    return await _save_to_file(context, path, stale=stale, without=without)


async def _save_to_file(context: Context, file: str, *, stale: bool, without: Collection[str]) -> BackupFacts:
    """The file gets its name when it is complete and checked."""
    disk = OsDisk()
    # Of its own name: another command may save to the same file at the same time.
    part = f"{file}.{system_entropy(4).hex()}{PART_SUFFIX}"
    try:
        digest = await _receive(context, disk, part, stale=stale)
        with reported(file, as_json=context.as_json):
            facts = await beside(partial(verify_backup, disk, part))
            if facts.sha256 != digest:
                raise CorruptionError(f"{part} reads differently from what was written to it", file=part)
            if without:
                _reduce(disk, part, without)  # not beside the loop: SIGTERM must not leave its file behind
                facts = await beside(partial(verify_backup, disk, part))
            if disk.exists(file):
                raise Failure(f"{file} exists: another command has made it meanwhile", EXIT_FAILED)
            # First: after a crash in between there is a sum without a file, and no file without its sum.
            replace_file(disk, file + SUM_SUFFIX, _sum_line(facts.sha256, file))
            disk.rename(part, file)
            disk.sync_dir(os.path.dirname(file) or ".")
    finally:
        with reported(part, as_json=context.as_json), contextlib.suppress(FileNotFoundError):
            disk.remove(part)
    return facts


async def _save_to_url(context: Context, url: str, *, stale: bool, without: Collection[str]) -> BackupFacts:
    """Save to a temporary file, which is copied when it is complete and checked."""
    directory, name = split_place(url)
    with reported(url, as_json=context.as_json):
        place = await beside(partial(UrlPlace, directory))
    with _temporary_folder(context) as folder:
        local = os.path.join(folder, name)
        facts = await _save_to_file(context, local, stale=stale, without=without)
        with reported(url, as_json=context.as_json):
            await beside(partial(place.store, local, name, facts.sha256))
            line = _sum_line(facts.sha256, local)
            # Last: a file without its sum was not completed.
            await beside(partial(place.store, local + SUM_SUFFIX, name + SUM_SUFFIX, hashlib.sha256(line).hexdigest()))
    return facts


@contextlib.contextmanager
def _temporary_folder(context: Context) -> Iterator[str]:
    """A directory for a copy, of this user alone. It is removed at the end."""
    with reported(tempfile.tempdir or "TMPDIR", as_json=context.as_json):
        folder = tempfile.TemporaryDirectory(prefix="syncline-backup-")
    with folder as path:
        yield path


@contextlib.contextmanager
def fetched(path: str) -> Iterator[str]:
    """A local file with the content of a path or URL. A URL's copy is removed at the end."""
    if not is_url(path):
        yield path
        return
    directory, name = split_place(path)
    place = UrlPlace(directory)
    with tempfile.TemporaryDirectory(prefix="syncline-backup-") as folder:
        local = os.path.join(folder, name)
        place.fetch(name, local)
        if place.exists(name + SUM_SUFFIX):
            place.fetch(name + SUM_SUFFIX, local + SUM_SUFFIX)
        yield local


async def _receive(context: Context, disk: OsDisk, part: str, *, stale: bool) -> str:
    """Write what the server streams to a file, durably; its SHA-256."""
    digest, offset, unsynced = hashlib.sha256(), 0, 0
    with reported(part, as_json=context.as_json):
        target = disk.open(part, create=True, write=True)
        try:
            async with make_client(context) as client:
                async for piece in read_backup(client, stale=stale, timeout_s=context.timeout_s or TIMEOUT_S):
                    target.write_at(offset, piece)
                    digest.update(piece)
                    offset += len(piece)
                    unsynced += len(piece)
                    if unsynced >= WRITE_BYTES:
                        target.sync()
                        unsynced = 0
            target.sync()
        finally:
            target.close()
    return digest.hexdigest()


def _reduce(disk: OsDisk, part: str, without: Collection[str]) -> None:
    """Replace a file by one without some parts."""
    reduced = part + REDUCED_SUFFIX
    try:
        with contextlib.suppress(FileNotFoundError):
            disk.remove(reduced)
        reduce_backup(disk, part, reduced, without=without)
        disk.rename(reduced, part)
    finally:
        with contextlib.suppress(FileNotFoundError):
            disk.remove(reduced)


def _sum_line(digest: str, file: str) -> bytes:
    return f"{digest}  {os.path.basename(file)}\n".encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def reported(file: str, *, as_json: bool) -> Iterator[None]:
    """Errors as failures of the command."""
    try:
        yield
    except Failure as failure:
        failure.as_json = as_json
        raise
    except CorruptionError as error:  # of the backup: no data directory needs a repair
        told = str(error) if file in str(error) else f"{shown(file)}: {error}"
        raise Failure(told, EXIT_FAILED, code="corruption_error", as_json=as_json) from error
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    except OSError as error:
        text = f"{shown(str(error.filename or file))}: {error.strerror or error}"
        raise Failure(text, EXIT_FAILED, as_json=as_json) from error
