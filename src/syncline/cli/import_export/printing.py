"""What copies print: a bar, how far an interrupted copy came, and the report."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import click

from syncline.cli.common import Context
from syncline.cli.exits import EXIT_FAILED, Failure, failure_of, one_line
from syncline.cli.import_export.work import CopyProgress, CopyReport, Problem
from syncline.cli.output import json_key, print_json, print_line, shown
from syncline.cli.streams import acknowledged, say
from syncline.errors import OperationError
from syncline.platform.texts import counted

__all__ = ["shown_progress", "tell_report", "told_how_far"]

PROBLEMS_SHOWN: Final = 20
"""Problems that are printed one by one; --json lists more."""


class _Silent:
    def advance(self, size_bytes: int) -> None:
        pass


@contextmanager
def shown_progress(title: str, total: int, unit: str, *, quiet: bool) -> Iterator[CopyProgress]:
    """A bar on a terminal's error output; nothing if the error output is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield _Silent()
        return
    from syncline.cli.import_export.progress import bar

    with bar(title, total, unit) as progress:
        yield progress


@contextmanager
def told_how_far(context: Context, done: Callable[[], int], unit: str) -> Iterator[None]:
    """Add to an error or interruption of the whole how many files or keys (`unit`) were done before it."""
    try:
        yield
    except asyncio.CancelledError:  # Ctrl-C: `asyncio.run` cancels the work
        say(f"syncline: interrupted; {_were(done(), unit)} done before it, run it again for the rest")
        raise
    except OperationError as error:
        more = f"; {_were(done(), unit)} done before it, run it again for the rest"
        raise failure_of(error, as_json=context.as_json, more=more) from error


def tell_report(
    context: Context, report: CopyReport, lines: list[str], fields: Mapping[str, object], *, unit: str, done: str
) -> None:
    """Print the report: `lines`, or `fields` and the problems as JSON. Raise `Failure` if something was not copied."""
    with acknowledged():
        if context.as_json:
            print_json(
                {
                    **fields,
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
            for line in lines:
                print_line(line)
    if report.failed_count:
        raise Failure(f"{_were(report.failed_count, unit)} not {done}", EXIT_FAILED, as_json=context.as_json)


def _were(count: int, unit: str) -> str:
    return f"{counted(count, unit.removesuffix('s'))} {'was' if count == 1 else 'were'}"


def _tell_problems(what: str, problems: list[Problem], count: int) -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{what}: {shown(problem.name)}: {one_line(problem.reason)}", err=True)
    if count > PROBLEMS_SHOWN:
        click.echo(f"{what}: {count - PROBLEMS_SHOWN} more (--json lists them)", err=True)


def _json_problem(problem: Problem) -> dict[str, str]:
    return {**json_key("name", problem.name), "reason": problem.reason}
