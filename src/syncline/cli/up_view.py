"""How `up` shows its cluster: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import sys
from typing import Protocol

from syncline.cli.output import json_text, print_line
from syncline.cli.up_plan import Plan, command_line
from syncline.cli.up_supervisor import NodeView

__all__ = ["JsonView", "PlainView", "View", "how_to_use", "make_view", "what_to_do"]


class View(Protocol):
    """What is told of a running cluster."""

    def show(self, nodes: list[NodeView]) -> None:
        """The nodes as they are now; called about once a second."""
        ...

    def ready(self, plan: Plan, nodes: list[NodeView]) -> None:
        """There is a leader and all nodes are up, for the first time."""
        ...

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        """A node ended without having been told to. `restart` is the command that starts it again, `repair` the one
        that replaces it where its data is damaged; empty where there is none."""
        ...

    def say(self, line: str) -> None:
        """Something else to know."""
        ...

    def close(self) -> None: ...


def make_view(*, as_json: bool) -> View:
    if as_json:
        return JsonView()
    if sys.stdout.isatty():
        from syncline.cli.up_live import LiveView

        return LiveView()
    return PlainView()


def how_to_use(plan: Plan) -> list[str]:
    """A few commands to begin with."""
    first, last = plan.nodes[0].http_url, plan.nodes[-1].http_url
    standard = [] if plan.port == 8080 else [f"export SYNCLINE_ENDPOINTS={plan.endpoints}"]
    return [
        f"curl -X PUT {first}/key/hello -d world",
        f"curl {last}/key/hello",
        *standard,
        command_line("put", "greeting", "hello"),
        command_line("get", "greeting"),
        command_line("status"),
    ]


def what_to_do(restart: str, repair: str) -> list[str]:
    """About a node that has ended."""
    if repair:
        return [f"  to replace it, after which it is started again by itself: {repair}"]
    return [f"  to start it again: {restart}"] if restart else []


class PlainView:
    """Lines: the table once, then what changes."""

    def __init__(self) -> None:
        self._before: dict[str, NodeView] = {}
        self._ready = False

    def show(self, nodes: list[NodeView]) -> None:
        for node in nodes:
            before = self._before.get(node.name)
            self._before[node.name] = node
            if self._ready and before is not None and (before.state, before.pid) != (node.state, node.pid):
                self._tell_change(node)

    def ready(self, plan: Plan, nodes: list[NodeView]) -> None:
        self._ready = True
        width = max(len(node.http) for node in nodes)
        for node in nodes:
            self.say(f"{node.name:<4} {node.state:<9} {node.http:<{width}}  peers {node.peer}  pid {node.pid}")
        self.say(f"ready: {len(nodes)} nodes, data in {plan.data_dir}, logs in {plan.data_dir}/<name>/log")
        for line in how_to_use(plan):
            self.say(f"  {line}")

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        for line in (f"{name} {reason}", *what_to_do(restart, repair)):
            self.say(line)

    def say(self, line: str) -> None:
        print_line(line)
        sys.stdout.flush()

    def close(self) -> None:
        pass

    def _tell_change(self, node: NodeView) -> None:
        if node.state == "ended":
            return  # told with its reason by `ended`
        term = f" (term {node.term})" if node.term is not None else ""
        by_hand = f", pid {node.pid}, started by hand" if node.by_hand else ""
        self.say(f"{node.name} is {node.state}{term}{by_hand}{f': {node.note}' if node.note else ''}")


class JsonView:
    """One JSON object a line, told apart by `event`."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[str, int | None]] = {}
        self._ready = False

    def show(self, nodes: list[NodeView]) -> None:
        for node in nodes:
            now = (node.state, node.pid)
            if self._ready and self._before.get(node.name) != now:
                self._tell("node", {"node": node})
            self._before[node.name] = now

    def ready(self, plan: Plan, nodes: list[NodeView]) -> None:
        self._ready = True
        self._tell("ready", {"endpoints": plan.endpoints, "data_dir": plan.data_dir, "nodes": nodes})

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        self._tell("ended", {"name": name, "reason": reason, "restart": restart, "repair": repair})

    def say(self, line: str) -> None:
        self._tell("note", {"message": line})

    def close(self) -> None:
        pass

    def _tell(self, event: str, fields: dict[str, object]) -> None:
        print_line(json_text({"event": event, **fields}))
        sys.stdout.flush()
