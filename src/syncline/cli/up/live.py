"""The live table of `up` on a terminal. Loads rich, which is slow, only for it."""

from __future__ import annotations

from collections import deque
from typing import Final

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syncline.cli.up.plan import UpPlan
from syncline.cli.up.pulse import NewLeader
from syncline.cli.up.supervisor import UpNode
from syncline.cli.up.view import console_url, how_to_go_on, how_to_use, what_to_do

__all__ = ["LiveView"]

_STYLES: Final = {
    "leader": "bold green",
    "follower": "green",
    "learner": "cyan",
    "candidate": "yellow",
    "starting": "dim",
    "stopped": "dim",
    "unreachable": "red",
    "ended": "bold red",
}

TITLES: Final = ("node", "role", "clients", "term", "lag", "revision", "pid")
LEFT: Final = ("node", "role", "clients")
NEEDED_WIDTH: Final = {"revision": 76, "lag": 66, "term": 58}
"""Columns that a terminal must have for these to be shown: the most important ones stay whole."""

LINES_KEPT: Final = 10
"""Lines printed above the table that are printed again after the screen was cleared."""

INDENT: Final = "  "


class LiveView:
    """A table that stays current, with events above it and useful commands below it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._plan: UpPlan | None = None
        self._end: list[str] = []
        self._nodes: list[UpNode] = []
        self._shown: object = None
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        self._width = self._console.width
        self._live = self._new_live()

    def show(self, nodes: list[UpNode], pulse: str = "") -> None:
        width = self._console.width
        if width != self._width:
            self._width = width
            self._begin_again()
        self._nodes = nodes
        now = (nodes, pulse, width, self._plan)
        if now == self._shown:
            return  # nothing to draw: an idle cluster leaves the terminal alone
        self._shown = now
        lines = [*([pulse] if pulse else []), *self._below()]
        self._live.update(Group(_table(nodes, width), *map(Text, lines)), refresh=True)

    def ready(self, plan: UpPlan, nodes: list[UpNode]) -> None:
        self._plan = plan
        self.show(nodes)

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        for line in (f"{name} {reason}", *what_to_do(restart, repair)):
            self.say(line)

    def new_leader(self, change: NewLeader) -> None:
        self.say(change.line)

    def stopped(self, data_dir: str, again: str) -> None:
        self._plan = None  # nothing is there to be asked any more
        self._end = how_to_go_on(data_dir, again)
        self.show(self._nodes)

    def say(self, line: str) -> None:
        self._said.append(line)
        self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()
        for line in self._end:  # below the last frame, in which a long command would be broken
            self._console.print(Text(line), soft_wrap=True)

    def _below(self) -> list[str]:
        plan = self._plan
        if plan is None:
            return []
        return [
            f"Console: {console_url(plan, self._nodes)}",
            f"Data in {plan.data_dir}, logs in {plan.data_dir}/<name>/log. Ctrl-C stops all nodes.",
            "In another shell:",
            *(INDENT + line for line in how_to_use(plan, self._nodes, width=self._width - len(INDENT))),
        ]

    def _new_live(self) -> Live:
        live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        live.start()
        return live

    def _begin_again(self) -> None:
        """Draw again after a change of the width: the terminal broke the lines, so the old table can't be found."""
        self._live.transient = True
        self._live.stop()
        self._console.control(Control.clear(), Control.home())
        for line in self._said:
            self._console.print(Text(line), soft_wrap=True)
        self._live = self._new_live()


def _table(nodes: list[UpNode], width: int) -> Table:
    """The table without lines between the columns, so that it fits 80 columns. A narrower terminal gets fewer
    columns.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shown = [title for title in TITLES if NEEDED_WIDTH.get(title, 0) <= width]
    for title in shown:
        table.add_column(title, justify="left" if title in LEFT else "right", no_wrap=True)
    for node in nodes:
        numbers = {"term": node.term, "lag": node.lag, "revision": node.revision, "pid": node.pid}
        texts = {title: "" if number is None else str(number) for title, number in numbers.items()}
        texts |= {"node": node.name, "role": node.state, "clients": node.http}
        table.add_row(
            *(Text(texts[title], style=_STYLES.get(node.state, "") if title == "role" else "") for title in shown)
        )
    return table
