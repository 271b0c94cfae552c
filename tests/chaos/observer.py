"""Looks at the nodes all the time, and compares what they say of themselves with what Raft promises.

Election safety (one leader a term), no step back of a node's term, of its commit and applied index while it runs, or,
restarts included, of what it shows to readers; one digest for one revision on all of them: what chapter 3 of Ongaro's
thesis proves and what the server promises, as far as anybody can see it from outside.
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
NEVER_BACK: Final = ("commit", "applied", "revision")
"""While it runs. Started again, a node may know a little less than it did, and shows it to nobody (see
`node/recovery_barrier.py`). Its term is a promise and never goes back."""


class Observer:
    """One look at each node every `LOOK_S`, as long as it runs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last: dict[str, NodeStatus] = {}
        self._shown: dict[str, int] = {}
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
        async with AsyncClient(node.url, timeout=ANSWER_S, retry_refused=False) as client:
            while True:
                await asyncio.sleep(LOOK_S)
                label = node.label
                try:
                    status = await client.status()
                    if node.label == label:  # else it may be of the node before or of the one after
                        self.seen(label, status)
                    page = await client.list(limit=1, consistency="stale")
                    if node.label == label:
                        self.shown(label, page.revision)
                except OperationError:
                    continue  # down, stopped, cut off, or not sure: it says nothing

    def seen(self, label: str, status: NodeStatus) -> None:
        """Judge one look at the node with this label."""
        last = self._last.get(label, status)
        for name in ("term", *(NEVER_BACK if last.pid == status.pid else ())):
            self._check_no_way_back(label, name, getattr(last, name), getattr(status, name))
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

    def shown(self, label: str, revision: int) -> None:
        """Judge the revision at which the node answered a stale read."""
        self._check_no_way_back(label, "shown revision", self._shown.get(label, 0), revision)
        self._shown[label] = revision

    def _check_no_way_back(self, label: str, name: str, before: int, now: int) -> None:
        if now < before:
            self.anomalies.append(f"the {name} of {label} went back from {before} to {now}")
