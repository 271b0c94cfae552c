"""How full each limit of a server is, from 0 to 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from syncline.kv.limits import MAX_LEASES
from syncline.kv.machine import KvMachine
from syncline.kv.watch_hub import WatchHub
from syncline.node.stats import Stats
from syncline.platform.memory import memory_bytes
from syncline.platform.process import process_figures
from syncline.server.auth.user_requests import UserRequests
from syncline.server.http.limits import HttpLimits
from syncline.server.metrics import Registry, Sample
from syncline.sessions.table import Limits

__all__ = ["RESOURCES", "LimitedHttp", "add_saturation_metrics"]

RESOURCES: Final = (
    *("proposals", "backlog", "sessions", "leases", "store"),
    *("connections", "requests", "held_bytes", "watches", "watch_unread_bytes", "descriptors", "memory"),
    *("user_requests", "user_write_bytes", "user_watches"),
)
"""What has a limit. A resource without one, on this node, is left out."""


class LimitedHttp(Protocol):
    """What an HTTP server uses of its limits."""

    @property
    def connection_count(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def limits(self) -> HttpLimits: ...


class LimitedNode(Protocol):
    """The figures of a node."""

    def stats(self) -> Stats: ...


def add_saturation_metrics(
    registry: Registry,
    node: LimitedNode,
    machine: KvMachine,
    http: LimitedHttp,
    watches: WatchHub,
    users: UserRequests,
) -> None:
    """Add the used share of each limit. Above 1 is possible for a moment: some limits are checked before the use."""
    sessions, memory = Limits().sessions, memory_bytes()

    def usages() -> Iterator[tuple[str, float, float]]:
        stats, process = node.stats(), process_figures()
        yield "proposals", stats.proposals_bytes, stats.proposals_max_bytes
        yield "backlog", stats.lag, stats.backlog_max_entries
        yield "sessions", stats.sessions, sessions
        yield "leases", len(machine.store.leases), MAX_LEASES
        yield "store", machine.size_bytes, machine.max_bytes
        yield "connections", http.connection_count, http.limits.max_connections
        yield "requests", http.requests, http.limits.max_requests
        yield "held_bytes", http.held_bytes, http.limits.max_total_held_bytes
        yield "watches", len(watches), watches.limits.max_watches
        yield "watch_unread_bytes", watches.unread_bytes, watches.limits.max_total_unread_bytes
        yield "descriptors", process.open_descriptors or 0, process.max_descriptors or 0
        yield "memory", process.resident_bytes or 0, memory
        # Of the user that has most: a label for each user would have no bound.
        yield "user_requests", max(users.running.values(), default=0), users.limit
        yield "user_write_bytes", max(users.proposed_bytes.values(), default=0), users.limit_bytes
        yield "user_watches", watches.most_user_watches, watches.limits.max_user_watches

    def samples() -> list[Sample]:
        return [((name,), used / limit) for name, used, limit in usages() if limit]

    text = "Used share of a limit, from 0 to 1, by resource. At 1 requests are refused, or clients are turned away."
    registry.computed("gauge", "syncline_saturation_ratio", text, ("resource",), samples)
