"""The command `backup`: `save` from any server while writes go on, `verify` a file, `restore` it as a new cluster."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from syncline.cli.common import Context, client_command, make_client
from syncline.cli.exits import EXIT_FAILED, EXIT_USAGE, Failure, failure_of
from syncline.cli.output import print_json, print_line
from syncline.client.backup import read_backup
from syncline.errors import CorruptionError, SynclineError
from syncline.kv.backups import SUM_SUFFIX, BackupFacts, restore_backup, verify_backup
from syncline.platform.disk import OsDisk
from syncline.storage.atomic_file import replace_file

__all__ = ["backup"]

TIMEOUT_S: Final = 10.0
PART_SUFFIX: Final = ".part"
WRITE_BYTES: Final = 8 << 20
"""A file is synced as it grows: one large sync at its end could take minutes."""


class SavedDocument(msgspec.Struct, frozen=True):
    """The document of `save` and `verify` with `--json`."""

    file: str
    revision: int
    keys: int
    leases: int
    users: int
    size_bytes: int
    sha256: str


@click.group("backup", short_help="Save the state of a cluster, check a backup, begin a new cluster from one.")
def backup() -> None:
    """Save the whole state of a cluster to a file, check such a file, or begin a new cluster from one."""


@backup.command("save", short_help="Save the whole state at one revision to a file.")
@client_command
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--stale", is_flag=True, help="From the state of one server as it is, without a quorum.")
async def save(context: Context, *, file: str, stale: bool) -> None:
    """Save the whole state of the store at one revision to FILE, from any server, while writes go on.

    It holds keys, history, leases and users, with the hashes of their passwords: guard it as you guard the data. The
    file is checked as a whole before it gets its name. Its SHA-256 stands in FILE.sha256.
    """
    disk = OsDisk()
    if disk.exists(file):
        raise Failure(f"{file} exists: name another file", EXIT_USAGE, as_json=context.as_json)
    part = file + PART_SUFFIX
    try:
        digest = await _receive(context, disk, part, stale=stale)
        with _reported(file, as_json=context.as_json):
            facts = verify_backup(disk, part)
            assert facts.sha256 == digest, "the file that was written is the one that was read"
            line = f"{digest}  {os.path.basename(file)}\n".encode()
            # First: after a crash in between there is a sum without a file, and no file without its sum.
            replace_file(disk, file + SUM_SUFFIX, line)
            disk.rename(part, file)
            disk.sync_dir(os.path.dirname(file) or ".")
    finally:
        with contextlib.suppress(FileNotFoundError):
            disk.remove(part)
    _show(file, facts, as_json=context.as_json)


async def _receive(context: Context, disk: OsDisk, part: str, *, stale: bool) -> str:
    """Write what the server streams to a file, durably; its SHA-256."""
    with contextlib.suppress(FileNotFoundError):
        disk.remove(part)
    digest, offset, unsynced = hashlib.sha256(), 0, 0
    with _reported(part, as_json=context.as_json):
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


@backup.command("verify", short_help="Check every byte of a backup.")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(*, file: str, as_json: bool) -> None:
    """Read FILE as a whole and check every byte: checksums, the digest of the state, and FILE.sha256 if it is there.

    Exit status 0 if it is sound, 1 if it is not.
    """
    with _reported(file, as_json=as_json):
        facts = verify_backup(OsDisk(), file)
        _show(file, facts, as_json=as_json)


@backup.command("restore", short_help="Begin a new cluster from a backup.")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--data-dir", required=True, type=click.Path(file_okay=False), help="A new directory, for the first node."
)
@click.option("--name", required=True, help="Name of the first node.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(*, file: str, data_dir: str, name: str, as_json: bool) -> None:
    """Make DATA-DIR that of the first node of a new cluster, with the state of the backup FILE.

    The cluster has a new id. Revisions go on far above those of the backup. Start the node with the same name, then
    each other one with an empty directory and '--join'.
    """
    path = data_dir.rstrip("/") or data_dir
    with _reported(file, as_json=as_json):
        restored = restore_backup(OsDisk(), file, path, name=name, rng=random.SystemRandom())
    if as_json:
        print_json(restored)
        return
    print_line(f"{path}: node {name} of the new cluster {restored.cluster_id}, at revision {restored.revision}")
    print_line("Start it by `syncline serve`. Then start each other node with an empty directory and `--join`.")


@contextlib.contextmanager
def _reported(file: str, *, as_json: bool) -> Iterator[None]:
    """Errors as failures of the command."""
    try:
        yield
    except CorruptionError as error:  # of the backup: no data directory needs a repair
        raise Failure(str(error), EXIT_FAILED, code="corruption_error", as_json=as_json) from error
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    except OSError as error:
        raise Failure(f"{error.filename or file}: {error.strerror or error}", EXIT_FAILED, as_json=as_json) from error


def _show(file: str, facts: BackupFacts, *, as_json: bool) -> None:
    if as_json:
        print_json(
            SavedDocument(file, facts.revision, facts.keys, facts.leases, facts.users, facts.size_bytes, facts.sha256)
        )
        return
    print_line(
        f"{file}: revision {facts.revision}, {facts.keys} keys, {facts.leases} leases, {facts.users} users,"
        f" {facts.size_bytes} bytes, SHA-256 {facts.sha256}"
    )
