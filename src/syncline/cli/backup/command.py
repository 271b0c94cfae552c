"""The command `backup`: `save` from any server while writes go on, `verify` a file, `restore` it as a new cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from syncline.cli.backup.places import beside, place_of, shown, split_place, without_slash
from syncline.cli.backup.saving import fetched, reported, save_backup
from syncline.cli.backup.schedule import BackupPlan, Retention, run_schedule, save_one
from syncline.cli.common import TTL, Context, Duration, client_command
from syncline.cli.exits import EXIT_INTERRUPTED, EXIT_USAGE, Failure
from syncline.cli.output import print_json, print_line
from syncline.kv.backup_parts import PARTS
from syncline.kv.backups import BackupFacts, restore_backup, verify_backup
from syncline.platform.disk import OsDisk
from syncline.platform.texts import counted

__all__ = ["backup"]

DEFAULT_KEEP: Final = 48
DEFAULT_EVERY: Final = "1h"
LEAST_EVERY_S: Final = 1.0

_without = click.option(
    "--without",
    multiple=True,
    type=click.Choice(PARTS),
    help="Leave out users (with roles and tokens), or leases (with their keys). May be given twice.",
)
_stale = click.option("--stale", is_flag=True, help="From the state of one server as it is, without a quorum.")


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
    """Save the whole state of a cluster to a file, check such a file, or begin a new cluster from one.

    FILE is a path, or a URL of fsspec such as s3://bucket/monday.backup, with the extra 'fsspec'.
    """


@backup.command("save", short_help="Save the whole state at one revision to a file.")
@client_command
@click.argument("file")
@_stale
@_without
async def save(context: Context, *, file: str, stale: bool, without: tuple[str, ...]) -> None:
    """Save the whole state of the store at one revision to FILE, from any server, while writes go on.

    It holds keys, history, leases and users, with the hashes of their passwords: guard it as you guard the data. The
    file is checked as a whole before it gets its name. Its SHA-256 stands in FILE.sha256. For a URL it is saved to a
    temporary file first (TMPDIR), and read again where it was copied to.
    """
    directory, name = split_place(file)
    with reported(file, as_json=context.as_json):
        if await beside(lambda: place_of(directory).exists(name)):
            raise Failure(f"{shown(file)} exists: name another file", EXIT_USAGE)
    with _until_sigterm(context):
        facts = await save_backup(context, file, stale=stale, without=without)
    _show(file, facts, as_json=context.as_json)


@backup.command("schedule", short_help="Save backups at intervals, and remove old ones.")
@client_command
@click.argument("target")
@click.option(
    "--every",
    "every_s",
    type=Duration(),
    default=DEFAULT_EVERY,
    metavar="TIME",
    help="From one to the next: 30m, 6h; at most a day.  [default: 1h]",
)
@click.option("--once", is_flag=True, help="Save one, remove old ones, and end: for cron, timers and CronJobs.")
@click.option(
    "--keep", type=click.IntRange(1, 100_000), default=DEFAULT_KEEP, show_default=True, help="Keep so many of them."
)
@click.option("--keep-for", "keep_for_s", type=TTL, metavar="TIME", help="Keep younger ones as well: 720h.")
@click.option("--prefix", default="syncline", show_default=True, help="How their names begin.")
@_stale
@_without
async def schedule(
    context: Context,
    *,
    target: str,
    every_s: float,
    once: bool,
    keep: int,
    keep_for_s: float | None,
    prefix: str,
    stale: bool,
    without: tuple[str, ...],
) -> None:
    """Save backups to the directory or URL TARGET at intervals, until SIGTERM or Ctrl-C.

    Their names are PREFIX-CLUSTERID-YYYYMMDDTHHMMSSZ.backup. After each one the old ones of this cluster are removed:
    those that are neither among the newest (--keep) nor young (--keep-for). A backup that fails removes nothing, and is
    tried again a minute later. Other files in TARGET stay, also backups of other clusters.
    """
    if every_s < LEAST_EVERY_S:
        raise click.UsageError(f"--every is {every_s:g} s: the least is {LEAST_EVERY_S:g} s, since names have seconds")
    if not prefix or "/" in prefix:
        raise click.UsageError(f"--prefix is {prefix!r}: it is the begin of a file's name")
    plan = BackupPlan(without_slash(target), prefix, Retention(keep, keep_for_s or 0.0), stale, without)
    if once:
        with _until_sigterm(context):
            await save_one(context, plan, _now)
    else:
        await run_schedule(context, plan, every_s, _now)


@contextlib.contextmanager
def _until_sigterm(context: Context) -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C: what was received so far, with the hashes of passwords, is removed."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    except asyncio.CancelledError as error:
        raise Failure("interrupted: no backup was made", EXIT_INTERRUPTED, as_json=context.as_json) from error
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _now() -> datetime:
    return datetime.now(UTC)


@backup.command("verify", short_help="Check every byte of a backup.")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(*, file: str, as_json: bool) -> None:
    """Read FILE as a whole and check every byte: checksums, the digest of the state, and FILE.sha256 if it is there.

    Exit status 0 if it is sound, 1 if it is not.
    """
    with reported(file, as_json=as_json), fetched(file) as local:
        facts = verify_backup(OsDisk(), local)
        _show(file, facts, as_json=as_json)


@backup.command("restore", short_help="Begin a new cluster from a backup.")
@click.argument("file")
@click.option(
    "--data-dir", required=True, type=click.Path(file_okay=False), help="A new directory, for the first node."
)
@click.option("--name", required=True, help="Name of the first node.")
@_without
@click.option("--open-access", is_flag=True, help="Without users: let clients do everything without credentials.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(*, file: str, data_dir: str, name: str, without: tuple[str, ...], open_access: bool, as_json: bool) -> None:
    """Make DATA-DIR that of the first node of a new cluster, with the state of the backup FILE.

    The cluster has a new id. Revisions go on far above those of the backup. Start the node with the same name, then
    each other one with an empty directory and '--join'. If clients of the cluster needed credentials, those of the new
    one do, too: to leave out the users takes --open-access.
    """
    path = data_dir.rstrip("/") or data_dir
    with reported(file, as_json=as_json), fetched(file) as local:
        rng = random.SystemRandom()
        restored = restore_backup(OsDisk(), local, path, name=name, rng=rng, without=without, open_access=open_access)
    if as_json:
        print_json(restored)
        return
    print_line(f"{path}: node {name} of the new cluster {restored.cluster_id}, at revision {restored.revision}")
    needed = "the credentials of the backup's" if restored.credentials else "no credentials"
    print_line(f"Its clients need {needed}.")
    print_line("Start it by `syncline serve`. Then start each other node with an empty directory and `--join`.")


def _show(file: str, facts: BackupFacts, *, as_json: bool) -> None:
    file = shown(file)
    if as_json:
        print_json(
            SavedDocument(file, facts.revision, facts.keys, facts.leases, facts.users, facts.size_bytes, facts.sha256)
        )
        return
    print_line(
        f"{file}: revision {facts.revision}, {counted(facts.keys, 'key')},"
        f" {counted(facts.leases, 'lease')}, {counted(facts.users, 'user')},"
        f" {facts.size_bytes} bytes, SHA-256 {facts.sha256}"
    )
