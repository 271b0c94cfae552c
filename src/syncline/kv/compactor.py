"""Automatic compaction: the leader keeps the history of the store within its limits, each node frees the memory.

The leader proposes `Compact` with its term; it takes effect in an entry of that term alone. So the settings of the
leader count, and all nodes can read the same revisions. The oldest readable revision moves at once; what is below it is
freed in small steps, by writes, or by the sweep here while there are none.

If the disk of the leader's log is short of space, it gives up more, and takes a snapshot afterwards: before that no
delete frees space on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

from syncline.errors import NodeFailed, OperationError, StorageError
from syncline.kv.commands import Compact, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.observers import on_loop

__all__ = ["DEFAULT_HISTORY_BYTES", "DEFAULT_HISTORY_REVISIONS", "Compactor"]

DEFAULT_HISTORY_REVISIONS: Final = 100_000
"""Revisions that can be read."""
DEFAULT_HISTORY_BYTES: Final = 64 * 1024 * 1024
"""Bytes of older versions."""

SLACK: Final = 10
"""The history grows by a tenth above a limit before it is compacted to the limit: one entry for thousands of writes."""

SHORTAGE_SHARE: Final = 100
"""If the disk is short of space, a hundredth of the history is kept: enough for clients that resume at once."""

LOOK_S: Final = 1.0
"""How often a node looks at its disk, and for something to sweep."""

PAUSE_S: Final = 0.1
"""Between two looks at the history while it is above a limit: the search for the revision takes some time."""

RETRY_S: Final = 1.0
"""After a proposal that failed."""

PROPOSAL_S: Final = 5.0
SNAPSHOT_S: Final = 600.0

SWEEP_CHANGES: Final = 500
"""Changes that are freed in one turn of the loop: about half a millisecond."""
SWEEP_PAUSE_S: Final = 0.005


class DiskFigures(Protocol):
    """The figure of a node that the compactor needs."""

    @property
    def disk_shortage(self) -> int:
        """Above 0: the disk of the log is short of space."""
        ...


class CompactingHandle(Protocol):
    """The methods of `Raft` that the compactor uses."""

    @property
    def is_leader(self) -> bool: ...

    def stats(self) -> DiskFigures: ...

    def apply(
        self, data: bytes, *, timeout: float, term: int | None = None, frees_space: bool = False
    ) -> Awaitable[object]: ...

    async def verify_leader(self, *, timeout: float) -> int: ...

    async def snapshot(self, *, timeout: float) -> object: ...


class Compactor:
    """The compactor of one node. Made on the event loop; `start` it when the node is open, `close` it before that."""

    def __init__(
        self,
        raft: CompactingHandle,
        machine: KvMachine,
        *,
        history_revisions: int = DEFAULT_HISTORY_REVISIONS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> None:
        assert history_revisions > 0
        assert history_bytes >= 0
        self._raft = raft
        self._machine = machine
        self._revisions = history_revisions
        self._bytes = history_bytes
        self._most_revisions = history_revisions + max(1, history_revisions // SLACK)
        self._most_bytes = history_bytes + max(1, history_bytes // SLACK)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._again_s = 0.0
        self._closed = False
        self.compactions: int = 0
        """Compactions that this node has proposed, and that were applied."""

    def start(self) -> None:
        """Take up the work."""
        self._machine.observe(on_loop(self._changed))
        self._timer = self._loop.call_later(LOOK_S, self._look)

    async def close(self) -> None:
        """End the work. What was proposed goes on."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _changed(self) -> None:
        """After each apply that changed the store: it must be cheap, and must not raise."""
        store = self._machine.store
        if store.history_revisions > self._most_revisions or store.history_bytes > self._most_bytes:
            self._compact(self._revisions, self._bytes)

    def _look(self) -> None:
        """From time to time: look at the disk, and free memory that no write frees."""
        if self._raft.is_leader:
            if self._raft.stats().disk_shortage > 0:
                few = max(1, self._revisions // SHORTAGE_SHARE), self._bytes // SHORTAGE_SHARE
                self._compact(*few, frees_disk=True)
            else:
                self._changed()
        more = self._machine.store.sweep(SWEEP_CHANGES)
        self._timer = self._loop.call_later(SWEEP_PAUSE_S if more else LOOK_S, self._sweep if more else self._look)

    def _sweep(self) -> None:
        if self._machine.store.sweep(SWEEP_CHANGES):
            self._timer = self._loop.call_later(SWEEP_PAUSE_S, self._sweep)
        else:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _compact(self, revisions: int, size_bytes: int, *, frees_disk: bool = False) -> None:
        """Propose to keep so much, if that is less than there is."""
        now_s = self._loop.time()
        if self._task is not None or self._closed or now_s < self._again_s or not self._raft.is_leader:
            return
        self._again_s = now_s + PAUSE_S
        if self._machine.store.compaction_target(revisions, size_bytes) > self._machine.store.oldest:
            self._task = self._loop.create_task(self._propose(revisions, size_bytes, frees_disk=frees_disk))
            self._task.add_done_callback(self._done)

    async def _propose(self, revisions: int, size_bytes: int, *, frees_disk: bool) -> None:
        try:
            term = await self._raft.verify_leader(timeout=PROPOSAL_S)
            store = self._machine.store
            target = store.compaction_target(revisions, size_bytes)
            if target > store.oldest:
                command = encode_command(Compact(target, term))
                await self._raft.apply(command, timeout=PROPOSAL_S, term=term, frees_space=True)
                self.compactions += 1
                if frees_disk:
                    await self._raft.snapshot(timeout=SNAPSHOT_S)
        except (OperationError, StorageError, NodeFailed):
            self._again_s = self._loop.time() + RETRY_S  # the next leader, or the next attempt, compacts

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "the compactor failed", "exception": error})
