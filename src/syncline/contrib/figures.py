"""A node's figures and a client's retries, for systems that collect metrics from other threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from syncline.errors import OperationError, SynclineError
from syncline.node.role import Role
from syncline.node.stats import Stats

__all__ = ["FIGURES", "Figure", "HasStats", "RetryCounter", "StatsSource", "member_figures"]

Kind: TypeAlias = Literal["gauge", "counter"]

ANSWER_S: Final = 2.0
"""A node whose event loop is busy for longer has no figures to tell."""

SILENT_S: Final = 1.0
"""So long a node that has not answered is not asked again: one collection asks for each of its figures."""

MOST_CODES: Final = 50
"""Codes of errors that a counter tells apart: there are fewer."""


class HasStats(Protocol):
    """A node: `Raft`, or a blocking one."""

    def stats(self) -> Stats: ...


class Figure(msgspec.Struct, frozen=True):
    """One figure of `Stats`: the name that the server's `/metrics` has for it, too."""

    field: str
    name: str
    kind: Kind
    help: str


FIGURES: Final = (
    Figure("term", "syncline_raft_term", "gauge", "The term that the node is in."),
    Figure("commit", "syncline_raft_commit_index", "gauge", "The commit index."),
    Figure("applied", "syncline_raft_applied_index", "gauge", "The applied index."),
    Figure("first_index", "syncline_raft_first_index", "gauge", "The first index of the log."),
    Figure("last_index", "syncline_raft_last_index", "gauge", "The last index of the log."),
    Figure("snapshot_index", "syncline_raft_snapshot_index", "gauge", "The index of the newest snapshot."),
    Figure("lag", "syncline_raft_lag_entries", "gauge", "Entries that are committed and not applied here yet."),
    Figure("proposals_pending", "syncline_server_proposals_pending", "gauge", "Commands under way."),
    Figure("proposals_failed", "syncline_server_proposals_failed_total", "counter", "Commands that failed."),
    Figure("reads_pending", "syncline_server_reads_pending", "gauge", "Reads under way."),
    Figure("leader_changes", "syncline_server_leader_changes_seen_total", "counter", "Changes of the leader."),
    Figure("snapshots_taken", "syncline_server_snapshots_taken_total", "counter", "Snapshots that were written."),
    Figure("snapshots_installed", "syncline_server_snapshots_installed_total", "counter", "Snapshots of the leader."),
    Figure("log_bytes", "syncline_disk_wal_bytes", "gauge", "The size of the log on disk."),
    Figure("log_syncs", "syncline_disk_wal_fsyncs_total", "counter", "Syncs of the log."),
    Figure("log_sync_s", "syncline_disk_wal_fsync_seconds_total", "counter", "Seconds from queueing to durability."),
    Figure("loop_lag_s", "syncline_server_loop_lag_seconds", "gauge", "How late the node's last tick was."),
    Figure("messages_refused", "syncline_raft_messages_refused_total", "counter", "Messages that were refused."),
    Figure("disk_shortage", "syncline_disk_shortage", "gauge", "How short of space the disk is: 0 not, 1, 2."),
    Figure("sessions", "syncline_sessions", "gauge", "Open sessions."),
)

ROLES: Final[tuple[Role, ...]] = ("leader", "follower", "candidate", "learner", "stopped")


def member_figures(stats: Stats) -> Iterator[tuple[str, int, bool]]:
    """Of a leader: each member's id (16 hexadecimal digits), its lag in entries, and whether it is heard."""
    for member, progress in stats.progress.items():
        yield f"{member:016x}", progress.lag, progress.active


class StatsSource:
    """Figures of a node, for any thread. Made in a coroutine, it asks the node on the event loop of that coroutine."""

    def __init__(self, node: HasStats) -> None:
        self._node = node
        self._ask_at_s = 0.0
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None  # a blocking node: it may be asked by any thread

    def read(self) -> Stats | None:
        """The figures; None if the node is closed, or its loop does not answer within 2 s."""
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        try:
            if self._loop is None or running is self._loop:
                return self._node.stats()
            if time.monotonic() < self._ask_at_s:
                return None
            return self._asked(self._loop).result(ANSWER_S)
        except NoAnswer:
            self._ask_at_s = time.monotonic() + SILENT_S
            return None
        except (RuntimeError, SynclineError):  # RuntimeError: the loop is closed
            return None

    def _asked(self, loop: asyncio.AbstractEventLoop) -> Future[Stats]:
        answer: Future[Stats] = Future()

        def ask() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(self._node.stats())
            except Exception as error:  # noqa: BLE001 - it is the other thread's
                answer.set_exception(error)

        loop.call_soon_threadsafe(ask)
        return answer


class RetryCounter:
    """Counts the attempts of a client that failed and were repeated, by the code of their error.

    counter = RetryCounter()
    kv = Client("http://10.0.0.1:8080", on_retry=counter)
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counts: dict[str, int] = {}

    def __call__(self, error: OperationError) -> None:
        """Count one."""
        code = error.code or type(error).__name__
        with self._guard:
            if code not in self._counts and len(self._counts) >= MOST_CODES:
                code = "other"
            self._counts[code] = self._counts.get(code, 0) + 1

    def counts(self) -> dict[str, int]:
        """What was counted, by code."""
        with self._guard:
            return dict(self._counts)
