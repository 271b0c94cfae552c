"""The table of `status` for people: it fits the terminal; problems are listed below it."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from syncline.cli.exits import one_line
from syncline.cli.output import print_line, print_table
from syncline.cli.survey import MemberRow, Survey

__all__ = ["clear_screen", "print_survey"]

WIDTH: Final = 80
"""Columns, if the output is no terminal with a width of its own."""

NARROWEST_CELL: Final = 12
"""A name or URL is not cut below that."""

GAP: Final = 2
DIGEST_DIGITS: Final = 8
"""Digits shown of the 32: enough to see that two digests differ."""

TITLES: Final = ("NAME", "ROLE", "HTTP", "TERM", "LAG", "DIGEST", "PID")
WIDE_TITLES: Final = (
    *("NAME", "ROLE", "HTTP", "PEER", "TERM", "COMMIT", "APPLIED", "LAG", "REVISION", "DIGEST", "PID", "ID"),
    "DATA",
)
CUT: Final = ("HTTP", "NAME")
"""Columns that are cut if the table is too wide."""


def print_survey(survey: Survey, *, wide: bool = False) -> None:
    """Print the table, then a line for each problem."""
    titles = WIDE_TITLES if wide else TITLES
    rows = [_cells(row, titles) for row in survey.members]
    width = _width()
    print_table(titles, rows if wide else _fitted(titles, rows, width))
    for line in _lines(survey):
        parts = textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
        for part in parts if sys.stdout.isatty() else [line]:  # other programs search for whole lines
            print_line(part)


def clear_screen() -> None:
    """Clear the terminal and begin at its top. Nothing happens if the output is none, or can't move its cursor."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        sys.stdout.write("\x1b[H\x1b[2J")
        sys.stdout.flush()


def _width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def _cells(row: MemberRow, titles: Sequence[str]) -> list[str]:
    digest = None if row.digest is None else row.digest[:DIGEST_DIGITS]
    values = {
        "NAME": row.name, "ROLE": row.role or ("unreachable" if row.error else None), "HTTP": row.http,
        "PEER": row.peer, "TERM": row.term, "COMMIT": row.commit, "APPLIED": row.applied, "LAG": row.lag,
        "REVISION": row.revision, "DIGEST": digest, "PID": row.pid, "ID": row.id, "DATA": row.data_dir,
    }  # fmt: skip
    return ["-" if values[title] in {None, ""} else str(values[title]) for title in titles]


def _fitted(titles: Sequence[str], rows: list[list[str]], width: int) -> list[list[str]]:
    """The rows with their longest cells cut, as far as that is needed for the width."""
    for title in CUT:
        at = titles.index(title)
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        excess = sum(widths) + GAP * (len(widths) - 1) - width
        if excess > 0:
            room = max(NARROWEST_CELL, widths[at] - excess)
            for row in rows:
                row[at] = row[at] if len(row[at]) <= room else row[at][: room - 1] + "…"
    return rows


def _lines(survey: Survey) -> Iterator[str]:
    for row in survey.members:
        if row.fault:
            yield f"{row.name}: not healthy: {one_line(row.fault)}"
        if row.error is not None:
            name = row.name or row.http or ""
            yield one_line(row.error if not row.name and name in row.error else f"{name}: {row.error}")
        elif not row.member:
            yield f"{row.name}: answers, but is not a member of the cluster"
    if any(row.digest_agreement == "no_majority" for row in survey.members):
        yield "the voters' states differ, and no majority agrees: see docs/digest.md"
    if survey.leader is None:
        why = one_line(survey.no_leader or "no quorum of the voters is reachable")
        yield f"no leader, so that writes and linearizable reads wait: {why}"
