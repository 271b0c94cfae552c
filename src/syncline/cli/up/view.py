"""Output of `up`: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import shlex
import sys
from typing import Final, Protocol

from syncline.cli.output import json_text, print_line
from syncline.cli.up.plan import DEFAULT_PORT, UpPlan, command_line
from syncline.cli.up.pulse import NewLeader
from syncline.cli.up.supervisor import GUARDED, GUARDED_NOTE, UpNode
from syncline.platform.texts import counted

__all__ = ["JsonView", "PlainView", "UpView", "console_url", "how_to_go_on", "how_to_use", "what_to_do"]


ALIVE: Final = frozenset({"leader", "follower", "learner", "candidate", GUARDED})
"""States of a node that answers."""

ENOUGH: Final = 3
"""With so many nodes one may be killed."""


class UpView(Protocol):
    """Shows a running cluster."""

    def show(self, nodes: list[UpNode], pulse: str = "") -> None:
        """The nodes as they are now, and the line about all of them; called about twice a second."""
        ...

    def ready(self, plan: UpPlan, nodes: list[UpNode]) -> None:
        """There is a leader and all nodes are up, for the first time."""
        ...

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        """A node ended by itself. `restart` is the command that starts it again, `repair` the one that replaces it if
        its data
        is damaged; each is empty if there is none.
        """
        ...

    def new_leader(self, change: NewLeader) -> None:
        """Another node leads, or the same one in another term."""
        ...

    def stopped(self, data_dir: str, again: str) -> None:
        """The nodes are stopped. `again` is the command that starts the cluster again."""
        ...

    def say(self, line: str) -> None:
        """Show another line."""
        ...

    def close(self) -> None: ...


def console_url(plan: UpPlan, nodes: list[UpNode]) -> str:
    """The web console, on the first node that answers. What is behind the # never leaves the browser."""
    node = next((node for node in nodes if node.state in ALIVE), nodes[0])
    return f"{node.http}/console/{f'#lab={plan.lab_token}' if plan.lab_token else ''}"


def how_to_use(plan: UpPlan, nodes: list[UpNode], *, width: int | None = None) -> list[str]:
    """A few commands to begin with. They use nodes that answer, and keep to `width` as far as possible."""
    alive = [node for node in nodes if node.state in ALIVE]
    if not alive:
        return [command_line("status")]
    urls = [node.http for node in alive]
    export = "export SYNCLINE_ENDPOINTS="
    while width is not None and len(urls) > 1 and len(export + ",".join(urls)) > width:
        urls.pop()  # any of them will do
    leaders = [
        f"kill -9 {node.pid}   # {node.name}, the leader: the others go on"
        for node in alive
        if node.state == "leader" and len(alive) >= ENOUGH
    ]
    curl = f"curl --cacert {shlex.quote(plan.authority_path)}" if plan.tls else "curl"
    return [
        f"{curl} -X PUT {alive[0].http}/key/hello -d world",
        f"{curl} {alive[-1].http}/key/hello",
        *([f"export SYNCLINE_CACERT={shlex.quote(plan.authority_path)}"] if plan.tls else []),
        *([] if plan.port == DEFAULT_PORT and not plan.tls else [export + ",".join(urls)]),
        command_line("put", "greeting", "hello"),
        command_line("get", "greeting"),
        *leaders,
        command_line("status"),
    ]


def what_to_do(restart: str, repair: str) -> list[str]:
    """The next step after a node has ended."""
    if repair:
        return [f"  to replace it, after which it is started again by itself: {repair}"]
    return [f"  to start it again: {restart}"] if restart else []


def how_to_go_on(data_dir: str, again: str) -> list[str]:
    """At the end: the data directory, and the command to start again."""
    return [f"the data are in {data_dir}", f"to start it again: {again}"]


class PlainView:
    """Plain lines: the table once, then the changes."""

    def __init__(self) -> None:
        self._before: dict[str, UpNode] = {}
        self._ready = False

    def show(self, nodes: list[UpNode], pulse: str = "") -> None:  # noqa: ARG002 - for a terminal alone
        for node in nodes:
            before = self._before.get(node.name)
            self._before[node.name] = node
            if self._ready and before is not None and (before.state, before.pid) != (node.state, node.pid):
                self._tell_change(node)

    def ready(self, plan: UpPlan, nodes: list[UpNode]) -> None:
        self._ready = True
        self.say(f"console: {console_url(plan, nodes)}")
        width = max(len(node.http) for node in nodes)
        for node in nodes:
            row = f"{node.name:<4} {node.state:<9} {node.http:<{width}}  peers {node.peer}"
            self.say(f"{row}  {node.note}" if node.state == "ended" else f"{row}  pid {node.pid}")
        if any(node.state == GUARDED for node in nodes):
            self.say(f"{GUARDED}: the node serves; {GUARDED_NOTE}")
        ended = sum(node.state == "ended" for node in nodes)
        number = f"{len(nodes) - ended} of " if ended else ""
        self.say(
            f"ready: {number}{counted(len(nodes), 'node')}, data in {plan.data_dir}, logs in {plan.data_dir}/<name>/log"
        )
        for line in how_to_use(plan, nodes):
            self.say(f"  {line}")

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        for line in (f"{name} {reason}", *what_to_do(restart, repair)):
            self.say(line)

    def new_leader(self, change: NewLeader) -> None:
        self.say(change.line)

    def stopped(self, data_dir: str, again: str) -> None:
        for line in how_to_go_on(data_dir, again):
            self.say(line)

    def say(self, line: str) -> None:
        print_line(line)
        sys.stdout.flush()

    def close(self) -> None:
        pass

    def _tell_change(self, node: UpNode) -> None:
        if node.state in {"ended", "stopped", "leader"}:
            return  # `ended`, `stopped` and `new_leader` print these
        term = f" (term {node.term})" if node.term is not None else ""
        by_hand = f", pid {node.pid}, started by hand" if node.by_hand else ""
        self.say(f"{node.name} is {node.state}{term}{by_hand}{f': {node.note}' if node.note else ''}")


class JsonView:
    """One JSON object per line; `event` names its kind."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[str, int | None]] = {}
        self._ready = False

    def show(self, nodes: list[UpNode], pulse: str = "") -> None:  # noqa: ARG002 - for a terminal alone
        for node in nodes:
            now = (node.state, node.pid)
            if self._ready and self._before.get(node.name) != now:
                self._tell("node", {"node": node})
            self._before[node.name] = now

    def ready(self, plan: UpPlan, nodes: list[UpNode]) -> None:
        self._ready = True
        self._tell(
            "ready",
            {
                "console": console_url(plan, nodes),
                "endpoints": plan.endpoints,
                "data_dir": plan.data_dir,
                "nodes": nodes,
            },
        )

    def ended(self, name: str, reason: str, *, restart: str, repair: str) -> None:
        self._tell("ended", {"name": name, "reason": reason, "restart": restart, "repair": repair})

    def new_leader(self, change: NewLeader) -> None:
        self._tell("leader", {"name": change.name, "term": change.term, "before": change.before})

    def stopped(self, data_dir: str, again: str) -> None:
        self._tell("stopped", {"data_dir": data_dir, "again": again})

    def say(self, line: str) -> None:
        self._tell("note", {"message": line})

    def close(self) -> None:
        pass

    def _tell(self, event: str, fields: dict[str, object]) -> None:
        print_line(json_text({"event": event, **fields}))
        sys.stdout.flush()
