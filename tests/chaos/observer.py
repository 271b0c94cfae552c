"""Looks at the nodes all the time, and compares what they say of themselves with what Raft promises.

Election safety (one leader a term), no step back of term, commit, applied index or revision on any node, restarts
included, and one digest for one revision on all of them: what §3 of Ongaro's thesis proves and anybody can see from
outside.
"""

from __future__ import annotations

import asyncio
from typing import Final

from syncline.client import AsyncClient, NodeStatus
from syncline.errors import OperationError
from tests.chaos.fleet import ChaosNode, Fleet

__all__ = ["Observer"]

LOOK_S: Final = 0.25
ANSWER_S: Final = 0.5
NEVER_BACK: Final = ("term", "commit", "applied", "revision")


class Observer:
    """One look at each node every `LOOK_S`, as long as it runs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last: dict[str, NodeStatus] = {}
        self._leaders: dict[int, str] = {}
        self._digests: dict[int, tuple[str, str]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.anomalies: list[str] = []

    @property
    def elections(self) -> int:
        """How many leaders were seen, each with its own term. Short reigns may have been missed."""
        return len(self._leaders)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._look_at(node)) for node in self._fleet.nodes]

    async def stop(self) -> None:
        """End. Raises what ended it before, if anything did."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _look_at(self, node: ChaosNode) -> None:
        async with AsyncClient(node.url, timeout_s=ANSWER_S, retry_refused=False) as client:
            while True:
                await asyncio.sleep(LOOK_S)
                label = node.label
                try:
                    status = await client.status()
                except OperationError:
                    continue  # down, stopped or cut off: it says nothing
                if node.label == label:  # else it may be of the node before or of the one after
                    self.seen(label, status)

    def seen(self, label: str, status: NodeStatus) -> None:
        """Judge one look at the node with this label."""
        last = self._last.get(label)
        if last is not None:
            for name in NEVER_BACK:
                before, now = getattr(last, name), getattr(status, name)
                if now < before:
                    self.anomalies.append(f"the {name} of {label} went back from {before} to {now}")
        self._last[label] = status
        if status.role == "leader":
            leader = self._leaders.setdefault(status.term, status.id)
            if leader != status.id:
                self.anomalies.append(f"two leaders in term {status.term}: {leader} and {status.id} ({label})")
        digest, first = self._digests.setdefault(status.revision, (status.digest, label))
        if digest != status.digest:
            self.anomalies.append(
                f"at revision {status.revision} {label} has digest {status.digest}, and {first} had {digest}"
            )
