"""`import` and `export`: a directory's files as keys, and back."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from syncline.cli.common import Context, client_command, make_client
from syncline.cli.exits import EXIT_FAILED, Failure, failure_of, one_line
from syncline.cli.import_export.copy import CONCURRENCY, CopyProgress, Problem, TreeReport, copy_in, copy_out, survey
from syncline.cli.output import json_key, print_json, print_line, shown
from syncline.cli.streams import acknowledged, say
from syncline.errors import OperationError

__all__ = ["export_tree", "import_tree"]

FILE_TIMEOUT_S: Final = 60.0
"""For one file, retries included: longer than an election, so that the loss of the leader doesn't end an import."""

PROBLEMS_SHOWN: Final = 20
"""Problems that are printed one by one; --json lists more."""

_prefix = click.option("--prefix", default="", help="What every key begins with, such as 'site/'.")
_concurrency = click.option(
    "--concurrency", type=click.IntRange(1, 256), default=CONCURRENCY, show_default=True, help="Files at a time."
)


@click.command("import", short_help="Store a directory's files as keys.")
@client_command
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@_prefix
@_concurrency
async def import_tree(context: Context, *, directory: str, prefix: str, concurrency: int) -> None:
    """Store every regular file below DIRECTORY: its relative path is the key, its bytes are the value.

    Symbolic links, pipes, sockets and devices are skipped and reported, empty directories are not kept. A file that
    can't be stored is reported and the others go on; the exit status is 1 then. Running it again is harmless.
    """
    root = os.fsencode(directory)
    files = await asyncio.to_thread(survey, root)
    report = TreeReport()
    async with make_client(context, timeout_s=FILE_TIMEOUT_S, patient=True) as client:
        with _progress("Importing", files, quiet=context.as_json) as progress, _told_how_far(context, report):
            await copy_in(client, root, _bytes(prefix), progress, report, concurrency=concurrency)
    _tell(context, report, "imported")


@click.command("export", short_help="Write keys to a directory as files.")
@client_command
@click.argument("directory", type=click.Path(file_okay=False))
@_prefix
@_concurrency
@click.option(
    "--consistency",
    type=click.Choice(["linearizable", "leader", "stale"]),
    help="How fresh each key must be.  [default: linearizable]",
)
async def export_tree(
    context: Context, *, directory: str, prefix: str, concurrency: int, consistency: str | None
) -> None:
    """Write every key (below --prefix, which is taken off) to a file below DIRECTORY, which is made if need be.

    Files are replaced one by one, each atomically; other files in DIRECTORY stay. A key that can't be a file (an
    absolute path, `..`, an empty part, a key that is a directory of other keys) is reported and the others go on; the
    exit status is 1 then.
    """
    root = os.fsencode(directory)
    try:
        os.makedirs(root, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"can't make {directory}: {error.strerror}") from error
    start = _bytes(prefix)
    report = TreeReport()
    async with make_client(context, timeout_s=FILE_TIMEOUT_S, patient=True) as client:
        keys = await client.count(start, consistency=consistency)
        with _progress("Exporting", keys, quiet=context.as_json) as progress, _told_how_far(context, report):
            await copy_out(client, root, start, progress, report, consistency=consistency, concurrency=concurrency)
    _tell(context, report, "exported")


class _Silent:
    def advance(self, size_bytes: int) -> None:
        pass


@contextmanager
def _progress(title: str, files: int, *, quiet: bool) -> Iterator[CopyProgress]:
    """A bar on a terminal's error output; nothing if the error output is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield _Silent()
        return
    from syncline.cli.import_export.progress import bar

    with bar(title, files) as progress:
        yield progress


@contextmanager
def _told_how_far(context: Context, report: TreeReport) -> Iterator[None]:
    """Add to an error or interruption of the whole how many files were done before it."""
    try:
        yield
    except asyncio.CancelledError:  # Ctrl-C: `asyncio.run` cancels the work
        say(f"syncline: interrupted; {report.files} files were done before it, run it again for the rest")
        raise
    except OperationError as error:
        done = f"; {report.files} files were done before it, run it again for the rest"
        raise failure_of(error, as_json=context.as_json, more=done) from error


def _tell(context: Context, report: TreeReport, done: str) -> None:
    with acknowledged():
        _print_report(context, report, done)
    if report.failed_count:
        raise Failure(f"{report.failed_count} files were not {done}", EXIT_FAILED, as_json=context.as_json)


def _print_report(context: Context, report: TreeReport, done: str) -> None:
    if context.as_json:
        print_json(
            {
                done: report.files,
                "size_bytes": report.size_bytes,
                "skipped_count": report.skipped_count,
                "failed_count": report.failed_count,
                "skipped": [_json_problem(problem) for problem in report.skipped],
                "failed": [_json_problem(problem) for problem in report.failed],
            }
        )
    else:
        _tell_problems("skipped", report.skipped, report.skipped_count)
        _tell_problems("failed", report.failed, report.failed_count)
        print_line(f"{done} {report.files} files, {report.size_bytes} bytes")


def _tell_problems(what: str, problems: list[Problem], count: int) -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{what}: {shown(problem.name)}: {one_line(problem.reason)}", err=True)
    if count > PROBLEMS_SHOWN:
        click.echo(f"{what}: {count - PROBLEMS_SHOWN} more (--json lists them)", err=True)


def _json_problem(problem: Problem) -> dict[str, str]:
    return {**json_key("name", problem.name), "reason": problem.reason}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
