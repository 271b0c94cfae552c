"""Shortages of a node, for its operators: disk space, the store's limit, a disk that does not answer."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from syncline.kv.machine import KvMachine
from syncline.node.config import Config
from syncline.node.stats import Stats

__all__ = ["Shortages"]

NEARLY_FULL: Final = 0.95
"""Share of the store's limit: above it the next large put is refused."""

REMEMBERED_S: Final = 60.0
"""How long probes report a refusal for lack of space: they come more often than puts."""

DISK_SPACE: Final = "disk_space"
STORE_SPACE: Final = "store_space"


class ReportingNode(Protocol):
    """The parts of a node that are checked."""

    @property
    def config(self) -> Config: ...

    def stats(self) -> Stats: ...


class Shortages:
    """Shortages of one node, computed at each call."""

    def __init__(self, node: ReportingNode, machine: KvMachine) -> None:
        self._node = node
        self._machine = machine
        self._loop = asyncio.get_running_loop()
        self._refused_s: float | None = None
        self._refused_bytes = 0

    def refused(self) -> None:
        """The leader has refused a put because the store has reached its limit."""
        self._refused_s = self._loop.time()
        self._refused_bytes = self._machine.size_bytes

    @property
    def disk_stall(self) -> str:
        """The reason why the disk can't be relied on; empty if it answers."""
        waits_s = self._node.stats().log_waits_s
        if waits_s < self._node.config.election_s:
            return ""
        return (
            f"the disk hangs: a write to the log in {self._node.config.data_dir} has waited for {waits_s:.1f} s; this"
            " node gives up the leadership. Look at the disk and at the kernel's log"
        )

    def found(self) -> dict[str, str]:
        """By check, the reason of the shortage and the next step; empty texts if nothing is short."""
        return {DISK_SPACE: self._disk_space(), STORE_SPACE: self._store_space()}

    def _disk_space(self) -> str:
        shortage = self._node.stats().disk_shortage
        if not shortage:
            return ""
        refused = "puts are refused, and entries of a leader too" if shortage > 1 else "puts are or may soon be refused"
        return (
            f"disk_full: the disk of {self._node.config.data_dir} is down to its reserve: {refused}. Delete keys, make"
            " room on the disk, or start with a smaller --reserve-bytes"
        )

    def _store_space(self) -> str:
        machine = self._machine
        size_bytes, max_bytes = machine.size_bytes, machine.max_bytes
        if not max_bytes or not (size_bytes >= max_bytes * NEARLY_FULL or self._was_refused(size_bytes)):
            return ""
        return (
            f"no_space: the store counts for {size_bytes} of {max_bytes} bytes: puts that do not fit are refused."
            " Delete keys, or raise --max-store-bytes on all nodes"
        )

    def _was_refused(self, size_bytes: int) -> bool:
        """Whether a put was refused of late, and nothing has been deleted since."""
        if self._refused_s is None or size_bytes < self._refused_bytes:
            return False
        return self._loop.time() - self._refused_s < REMEMBERED_S
