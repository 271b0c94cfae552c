"""The command `top`."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import click

from syncline.cli.announced import asks_members, for_member
from syncline.cli.common import Context, Duration, client_command, make_client
from syncline.cli.exits import one_line
from syncline.cli.output import print_json, print_line
from syncline.cli.status_view import WIDTH
from syncline.cli.survey import STATUS_TIMEOUT_S, Survey, survey_of
from syncline.cli.top.numbers import Metrics, NodeNumbers, numbers_between, parse_metrics
from syncline.cli.top.screen import drawn, lines_of
from syncline.cli.top.terminal import TopTerminal, is_terminal, opened_terminal
from syncline.client.metrics import read_metrics
from syncline.errors import OperationError

__all__ = ["top"]

EVERY_S: Final = 2.0
ONCE_S: Final = 1.0
"""Between the two readings of --once: a rate needs two."""

LEAST_S: Final = 0.2
"""Each picture asks each node twice."""


@click.command("top", short_help="Show what the nodes do, live: rates, latency, lag.")
@client_command
@asks_members
@click.option("--every", "every_s", type=Duration(), metavar="TIME", default=EVERY_S, help="How often.  [default: 2s]")
@click.option("--once", is_flag=True, help="Print it once, without a terminal's controls.")
async def top(context: Context, *, every_s: float, once: bool) -> None:
    """Show each node: role, term and lag; requests and writes per second, their latency, and the loop's lag.

    On a terminal it is drawn again every 2 s until q or Ctrl-C. Without one, or with --once or --json, it is printed
    once. MEAN and P99 are of the requests since the last picture. SYNC is the mean time of a sync of the log, and LOOP
    how late the node's event loop is.
    """
    if every_s < LEAST_S:
        raise click.UsageError(f"--every must be {LEAST_S:g}s or more")
    view = _Readings(context)
    if once or context.as_json or not is_terminal():
        await view.read()
        await asyncio.sleep(ONCE_S)
        survey, numbers = await view.read()
        if context.as_json:
            print_json({"cluster": survey.cluster, "leader": survey.leader, "members": _documents(survey, numbers)})
            return
        for line in lines_of(survey, numbers, width=1000 if not sys.stdout.isatty() else WIDTH, every_s=ONCE_S):
            print_line(line)
        return
    await view.read()  # what is wrong with the arguments is told before the screen is taken
    with opened_terminal() as terminal:
        await _draw(view, terminal, every_s)


async def _draw(view: _Readings, terminal: TopTerminal, every_s: float) -> None:
    while not terminal.quits:
        try:
            survey, numbers = await view.read()
            size = terminal.size()
            lines = lines_of(survey, numbers, width=size.columns, every_s=every_s)
        except OperationError as error:
            size = terminal.size()
            lines = [one_line(str(error))[: size.columns]]
        terminal.shows(drawn([*lines, "", "q quits"], size.lines))
        await terminal.wait(every_s)


class _Readings:
    """The last reading of each node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last: dict[str, Metrics] = {}

    async def read(self) -> tuple[Survey, dict[str, NodeNumbers]]:
        """Ask all nodes. Raises `OperationError` if none answers."""
        survey = await survey_of(self._context)
        found = [(row.id, row.http) for row in survey.members if row.reachable and row.id and row.http]
        readings = await asyncio.gather(*(self._metrics(url) for _, url in found))
        now = {node: reading for (node, _), reading in zip(found, readings, strict=True) if reading is not None}
        numbers = {node: numbers_between(self._last.get(node), reading) for node, reading in now.items()}
        self._last = now
        return survey, numbers

    async def _metrics(self, url: str) -> Metrics | None:
        async with make_client(for_member(self._context, url), timeout_s=STATUS_TIMEOUT_S) as client:
            try:
                text = await read_metrics(client, timeout_s=STATUS_TIMEOUT_S)
            except OperationError:
                return None  # it has ended since it was asked for its status, or shows no metrics to this user
        return parse_metrics(text, asyncio.get_running_loop().time())


def _documents(survey: Survey, numbers: dict[str, NodeNumbers]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for row in survey.members:
        own = numbers.get(row.id or "", NodeNumbers())
        fields = {name: getattr(own, name) for name in own.__struct_fields__}
        fields = {name: None if value == float("inf") else value for name, value in fields.items()}
        known = {"name": row.name, "id": row.id, "role": row.role, "term": row.term, "lag": row.lag}
        found.append({**known, "reachable": row.reachable, **fields})
    return found
