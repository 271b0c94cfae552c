"""`import` and `export`: a directory's files as keys, and back; keys from an etcd cluster, and to one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from syncline.cli.common import Context, client_command, make_client
from syncline.cli.import_export.copy import (
    EXPORT_CONCURRENCY,
    IMPORT_CONCURRENCY,
    TreeReport,
    copy_in,
    copy_out,
    survey,
)
from syncline.cli.import_export.etcd_command import EtcdOptions, etcd_options, export_to_etcd, import_from_etcd
from syncline.cli.import_export.printing import shown_progress, tell_report, told_how_far
from syncline.platform.texts import counted

__all__ = ["export_tree", "import_tree"]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE_TIMEOUT_S: Final = 60.0
"""For one file, retries included: longer than an election, so that the loss of the leader doesn't end an import."""

_prefix = click.option("--prefix", default="", help="What every key begins with, such as 'site/'.")


def _concurrency(files: int) -> Callable[[Command], Command]:
    return click.option(
        "--concurrency", type=click.IntRange(1, 256), default=files, show_default=True, help="Files at a time."
    )


@click.command("import", short_help="Store a directory's files, or the keys of an etcd cluster, as keys.")
@client_command
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False))
@_prefix
@_concurrency(IMPORT_CONCURRENCY)
@click.option("--from-etcd", metavar="URL,…", help="Copy the keys and leases of this etcd cluster instead.")
@etcd_options
async def import_tree(
    context: Context,
    *,
    directory: str | None,
    prefix: str,
    concurrency: int,
    from_etcd: str | None,
    etcd_user: str | None,
    etcd_cacert: str | None,
    etcd_cert: str | None,
    etcd_key_file: str | None,
) -> None:
    """Store every regular file below DIRECTORY: its relative path is the key, its bytes are the value.

    Symbolic links, pipes, sockets and devices are skipped and reported, empty directories are not kept. A file that
    can't be stored is reported and the others go on; the exit status is 1 then. Running it again is harmless.

    With --from-etcd, copy the keys of an etcd cluster that begin with --prefix, as they are at one revision, with their
    leases. Revisions and versions are not kept, and the time of each lease begins again.
    """
    options = EtcdOptions(etcd_user, etcd_cacert, etcd_cert, etcd_key_file)
    _check_one(directory, from_etcd, options, "--from-etcd")
    start = _bytes(prefix)
    if from_etcd is not None:
        await import_from_etcd(context, from_etcd, start, options)
        return
    assert directory is not None
    root = os.fsencode(directory)
    files = await asyncio.to_thread(survey, root)
    report = TreeReport()
    async with make_client(context, timeout_s=FILE_TIMEOUT_S, patient=True) as client:
        bar = shown_progress("Importing", files, "files", quiet=context.as_json)
        with bar as progress, told_how_far(context, lambda: report.files, "files"):
            await copy_in(client, root, start, progress, report, concurrency=concurrency)
    _tell(context, report, "imported")


@click.command("export", short_help="Write keys to a directory as files, or to an etcd cluster.")
@client_command
@click.argument("directory", required=False, type=click.Path(file_okay=False))
@_prefix
@_concurrency(EXPORT_CONCURRENCY)
@click.option(
    "--consistency",
    type=click.Choice(["linearizable", "leader", "stale"]),
    help="How fresh each key must be.  [default: linearizable]",
)
@click.option("--to-etcd", metavar="URL,…", help="Copy the keys and leases to this etcd cluster instead.")
@etcd_options
async def export_tree(
    context: Context,
    *,
    directory: str | None,
    prefix: str,
    concurrency: int,
    consistency: str | None,
    to_etcd: str | None,
    etcd_user: str | None,
    etcd_cacert: str | None,
    etcd_cert: str | None,
    etcd_key_file: str | None,
) -> None:
    """Write every key (below --prefix, which is taken off) to a file below DIRECTORY, which is made if need be.

    Files are replaced one by one, each atomically; other files in DIRECTORY stay. A key that can't be a file (an
    absolute path, `..`, an empty part, a key that is a directory of other keys) is reported and the others go on; the
    exit status is 1 then.

    With --to-etcd, copy the keys that begin with --prefix (which stays), as they are at one revision, with their
    leases. Revisions and versions are not kept, and the time of each lease begins again.
    """
    options = EtcdOptions(etcd_user, etcd_cacert, etcd_cert, etcd_key_file)
    _check_one(directory, to_etcd, options, "--to-etcd")
    start = _bytes(prefix)
    if to_etcd is not None:
        await export_to_etcd(context, to_etcd, start, options, consistency=consistency)
        return
    assert directory is not None
    root = os.fsencode(directory)
    try:
        os.makedirs(root, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"can't make {directory}: {error.strerror}") from error
    report = TreeReport()
    async with make_client(context, timeout_s=FILE_TIMEOUT_S, patient=True) as client:
        keys = await client.count(start, consistency=consistency)
        bar = shown_progress("Exporting", keys, "files", quiet=context.as_json)
        with bar as progress, told_how_far(context, lambda: report.files, "files"):
            await copy_out(client, root, start, progress, report, consistency=consistency, concurrency=concurrency)
    _tell(context, report, "exported")


def _check_one(directory: str | None, etcd: str | None, options: EtcdOptions, option: str) -> None:
    """Refuse two places, none, and options that the one place does not have."""
    if (directory is None) == (etcd is None):
        raise click.UsageError(f"give DIRECTORY or {option} URL: one of both")
    if etcd is None and options != EtcdOptions():
        raise click.UsageError(f"the options --etcd-… go with {option}")
    chosen = click.get_current_context().get_parameter_source("concurrency") is not ParameterSource.DEFAULT
    if etcd is not None and chosen:
        raise click.UsageError(f"--concurrency counts files: it can't be given with {option}")


def _tell(context: Context, report: TreeReport, done: str) -> None:
    line = f"{done} {counted(report.files, 'file')}, {counted(report.size_bytes, 'byte')}"
    tell_report(context, report, [line], {done: report.files}, unit="files", done=done)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
