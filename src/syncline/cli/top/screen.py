"""The screen of `top`: a table that fits the terminal, drawn in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from syncline.cli.exits import one_line
from syncline.cli.output import shown
from syncline.cli.survey import MemberRow, Survey
from syncline.cli.top.numbers import NodeNumbers
from syncline.platform.texts import counted

__all__ = ["ENTER", "LEAVE", "drawn", "lines_of"]

TITLES: Final = (
    *("NODE", "ROLE", "TERM", "LAG", "REQ/S", "WRITE/S", "MEAN", "P99", "SYNC", "LOOP", "CPU", "CONN", "WATCH"),
    "KEYS",
)
LEFT: Final = ("NODE", "ROLE")
DROPPED: Final = ("WATCH", "KEYS", "CONN", "TERM", "CPU", "SYNC", "MEAN", "WRITE/S", "LOOP", "P99", "REQ/S", "LAG")
"""The columns that a narrow terminal has no room for, in this order."""

GAP: Final = 2
LONGEST_NAME: Final = 20

ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""Keep what the terminal shows, and hide the cursor."""
LEAVE: Final = "\x1b[?25h\x1b[?1049l"
"""As it was."""


def lines_of(survey: Survey, numbers: dict[str, NodeNumbers], *, width: int, every_s: float) -> list[str]:
    """The lines: a heading, the table, and what is wrong. None is wider than `width`."""
    rows = [_cells(row, numbers.get(row.id or "", NodeNumbers())) for row in survey.members]
    reached = sum(row.reachable for row in survey.members)
    head = f"{shown(survey.cluster.encode()) or survey.cluster_id}: leader {survey.leader or 'none'},"
    head += f" {reached} of {counted(len(rows), 'node')} {'answers' if reached == 1 else 'answer'}, every {every_s:g} s"
    lines = [head, "", *_table(rows, width)]
    for row in survey.members:
        if row.error is not None:
            lines.append(f"{row.name or row.http}: {one_line(row.error)}")
        elif row.fault:
            lines.append(f"{row.name}: not healthy: {one_line(row.fault)}")
    if survey.leader is None:
        lines.append(f"no leader: {one_line(survey.no_leader or 'no quorum of the voters is reachable')}")
    return [_cut(line, width) for line in lines]


def drawn(lines: Sequence[str], height: int) -> str:
    """The lines as the terminal's next picture: from its top, without a blink. What has no room is left out."""
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines[: max(1, height - 1)]) + "\x1b[J"


def _table(rows: list[dict[str, str]], width: int) -> list[str]:
    titles = list(TITLES)
    sizes = {title: max([len(title), *(len(row[title]) for row in rows)]) for title in TITLES}
    for title in DROPPED:
        if sum(sizes[one] + GAP for one in titles) - GAP <= width:
            break
        titles.remove(title)
    lines = []
    for row in ({title: title for title in TITLES}, *rows):
        cells = [
            row[title].ljust(sizes[title]) if title in LEFT else row[title].rjust(sizes[title]) for title in titles
        ]
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def _cells(row: MemberRow, numbers: NodeNumbers) -> dict[str, str]:
    return {
        "NODE": _cut(shown((row.name or row.http or "?").encode()), LONGEST_NAME),
        "ROLE": row.role or "unreachable",
        "TERM": _number(row.term),
        "LAG": _number(row.lag),
        "REQ/S": _rate(numbers.requests),
        "WRITE/S": _rate(numbers.writes),
        "MEAN": _time(numbers.mean_s),
        "P99": _bound(numbers.p99_s),
        "SYNC": _time(numbers.sync_s),
        "LOOP": _time(numbers.loop_lag_s),
        "CPU": "-" if numbers.cpu is None else f"{numbers.cpu:.0%}",
        "CONN": _number(numbers.connections),
        "WATCH": _number(numbers.watchers),
        "KEYS": _number(numbers.keys),
    }


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.1f}s"


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if math.isinf(seconds):
        return ">10s"
    return f"<{seconds * 1000:g}ms" if seconds < 1 else f"<{seconds:g}s"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
