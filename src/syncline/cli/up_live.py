"""The live table of `up` on a terminal: the only place that loads rich for it."""

from __future__ import annotations

from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syncline.cli.up_plan import Plan
from syncline.cli.up_supervisor import NodeView
from syncline.cli.up_view import how_to_use, what_to_do

__all__ = ["LiveView"]

_STYLES: Final = {
    "leader": "bold green",
    "follower": "green",
    "learner": "cyan",
    "candidate": "yellow",
    "starting": "dim",
    "unreachable": "red",
    "ended": "bold red",
}


class LiveView:
    """A table that stays current, with what happened above it and how to use the cluster below it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._below: list[str] = []
        self._shown: list[NodeView] = []
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def show(self, nodes: list[NodeView]) -> None:
        if nodes == self._shown:
            return  # nothing to draw: an idle cluster leaves the terminal alone
        self._shown = nodes
        self._live.update(Group(_table(nodes), *map(Text, self._below)), refresh=True)

    def ready(self, plan: Plan, nodes: list[NodeView]) -> None:
        self._below = [
            f"Data in {plan.data_dir}, logs in {plan.data_dir}/<name>/log. Ctrl-C stops all nodes.",
            "In another shell:",
            *(f"  {line}" for line in how_to_use(plan)),
        ]
        self._shown = []
        self.show(nodes)

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        for line in (f"{name} {reason}", *what_to_do(restart, repair)):
            self.say(line)

    def say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _table(nodes: list[NodeView]) -> Table:
    table = Table()
    for title in ("node", "role", "clients", "peers", "term", "applied", "pid"):
        table.add_column(title, justify="right" if title in {"term", "applied", "pid"} else "left")
    for node in nodes:
        numbers = ["" if number is None else str(number) for number in (node.term, node.applied, node.pid)]
        role = Text(node.state, style=_STYLES.get(node.state, ""))
        table.add_row(node.name, role, node.http, node.peer, *numbers)
    return table
